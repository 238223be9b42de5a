"""What a request would cost: times that are known beforehand must be found again."""

import pytest
import torch
from torch import nn

import excise
from excise import errors, methods, recipes
from excise.pipeline.costing import Measured, Projection, bench
from excise.train.machine import Way
from tests.probes import same_bytes, snapshot

NUM_ROWS = 5000
FIXED, PER_ROW = 3.0, 0.001


class Watch:
    """A clock that stands still unless something says how long it took."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def problem(num_rows=NUM_ROWS):
    inputs = torch.randn(num_rows, 3, generator=torch.Generator().manual_seed(0))
    return nn.Linear(3, 2), excise.Split((inputs, (inputs[:, 0] > 0).long()), forget=range(num_rows // 10))


def taking(watch, fixed=FIXED, per_row=PER_ROW):
    """A way to unlearn that changes nothing and takes so long."""

    def slow(net, retain, forget, validation):
        watch.now += fixed + per_row * (len(retain.dataset) + len(forget.dataset))
        return net

    return slow


def test_a_time_with_a_fixed_share_and_a_share_a_row_is_found_exactly():
    watch, (model, split) = Watch(), problem()
    before = snapshot(model)
    found = bench(model, split, taking(watch), budget_seconds=10, clock=watch)
    assert [run.num_rows for run in found.runs] == [256, 512]
    assert found.runs[0] == Measured(256, pytest.approx(FIXED + PER_ROW * 256), None)
    assert found.unlearning.seconds == pytest.approx(FIXED + PER_ROW * NUM_ROWS)
    assert found.unlearning.low == pytest.approx(FIXED + PER_ROW * NUM_ROWS)
    assert found.unlearning.high == pytest.approx((FIXED + PER_ROW * 512) / 512 * NUM_ROWS)  # were nothing fixed
    assert found.extrapolated and found.retraining is None and found.share is None
    assert same_bytes(snapshot(model), before)


@pytest.mark.parametrize("num_rows", [100, NUM_ROWS])
def test_what_is_paid_for_once_is_in_no_time(num_rows):
    watch, (model, split) = Watch(), problem(num_rows)
    watched, once = taking(watch), iter([50.0])

    def imports(net, *rows):
        watch.now += next(once, 0.0)
        return watched(net, *rows)

    found = bench(model, split, imports, budget_seconds=10, clock=watch)
    assert found.unlearning.seconds == pytest.approx(FIXED + PER_ROW * num_rows)


@pytest.mark.parametrize(
    ("budget", "sizes"),
    [(0, [256, 512]), (15, [256, 512, 1024]), (1e9, [256, 512, 1024, 2048, 4096, 5000])],
)
def test_sizes_double_while_the_next_one_fits_the_budget(budget, sizes):
    watch, (model, split) = Watch(), problem()
    found = bench(model, split, taking(watch), budget_seconds=budget, clock=watch)
    assert [run.num_rows for run in found.runs] == sizes
    assert found.extrapolated == (sizes[-1] < NUM_ROWS)
    if not found.extrapolated:
        assert found.unlearning == Projection(*[pytest.approx(FIXED + PER_ROW * NUM_ROWS)] * 3)


def test_few_rows_are_run_once_and_whole():
    watch, (model, split) = Watch(), problem(100)
    found = bench(model, split, taking(watch), clock=watch)
    assert [run.num_rows for run in found.runs] == [100] and not found.extrapolated


def test_a_retraining_is_timed_by_its_epochs():
    model, split = problem(600)
    plan = excise.TrainPlan(epochs=7, lr=0.1, batch_size=50)

    class Steps(excise.Hooks):
        def __init__(self):
            self.counted, self.now = [], 0.0

        def on_step(self):
            self.now += 1.0

        def on_stage(self, name, num_steps):
            self.counted.append((name, num_steps))

    watch = Steps()
    recipe = recipes.Finetune(epochs=2, lr=0.1, batch_size=50)
    found = bench(model, split, recipe, plan=plan, hooks=watch, clock=lambda: watch.now, budget_seconds=0)
    steps = {256: 5, 512: 10}  # of 230 and 461 retained rows, 50 a step
    assert [run.num_rows for run in found.runs] == [256, 512]
    assert [run.seconds for run in found.runs] == [2 * count for count in steps.values()]
    assert [run.retraining_seconds for run in found.runs] == [7 * count for count in steps.values()]
    assert found.retraining.seconds == pytest.approx(7 * (10 + 5 * 88 / 256))
    assert found.share == pytest.approx(found.unlearning.seconds / found.retraining.seconds)
    assert found.passes == pytest.approx(2 * 461 / 512)
    assert ("retrain 1/1", 5) in watch.counted


def test_both_are_timed_in_the_precision_that_was_asked_for():
    model, split = problem(50)
    ran = {"unlearning": [], "retraining": []}
    model.register_forward_hook(lambda _, inputs, outputs: ran["unlearning"].append(outputs.dtype))

    def fresh():
        made = nn.Linear(3, 2)
        made.register_forward_hook(lambda _, inputs, outputs: ran["retraining"].append(outputs.dtype))
        return made

    plan = excise.TrainPlan(epochs=1, lr=0.1)
    machine = excise.Machine(precision="bfloat16")
    bench(model, split, recipes.Finetune(epochs=1, lr=0.1), plan=plan, fresh=fresh, machine=machine)
    assert all(torch.bfloat16 in dtypes for dtypes in ran.values())


def test_both_are_timed_on_the_machine_that_is_asked_for(monkeypatch):
    asked = []

    def way(machine, model, num_steps=None):
        asked.append((machine.workers, num_steps))
        return Way()

    monkeypatch.setattr(excise.Machine, "way", way)
    plan, recipe = excise.TrainPlan(epochs=1, lr=0.1, batch_size=50), recipes.Finetune(epochs=1, lr=0.1, batch_size=50)
    bench(*problem(100), recipe, plan=plan, machine=excise.Machine(workers=2))
    assert asked == 2 * [
        (2, None),
        (2, 2),
        (2, 2),
    ]  # not timed, then timed: as it is asked, the steps of the unlearning, and those of the retraining


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"machine": 4}, "machine: expected an excise.Machine"),
        ({"plan": lambda *_: None}, "bench: expected plan to be an excise.TrainPlan"),
        ({"budget_seconds": float("nan")}, "budget_seconds: expected"),
        ({"budget_seconds": -1.0}, "budget_seconds: expected"),
    ],
)
def test_what_cannot_be_timed_is_refused(options, message):
    model, split = problem(50)
    with pytest.raises(errors.BadRequest, match=message):
        bench(model, split, methods.Nothing(), **options)


def test_what_only_the_first_run_takes_is_told_apart():
    watch, (model, split) = Watch(), problem(100)
    runs = iter([5.0, 0.0])

    def starting(net, retain, forget, validation):
        watch.now += next(runs) + 1
        return net

    found = bench(model, split, starting, clock=watch)
    assert (found.starting_seconds, found.unlearning.seconds) == (5.0, 1.0)
