"""The last sound state, and how a run that diverges stops."""

import pytest
import torch

from excise import errors
from excise.data import Rows
from excise.masks import Mask
from excise.train import TrainPlan
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
