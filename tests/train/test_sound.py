"""The last sound state, and how a run that diverges stops."""

import pytest
import torch

from excise import errors
from excise.data import Rows
from excise.masks import Mask
from excise.train import TrainPlan, loop
from excise.train.sound import OptimizerState
from tests.cases import CASES
from tests.probes import engine_for, same_bytes, snapshot, touched
from tests.train.fitting import fit


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


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_looked_at_late_stops_the_run_at_the_same_sound_epoch(value, monkeypatch):
    """As on an accelerator, where a look makes it wait."""
    monkeypatch.setattr(loop, "looks_every", lambda kind: 50)
    model = CASES["batchnorm"].make()
    plan = TrainPlan(epochs=5, lr=0.1, batch_size=4, schedule="constant")
    engine = engine_for(model)
    with pytest.raises(errors.Diverged, match=r"Test: the loss became (nan|inf) in epoch 2") as caught:
        fit(model, Rows.all_of(CASES["batchnorm"].data(10)), plan, objective=failing_after(4, value), engine=engine)
    expected = naive_state_after(1)
    assert same_bytes(dict(caught.value.last_finite), expected)
    assert same_bytes(snapshot(model), expected)
    assert len(engine.trace) == 1


def test_when_losses_are_looked_at_changes_no_bit_and_no_trace(monkeypatch):
    found = []
    for every in (1, 2, 50):
        monkeypatch.setattr(loop, "looks_every", lambda kind, every=every: every)
        model = CASES["mlp"].make()
        engine = fit(model, Rows.all_of(CASES["mlp"].data(10)), TrainPlan(epochs=2, lr=0.1, batch_size=4))
        found.append((snapshot(model), [trace.loss for trace in engine.trace]))
    assert all(same_bytes(one[0], found[0][0]) and one[1] == found[0][1] for one in found)


def test_an_optimizers_state_comes_back_in_the_layout_of_its_weights():
    weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    first, second = (torch.optim.AdamW([weight], lr=0.1) for _ in range(2))
    weight.grad = torch.randn_like(weight)
    first.step()
    kept = {key: value.contiguous() for key, value in OptimizerState(first).remembered().items()}
    OptimizerState(second).recall_(kept)
    ours, theirs = (one.state[weight]["exp_avg"] for one in (second, first))
    assert torch.equal(ours, theirs) and ours.stride() == theirs.stride() == weight.stride()
    assert float(second.state[weight]["step"]) == 1
