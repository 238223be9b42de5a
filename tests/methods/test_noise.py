import statistics

import pytest
import torch
from torch import nn

import excise
from excise import errors, seeds
from excise.data import Split
from excise.masks import Mask
from excise.methods import Noise
from excise.methods.noise import normal_like
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
SPLIT = Split((torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)), forget=[0])


def run(model, method, *, mask=None, seed=0):
    method.unlearn_(model, SPLIT, mask or Mask.full(model), engine_for(model, seed=seed))
    return snapshot(model)


def wide():
    """Two layers of 40,000 weights each, of deviation 3 around 5, and 0.1 around 0."""
    model = nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 200)).double()
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer, mean, deviation in ((model[0], 5.0, 3.0), (model[1], 0.0, 0.1)):
            layer.weight.normal_(mean, deviation, generator=draws)
            layer.bias.zero_()
    return model


def added(method, **options):
    model = wide()
    before = snapshot(model)
    after = run(model, method, **options)
    return {key: (after[key] - before[key]).flatten() for key in before}


def test_what_is_added_is_normal_with_the_deviation_that_was_asked_for():
    noise = added(Noise(sigma=0.3))
    for key in ("0.weight", "1.weight"):
        z = noise[key] / 0.3
        # 40,000 draws: the standard errors of the first four moments are 0.005, 0.007, 0.02 and 0.05; five of each
        for power, wanted, tolerance in ((1, 0, 0.025), (2, 1, 0.035), (3, 0, 0.1), (4, 3, 0.25)):
            assert abs(float((z**power).mean()) - wanted) < tolerance
    assert abs(float(torch.corrcoef(torch.stack([noise["0.weight"], noise["1.weight"]]))[0, 1])) < 0.025
    assert float(noise["0.bias"].std()) == pytest.approx(0.3, rel=0.25)  # 200 draws: 5 standard errors of 0.05


def test_relative_noise_has_a_share_of_each_parameters_own_deviation():
    plain, relative = added(Noise(sigma=0.3)), added(Noise(sigma=0.3, relative=True))
    for key, value in wide().named_parameters():
        scale = statistics.pstdev(value.flatten().tolist())
        # 1e-12: the differences were rounded when they were added to numbers of size 5 and 17
        torch.testing.assert_close(relative[key], scale * plain[key], rtol=1e-10, atol=1e-12)
    assert not relative["0.bias"].any()  # all zero: no deviation
    assert float(relative["0.weight"].std() / relative["1.weight"].std()) == pytest.approx(30, rel=0.05)


def test_the_deviation_is_that_of_all_weights_in_the_mask_or_not():
    half = {key: torch.arange(value.numel()).view(value.shape) % 2 == 0 for key, value in wide().named_parameters()}
    whole = run(wide(), Noise(sigma=0.3, relative=True))
    some = run(wide(), Noise(sigma=0.3, relative=True), mask=Mask.from_tensors(half))
    assert all(torch.equal(some[key][chosen], whole[key][chosen]) for key, chosen in half.items())


def test_one_weight_alone_and_weights_all_alike_have_no_deviation():
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(7)).double()
    before = snapshot(model)
    assert same_bytes(run(model, Noise(sigma=0.5, relative=True)), before)
    assert not any(torch.equal(value, before[key]) for key, value in run(model, Noise(sigma=0.5)).items() if "w" in key)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_does_not_change_the_draws(name, kind, relative):
    model = CASES[name].make()
    before, tensors = snapshot(model), spelled_out(model, kind)
    method = Noise(sigma=0.2, relative=relative)
    everywhere = run(CASES[name].make(), method)
    here = run(model, method, mask=Mask.from_tensors(tensors))
    for key, chosen in tensors.items():
        assert torch.equal(raw(here[key]), raw(torch.where(chosen, everywhere[key], before[key]))), key


@every_case
def test_the_seed_and_the_draw_decide_and_sigma_scales(name):
    def delta(seed=0, **options):
        model = CASES[name].make()
        before = snapshot(model)
        after = run(model, Noise(**options), seed=seed)
        return torch.cat([(after[key] - before[key]).flatten() for key, _ in model.named_parameters()])

    one, same = delta(sigma=0.1), delta(sigma=0.1)
    assert torch.equal(one, same)
    for other in (delta(sigma=0.1, seed=1), delta(sigma=0.1, draw=2)):
        assert not (one == other).any()
    torch.testing.assert_close(delta(sigma=0.2), 2 * one, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("relative", [False, True])
@every_case
def test_sigma_of_zero_keeps_every_byte(name, relative):
    model = CASES[name].make()
    with torch.no_grad():
        next(model.parameters()).flatten()[::2].mul_(-0.0)  # -0.0 and 0.0
    assert same_bytes(snapshot(model), run(model, Noise(sigma=0.0, relative=relative)))


def test_parameters_do_not_share_draws_and_low_precision_draws_in_single():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    after = run(model, Noise(sigma=1.0))
    assert not (after["0.weight"] == after["1.weight"]).any()
    draws = [
        normal_like(torch.zeros(50, dtype=kind), seeds.generator(1, "x"))
        for kind in (torch.bfloat16, torch.float16, torch.float32)
    ]
    assert all(torch.equal(found, draws[2]) and found.dtype == torch.float32 for found in draws)
    half = run(nn.Sequential(nn.Linear(5, 5)).bfloat16(), Noise(sigma=1.0))
    assert half["0.weight"].dtype == torch.bfloat16


def test_it_reads_nothing():
    watched = Watched(*CASES["mlp"].data(12), forbidden=range(12))
    model = CASES["mlp"].make()
    engine, method = engine_for(model), Noise(sigma=0.5)
    method.unlearn_(model, Split(watched, forget=[1]), Mask.full(model), engine)
    assert method.needs == frozenset()
    assert (watched.read, engine.cost.trained_rows, engine.cost.forward_rows) == ([], 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split, method = Split(CASES[name].data(20), forget=[0, 3]), Noise(sigma=0.5)
    one, same = (excise.unlearn(model, split, method, mask=Mask.from_tensors(tensors)) for _ in range(2))
    before, after = snapshot(model), snapshot(one.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert same_bytes(dict(model.named_buffers()), dict(one.model.named_buffers()))
    assert not same_bytes(before, after)
    assert same_bytes(after, snapshot(same.model))
    empty = excise.unlearn(model, split, method, mask=Mask.empty(model))
    assert same_bytes(snapshot(empty.model), before)
    alone.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -0.1}, "sigma: expected a finite number of at least 0, found -0.1"),
        ({"sigma": float("inf")}, "sigma: expected a finite number of at least 0, found inf"),
        ({"sigma": 0.1, "draw": 0}, "draw: expected an integer of at least 1, found 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Noise(**options)
