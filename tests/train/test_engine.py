import pytest
from torch import nn

from excise import errors
from excise.train import Cost, EpochTrace, Hooks
from tests.cases import CASES
from tests.probes import engine_for, same_bytes, snapshot


def test_cost_adds_up():
    cost = Cost()
    cost.count(trained=3)
    cost.count(forward=5)
    cost.count(trained=4, forward=1)
    assert (cost.trained_rows, cost.forward_rows) == (7, 6)


def test_a_fresh_network_is_the_one_the_callable_gives():
    model = CASES["mlp"].make()
    made = nn.Linear(2, 2)
    assert engine_for(model, fresh=lambda: made).fresh_model() is made


def test_without_a_way_to_make_one_there_is_no_fresh_network():
    with pytest.raises(errors.BadRequest, match="needs an untrained network; pass fresh=, a callable that builds one"):
        engine_for(CASES["mlp"].make()).fresh_model()


def test_an_epoch_is_kept_and_told():
    told = []

    class Ear(Hooks):
        def on_epoch(self, trace):
            told.append(trace)

    engine = engine_for(CASES["mlp"].make(), hooks=Ear())
    first, second = (EpochTrace("a", epoch, 0.5, 0.1, 3, 1.0) for epoch in range(2))
    engine.record(first)
    engine.record(second)
    assert engine.trace == told == [first, second]


def test_another_seed_shares_the_cost_and_the_trace_and_nothing_else_changes():
    engine = engine_for(CASES["mlp"].make(), seed=3)
    other = engine.reseeded(4)
    other.cost.count(trained=2)
    other.record(EpochTrace("a", 0, 0.5, 0.1, 3, 1.0))
    assert (engine.seed, other.seed) == (3, 4)
    assert engine.cost.trained_rows == 2
    assert len(engine.trace) == 1
    assert (other.task, other.besides, other.fresh, other.hooks) == (
        engine.task,
        engine.besides,
        engine.fresh,
        engine.hooks,
    )


def test_two_engines_share_nothing():
    model = CASES["mlp"].make()
    before = snapshot(model)
    one, other = engine_for(model), engine_for(model)
    one.cost.count(trained=1)
    one.trace.append(EpochTrace("a", 0, 0.5, 0.1, 3, 1.0))
    assert other.cost == Cost()
    assert other.trace == []
    assert same_bytes(before, snapshot(model))
