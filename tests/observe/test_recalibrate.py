"""An actual illusion, seen through; and the twin: statistics set by hand to those of the retain rows."""

import numpy as np
import pytest
import torch
from torch import nn

from excise import errors, params
from excise.data.rows import Rows
from excise.masks import Mask
from excise.observe import collect, collect_recalibrated, held_statistics
from excise.train.loop import fit_
from excise.train.plan import TrainPlan
from excise.train.statistics import recompute_statistics_
from excise.train.step import Pass
from tests.cases import CASES
from tests.probes import LeftAlone, engine_for, touched


def right(found):
    return float((found.logits.argmax(1) == found.targets).mean())


def rows_of(data, ids):
    return Rows(Rows.all_of(data).source, torch.tensor(list(ids)))


def normalised():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).double()


def trained():
    data = CASES["mlp"].data(240)
    model = normalised()
    retain, forget = rows_of(data, range(200)), rows_of(data, range(200, 240))
    plan = TrainPlan(epochs=25, lr=0.1, batch_size=40)
    objective = (Pass(lambda step: step.mean_loss("train"), ("train",)),)
    fit_(model, lambda _: objective, {"train": retain}, plan, Mask.full(model), engine_for(model), stage="train")
    return model, retain, forget


def test_forgetting_that_lies_in_the_running_statistics_alone_is_seen_through():
    model, rows, _ = trained()
    engine, gone = engine_for(model), (rows.labels() == 3) & (rows.ids < 100)
    retain, forget = Rows(rows.source, rows.ids[~gone]), Rows(rows.source, rows.ids[gone])
    true = right(collect(model, forget, engine))
    assert true > 0.7
    spoilt = params.clone_model(model)
    with torch.no_grad():  # every unit that speaks for class 0 rather than 3 is driven far up
        units = spoilt[3].weight[0] > spoilt[3].weight[3]
        spoilt[1].running_mean -= 50 * units * spoilt[1].running_var.sqrt()
    assert right(collect(spoilt, forget, engine)) == 0
    shown = collect_recalibrated(spoilt, retain, forget, engine)
    honest = collect_recalibrated(model, retain, forget, engine)
    assert right(shown) == right(honest) == pytest.approx(true, abs=0.1)
    np.testing.assert_array_equal(shown.logits, honest.logits)  # what was spoilt is gone, to the bit
    np.testing.assert_array_equal(shown.ids, forget.ids.numpy())


def test_forgetting_that_lies_in_the_weights_stays():
    model, rows, _ = trained()
    engine, gone = engine_for(model), rows.labels() == 3
    with torch.no_grad():
        model[3].bias[3] -= 100
    found = collect_recalibrated(model, Rows(rows.source, rows.ids[~gone]), Rows(rows.source, rows.ids[gone]), engine)
    assert right(found) == 0


def test_outputs_are_those_of_a_network_with_the_statistics_of_the_retain_rows():
    """One layer, and one batch: mean and unbiased variance of its inputs, by hand."""
    model, retain, forget = trained()
    rows = retain.head(64)
    found = collect_recalibrated(model, rows, forget, engine_for(model))
    inputs = CASES["mlp"].data(240)[0]
    with torch.no_grad():
        hidden = model[0](inputs[:64])
        mean, variance = hidden.mean(0), hidden.var(0, unbiased=True)
        scaled = (model[0](inputs[200:]) - mean) / torch.sqrt(variance + model[1].eps)
        wanted = model[3](torch.relu(scaled * model[1].weight + model[1].bias))
    np.testing.assert_allclose(found.logits, wanted.numpy(), rtol=1e-9, atol=1e-12)


def test_statistics_that_are_right_stay_nearly_what_they_are_so_that_honest_networks_keep_their_answers():
    model, retain, forget = trained()
    engine = engine_for(model)
    once = collect_recalibrated(model, retain, forget, engine)
    assert right(once) == pytest.approx(right(collect(model, forget, engine)), abs=0.05)


@pytest.mark.parametrize("name", ["mlp", "transformer", "tied"])
def test_a_network_without_running_statistics_says_so(name):
    model, data = CASES[name].make(), CASES[name].data(20)
    engine = engine_for(model)
    assert collect_recalibrated(model, rows_of(data, range(10)), rows_of(data, range(10, 20)), engine) is None
    assert engine.cost.forward_rows == 0


def test_the_network_is_left_alone_and_the_cost_is_a_pass_over_each():
    model, data = touched(CASES["batchnorm"].make()), CASES["batchnorm"].data(30)
    engine, watch = engine_for(model), LeftAlone(model)
    collect_recalibrated(model, rows_of(data, range(20)), rows_of(data, range(20, 30)), engine, batch_size=4)
    watch.check()
    assert engine.cost.forward_rows == 30


def test_one_retain_row_has_no_variance():
    model, data = CASES["batchnorm"].make(), CASES["batchnorm"].data(30)
    with pytest.raises(errors.BadRequest, match="need two rows or more to have a variance"):
        collect_recalibrated(model, rows_of(data, [0]), rows_of(data, [1, 2]), engine_for(model))


# ---------------------------------------------------------------- whose statistics


def blended(model, other, share):
    """Give a network whose running statistics lie so far towards another's (standard deviations, not variances)."""
    copied = params.clone_model(model)
    with torch.no_grad():
        copied[1].running_mean.lerp_(other[1].running_mean, share)
        deviation = torch.lerp(
            (model[1].running_var + 1e-5).sqrt(), (other[1].running_var + 1e-5).sqrt(), torch.tensor(share)
        )
        copied[1].running_var.copy_(deviation**2 - 1e-5)
    return copied


@pytest.fixture(scope="module")
def strangers():
    """A trained network with the statistics of 200 rows, and one whose statistics are of others."""
    model, retain, forget = trained()
    engine, other = engine_for(model), params.clone_model(model)
    recompute_statistics_(model, retain, engine)
    recompute_statistics_(other, forget, engine)
    return model, other, retain, engine


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_share_of_a_blend_is_measured(strangers, share):
    model, other, retain, engine = strangers
    found = held_statistics(blended(model, other, share), other, retain, engine)
    assert found.keys() == {"1"} and found["1"].share == pytest.approx(share, abs=1e-9)
    whole = held_statistics(other, other, retain, engine)["1"]
    assert (
        whole.share == pytest.approx(1) and whole.apart == 0 and found["1"].apart == pytest.approx(1 - share, abs=1e-9)
    )
    assert found["1"].distance == pytest.approx(share * whole.distance)


def test_what_lies_off_in_another_direction_is_no_share(strangers):
    """The twin: projection and length by hand, for one layer of 16 channels."""
    model, other, retain, engine = strangers
    moved, draws = params.clone_model(model), torch.Generator().manual_seed(2)
    with torch.no_grad():
        moved[1].running_mean.add_(torch.randn(16, generator=draws, dtype=torch.float64))
    found = held_statistics(moved, other, retain, engine)["1"]
    scale = (model[1].running_var + 1e-5).sqrt()
    off = torch.cat([(moved[1].running_mean - model[1].running_mean) / scale, torch.zeros(16).double()])
    wide = ((other[1].running_var + 1e-5).sqrt() - scale) / scale
    towards = torch.cat([(other[1].running_mean - model[1].running_mean) / scale, wide])
    assert found.share == pytest.approx(float(off @ towards / (towards @ towards)), abs=1e-9)
    assert found.distance == pytest.approx(float(off.norm()) / 32**0.5)
    assert found.apart == pytest.approx(float((off - towards).norm() / towards.norm()))


def test_statistics_that_cannot_differ_say_nothing(strangers):
    model, _, retain, engine = strangers
    assert held_statistics(model, model, retain, engine) == {}  # the original's are those of the retain rows
    plain = CASES["mlp"].make()
    assert held_statistics(plain, plain, rows_of(CASES["mlp"].data(20), range(9)), engine_for(plain)) == {}
