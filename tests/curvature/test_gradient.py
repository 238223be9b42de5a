import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from excise import errors
from excise.curvature import (
    example_gradients,
    flat,
    gradient,
    num_chunks,
    require_accumulate,
    resting,
    summed_gradient,
    trainable,
)
from excise.data import Rows, Split
from excise.train import Hooks, Task
from tests.cases import CASES
from tests.naive.localization import per_example_gradients
from tests.probes import Bag, LeftAlone, Watched, as_module, engine_for, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [1, 4, 5, 8, 11, 13, 17]


def problem(name, num_rows=20):
    data = CASES[name].data(num_rows)
    return CASES[name].make(), Split(data, forget=FORGET).forget, data


def stacked(model, rows, at_once=None, engine=None):
    """Put the chunks together: `[examples, *shape]` by name, and the size of each chunk."""
    with resting(model):
        chunks = list(example_gradients(model, rows, engine or engine_for(model), at_once))
    whole = {name: torch.cat([chunk[name] for chunk in chunks]).detach() for name in chunks[0]}
    return whole, [len(next(iter(chunk.values()))) for chunk in chunks]


def assert_gradients(found, wanted):
    """Compare with a twin; 1e-12 of each tensor's largest: sums of float64 in another order."""
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        scale = max(float(value.abs().max()), 1e-3)
        torch.testing.assert_close(found[key], value, rtol=0.0, atol=1e-12 * scale)


@pytest.mark.parametrize("at_once", [None, 1, 2, 7, 64])
@every_case
def test_each_examples_gradient_is_the_one_it_has_alone(name, at_once):
    model, rows, (inputs, labels) = problem(name)
    found, sizes = stacked(model, rows, at_once)
    assert_gradients(found, per_example_gradients(CASES[name].make(), inputs, labels, FORGET))
    assert sizes == {None: [7], 1: [1] * 7, 2: [2, 2, 2, 1], 7: [7], 64: [7]}[at_once]
    assert num_chunks(model, rows, at_once) == len(sizes)


@pytest.mark.parametrize("batch_size", [1, 3, 128])
@every_case
def test_summed_as_a_mean_it_is_their_mean_whatever_the_batch_size(name, batch_size):
    model, rows, (inputs, labels) = problem(name)
    found = summed_gradient(model, rows, engine_for(model), batch_size=batch_size)
    single = per_example_gradients(CASES[name].make(), inputs, labels, FORGET)
    assert_gradients(found, {key: value.mean(0) for key, value in single.items()})
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("batch_size", [1, 3, 128])
@every_case
def test_batch_means_are_summed_where_the_published_codes_do(name, batch_size):
    model, rows, (inputs, labels) = problem(name)
    found = summed_gradient(model, rows, engine_for(model), batch_size=batch_size, accumulate="batch-means")
    single = per_example_gradients(CASES[name].make(), inputs, labels, FORGET)
    assert_gradients(found, {key: sum(part.mean(0) for part in g.split(batch_size)) for key, g in single.items()})


def test_the_sum_is_autograds_own_and_no_second_gradient_is_held():
    model, rows, _ = problem("mlp")
    held = []

    class Ear(Hooks):
        def on_step(self):
            held.append({key: value.grad.data_ptr() for key, value in model.named_parameters()})

    found = summed_gradient(model, rows, engine_for(model, hooks=Ear()), batch_size=3)
    assert len(held) == 3
    assert {key: value.data_ptr() for key, value in found.items()} == held[-1]
    assert all(value.grad is None for value in model.parameters())


def test_an_embeddings_sparse_gradient_is_given_dense():
    rows = Rows.all_of(CASES["tied"].data(20))
    dense, sparse = (
        summed_gradient(model, rows, engine_for(model), batch_size=3) for model in (Bag(sparse=False), Bag(sparse=True))
    )
    assert_gradients(sparse, dense)
    assert not any(value.is_sparse for value in sparse.values())


def test_a_word_that_is_no_way_to_sum_is_refused():
    with pytest.raises(errors.BadRequest, match=r"^accumulate: expected mean or batch-means, found 'sum'$"):
        require_accumulate("sum")


def test_on_a_linear_softmax_they_are_the_closed_form():
    inputs, labels = CASES["mlp"].data(20)
    model = nn.Linear(6, 4, dtype=torch.float64)
    rows = Split((inputs, labels), forget=FORGET).forget
    odds = (inputs[FORGET] @ model.weight.detach().T + model.bias.detach()).exp()
    error = odds / odds.sum(1, keepdim=True) - torch.eye(4, dtype=torch.float64)[labels[FORGET]]
    wanted = {"weight": error[:, :, None] * inputs[FORGET][:, None, :], "bias": error}
    assert_gradients(stacked(model, rows)[0], wanted)
    mean = summed_gradient(model, rows, engine_for(model), batch_size=3)
    assert_gradients(mean, {"weight": error.T @ inputs[FORGET] / 7, "bias": error.mean(0)})


class Looking(nn.Module):
    """A network that looks at the values of its inputs, which no vectorised pass can do."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, inputs):
        return self.head(inputs if inputs.sum().item() > 0 else 2 * inputs)


def looking():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Looking().double()


def test_a_network_that_cannot_be_vectorised_gets_the_same_gradients_one_at_a_time():
    inputs, labels = CASES["mlp"].data(20)
    watched = Watched(inputs, labels)
    rows, model = Split(watched, forget=FORGET).forget, looking()
    steps = []

    class Ear(Hooks):
        def on_step(self):
            steps.append(1)

    engine = engine_for(model, hooks=Ear())
    found, sizes = stacked(model, rows, 3, engine)
    assert_gradients(found, per_example_gradients(looking(), inputs, labels, FORGET))
    assert sizes == [1] * 7
    assert engine.cost.trained_rows == 7
    assert len(steps) == num_chunks(model, rows, 3) == 3
    assert watched.read == FORGET[:3] + FORGET  # the first chunk twice: it was tried together


def test_a_parameter_reached_past_the_modules_is_not_missed():
    inputs, labels = CASES["mlp"].data(20)
    weight = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    model = as_module(lambda batch: torch.tanh(batch @ weight), weight)
    rows = Split((inputs, labels), forget=FORGET).forget
    found, sizes = stacked(model, rows)
    assert_gradients(found, per_example_gradients(model, inputs, labels, FORGET))
    assert bool(found["weights.0"].any())
    assert sizes == [1] * 7


def test_a_network_too_large_for_some_at_once_runs_one_at_a_time(monkeypatch):
    model, rows, (inputs, labels) = problem("mlp")
    total = sum(value.numel() for value in model.parameters())
    for values, chunk in ((total * 64, 64), (total * 65, 64), (total * 8, 8), (total * 8 - 1, 1), (1, 1)):
        monkeypatch.setattr(gradient, "MAX_VALUES", values)
        assert num_chunks(model, rows) == -(-7 // chunk)
    found, sizes = stacked(model, rows)
    assert sizes == [1] * 7
    assert_gradients(found, per_example_gradients(CASES["mlp"].make(), inputs, labels, FORGET))


@pytest.mark.parametrize("at_once", [None, 1])
def test_frozen_parameters_have_no_gradient_and_unused_ones_none_to_speak_of(at_once):
    model, rows, (inputs, labels) = problem("mlp")
    model.unused = nn.Linear(2, 2, dtype=torch.float64)
    model[0].weight.requires_grad_(False)
    task = Task(forward=lambda net, content: (net[:5](content[0]), content[1]))
    engine = engine_for(model, task=task)
    found, _ = stacked(model, rows, at_once, engine)
    mean = summed_gradient(model, rows, engine, batch_size=4)
    assert list(found) == list(mean) == list(trainable(model))
    assert set(found) == {key for key, _ in model.named_parameters()} - {"0.weight"}
    assert not found["unused.weight"].any()
    assert not mean["unused.weight"].any()
    wanted = per_example_gradients(CASES["mlp"].make(), inputs, labels, FORGET)
    torch.testing.assert_close(found["2.weight"], wanted["2.weight"], rtol=0.0, atol=1e-13)


@every_case
def test_the_network_and_the_world_are_left_alone(name):
    model, rows, _ = problem(name)
    alone = LeftAlone(touched(model))
    for at_once in (None, 1):
        stacked(model, rows, at_once)
    summed_gradient(model, rows, engine_for(model), batch_size=3)
    with torch.no_grad():
        stacked(model, rows)
        summed_gradient(model, rows, engine_for(model), batch_size=3)
    alone.check()


def test_backward_hooks_of_the_user_are_heard_one_at_a_time():
    model, rows, (inputs, labels) = problem("mlp")
    heard = []
    model[2].register_full_backward_hook(lambda module, grad_in, grad_out: heard.append(len(grad_out[0])))
    found, _ = stacked(model, rows)
    assert heard == [1] * 7
    assert_gradients(found, per_example_gradients(CASES["mlp"].make(), inputs, labels, FORGET))


def test_normalisation_and_dropout_rest():
    with torch.random.fork_rng():
        model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.9), nn.Linear(5, 4)).double().train()
    rows = Split(CASES["mlp"].data(20), forget=FORGET).forget
    one, other = stacked(model, rows)[0], stacked(model, rows)[0]
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert int(model[1].num_batches_tracked) == 0
    assert model.training


def test_the_mode_is_restored_after_a_failure():
    model = touched(CASES["batchnorm"].make())
    alone = LeftAlone(model)

    def fail():
        with resting(model):
            assert not any(module.training for module in model.modules())
            assert torch.is_grad_enabled()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), torch.no_grad():
        fail()
    alone.check()


@pytest.mark.parametrize("at_once", [None, 1])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_is_refused(value, at_once):
    model, rows, _ = problem("mlp")
    task = Task(loss=lambda logits, targets: functional.cross_entropy(logits, targets, reduction="none") * value)
    alone = LeftAlone(touched(model))
    for run in (
        lambda: stacked(model, rows, at_once, engine_for(model, task=task)),
        lambda: summed_gradient(model, rows, engine_for(model, task=task), batch_size=2),
    ):
        with pytest.raises(errors.Diverged, match=r"^the loss of a row is not finite; nothing was changed; check the"):
            run()
    alone.check()


def test_a_mistake_of_the_users_is_told_and_not_taken_for_a_network_that_cannot_be_vectorised():
    model, rows, _ = problem("mlp")
    task = Task(loss=functional.cross_entropy)
    with pytest.raises(errors.BadRequest, match="loss: expected one value for each of 1 examples, found shape"):
        stacked(model, rows, None, engine_for(model, task=task))


class Records(Dataset):
    """Examples as dictionaries, with a word that no vectorised pass can take if `named`."""

    def __init__(self, inputs, labels, *, named):
        self.inputs, self.answers, self.named = inputs, labels.tolist(), named

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        word = {"name": f"row {row}"} if self.named else {}
        return {"halves": [self.inputs[row, :3], self.inputs[row, 3:]], "label": self.answers[row], **word}


@pytest.mark.parametrize(("named", "sizes"), [(False, [7]), (True, [1] * 7)])
def test_examples_of_any_shape_go_through_the_users_forward(named, sizes):
    inputs, labels = CASES["mlp"].data(20)
    model = CASES["mlp"].make()
    task = Task(forward=lambda net, content: (net(torch.cat(tuple(content["halves"]), 1)), content["label"]))
    rows = Split(Records(inputs, labels, named=named), forget=FORGET).forget
    found, chunks = stacked(model, rows, None, engine_for(model, task=task))
    assert_gradients(found, per_example_gradients(CASES["mlp"].make(), inputs, labels, FORGET))
    assert chunks == sizes


@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_every_row_is_read_once_in_order_and_counted(at_once):
    watched = Watched(*CASES["mlp"].data(20), forbidden=set(range(20)) - set(FORGET))
    model = CASES["mlp"].make()
    rows, engine = Split(watched, forget=FORGET).forget, engine_for(model)
    stacked(model, rows, at_once, engine)
    assert watched.read == FORGET
    summed_gradient(model, rows, engine, batch_size=2)
    assert watched.read == FORGET * 2
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (14, 0)


def test_the_networks_own_precision_is_kept():
    inputs, labels = CASES["mlp"].data(20)
    model = CASES["mlp"].make().float()
    found, _ = stacked(model, Split((inputs, labels), forget=FORGET).forget)
    wanted = per_example_gradients(CASES["mlp"].make(), inputs, labels, FORGET)
    for key, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), wanted[key], rtol=1e-4, atol=1e-5)  # float32 against float64


def test_a_gradient_as_a_vector():
    parts = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([[7.0], [8.0]]), "c": torch.tensor(9.0)}
    assert flat(parts).tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    both = {"a": parts["a"].expand(4, 2, 3), "b": parts["b"].expand(4, 2, 1), "c": parts["c"].expand(4)}
    assert flat({"a": both["a"], "b": both["b"]}, stacked=True).tolist() == [[0, 1, 2, 3, 4, 5, 7, 8]] * 4


def test_a_parameter_without_axes_has_a_gradient_too():
    model = nn.Linear(6, 4, dtype=torch.float64)
    model.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
    task = Task(forward=lambda net, content: (net.scale * net(content[0]), content[1]))
    rows = Rows.all_of(CASES["mlp"].data(8))
    one, _ = stacked(model, rows, None, engine_for(model, task=task))
    other, _ = stacked(model, rows, 1, engine_for(model, task=task))
    assert one["scale"].shape == (8,)
    assert_gradients(one, other)
    assert flat(one, stacked=True).shape == (8, 29)
