import pytest
import torch
from torch import nn
from torch.nn import functional

from excise import errors
from excise.data import Split
from excise.localize import Gradient
from excise.localize.gradient import require_scoring_options
from excise.train import Hooks, Task
from tests.cases import CASES
from tests.naive.localization import per_example_gradients
from tests.probes import Bag, LeftAlone, Watched, engine_for, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [1, 4, 5, 11, 17]


def problem(name, num_rows=20, forget=FORGET):
    data = CASES[name].data(num_rows)
    return CASES[name].make(), Split(data, forget=forget), data


def assert_scores(scores, wanted, tolerance=1e-12):
    """Compare with a twin; 1e-12 of each tensor's largest: sums of float64 in another order."""
    assert scores.names == tuple(wanted)
    for key, value in wanted.items():
        scale = max(float(value.abs().max()), 1e-3)
        torch.testing.assert_close(scores[key], value, rtol=0.0, atol=tolerance * scale)


@every_case
def test_the_score_is_the_size_of_the_mean_of_each_examples_gradient(name):
    model, split, (inputs, labels) = problem(name)
    wanted = {key: g.mean(0).abs() for key, g in per_example_gradients(model, inputs, labels, FORGET).items()}
    assert_scores(Gradient()(CASES[name].make(), split), wanted)


@every_case
def test_over_all_training_rows_the_forget_set_does_not_matter(name):
    model, split, (inputs, labels) = problem(name)
    wanted = {key: g.mean(0).abs() for key, g in per_example_gradients(model, inputs, labels, range(20)).items()}
    assert_scores(Gradient(rows="train")(CASES[name].make(), split), wanted)
    other = Split((inputs, labels), forget=[0])
    assert_scores(Gradient(rows="train")(CASES[name].make(), other), wanted)


@every_case
def test_the_batch_size_does_not_matter(name):
    model, split, _ = problem(name)
    one = Gradient()(model, split)
    for batch_size in (1, 2, 3, 4, 5):
        assert_scores(Gradient(batch_size=batch_size)(model, split), {key: one[key] for key in one.names})


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
@every_case
def test_batch_means_are_summed_where_the_published_codes_do(name, batch_size):
    model, split, (inputs, labels) = problem(name)
    single = per_example_gradients(model, inputs, labels, FORGET)
    wanted = {key: sum(part.mean(0) for part in g.split(batch_size)).abs() for key, g in single.items()}
    assert_scores(Gradient(accumulate="batch-means", batch_size=batch_size)(CASES[name].make(), split), wanted)


@every_case
def test_the_network_is_left_as_it_was(name):
    model, split, _ = problem(name)
    alone = LeftAlone(touched(model))
    Gradient(batch_size=2)(model, split)
    with torch.no_grad():
        scores = Gradient(batch_size=2)(model, split)
    alone.check()
    assert any(bool(scores[key].any()) for key in scores.names)


def test_normalisation_and_dropout_rest():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.9), nn.Linear(5, 4)).double().train()
    split = Split(CASES["mlp"].data(20), forget=FORGET)
    one, other = Gradient()(model, split), Gradient()(model, split)
    assert all(torch.equal(one[key], other[key]) for key in one.names)
    assert int(model[1].num_batches_tracked) == 0


def test_every_forget_row_is_read_forward_and_backward_once_and_no_other():
    data = CASES["mlp"].data(20)
    model = CASES["mlp"].make()
    watched = Watched(*data, forbidden=set(range(20)) - set(FORGET))
    split = Split(watched, forget=FORGET)
    forwards, backwards = [], []
    model.register_forward_hook(lambda module, args, out: forwards.append(len(out)))
    model[2].register_full_backward_hook(lambda module, grad_in, grad_out: backwards.append(len(grad_out[0])))
    engine = engine_for(model)
    Gradient(batch_size=2).score(model, split, engine)
    assert watched.read == FORGET
    assert forwards == backwards == [2, 2, 1]
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (5, 0)


def test_a_users_frozen_parameters_get_no_score_and_unused_ones_score_nothing():
    model, split, _ = problem("mlp")
    model.unused = nn.Linear(2, 2, dtype=torch.float64)
    model[0].weight.requires_grad_(False)
    task = Task(forward=lambda net, content: (net[:5](content[0]), content[1]))
    scores = Gradient().score(model, split, engine_for(model, task=task))
    assert set(scores.names) == {key for key, _ in model.named_parameters()} - {"0.weight"}
    assert not scores["unused.weight"].any()
    assert scores["2.weight"].any()
    mask = scores.select(budget_fraction=1.0)
    assert mask.count("0.weight") == 0
    assert mask.count("unused.weight") == 4


def test_a_tied_weight_has_one_score_the_sum_over_its_uses():
    model, split, (inputs, labels) = problem("tied")
    scores = Gradient()(model, split)
    assert "embed.weight" in scores.names
    assert "head.weight" not in scores.names
    rows = torch.tensor(FORGET)

    def loss(embed, head):
        hidden = torch.tanh(functional.linear(embed[inputs[rows]].mean(1), model.middle.weight, model.middle.bias))
        return functional.cross_entropy(hidden @ head.T, labels[rows])

    parts = torch.autograd.functional.jacobian(loss, (model.embed.weight.detach(),) * 2)
    torch.testing.assert_close(scores["embed.weight"], (parts[0] + parts[1]).abs(), rtol=0.0, atol=1e-14)


def test_an_embeddings_sparse_gradient_scores_as_the_dense_one():
    split = Split(CASES["tied"].data(20), forget=FORGET)
    dense, sparse = (Gradient(batch_size=2)(Bag(sparse=sparse), split) for sparse in (False, True))
    assert_scores(sparse, {key: dense[key] for key in dense.names})
    assert dense["embed.weight"].any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_is_refused_and_the_network_left_as_it_was(value):
    model, split, _ = problem("mlp")
    task = Task(loss=lambda logits, targets: functional.cross_entropy(logits, targets, reduction="none") * value)
    alone = LeftAlone(touched(model))
    with pytest.raises(
        errors.Diverged, match=r"^the loss of a row is not finite; nothing was changed; check the weights and"
    ):
        Gradient().score(model, split, engine_for(model, task=task))
    alone.check()


def test_progress_is_told_batch_by_batch():
    heard = []

    class Ear(Hooks):
        def on_stage(self, name, num_steps):
            heard.append((name, num_steps))

        def on_step(self):
            heard.append("step")

        def on_stage_end(self, name):
            heard.append(name)

    model, split, _ = problem("mlp")
    Gradient(batch_size=2).score(model, split, engine_for(model, hooks=Ear()))
    assert heard == [("localize", 3), "step", "step", "step", "localize"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("test", "mean", 1), "rows: expected forget or train, found 'test'"),
        (("forget", "sum", 1), "accumulate: expected mean or batch-means, found 'sum'"),
        (("forget", "mean", 0), "batch_size: expected an integer of at least 1, found 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        require_scoring_options(*options)
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Gradient(**dict(zip(("rows", "accumulate", "batch_size"), options, strict=True)))
