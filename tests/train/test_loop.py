import copy
import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from excise import errors, seeds
from excise.data import Rows, Split
from excise.masks import Mask
from excise.train import Pass, Step, Task, TrainPlan, fit_
from tests.cases import CASES
from tests.naive.training import cosine, naive_fit_
from tests.probes import LeftAlone, Watched, engine_for, raw, same_bytes, snapshot, touched


def on(stream):
    return lambda step: step.mean_loss(stream)


def fit(model, rows, plan, *, objective=None, mask=None, engine=None, **options):
    """Run the loop on one stream, or on several given by name."""
    streams = rows if isinstance(rows, dict) else {"retain": rows}
    engine = engine or engine_for(model)
    chosen = Mask.full(model) if mask is None else mask
    only = Pass(objective or on(next(iter(streams))), tuple(streams))
    fit_(model, lambda _: (only,), streams, plan, chosen, engine, stage="Test", **options)
    return engine


def orders(
    *, num_rows=10, size=4, seed=0, epochs=3, shuffle=True, drop_last=False, network="mlp", others=None, **sizes
):
    """Give, for each epoch, the list of batches that were read, as lists of ids, by stream."""
    model = CASES[network].make()
    read = []

    def objective(step):
        read.append((step.epoch, {name: batch.ids.tolist() for name, batch in step.batches.items()}))
        return step.mean_loss("retain")

    inputs, labels = CASES[network].data(40)
    streams = {"retain": Rows.all_of((inputs, labels)).head(num_rows)}
    for name, count in (others or {}).items():
        streams[name] = Rows(streams["retain"].source, torch.arange(20, 20 + count))
    plan = TrainPlan(epochs=epochs, lr=0.01, batch_size=size, shuffle=shuffle, drop_last=drop_last)
    fit(model, streams, plan, objective=objective, engine=engine_for(model, seed=seed), batch_sizes=sizes or None)
    return [[batches for number, batches in read if number == epoch] for epoch in range(epochs)]


def flat(epoch, stream="retain"):
    return [row for batches in epoch for row in batches[stream]]


# --- order ------------------------------------------------------------------------------------------------------------


def test_every_epoch_reads_every_row_once_in_an_order_of_its_own():
    epochs = orders()
    assert all(sorted(flat(epoch)) == list(range(10)) for epoch in epochs)
    assert len({tuple(flat(epoch)) for epoch in epochs}) == 3
    assert [len(batches["retain"]) for batches in epochs[0]] == [4, 4, 2]


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    assert orders() == orders()
    assert orders(epochs=5)[:3] == orders(epochs=3)
    assert [flat(epoch) for epoch in orders(size=3)] == [flat(epoch) for epoch in orders(size=4)]
    assert all(flat(one) != flat(other) for one, other in zip(orders(seed=0), orders(seed=1), strict=True))


def test_a_streams_order_does_not_depend_on_its_company():
    alone, together = orders(), orders(others={"forget": 3})
    assert [flat(epoch) for epoch in alone] == [flat(epoch) for epoch in together]


def test_two_streams_of_one_length_are_shuffled_each_in_its_own_way():
    for epoch in orders(others={"forget": 10}):
        assert [row - 20 for row in flat(epoch, "forget")] != flat(epoch)


def test_without_shuffling_rows_come_in_order_of_id():
    assert all(flat(epoch) == list(range(10)) for epoch in orders(shuffle=False))


def test_a_cycled_stream_gives_whole_rounds_one_after_another_each_in_its_own_order():
    epochs = orders(num_rows=15, size=2, others={"forget": 5})
    for epoch in epochs:
        given = flat(epoch, "forget")
        sizes = [len(batches["forget"]) for batches in epoch]
        assert sizes == [2, 2, 1, 2, 2, 1, 2, 2]  # eight retain batches; rounds of five rows
        assert all(sorted(given[start : start + 5]) == list(range(20, 25)) for start in (0, 5))
    rounds = [tuple(flat(epoch, "forget")[start : start + 5]) for epoch in epochs for start in (0, 5)]
    assert len(set(rounds)) > 3
    assert len({flat(epoch, "forget")[0] for epoch in orders(num_rows=2, epochs=9, others={"forget": 5})}) > 1


def test_a_stream_may_have_its_own_batch_size():
    (epoch,) = orders(num_rows=12, size=4, epochs=1, others={"forget": 7}, forget=3)
    assert [(len(batches["retain"]), len(batches["forget"])) for batches in epoch] == [(4, 3), (4, 3), (4, 1)]


@pytest.mark.parametrize(
    ("num_rows", "options", "sizes"),
    [
        (9, {}, [4, 4, 1]),
        (9, {"network": "batchnorm"}, [4, 5]),  # batch statistics need two rows
        (10, {"network": "batchnorm"}, [4, 4, 2]),
        (8, {"network": "batchnorm"}, [4, 4]),
        (1, {"network": "batchnorm"}, [1]),
        (9, {"drop_last": True}, [4, 4]),
        (9, {"drop_last": True, "network": "batchnorm"}, [4, 4]),
        (3, {"drop_last": True}, [3]),
    ],
)
def test_the_last_batch(num_rows, options, sizes):
    for epoch in orders(num_rows=num_rows, epochs=2, **options):
        assert [len(batches["retain"]) for batches in epoch] == sizes


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_step_on_a_linear_softmax_is_the_closed_form(sign):
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 5, generator=draws, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    model = nn.Linear(5, 3, dtype=torch.float64)
    weight, bias = (value.detach().clone() for value in model.parameters())
    plan = TrainPlan(epochs=1, lr=0.3, batch_size=6)
    fit(model, Rows.all_of((inputs, labels)), plan, objective=lambda step: sign * step.mean_loss("retain"))
    odds = (inputs @ weight.T + bias).exp()
    error = odds / odds.sum(1, keepdim=True) - torch.eye(3, dtype=torch.float64)[labels]
    # 1e-14: one float64 matrix product in another order
    torch.testing.assert_close(
        model.weight.detach(), weight - sign * 0.3 * error.T @ inputs / 6, rtol=1e-14, atol=1e-14
    )
    torch.testing.assert_close(model.bias.detach(), bias - sign * 0.3 * error.mean(0), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("name", CASES)
def test_training_unmasked_is_the_plain_loop_to_the_bit(name, optimizer, decay):
    case = CASES[name]
    inputs, labels = case.data(22)
    ours, theirs = case.make(), case.make()
    plan = TrainPlan(
        epochs=3, lr=0.01, batch_size=6, shuffle=False, optimizer=optimizer, weight_decay=decay, schedule="constant"
    )
    fit(ours, Rows.all_of((inputs, labels)), plan)
    theirs.train()
    made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer](
        theirs.parameters(), lr=0.01, weight_decay=decay, **({"momentum": 0.9} if optimizer == "sgd" else {})
    )
    for _ in range(3):
        for start in range(0, 22, 6):
            made.zero_grad()
            losses = functional.cross_entropy(
                theirs(inputs[start : start + 6]), labels[start : start + 6], reduction="none"
            )
            losses.mean().backward()
            made.step()
    assert same_bytes(snapshot(ours), snapshot(theirs))


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", CASES)
def test_training_by_the_cosine_is_the_naive_one(name, clip):
    case = CASES[name]
    inputs, labels = case.data(20)
    ours, theirs = case.make(), case.make()
    plan = TrainPlan(epochs=3, lr=0.1, batch_size=6, shuffle=False, weight_decay=0.01, clip_norm=clip)
    fit(ours, Rows.all_of((inputs, labels)), plan)
    batches = torch.arange(20).split(6)
    naive_fit_(theirs, inputs, labels, None, batches=batches, epochs=3, lr=0.1, decay=0.01, clip=clip)
    for key, value in snapshot(theirs).items():
        torch.testing.assert_close(
            snapshot(ours)[key], value, rtol=1e-12, atol=1e-12
        )  # mean of losses, summed otherwise


def test_the_trace_tells_losses_learning_rates_and_steps():
    model = CASES["mlp"].make()
    losses = []

    def objective(step):
        loss = step.mean_loss("retain")
        losses.append(loss.item())
        return loss

    plan = TrainPlan(epochs=4, lr=0.2, batch_size=4)
    engine = fit(model, Rows.all_of(CASES["mlp"].data(10)), plan, objective=objective)
    assert [trace.epoch for trace in engine.trace] == [0, 1, 2, 3]
    assert {(trace.stage, trace.num_steps) for trace in engine.trace} == {("Test", 3)}
    assert [trace.lr for trace in engine.trace] == pytest.approx(
        [cosine(0.2, epoch, 4) for epoch in range(4)], rel=1e-14
    )
    means = [sum(losses[start : start + 3]) / 3 for start in range(0, 12, 3)]
    assert [trace.loss for trace in engine.trace] == pytest.approx(means, rel=1e-14)
    assert all(trace.seconds > 0 for trace in engine.trace)


def test_a_constant_schedule_steps_by_one_rate():
    model = CASES["mlp"].make()
    plan = TrainPlan(epochs=3, lr=0.2, schedule="constant")
    assert [trace.lr for trace in fit(model, Rows.all_of(CASES["mlp"].data(10)), plan).trace] == [0.2] * 3


def test_a_small_enough_rate_never_raises_a_convex_loss():
    inputs, labels = CASES["mlp"].data(40)
    model = nn.Linear(6, 4, dtype=torch.float64)
    plan = TrainPlan(epochs=20, lr=0.01, batch_size=40, momentum=0.0, schedule="constant")
    losses = [trace.loss for trace in fit(model, Rows.all_of((inputs, labels)), plan).trace]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


def test_the_cost_counts_every_row_of_every_pass():
    model = CASES["batchnorm"].make()

    def objective(step):
        step.observe("retain")
        return step.mean_loss("forget") + step.mean_loss("retain")

    rows = Rows.all_of(CASES["batchnorm"].data(20))
    streams = {"retain": rows.head(10), "forget": Rows(rows.source, torch.arange(15, 18))}
    plan = TrainPlan(epochs=2, lr=0.01, batch_size=4)
    engine = fit(model, streams, plan, objective=objective, batch_sizes={"forget": 3})
    assert engine.cost.trained_rows == 2 * (10 + 3 * 3)  # three steps an epoch, three forget rows each
    assert engine.cost.forward_rows == 2 * 10


def test_observing_moves_the_statistics_by_the_batchs_own_and_nothing_else():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).double()
    inputs, labels = CASES["mlp"].data(8)
    before = snapshot(model)
    plan = TrainPlan(epochs=1, lr=0.5, batch_size=8)
    graphs = []
    model.register_forward_hook(lambda module, args, out: graphs.append(out.requires_grad))

    def objective(step):
        step.observe("retain")
        return torch.zeros(())

    fit(model, Rows.all_of((inputs, labels)), plan, objective=objective)
    hidden = inputs @ before["0.weight"].T + before["0.bias"]
    torch.testing.assert_close(model[1].running_mean, 0.1 * hidden.mean(0), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(model[1].running_var, 0.9 + 0.1 * hidden.var(0), rtol=1e-14, atol=1e-14)
    assert all(torch.equal(raw(before[key]), raw(value)) for key, value in model.named_parameters())
    assert graphs == [False]  # forward only: nothing is kept for a backward pass


def test_a_step_shows_the_objective_what_it_may_look_at():
    model = CASES["mlp"].make().eval()
    seen = []

    def objective(step):
        assert isinstance(step, Step)
        seen.append((step.model is model, step.model.training, step.epoch, sorted(step.batches)))
        return step.mean_loss("retain")

    fit(model, Rows.all_of(CASES["mlp"].data(4)), TrainPlan(epochs=2, lr=0.1), objective=objective)
    assert seen == [(True, True, 0, ["retain"]), (True, True, 1, ["retain"])]
    assert not model.training


# --- promises ---------------------------------------------------------------------------------------------------------


def test_an_empty_mask_runs_forward_and_changes_nothing():
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    rows = Rows.all_of(CASES["batchnorm"].data(10))
    engine = fit(model, rows, TrainPlan(epochs=2, lr=0.1, batch_size=4), mask=Mask.empty(model))
    assert same_bytes(before, snapshot(model))
    assert len(engine.trace) == 2


def test_a_part_that_the_loss_does_not_reach_stays():
    """Momentum and decay would move it if its gradient were taken for zero rather than missing."""
    model = CASES["mlp"].make()
    model.unused = nn.Linear(2, 2, dtype=torch.float64)
    before = snapshot(model.unused)
    task = Task(forward=lambda net, content: (net[:5](content[0]), content[1]))
    plan = TrainPlan(epochs=2, lr=0.1, weight_decay=0.5)
    fit(model, Rows.all_of(CASES["mlp"].data(10)), plan, engine=engine_for(model, task=task))
    assert same_bytes(before, snapshot(model.unused))
    fit(
        model,
        Rows.all_of(CASES["mlp"].data(10)),
        plan,
        mask=Mask.of_modules(model, ["unused"]),
        engine=engine_for(model, task=task),
    )
    assert same_bytes(before, snapshot(model.unused))


@pytest.mark.parametrize("around", [torch.no_grad, torch.enable_grad])
def test_it_trains_whatever_the_callers_gradient_mode(around):
    model, other = CASES["mlp"].make(), CASES["mlp"].make()
    rows, plan = Rows.all_of(CASES["mlp"].data(10)), TrainPlan(epochs=2, lr=0.1)
    fit(other, rows, plan)
    with around():
        fit(model, rows, plan)
    assert same_bytes(snapshot(model), snapshot(other))
    assert not same_bytes(snapshot(model), snapshot(CASES["mlp"].make()))


class Noisy(nn.Module):
    """Draws from all three global generators in a forward pass, besides dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4)).double()

    def forward(self, inputs):
        drawn = np.random.rand() + random.random()  # noqa: NPY002 - a user's network may
        return self.layers(inputs) * (1 + 0.01 * drawn)


def test_random_layers_draw_from_the_runs_seed_and_the_callers_generators_stay():
    rows, plan = Rows.all_of(CASES["mlp"].data(20)), TrainPlan(epochs=2, lr=0.1, batch_size=6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = Noisy()

    def run(seed, world):
        model = copy.deepcopy(start)
        with seeds.isolated(world):  # whatever the caller's generators hold
            alone = LeftAlone(start)
            fit(model, rows, plan, engine=engine_for(model, seed=seed))
            alone.check()
        return snapshot(model)

    assert same_bytes(run(0, world=1), run(0, world=2))
    assert not same_bytes(run(0, world=1), run(1, world=1))


def test_only_the_rows_of_the_streams_are_read():
    watched = Watched(*CASES["mlp"].data(20), forbidden=[2, 3, 5])
    split = Split(watched, forget=[2, 3, 5])
    model = CASES["mlp"].make()
    fit(model, split.retain, TrainPlan(epochs=2, lr=0.1, batch_size=4))
    assert sorted(watched.read) == sorted(split.retain.ids.tolist() * 2)


# --- divergence -------------------------------------------------------------------------------------------------------


def failing_after(steps, value):
    """An objective whose loss is `value` in one step and sound before."""
    calls = iter(range(10**6))

    def objective(step):
        loss = step.mean_loss("retain")
        return loss * value if next(calls) == steps else loss

    return objective


def naive_state_after(epochs, *, name="batchnorm"):
    """The network after some epochs of a constant schedule, by a run that stops there."""
    model = CASES[name].make()
    plan = TrainPlan(epochs=max(epochs, 1), lr=0.1, batch_size=4, schedule="constant")
    if epochs:
        fit(model, Rows.all_of(CASES[name].data(10)), plan)
    return snapshot(model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("sound", [0, 1, 2])
def test_a_loss_that_is_not_finite_stops_the_run_at_the_last_sound_epoch(sound, value):
    model = touched(CASES["batchnorm"].make())
    modes = [module.training for module in model.modules()]
    gradients = [id(parameter.grad) for parameter in model.parameters()]
    plan = TrainPlan(epochs=5, lr=0.1, batch_size=4, schedule="constant")
    rows = Rows.all_of(CASES["batchnorm"].data(10))
    engine = engine_for(model)
    with pytest.raises(
        errors.Diverged,
        match=rf"^Test: the loss became -?(nan|inf) in epoch {sound + 1}; the state after the last sound epoch is kept; try",
    ) as caught:
        fit(model, rows, plan, objective=failing_after(3 * sound + 1, value), engine=engine)
    expected = naive_state_after(sound)
    assert caught.value.exit_code == 8
    assert same_bytes(dict(caught.value.last_finite), expected)  # buffers included
    assert same_bytes(snapshot(model), expected)
    assert len(engine.trace) == sound
    assert [module.training for module in model.modules()] == modes
    assert [id(parameter.grad) for parameter in model.parameters()] == gradients


def test_a_weight_that_is_not_finite_stops_the_run_before_it_is_kept():
    model = CASES["mlp"].make()
    before = snapshot(model)
    plan = TrainPlan(epochs=3, lr=1e308, batch_size=10, momentum=0.0, schedule="constant")
    with pytest.raises(errors.Diverged, match="Test: a weight stopped being finite in epoch 1") as caught:
        fit(model, Rows.all_of(CASES["mlp"].data(10)), plan, objective=lambda step: 1e6 * step.mean_loss("retain"))
    assert same_bytes(dict(caught.value.last_finite), before)
    assert same_bytes(snapshot(model), before)


def test_diverging_under_a_mask_restores_rows_and_single_weights_too():
    model = CASES["mlp"].make()
    before = snapshot(model)
    tensors = {
        key: torch.rand(value.shape, generator=torch.Generator().manual_seed(2)) < 0.5
        for key, value in model.named_parameters()
    }
    tensors["0.weight"] = (torch.arange(10) % 2 == 0)[:, None].expand(10, 6).clone()
    plan = TrainPlan(epochs=2, lr=0.1, batch_size=4)
    with pytest.raises(errors.Diverged):
        fit(
            model,
            Rows.all_of(CASES["mlp"].data(10)),
            plan,
            mask=Mask.from_tensors(tensors),
            objective=failing_after(2, torch.nan),
        )
    assert same_bytes(snapshot(model), before)


def test_a_batch_of_one_row_is_normalised_by_the_running_statistics_and_moves_none():
    model, start = CASES["batchnorm"].make(), CASES["batchnorm"].make()
    rows = Rows.all_of(CASES["batchnorm"].data(9)).head(1)
    fit(model, rows, TrainPlan(epochs=1, lr=0.1, batch_size=4))
    buffers = dict(start.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    inputs, labels = (tensor[:1] for tensor in CASES["batchnorm"].data(9))
    naive = copy.deepcopy(start).eval()
    functional.cross_entropy(naive(inputs), labels).backward()
    for (name, value), before in zip(model.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(value, before - 0.1 * before.grad, msg=name)
