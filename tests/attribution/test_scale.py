"""The slope beside a loop over sets, and beside many draws; retrainings whose effects are known."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from excise import errors
from excise.attribution import Datamodel, Made, Part, fit_scale
from excise.attribution.scale import scaled, slope
from excise.data import Rows
from excise.data.content import content_commitment
from excise.oracles import Bank
from excise.train import Hooks, TrainPlan


def pairs_of(value, noise, num_sets, draws):
    found = []
    for _ in range(num_sets):
        predicted = torch.randn(6, 3, generator=draws, dtype=torch.float64)
        common = noise * torch.randn(1, generator=draws, dtype=torch.float64)  # of a set, not of its outputs
        found.append((predicted, value * predicted + common * predicted.abs()))
    return found


def test_the_slope_is_least_squares_through_zero_and_its_error_is_over_sets():
    pairs = pairs_of(2.0, 0.3, 5, torch.Generator().manual_seed(1))
    found = slope(pairs, num_rows=4, num_models=2)
    x, y = (torch.cat([pair[side].flatten() for pair in pairs]).numpy() for side in (0, 1))
    assert found.value == pytest.approx(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0], rel=1e-12)
    assert found.correlation == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-12)
    errors_of = [
        sum(float(a * (b - found.value * a)) for a, b in zip(*map(torch.ravel, pair), strict=True)) for pair in pairs
    ]
    error = (5 / 4 * sum(one**2 for one in errors_of)) ** 0.5 / (x**2).sum()
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 4) * error, rel=1e-12)
    assert found.value - found.low == pytest.approx(found.high - found.value, rel=1e-12)
    assert (found.num_sets, found.num_rows, found.num_models) == (5, 4, 2)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    draws = torch.Generator().manual_seed(2)
    held = [slope(pairs_of(1.5, 0.4, 8, draws), num_rows=4, num_models=1) for _ in range(300)]
    assert 0.90 < np.mean([one.low <= 1.5 <= one.high for one in held]) < 0.99


def test_predictions_of_nothing_have_no_scale():
    with pytest.raises(errors.BadRequest, match="scale: the predicted changes are all 0"):
        slope([(torch.zeros(2, 2), torch.ones(2, 2))] * 2, num_rows=1, num_models=1)


NUM_ROWS = 24
PLAN = TrainPlan(epochs=60, lr=0.4, momentum=0.0, batch_size=NUM_ROWS, schedule="constant")


def data():
    """Rows along axes of their own, which therefore do not know of one another, and one bias that is not there."""
    return torch.eye(NUM_ROWS, dtype=torch.float64) * 3, torch.arange(NUM_ROWS) % 3


def fresh():
    made = nn.Linear(NUM_ROWS, 3, bias=False).double()
    nn.init.zeros_(made.weight)
    return made


def effects_of_training():
    """A row adds to its own logits what it was trained to, and nothing to another's: the trained logits themselves."""
    inputs, labels = data()
    weight = torch.zeros(NUM_ROWS, 3, dtype=torch.float64)
    for _ in range(PLAN.epochs):
        p = (inputs @ weight).softmax(1)
        p[torch.arange(NUM_ROWS), labels] -= 1
        weight -= PLAN.lr * inputs.T @ p / NUM_ROWS
    return inputs @ weight


def datamodel(factor):
    beta = torch.zeros(NUM_ROWS, NUM_ROWS, 3, dtype=torch.float64)
    beta[torch.arange(NUM_ROWS), torch.arange(NUM_ROWS)] = effects_of_training() / factor
    part = Part(torch.arange(NUM_ROWS), torch.zeros(NUM_ROWS, 3), beta.transpose(0, 1).contiguous())
    return Datamodel(weights=torch.eye(NUM_ROWS), parts={"train": part}, made=Made(by="known"))


class Hears(Hooks):
    def __init__(self):
        self.notes = []

    def on_note(self, text):
        self.notes.append(text)


def test_the_factor_that_effects_lack_is_found_by_retraining(tmp_path):
    ear, rows = Hears(), Rows.all_of(data())
    found, scale = fit_scale(
        datamodel(7.0), fresh, rows, PLAN, num_sets=3, forget_fraction=0.1, num_models=1, bank=tmp_path, hooks=ear
    )
    # a row left out of 24 makes the others' steps larger by 24 / 22, and their change is no effect of the removed row's own
    assert scale.value == pytest.approx(7.0, rel=0.05) and scale.low < 7.0 < scale.high * 1.05
    assert scale.correlation > 0.95 and not ear.notes
    kept = Bank(tmp_path).entries()
    assert {entry.data for entry in kept} == {content_commitment(rows)} and len(kept) == 1 + 3
    gone = torch.tensor([4, 9])
    torch.testing.assert_close(found.effects(gone, gone), scale.value * datamodel(7.0).effects(gone, gone))


def test_the_networks_are_trained_by_the_loss_that_is_given():
    """Trained towards the opposite, logits change by about the opposite: a loss that were left out would give a slope of 1."""

    def opposite(logits, targets):
        return nn.functional.cross_entropy(-logits, targets, reduction="none")

    known, rows = datamodel(1.0), Rows.all_of(data())
    scale = fit_scale(known, fresh, rows, PLAN, num_sets=2, forget_fraction=0.05, num_models=1, loss=opposite)[1]
    assert scale.value == pytest.approx(-1.0, rel=0.05)


def test_effects_that_predict_nothing_are_told():
    ear, known = Hears(), datamodel(1.0)
    draws = torch.Generator().manual_seed(5)
    part = known.parts["train"]
    noise = Part(part.ids, part.base, torch.randn(part.factors.shape, generator=draws, dtype=torch.float64))
    chance = Datamodel(weights=known.weights, parts={"train": noise}, made=known.made)
    _, scale = fit_scale(chance, fresh, Rows.all_of(data()), PLAN, num_sets=2, num_models=1, hooks=ear)
    assert scale.low < 0 < scale.high
    assert any("holds 0: these effects predict nothing here" in note for note in ear.notes)


def test_scaled_effects_keep_what_is_said_of_networks_on_all_rows():
    known = datamodel(2.0)
    found, ids = scaled(known, 3.0), torch.arange(NUM_ROWS)

    def of_all(model):
        return model.parts["train"].base.double() + model.effects(model.train, ids) / 2

    torch.testing.assert_close(of_all(found), of_all(known), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.effects(ids[:3], ids), 3 * known.effects(ids[:3], ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_sets": 1}, "num_sets: expected 2 or more, so that there is an interval, found 1"),
        ({"num_models": 0}, "num_models: expected"),
        ({"forget_fraction": 0.6}, "forget_fraction: expected at most half of the rows, found 0.6"),
        ({"rows": Rows.all_of((torch.zeros(30, NUM_ROWS), torch.zeros(30).long()))}, "are none of the 24 rows"),
    ],
)
def test_what_has_no_scale_is_refused_before_any_training(change, message):
    asked = {"rows": Rows.all_of(data()), **change}
    with pytest.raises(errors.BadRequest, match=message):
        fit_scale(datamodel(1.0), fresh, asked.pop("rows"), PLAN, **asked)
