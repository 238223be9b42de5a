import math

import pytest
import torch

from excise import errors
from excise.data import Split
from excise.localize import Cut, Everything, Gradient, Head, Modules, Random, RandomLike, WeightGradient
from excise.localize.random import require_same_unit
from excise.masks import Mask
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [1, 4, 5]
UNITS = ("weight", "channel", "module")


def problem(name="mlp"):
    return CASES[name].make(), Split(CASES[name].data(12), forget=FORGET)


@pytest.mark.parametrize("unit", UNITS)
@every_case
def test_scores_follow_from_the_seed_and_the_names_alone(name, unit):
    model, split = problem(name)
    alone = LeftAlone(touched(model))
    one = Random(unit=unit)(model, split, seed=3)
    alone.check()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1.0)
    again = Random(unit=unit)(model, Split(CASES[name].data(20), forget=[0, 2]), seed=3)
    other = Random(unit=unit)(model, split, seed=4)
    assert all(torch.equal(one[key], again[key]) for key in one.names)
    assert all(not torch.equal(one[key], other[key]) for key in one.names)
    assert all(float(one[key].min()) >= 0 and float(one[key].max()) < 1 for key in one.names)


@every_case
def test_a_unit_shares_one_draw_and_units_have_their_own(name):
    model, split = problem(name)
    by_unit = {unit: Random(unit=unit)(model, split) for unit in UNITS}
    modules = {}
    for key, value in model.named_parameters():
        drawn = {unit: scores[key].reshape(len(value), -1) for unit, scores in by_unit.items()}
        assert drawn["weight"].unique().numel() == value.numel()
        assert drawn["channel"][:, 0].unique().numel() == len(value)
        assert bool((drawn["channel"] == drawn["channel"][:, :1]).all())
        modules.setdefault(key.rpartition(".")[0] or key, set()).update(drawn["module"].unique().tolist())
    assert all(len(found) == 1 for found in modules.values())
    assert len(set.union(*modules.values())) == len(modules)


def test_draws_are_uniform():
    model, split = problem()
    scores = [Random(unit="weight")(model, split, seed=seed) for seed in range(40)]
    drawn = torch.cat([one[key].flatten() for one in scores for key in one.names]).double().sort().values
    steps = torch.arange(1, len(drawn) + 1) / len(drawn)
    assert len(drawn) == 40 * 194
    assert float((drawn - steps).abs().max()) < 1.95 / math.sqrt(len(drawn))  # Kolmogorov: exceeded once in 1000


@pytest.mark.parametrize("unit", UNITS)
def test_each_unit_is_chosen_as_often_as_any_other(unit):
    model, split = problem("separable")
    counts = {key: torch.zeros(value.shape) for key, value in model.named_parameters()}
    num_seeds = 300
    for seed in range(num_seeds):
        mask = Cut(Random(unit=unit), 0.5, granularity=unit, partial=unit == "module")(model, split, seed=seed)
        for key in counts:
            counts[key] += mask.expand(key)
    if unit == "module":  # of four modules, two or three fit
        assert all(num_seeds / 4 < float(value.max()) < num_seeds for value in counts.values())
        return
    shares = torch.cat([value.flatten() for value in counts.values()]) / num_seeds
    # half of the weights, 370 of them, in 300 draws: five standard deviations of 0.029
    assert shares.min() > 0.35 and shares.max() < 0.65


def test_rows_are_not_read_and_cost_nothing():
    watched, model = Watched(*CASES["mlp"].data(12), forbidden=range(12)), CASES["mlp"].make()
    engine = engine_for(model)
    Random().score(model, Split(watched, forget=FORGET), engine)
    RandomLike(Mask.full(model)).locate(model, Split(watched, forget=FORGET), engine)
    assert (watched.read, engine.cost.trained_rows, engine.cost.forward_rows) == ([], 0, 0)


def test_frozen_parameters_get_no_score():
    model, split = problem()
    model[0].requires_grad_(False)
    assert Random()(model, split).names == ("2.weight", "2.bias", "4.weight", "4.bias")


def whole_rows(mask, key):
    rows = mask.expand(key).reshape(len(mask.expand(key)), -1)
    return int(rows.all(1).sum()), int((rows.any(1) & ~rows.all(1)).sum())


CUTS = {
    "channels": {},
    "channels, cut": {"partial": True},
    "weights": {"granularity": "weight"},
    "weights of each": {"granularity": "weight", "scope": "layer"},
    "modules": {"granularity": "module", "budget_fraction": 0.8},
}


@pytest.mark.parametrize("how", CUTS.values(), ids=CUTS)
@every_case
def test_every_parameter_has_as_many_and_whole_rows_stay_whole_rows(name, how):
    model, split = problem(name)
    region = Cut(WeightGradient(), **{"budget_fraction": 0.4} | how)
    wanted = region(model, split)
    found = [RandomLike(region)(model, split, seed=seed) for seed in range(3)]
    for mask in found:
        assert {key: mask.count(key) for key in mask.names} == {key: wanted.count(key) for key in wanted.names}
        if how.get("granularity") != "weight":
            assert {key: whole_rows(mask, key) for key in mask.names} == {
                key: whole_rows(wanted, key) for key in wanted.names
            }
    assert how.get("granularity") == "module" or len({*found, wanted}) == 4
    assert RandomLike(wanted)(model, split, seed=2) == found[2] == RandomLike(region)(model, split, seed=2)


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_counts_of_any_given_mask_are_kept(name, kind):
    model, split = problem(name)
    wanted = Mask.from_tensors(spelled_out(model, kind))
    mask = RandomLike(wanted)(model, split, seed=1)
    mask.require_fit(model)
    assert [mask.count(key) for key in mask.names] == [wanted.count(key) for key in wanted.names]


def chances(entry, num_seeds=400):
    """How often each weight is drawn like an entry."""
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.zeros(entry.shape))
    like, split = RandomLike(Mask.from_tensors({"w": entry})), problem()[1]
    drawn = [like.locate(model, split, engine_for(model, seed=seed)).expand("w") for seed in range(num_seeds)]
    return torch.stack(drawn).double()


ROWS = torch.zeros(6, 5, dtype=torch.bool)
ROWS[:2] = True
CUT = ROWS.clone()
CUT[4, :3] = True
WEIGHTS = torch.zeros(6, 5, dtype=torch.bool)
WEIGHTS.view(-1)[::3] = True
FEW = torch.zeros(1, 10, dtype=torch.bool)
FEW[0, :4] = True


@pytest.mark.parametrize(
    "entry", [ROWS, CUT, WEIGHTS, FEW, FEW[0], FEW.T], ids=["rows", "cut", "weights", "one row", "one axis", "column"]
)
def test_each_weight_of_a_parameter_is_drawn_as_often_as_any_other(entry):
    drawn = chances(entry)
    share = float(entry.double().mean())
    deviation = math.sqrt(share * (1 - share) / len(drawn))
    assert bool(((drawn.mean(0) - share).abs() < 5 * deviation).all())
    assert {int(one.sum()) for one in drawn} == {int(entry.sum())}


def test_weights_are_drawn_one_by_one_and_rows_together():
    weights, rows = chances(WEIGHTS).flatten(1), chances(ROWS).flatten(1)
    together = torch.corrcoef(weights.T)
    # ten of thirty without putting back: each pair correlates by -1/29; five standard deviations of 1/20
    assert float((together - torch.eye(30) + (1 - torch.eye(30)) / 29).abs().max()) < 0.25
    assert torch.equal(rows.reshape(-1, 6, 5), rows.reshape(-1, 6, 5)[:, :, :1].expand(-1, 6, 5))
    cut = chances(CUT, 50)
    assert all(sorted(one.sum(1).tolist()) == [0, 0, 0, 3, 5, 5] for one in cut)
    assert len({tuple(one[one.sum(1) == 3][0].tolist()) for one in cut}) > 5


def test_it_reads_what_its_region_reads_and_a_mask_reads_nothing():
    for region in (Cut(Gradient(), 0.3), Cut(Gradient(rows="train"), 0.3), Head(), Everything(), Modules(("0",))):
        like = RandomLike(region)
        assert (like.reads_forget, like.reads_retain) == (region.reads_forget, region.reads_retain)
    like = RandomLike(Mask.full(CASES["mlp"].make()))
    assert (like.reads_forget, like.reads_retain) == (False, False)
    watched = Watched(*CASES["mlp"].data(12), forbidden=set(range(12)) - set(FORGET))
    RandomLike(Cut(Gradient(), 0.3))(CASES["mlp"].make(), Split(watched, forget=FORGET))
    assert set(watched.read) == set(FORGET)


def test_it_says_what_it_is():
    assert str(RandomLike(Head())) == "at random, as much of each parameter as the head"
    assert str(RandomLike(Mask.full(CASES["mlp"].make()))) == "at random, as much of each parameter as a mask of 100.0%"


def test_a_mask_of_another_network_is_refused():
    model, split = problem()
    with pytest.raises(errors.MaskMismatch, match=r"^the mask does not fit Sequential:"):
        RandomLike(Mask.full(CASES["separable"].make()))(model, split)


@pytest.mark.parametrize("unit", UNITS)
def test_draws_are_cut_by_the_unit_they_were_drawn_by(unit):
    for granularity in UNITS:
        require_same_unit(Gradient(), granularity)
        if granularity == unit:
            require_same_unit(Random(unit=unit), granularity)
            continue
        message = (
            f"^granularity: expected {unit}, the unit that Random draws, found {granularity}; "
            rf"give Random\(unit='{granularity}'\)$"
        )
        with pytest.raises(errors.BadRequest, match=message):
            require_same_unit(Random(unit=unit), granularity)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Random(unit="row"), "unit: expected weight or channel or module, found 'row'"),
        (lambda: RandomLike(Gradient()), "like: expected a region or a mask, found Gradient"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        make()
