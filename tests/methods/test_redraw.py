import math

import pytest
import torch
from torch import nn

import excise
from excise import seeds
from excise.data import Split
from excise.masks import Mask
from excise.methods import Redraw
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
SPLIT = Split((torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)), forget=[0])


def run(model, *, mask=None, seed=0):
    Redraw().unlearn_(model, SPLIT, mask or Mask.full(model), engine_for(model, seed=seed))
    return snapshot(model)


@pytest.mark.parametrize(
    ("make", "fan_out"),
    [
        (lambda: nn.Linear(300, 40), 40),
        (lambda: nn.Embedding(50, 300), 50),
        (lambda: nn.Conv1d(60, 50, 5), 50 * 5),
        (lambda: nn.Conv2d(40, 30, (3, 5)), 30 * 15),
        (lambda: nn.Conv2d(40, 1200, 3, groups=40), 1200 * 9),  # torch: the channels of all groups
        (lambda: nn.Conv2d(400, 400, 5, groups=400), 400 * 25),
        (lambda: nn.Conv3d(20, 20, 3), 20 * 27),
        (lambda: nn.ConvTranspose2d(30, 60, 3), 30 * 9),  # torch: the first axis
    ],
)
def test_the_deviation_is_that_of_kaimings_rule(make, fan_out):
    model = nn.Sequential(make())
    value = run(model)["0.weight"]
    assert fan_out == nn.init._calculate_fan_in_and_fan_out(value)[1]
    # n draws: mean within 5 / sqrt(n), deviation within 5 / sqrt(2 n)
    z = value.double() / math.sqrt(2 / fan_out)
    assert abs(float(z.mean())) < 5 / math.sqrt(value.numel())
    assert abs(float(z.square().mean().sqrt()) - 1) < 5 / math.sqrt(2 * value.numel())
    assert abs(float((z.abs() < 0.6744898).double().mean()) - 0.5) < 2.5 / math.sqrt(value.numel())  # quartiles


@every_case
def test_it_is_torchs_own_initialisation_with_the_same_generator(name):
    model, before = CASES[name].make(), snapshot(CASES[name].make())
    after = run(model, seed=4)
    for key, value in model.named_parameters():
        if value.ndim < 2:
            assert torch.equal(raw(after[key]), raw(before[key]))
            continue
        wanted, generator = torch.empty_like(value), seeds.generator(4, "redraw", key)
        nn.init.kaiming_normal_(wanted, mode="fan_out", nonlinearity="relu", generator=generator)
        # N(0, s) and s * N(0, 1) may be rounded differently
        torch.testing.assert_close(after[key], wanted, rtol=1e-14, atol=0.0)
    assert same_bytes(dict(model.named_buffers()), {key: before[key] for key, _ in model.named_buffers()})


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_does_not_change_the_draws(name, kind):
    model = CASES[name].make()
    before, tensors = snapshot(model), spelled_out(model, kind)
    everywhere = run(CASES[name].make())
    here = run(model, mask=Mask.from_tensors(tensors))
    for key, chosen in tensors.items():
        assert torch.equal(raw(here[key]), raw(torch.where(chosen, everywhere[key], before[key]))), key


@every_case
def test_the_seed_decides_and_the_old_values_do_not(name):
    model = CASES[name].make()
    one = run(model)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1)
    again, other = run(model), run(CASES[name].make(), seed=1)
    for key, value in model.named_parameters():
        if value.ndim > 1:
            assert torch.equal(one[key], again[key])
            assert not (one[key] == other[key]).any()


def test_layers_of_one_shape_do_not_share_draws():
    after = run(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5)).double())
    assert not (after["0.weight"] == after["1.weight"]).any()


def test_it_reads_nothing():
    watched = Watched(*CASES["mlp"].data(12), forbidden=range(12))
    model = CASES["mlp"].make()
    engine = engine_for(model)
    Redraw().unlearn_(model, Split(watched, forget=[1]), Mask.full(model), engine)
    assert Redraw().needs == frozenset()
    assert (watched.read, engine.cost.trained_rows, engine.cost.forward_rows) == ([], 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(20), forget=[0, 3])
    one, same = (excise.unlearn(model, split, Redraw(), mask=Mask.from_tensors(tensors)) for _ in range(2))
    before, after = snapshot(model), snapshot(one.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert not same_bytes(before, after)
    assert same_bytes(after, snapshot(same.model))
    empty = excise.unlearn(model, split, Redraw(), mask=Mask.empty(model))
    assert same_bytes(snapshot(empty.model), before)
    alone.check()
