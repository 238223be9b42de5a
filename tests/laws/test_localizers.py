"""Laws of every localizer and region: what scores, the masks cut from them and masks found otherwise owe to any network."""

import functools

import pytest
import torch
from torch.nn import functional

from excise.data import Split
from excise.localize import (
    Above,
    Convolutions,
    Cut,
    Deepest,
    Everything,
    FisherRatio,
    Gradient,
    GradientDifference,
    Head,
    LastLayers,
    Magnitude,
    Mean,
    Modules,
    Random,
    RandomLike,
    Shallowest,
    Top,
    WeightGradient,
)
from excise.masks import Mask
from excise.train import Task
from excise.train.masked import effective
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, touched

every_case = pytest.mark.parametrize("name", CASES)
ALL = list(range(24))
FORGET = [1, 4, 5, 11, 17, 18]
RETAIN = [row for row in ALL if row not in FORGET]
LOCALIZERS = {  # each with the rows it reads, in order; None where they are drawn
    "gradient": (Gradient(), FORGET),
    "weight-gradient": (WeightGradient(), FORGET),
    "gradient-of-all": (Gradient(rows="train"), ALL),
    "weight-gradient-of-all": (WeightGradient(rows="train"), ALL),
    "gradient-as-published": (Gradient(accumulate="batch-means", batch_size=2), FORGET),
    "weight-gradient-as-published": (WeightGradient(accumulate="batch-means", batch_size=2), FORGET),
    "magnitude": (Magnitude(), []),
    "fisher-ratio": (FisherRatio(), FORGET + ALL),
    "fisher-ratio-as-published": (FisherRatio(importance="batch-means", batch_size=4), FORGET + ALL),
    "gradient-difference": (GradientDifference(), RETAIN + FORGET),
    "gradient-difference-as-published": (
        GradientDifference(retain_rows="as-many-as-forget", accumulate="batch-means", batch_size=2),
        None,
    ),
    "deepest": (Deepest(), FORGET[:1]),
    "shallowest": (Shallowest(), FORGET[:1]),
    "random-weights": (Random(unit="weight"), []),
    "random-channels": (Random(), []),
    "random-modules": (Random(unit="module"), []),
}
every_localizer = pytest.mark.parametrize("localizer", [one for one, _ in LOCALIZERS.values()], ids=LOCALIZERS)
CUTS = {
    "channels": {},
    "channels, mean": {"reduction": Mean()},
    "channels, share of the layer": {"reduction": Top(0.3, of="layer")},
    "channels, cut": {"partial": True},
    "weights": {"granularity": "weight"},
}


def problem(name, forget=FORGET):
    return CASES[name].make(), Split(CASES[name].data(24), forget=forget)


@functools.cache
def scored(name, localizer):
    """Give a network and its scores, for tests that only look at them."""
    model, split = problem(name)
    return model, localizer(model, split)


def masks(scores, share=0.4):
    return {cut: scores.select(budget_fraction=share, **how) for cut, how in CUTS.items()}


def assert_close(one, other, factor=1.0):
    """Compare scores; 1e-12 of each tensor's largest: float64 sums in another order."""
    assert one.names == other.names
    for key in one.names:
        scale = max(float(other[key].max()) * factor, 1e-3 * factor)
        torch.testing.assert_close(one[key], other[key] * factor, rtol=0.0, atol=1e-12 * scale)


@every_localizer
@every_case
def test_scores_fit_the_network_and_are_not_negative(name, localizer):
    model, scores = scored(name, localizer)
    own = dict(model.named_parameters())
    assert scores.names == tuple(own)
    for key, value in own.items():
        assert scores[key].shape == value.shape
        assert bool((scores[key] >= 0).all())
        assert not scores[key].requires_grad
    assert scores.num_weights == sum(value.numel() for value in own.values())
    for mask in masks(scores).values():
        mask.require_fit(model)


@every_localizer
@every_case
def test_scoring_twice_gives_the_same_bytes_and_leaves_everything_alone(name, localizer):
    model, split = problem(name)
    alone = LeftAlone(touched(model))
    one = localizer(model, split)
    other = localizer(model, split)
    alone.check()
    assert all(torch.equal(one[key], other[key]) for key in one.names)
    assert masks(one) == masks(other)


@every_localizer
@every_case
def test_no_budget_is_an_empty_mask_and_all_of_it_a_full_one(name, localizer):
    model, scores = scored(name, localizer)
    assert set(masks(scores, 0.0).values()) == {Mask.empty(model)}
    assert set(masks(scores, 1.0).values()) == {Mask.full(model)}


@every_localizer
@every_case
def test_budgets_are_met_exactly_or_by_whole_channels(name, localizer):
    model, scores = scored(name, localizer)
    row = max(value[0].numel() for value in model.parameters())
    for thousandths in (250, 300, 333, 500, 777):
        budget = thousandths * scores.num_weights // 1000
        for cut, mask in masks(scores, thousandths / 1000).items():
            if cut in ("weights", "channels, cut"):
                assert mask.num_selected == budget
            else:
                assert budget - row < mask.num_selected <= budget
                for key in mask.names:
                    rows = mask.expand(key).reshape(len(mask.expand(key)), -1)
                    assert bool((rows.all(1) == rows.any(1)).all())


@every_localizer
@every_case
def test_no_weight_left_out_scores_higher_than_one_taken(name, localizer):
    _, scores = scored(name, localizer)
    mask = scores.select(budget_fraction=0.4, granularity="weight")
    taken = torch.cat([scores[key][mask.expand(key)] for key in scores.names])
    left = torch.cat([scores[key][~mask.expand(key)] for key in scores.names])
    assert taken.min() >= left.max()


@pytest.mark.parametrize("localizer", [Gradient, WeightGradient])
@pytest.mark.parametrize("rows", ["forget", "train"])
@every_case
def test_the_batch_size_does_not_matter(name, rows, localizer):
    model, split = problem(name)
    one = localizer(rows=rows, batch_size=100)(model, split)
    for batch_size in (1, 2, 5, 6):
        other = localizer(rows=rows, batch_size=batch_size)(model, split)
        assert_close(other, one)
        assert masks(other) == masks(one)


UNSCALED = (Magnitude, FisherRatio, Deepest, Shallowest, Random)


@every_localizer
@every_case
def test_the_sign_of_the_loss_is_irrelevant_and_its_scale_scales_the_scores(name, localizer):
    model, split = problem(name)
    one = localizer(model, split)
    # a quotient is the same to the bit only under powers of two: where both parts are rounding noise, it is noise
    for factor in (-1.0, 4.0) if isinstance(localizer, FisherRatio) else (-1.0, 4.0, 3.0, -0.3):

        def scaled(logits, targets, factor=factor):
            return factor * functional.cross_entropy(logits, targets, reduction="none")

        other = localizer(model, split, loss=scaled)
        assert_close(other, one, factor=1.0 if isinstance(localizer, UNSCALED) else abs(factor))
        assert masks(other) == masks(one), factor


@pytest.mark.parametrize("localizer", [Gradient(), WeightGradient(), Magnitude()], ids=repr)
@every_case
def test_giving_every_forget_row_three_times_changes_no_mask(name, localizer):
    inputs, labels = CASES[name].data(24)
    again = torch.cat([torch.arange(24), torch.tensor(FORGET * 2)])
    tripled = Split((inputs[again], labels[again]), forget=[*FORGET, *range(24, 24 + 2 * len(FORGET))])
    one, other = localizer(CASES[name].make(), problem(name)[1]), localizer(CASES[name].make(), tripled)
    assert_close(other, one)
    assert masks(other) == masks(one)


@pytest.mark.parametrize("localizer", [Gradient(batch_size=2), WeightGradient(batch_size=2)], ids=repr)
@every_case
def test_the_order_of_rows_in_the_data_does_not_matter(name, localizer):
    inputs, labels = CASES[name].data(24)
    order = torch.arange(23, -1, -1)
    turned = Split((inputs[order], labels[order]), forget=[23 - row for row in FORGET])
    assert_close(localizer(CASES[name].make(), turned), localizer(CASES[name].make(), problem(name)[1]))


@every_case
def test_the_criteria_differ(name):
    model, split = problem(name)
    found = {key: masks(localizer(model, split))["weights"] for key, (localizer, _) in LOCALIZERS.items()}
    same = {"gradient-as-published", "weight-gradient-as-published"}  # two rows a batch, and so the mean all the same
    same |= {"random-modules"} | ({"shallowest"} if name == "tied" else set())  # of few modules, the first may be one
    apart = set(LOCALIZERS) - same
    assert len({found[key] for key in apart}) == len(apart)


@pytest.mark.parametrize(("localizer", "wanted"), LOCALIZERS.values(), ids=LOCALIZERS)
@every_case
def test_the_rows_it_says_are_read_and_no_other(name, localizer, wanted):
    allowed = ALL if localizer.reads_retain else FORGET
    watched = Watched(*CASES[name].data(24), forbidden=set(ALL) - set(allowed))
    model = CASES[name].make()
    engine = engine_for(model)
    localizer.score(model, Split(watched, forget=FORGET), engine)
    if wanted is None:
        drawn = watched.read[: len(FORGET)]
        assert drawn == sorted(set(drawn) & set(RETAIN))
        wanted = drawn + FORGET
    assert watched.read == wanted
    assert localizer.reads_forget == bool(set(watched.read) & set(FORGET))
    assert localizer.reads_retain == bool(set(watched.read) & set(RETAIN))
    counted = 0 if isinstance(localizer, Deepest | Shallowest) else len(wanted)  # a row that only shows the way
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (counted, 0)


@every_localizer
@every_case
def test_a_network_that_fails_is_left_alone(name, localizer):
    model, split = problem(name)

    def forward(network, content):
        network(content[0])
        raise RuntimeError("broken")

    alone = LeftAlone(touched(model))
    if isinstance(localizer, Magnitude | Random):
        localizer.score(model, split, engine_for(model, task=Task(forward=forward)))
    else:
        with pytest.raises(RuntimeError, match="broken"):
            localizer.score(model, split, engine_for(model, task=Task(forward=forward)))
    alone.check()


@every_localizer
def test_parameters_the_user_froze_are_neither_scored_nor_counted_nor_chosen(localizer):
    model, split = problem("batchnorm")
    model[0].requires_grad_(False)
    model[1].bias.requires_grad_(False)
    scores = localizer(model, split)
    frozen = {"0.weight", "1.bias"}
    assert set(scores.names) == {key for key, _ in model.named_parameters()} - frozen
    assert scores.num_weights == sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert all(mask.count(key) == 0 for mask in masks(scores, 1.0).values() for key in frozen)


MASK = Mask.where(CASES["mlp"].make(), lambda name: name.startswith("2"))
REGIONS = {  # each with the rows it reads, in order
    "everything": (Everything(), []),
    "convolutions": (Convolutions(), []),
    "module": (Modules(("",)), []),
    "head": (Head(), FORGET[:1]),
    "named-head": (Head(""), []),
    "last-layers": (LastLayers(2), FORGET[:1]),
    "cut": (Cut(WeightGradient(), 0.4), FORGET),
    "cut-among": (Cut(Gradient(), 0.4, among=Head()), FORGET[:1] + FORGET),
    "cut-of-each": (Cut(GradientDifference(), 0.4, "weight", scope="layer", lowest=True), RETAIN + FORGET),
    "deepest-modules": (Cut(Deepest(), 0.9, "module", partial=True), FORGET[:1]),
    "random-channels": (Cut(Random(), 0.4), []),
    "above": (Above(FisherRatio(), 1.0), FORGET + ALL),
    "above-magnitude": (Above(Magnitude(), 0.05), []),
    "random-like-cut": (RandomLike(Cut(Gradient(rows="train"), 0.4)), ALL),
    "random-like-everything": (RandomLike(Everything()), []),
}
every_region = pytest.mark.parametrize("region", [one for one, _ in REGIONS.values()], ids=REGIONS)


@every_region
@every_case
def test_a_mask_found_twice_from_a_seed_is_the_same_and_fits_and_everything_is_left_alone(name, region):
    model, split = problem(name)
    alone = LeftAlone(touched(model))
    one, other = (region(model, split, seed=3) for _ in range(2))
    alone.check()
    assert one == other
    one.require_fit(model)


@pytest.mark.parametrize(("region", "wanted"), REGIONS.values(), ids=REGIONS)
@every_case
def test_a_region_reads_the_rows_it_says_and_no_other(name, region, wanted):
    allowed = {*(FORGET if region.reads_forget else []), *(RETAIN if region.reads_retain else [])}
    watched = Watched(*CASES[name].data(24), forbidden=set(ALL) - allowed)
    model = CASES[name].make()
    region.locate(model, Split(watched, forget=FORGET), engine_for(model))
    assert watched.read == wanted
    assert region.reads_retain == bool(set(wanted) & set(RETAIN))
    assert region.reads_forget == bool(set(wanted) & set(FORGET))


@every_region
def test_a_parameter_the_user_froze_is_not_chosen_or_taken_out_at_use(region):
    model, split = problem("batchnorm")
    model[0].requires_grad_(False)
    model[8].bias.requires_grad_(False)
    mask = region(model, split)
    frozen = {"0.weight", "8.bias"}
    if isinstance(region, Cut | Above):
        assert all(mask.count(key) == 0 for key in frozen)
    used = effective(mask, model)
    assert all(used.count(key) == (0 if key in frozen else mask.count(key)) for key in mask.names)


def test_regions_say_what_they_are_in_a_line_each():
    said = [str(region) for region, _ in REGIONS.values()]
    assert len(set(said)) == len(said) - 1  # the head is the head, named or found
    assert all(line and "\n" not in line and "object at" not in line for line in said)


def test_a_mask_given_to_be_matched_reads_nothing():
    watched = Watched(*CASES["mlp"].data(24), forbidden=ALL)
    model = CASES["mlp"].make()
    found = RandomLike(MASK).locate(model, Split(watched, forget=FORGET), engine_for(model))
    assert found == MASK  # a module wholly in or out is matched by itself
