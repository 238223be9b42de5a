"""Running statistics made anew: closed forms on a first layer, torch's own pass for deeper networks, and what stays."""

import copy
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from excise import errors, params, seeds
from excise.data.rows import Rows
from excise.train import Hooks, Task
from excise.train.statistics import recompute_statistics_, running_statistics
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, as_module, engine_for, moved, raw, same_bytes, snapshot, touched

every_case = pytest.mark.parametrize("name", CASES)


def drawn(*shape, seed=3):
    """Numbers with another mean and scale in every column."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    columns = torch.arange(1, shape[1] + 1, dtype=torch.float64).reshape(-1, *(1,) * (len(shape) - 2))
    return values * columns + 10 * columns


def rows_of(inputs, ids=None):
    rows = Rows.all_of((inputs, torch.zeros(len(inputs), dtype=torch.int64)))
    return rows if ids is None else Rows(rows.source, torch.tensor(ids))


def normalising(layer, num_features):
    """A network whose first layer normalises, so that its statistics are those of the inputs; they start as nonsense."""
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(2)).double()
    model(torch.zeros(2, num_features, *(3,) * {nn.BatchNorm1d: 0, nn.BatchNorm3d: 3}.get(type(layer), 2)).double())
    model[0].running_mean.fill_(-7)
    model[0].running_var.fill_(0.01)
    return model


def chunks_of(rows, batch_size, seed=0):
    """The batches by hand: shuffled, as many as needed, nearly equal, none of a single row."""
    order = rows.ids[torch.randperm(len(rows), generator=seeds.generator(seed, "statistics"))].tolist()
    number = -(-len(order) // batch_size)
    while number > 1 and len(order) // number < 2:
        number -= 1
    least, over = divmod(len(order), number)
    cut = [order[i * least + min(i, over) : (i + 1) * least + min(i + 1, over)] for i in range(number)]
    assert sorted(row for ids in cut for row in ids) == rows.ids.tolist()
    return [sorted(ids) for ids in cut]


def columns_of(inputs):
    """Every position of every row as a row."""
    return inputs.flatten(2).mT.reshape(-1, inputs.shape[1]) if inputs.ndim > 2 else inputs


# --- names --------------------------------------------------------------------------------------------------------------


@every_case
def test_the_statistics_of_a_network_are_named_as_in_its_state_dict(name):
    model = CASES[name].make()
    found = running_statistics(model)
    assert found == [key for key in model.state_dict() if key.endswith(("_mean", "_var", "_tracked"))]
    assert len(found) == (6 if name == "batchnorm" else 0)


def test_only_layers_that_track_have_statistics():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(2))

    model = nn.ModuleDict(
        {
            "one": nn.BatchNorm1d(2),
            "two": nn.BatchNorm2d(2, affine=False),
            "three": nn.BatchNorm3d(2),
            "sync": nn.SyncBatchNorm(2),
            "instance": nn.InstanceNorm2d(2, track_running_stats=True),
            "silent": nn.BatchNorm1d(2, track_running_stats=False),
            "plain": nn.InstanceNorm2d(2),
            "layer": nn.LayerNorm(2),
            "group": nn.GroupNorm(1, 2),
            "other": Named(),
        }
    )
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert running_statistics(model) == [
        f"{name}.{kind}" for name in ("one", "two", "three", "sync", "instance") for kind in kinds
    ]
    assert running_statistics(nn.BatchNorm1d(2)) == list(kinds)
    model["again"] = model["one"]
    assert len(running_statistics(model)) == 15
    assert running_statistics(nn.DataParallel(nn.BatchNorm1d(2))) == list(kinds)


# --- values -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d, (23, 4)),
        (nn.BatchNorm2d, (23, 4, 3, 3)),
        (nn.BatchNorm3d, (23, 4, 3, 3, 3)),
    ],
)
def test_one_batch_gives_exactly_the_mean_and_unbiased_variance_of_the_rows(layer, shape):
    inputs = drawn(*shape)
    model = normalising(layer(4), 4)
    recompute_statistics_(model, rows_of(inputs), engine_for(model))
    columns = columns_of(inputs)
    mean = columns.sum(0) / len(columns)
    variance = ((columns - mean) ** 2).sum(0) / (len(columns) - 1)
    torch.testing.assert_close(model[0].running_mean, mean, rtol=1e-12, atol=0)  # rounding of sums in another order
    torch.testing.assert_close(model[0].running_var, variance, rtol=1e-12, atol=0)
    assert int(model[0].num_batches_tracked) == 1


@pytest.mark.parametrize(("num_rows", "batch_size"), [(23, 5), (24, 8), (25, 8), (3, 2), (7, 1), (2, 1), (23, 22)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_several_batches_give_the_plain_mean_of_their_statistics(num_rows, batch_size, momentum):
    inputs = drawn(num_rows, 4)
    model = normalising(nn.BatchNorm1d(4, momentum=momentum), 4)
    rows = rows_of(inputs)
    recompute_statistics_(model, rows, engine_for(model, seed=6), batch_size=batch_size)
    batches = [inputs[ids] for ids in chunks_of(rows, batch_size, seed=6)]
    assert all(len(batch) > 1 for batch in batches)
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    means = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    variances = torch.stack([batch.var(0, correction=1) for batch in batches]).mean(0)
    torch.testing.assert_close(model[0].running_mean, means, rtol=1e-12, atol=0)  # a running mean rounds in between
    torch.testing.assert_close(model[0].running_var, variances, rtol=1e-12, atol=0)
    assert int(model[0].num_batches_tracked) == len(batches)
    assert model[0].momentum == momentum


def test_instance_statistics_are_the_mean_over_rows():
    inputs = drawn(20, 4, 3, 3)
    model = normalising(nn.InstanceNorm2d(4, track_running_stats=True), 4)
    recompute_statistics_(model, rows_of(inputs), engine_for(model), batch_size=5)  # equal batches: any cut is the same
    places = inputs.flatten(2)
    torch.testing.assert_close(model[0].running_mean, places.mean((0, 2)), rtol=1e-12, atol=0)
    torch.testing.assert_close(model[0].running_var, places.var(2).mean(0), rtol=1e-12, atol=0)
    assert model[0].momentum == 0.1


def test_a_layer_used_twice_counts_both_uses():
    layer, inputs = nn.BatchNorm1d(4).double(), drawn(20, 4)
    model = as_module(lambda batch: layer(batch) + layer(3 * batch), nn.Parameter(torch.ones(1, dtype=torch.float64)))
    model.layer = layer
    recompute_statistics_(model, rows_of(inputs), engine_for(model), batch_size=10)
    torch.testing.assert_close(layer.running_mean, 2 * inputs.mean(0), rtol=1e-12, atol=0)
    assert int(layer.num_batches_tracked) == 4


def test_data_sorted_by_class_give_the_variance_between_the_classes_too():
    centres = torch.arange(10.0, dtype=torch.float64).repeat_interleave(40)
    inputs = centres[:, None] + 0.1 * drawn(400, 1)
    model = normalising(nn.BatchNorm1d(1), 1)
    recompute_statistics_(model, rows_of(inputs), engine_for(model), batch_size=40)
    in_order = torch.stack([batch.var(0) for batch in inputs.split(40)]).mean()
    assert in_order < 0.02 and inputs.var() > 8
    torch.testing.assert_close(model[0].running_var, inputs.var(0), rtol=0.05, atol=0)  # ten batches of forty


@pytest.mark.parametrize("batch_size", [256, 7])
def test_a_deep_network_gets_to_the_bit_what_torchs_own_pass_gives(batch_size):
    case = CASES["batchnorm"]
    inputs, labels = case.data(30)
    mine, other = case.make(), case.make()
    rows = Rows.all_of((inputs, labels))
    recompute_statistics_(mine, rows, engine_for(mine), batch_size=batch_size)
    update_bn([inputs[ids] for ids in chunks_of(rows, batch_size)], other)
    assert same_bytes(snapshot(mine), snapshot(other))
    assert moved(snapshot(mine), snapshot(case.make())) == set(running_statistics(mine))


def test_only_the_chosen_rows_count_and_no_other_is_read():
    inputs = drawn(30, 4)
    chosen = [row for row in range(30) if row % 3]
    watched = Watched(inputs, torch.zeros(30, dtype=torch.int64), forbidden=set(range(30)) - set(chosen))
    model, other = (normalising(nn.BatchNorm1d(4), 4) for _ in range(2))
    engine = engine_for(model)
    recompute_statistics_(model, Rows(Rows.all_of(watched).source, torch.tensor(chosen)), engine, batch_size=6)
    assert sorted(watched.read) == chosen  # each once
    assert (engine.cost.forward_rows, engine.cost.trained_rows) == (len(chosen), 0)
    inputs[::3] = torch.nan
    recompute_statistics_(other, rows_of(inputs, chosen), engine_for(other), batch_size=6)
    assert torch.equal(raw(model[0].running_mean), raw(other[0].running_mean))


def test_dropout_does_not_act():
    plain, dropping = (normalising(nn.BatchNorm1d(4), 4) for _ in range(2))
    dropping = nn.Sequential(nn.Dropout(0.5), *dropping)
    rows = rows_of(drawn(20, 4))
    for model in (plain, dropping):
        recompute_statistics_(model, rows, engine_for(model))
    assert torch.equal(raw(plain[0].running_mean), raw(dropping[1].running_mean))


def test_a_layer_that_no_row_enters_keeps_its_statistics_and_is_named():
    """It may be in use all the same: read by hand in eval mode, or entered in training only."""

    class Heard(Hooks):
        notes: ClassVar[list[str]] = []

        def on_note(self, text):
            self.notes.append(text)

    reached, other = nn.BatchNorm1d(4).double(), nn.BatchNorm1d(4).double()
    other.running_mean.fill_(5)
    before = snapshot(other)
    model = as_module(reached, nn.Parameter(torch.ones(1, dtype=torch.float64)))
    model.reached, model.other = reached, other
    recompute_statistics_(model, rows_of(drawn(9, 4)), engine_for(model, hooks=Heard()))
    assert same_bytes(snapshot(other), before)
    assert not same_bytes(snapshot(reached), snapshot(nn.BatchNorm1d(4).double()))
    assert [note for note in Heard.notes if "no retain row entered other: running statistics there are still" in note]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_bytes_whatever_the_statistics_were(seed):
    case = CASES["batchnorm"]
    rows = Rows.all_of(case.data(30))
    model, other = case.make(), case.make()
    for layer in (other[1], other[4]):
        layer.running_mean.fill_(1e6)
        layer.num_batches_tracked.fill_(1000)
    seen = []
    for net in (model, model, other):
        recompute_statistics_(net, rows, engine_for(net, seed=seed), batch_size=7)
        seen.append(snapshot(net))
    assert same_bytes(seen[0], seen[1]) and same_bytes(seen[0], seen[2])
    recompute_statistics_(other, rows, engine_for(other, seed=seed + 1), batch_size=7)
    assert moved(seen[0], snapshot(other))


# --- what stays ---------------------------------------------------------------------------------------------------------


class Meddling(nn.Module):
    """Writes to a buffer of its own in every forward pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("scratch", torch.zeros(()), persistent=False)

    def forward(self, inputs):
        self.calls += 1
        self.scratch = self.scratch + 1
        torch.rand(3)
        return inputs


class Failing(nn.Module):
    """Lets some passes through, then raises."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def forward(self, inputs):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("stop here")
        return inputs


def checked_but_for_statistics(model, watch, before):
    """Assert that nothing but the running statistics has changed."""
    assert moved(before, snapshot(model)) == set(running_statistics(model))
    with torch.no_grad():
        for name in running_statistics(model):
            model.get_buffer(name).copy_(before[name])
    watch.check()


def test_nothing_but_the_statistics_changes():
    case = CASES["batchnorm"]
    model = touched(nn.Sequential(Meddling(), case.make(), Meddling()))
    list(model.parameters())[1].requires_grad_(False)
    places = [value.data_ptr() for value in model.state_dict().values()]
    before, watch = snapshot(model), LeftAlone(model)
    momenta = [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    recompute_statistics_(model, Rows.all_of(case.data(30)), engine_for(model), batch_size=8)
    assert [value.data_ptr() for value in model.state_dict().values()] == places
    assert [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)] == momenta
    checked_but_for_statistics(model, watch, before)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(1), nn.InstanceNorm2d(1, track_running_stats=True)])
def test_after_a_failure_everything_is_as_it_was(layer):
    case = CASES["batchnorm"]
    layer.momentum = 0.3
    model = touched(nn.Sequential(copy.deepcopy(layer).double(), case.make(), Failing(2)))
    watch = LeftAlone(model)
    with pytest.raises(RuntimeError, match="stop here"):
        recompute_statistics_(model, Rows.all_of(case.data(30)), engine_for(model), batch_size=8)
    watch.check()
    assert model[0].momentum == 0.3 and model[1][1].momentum == 0.1


def test_a_statistic_that_is_not_finite_is_refused_and_the_old_ones_stay():
    inputs = drawn(12, 4)
    inputs[5, 2] = torch.inf
    model = touched(normalising(nn.BatchNorm1d(4), 4))
    watch = LeftAlone(model)
    with pytest.raises(
        errors.Diverged, match=r"'0\.running_mean' would not be finite; the old statistics are"
    ) as caught:
        recompute_statistics_(model, rows_of(inputs), engine_for(model))
    watch.check()
    assert params.digest(caught.value.last_finite) == params.model_digest(model)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_rows_are_refused(count):
    model = touched(normalising(nn.BatchNorm1d(4), 4))
    watch = LeftAlone(model)
    with pytest.raises(
        errors.BadRequest, match=rf"two rows or more .* found {count};.*\(recompute=False, --keep-statistics\)"
    ):
        recompute_statistics_(model, rows_of(drawn(5, 4)).head(count), engine_for(model))
    watch.check()


def test_a_batch_of_no_rows_is_refused():
    model = nn.BatchNorm1d(4).double()
    with pytest.raises(errors.BadRequest, match="batch_size: expected an integer of at least 1, found 0"):
        recompute_statistics_(model, rows_of(drawn(5, 4)), engine_for(model), batch_size=0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Identity(),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.LayerNorm(4),
        nn.InstanceNorm1d(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_without_statistics_no_row_is_read_and_nobody_hears_of_it(layer):
    class Deaf(Hooks):
        def on_stage(self, name, num_steps):
            raise AssertionError

    model = touched(nn.Sequential(layer, nn.Linear(4, 2)).double())
    watched, watch = Watched(drawn(5, 4), torch.zeros(5), forbidden=range(5)), LeftAlone(model)
    engine = engine_for(model, hooks=Deaf())
    recompute_statistics_(model, Rows.all_of(watched).head(1), engine)
    watch.check()
    assert engine.cost.forward_rows == 0


def test_the_hooks_hear_every_step():
    heard = []

    class Listening(Hooks):
        def on_stage(self, name, num_steps):
            heard.append((name, num_steps))

        def on_step(self):
            heard.append("step")

        def on_stage_end(self, name):
            heard.append(name)

    model = normalising(nn.BatchNorm1d(4), 4)
    recompute_statistics_(model, rows_of(drawn(20, 4)), engine_for(model, hooks=Listening()), batch_size=9)
    assert heard == [("statistics", 3), "step", "step", "step", "statistics"]


def test_the_users_own_forward_is_used_and_asked_for_no_gradient():
    inputs = drawn(20, 4)
    model = normalising(nn.BatchNorm1d(4), 4)

    def forward(net, content):
        assert not torch.is_grad_enabled()
        return net(content[0] / 2), content[1]

    task = Task(forward=forward)
    recompute_statistics_(model, rows_of(inputs), engine_for(model, task=task))
    torch.testing.assert_close(model[0].running_mean, inputs.mean(0) / 2, rtol=1e-12, atol=0)


def test_a_wrapped_network_gets_the_same():
    rows = rows_of(drawn(20, 4))
    model, other = (normalising(nn.BatchNorm1d(4), 4) for _ in range(2))
    other.load_state_dict(model.state_dict())
    recompute_statistics_(model, rows, engine_for(model))
    recompute_statistics_(nn.DataParallel(other), rows, engine_for(other))
    assert same_bytes(snapshot(model), snapshot(other))


def test_a_network_whose_train_and_eval_do_more_is_not_asked_to_switch():
    class Merging(nn.Sequential):
        def train(self, mode=True):
            raise AssertionError

    model = Merging(*normalising(nn.BatchNorm1d(4), 4))
    recompute_statistics_(model, rows_of(drawn(9, 4)), engine_for(model))
    assert model[0].training and int(model[0].num_batches_tracked) == 1
