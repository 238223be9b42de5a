import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from excise import errors
from excise.curvature import fisher_product, forget_and_all_importances, require_importance, squared_gradients
from excise.data import Rows, Split
from excise.train import Hooks, Task
from tests.cases import CASES
from tests.naive.localization import per_example_gradients
from tests.probes import LeftAlone, Watched, engine_for, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [1, 4, 5, 8, 11, 13, 17]


def problem(name):
    data = CASES[name].data(20)
    return CASES[name].make(), Split(data, forget=FORGET).forget, data


def singles(name):
    return per_example_gradients(CASES[name].make(), *CASES[name].data(20), FORGET)


def assert_close(found, wanted):
    """Compare with a twin; 1e-12 of each tensor's largest: sums of float64 in another order."""
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        scale = max(float(value.abs().max()), 1e-6)
        torch.testing.assert_close(found[key], value, rtol=0.0, atol=1e-12 * scale)


def dense(name):
    """Give F as a matrix: the mean of the outer products of each example's gradient."""
    rows = torch.cat([value.reshape(len(FORGET), -1) for value in singles(name).values()], 1)
    return sum(torch.outer(row, row) for row in rows) / len(rows)


@pytest.mark.parametrize("at_once", [None, 1, 3])
@every_case
def test_by_example_it_is_the_mean_of_squares_which_is_the_diagonal(name, at_once):
    model, rows, _ = problem(name)
    found = squared_gradients(model, rows, engine_for(model), examples_at_once=at_once, batch_size=3)
    assert_close(found, {key: value.square().mean(0) for key, value in singles(name).items()})
    diagonal = dense(name).diagonal()
    torch.testing.assert_close(torch.cat([value.reshape(-1) for value in found.values()]), diagonal)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 50])
@every_case
def test_by_batch_it_is_the_mean_of_squared_batch_means(name, batch_size):
    model, rows, _ = problem(name)
    found = squared_gradients(model, rows, engine_for(model), importance="batch-means", batch_size=batch_size)
    wanted = {
        key: torch.stack([part.mean(0).square() for part in value.split(batch_size)]).mean(0)
        for key, value in singles(name).items()
    }
    assert_close(found, wanted)
    if batch_size == 1:
        assert_close(squared_gradients(model, rows, engine_for(model)), found)


def test_the_more_rows_a_batch_the_smaller_the_published_importance():
    """Jensen: the square of a mean is at most the mean of squares."""
    model, rows, _ = problem("mlp")
    sizes = [
        squared_gradients(model, rows.head(4), engine_for(model), importance="batch-means", batch_size=size)
        for size in (1, 2, 4)
    ]
    for one, other in itertools.pairwise(sizes):
        assert all(bool((one[key] >= other[key] * (1 - 1e-12)).all()) for key in one)


def test_on_a_linear_softmax_it_is_the_closed_form():
    inputs, labels = CASES["mlp"].data(20)
    model = nn.Linear(6, 4, dtype=torch.float64)
    rows = Split((inputs, labels), forget=FORGET).forget
    odds = (inputs[FORGET] @ model.weight.detach().T + model.bias.detach()).exp()
    error = odds / odds.sum(1, keepdim=True) - torch.eye(4, dtype=torch.float64)[labels[FORGET]]
    wanted = {"weight": error.square().T @ inputs[FORGET].square() / 7, "bias": error.square().mean(0)}
    assert_close(squared_gradients(model, rows, engine_for(model)), wanted)


@pytest.mark.parametrize("at_once", [None, 1, 3])
@every_case
def test_a_product_is_the_dense_matrix_times_the_vector(name, at_once):
    model, rows, _ = problem(name)
    matrix = dense(name)
    vectors = torch.randn(2, len(matrix), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [fisher_product(model, rows, engine_for(model), vector, examples_at_once=at_once) for vector in vectors]
    for vector, product in zip(vectors, found, strict=True):
        wanted = matrix @ vector
        torch.testing.assert_close(product, wanted, rtol=0.0, atol=1e-12 * float(wanted.abs().max()))
        assert float(vector @ product) >= 0
    assert float(vectors[0] @ found[1]) == pytest.approx(float(vectors[1] @ found[0]), rel=1e-9)


class Augmented(Dataset):
    """Draws from every global generator for each example."""

    def __init__(self, inputs, labels):
        self.inputs, self.answers = inputs, labels.tolist()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        noise = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002 - as users' augmentations do
        return self.inputs[row] * (1 + noise), self.answers[row]


def test_augmented_rows_give_the_same_matrix_in_every_product():
    model = CASES["mlp"].make()
    rows = Rows.all_of(Augmented(*CASES["mlp"].data(20)))
    alone, engine = LeftAlone(model), engine_for(model, seed=4)
    one, other = torch.randn(2, 194, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = fisher_product(model, rows, engine, one + 2 * other)
    apart = fisher_product(model, rows, engine, one) + 2 * fisher_product(model, rows, engine, other)
    torch.testing.assert_close(both, apart, rtol=1e-12, atol=1e-12)
    again = fisher_product(model, rows, engine_for(model, seed=5), one)
    assert not torch.equal(again, fisher_product(model, rows, engine, one))
    alone.check()


def test_squares_of_half_precision_gradients_do_not_underflow():
    inputs, labels = CASES["mlp"].data(20)
    model = nn.Linear(6, 4).to(torch.float16)
    task = Task(loss=lambda logits, targets: functional.cross_entropy(logits.float(), targets, reduction="none") / 1e4)
    found = squared_gradients(model, Split((inputs.half(), labels), forget=FORGET).forget, engine_for(model, task=task))
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert all(bool((value > 0).all()) and float(value.max()) < 2**-24 for value in found.values())


@every_case
def test_the_network_and_the_world_are_left_alone(name):
    model, rows, _ = problem(name)
    alone = LeftAlone(touched(model))
    length = sum(value.numel() for value in model.parameters())
    for _ in range(2):
        squared_gradients(model, rows, engine_for(model))
        squared_gradients(model, rows, engine_for(model), importance="batch-means", batch_size=3)
        fisher_product(model, rows, engine_for(model), torch.ones(length, dtype=torch.float64))
    task = Task(loss=lambda logits, targets: functional.cross_entropy(logits, targets, reduction="none") / 0)
    for importance in ("example", "batch-means"):
        with pytest.raises(errors.Diverged, match="the loss of a row is not finite"):
            squared_gradients(model, rows, engine_for(model, task=task), importance=importance)
    alone.check()


def test_every_row_is_read_once():
    watched = Watched(*CASES["mlp"].data(20), forbidden=set(range(20)) - set(FORGET))
    model = CASES["mlp"].make()
    rows, engine = Split(watched, forget=FORGET).forget, engine_for(model)
    squared_gradients(model, rows, engine)
    squared_gradients(model, rows, engine, importance="batch-means", batch_size=2)
    fisher_product(model, rows, engine, torch.ones(194, dtype=torch.float64))
    assert watched.read == FORGET * 3
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (21, 0)


SIZES = {"batch_size": 3, "forget_batch_size": None, "examples_at_once": None}


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"importance": "example"}, (1, 1)),
        ({"importance": "batch-means"}, (3, 3)),
        ({"importance": "batch-means", "forget_batch_size": 2}, (2, 3)),
    ],
)
@every_case
def test_both_importances_are_those_of_forget_and_of_all_rows_each_in_a_stage_of_its_own(name, options, sizes):
    inputs, labels = CASES[name].data(20)
    heard = []

    class Ear(Hooks):
        def on_stage(self, name, num_steps):
            heard.append((name, num_steps))

        def on_step(self):
            heard.append("step")

        def on_stage_end(self, name):
            heard.append(name)

    model, split = CASES[name].make(), Split((inputs, labels), forget=FORGET)
    told = {**SIZES, "examples_at_once": 1, **options}
    found = forget_and_all_importances(model, split, engine_for(model, hooks=Ear()), stage="Weigh", **told)
    gradients = per_example_gradients(model, inputs, labels, range(20))
    for mean, ids, size in zip(found, (FORGET, list(range(20))), sizes, strict=True):
        parts = [ids[start : start + size] for start in range(0, len(ids), size)]
        assert_close(
            mean,
            {key: sum(each[part].mean(0).square() for part in parts) / len(parts) for key, each in gradients.items()},
        )
    counts = [-(-num // size) for num, size in zip((7, 20), sizes, strict=True)]
    assert heard == [one for count in counts for one in (("Weigh", count), *["step"] * count, "Weigh")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"importance": "mean"}, "importance: expected one of example, batch-means, found 'mean'"),
        *(({name: 0}, f"{name}: expected an integer of at least 1, found 0") for name in SIZES),
        ({"batch_size": None}, "batch_size: expected an integer of at least 1, found None"),
    ],
)
def test_options_that_make_no_sense_are_refused(changed, message):
    require_importance("example", **SIZES)
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        require_importance(**{"importance": "example", **SIZES, **changed})
