"""Laws of every localizer: what scores and the masks cut from them owe to any network and any rows."""

import pytest
import torch
from torch.nn import functional

from excise.data import Split
from excise.localize import Gradient, Magnitude, Mean, Top, WeightGradient
from excise.masks import Mask
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, touched

every_case = pytest.mark.parametrize("name", CASES)
LOCALIZERS = {
    "gradient": Gradient(),
    "weight-gradient": WeightGradient(),
    "gradient-of-all": Gradient(rows="train"),
    "weight-gradient-of-all": WeightGradient(rows="train"),
    "gradient-as-published": Gradient(accumulate="batch-means", batch_size=2),
    "weight-gradient-as-published": WeightGradient(accumulate="batch-means", batch_size=2),
    "magnitude": Magnitude(),
}
every_localizer = pytest.mark.parametrize("localizer", LOCALIZERS.values(), ids=LOCALIZERS)
CUTS = {
    "channels": {},
    "channels, mean": {"reduction": Mean()},
    "channels, share of the layer": {"reduction": Top(0.3, of="layer")},
    "channels, cut": {"partial": True},
    "weights": {"granularity": "weight"},
}
FORGET = [1, 4, 5, 11, 17, 18]


def problem(name, forget=FORGET):
    return CASES[name].make(), Split(CASES[name].data(24), forget=forget)


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
    model, split = problem(name)
    scores = localizer(model, split)
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
    model, split = problem(name)
    scores = localizer(model, split)
    assert set(masks(scores, 0.0).values()) == {Mask.empty(model)}
    assert set(masks(scores, 1.0).values()) == {Mask.full(model)}


@every_localizer
@every_case
def test_budgets_are_met_exactly_or_by_whole_channels(name, localizer):
    model, split = problem(name)
    scores = localizer(model, split)
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
    model, split = problem(name)
    scores = localizer(model, split)
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


@every_localizer
@pytest.mark.parametrize("factor", [-1.0, 4.0, 3.0, -0.3])
@every_case
def test_the_sign_of_the_loss_is_irrelevant_and_its_scale_scales_the_scores(name, factor, localizer):
    model, split = problem(name)

    def scaled(logits, targets):
        return factor * functional.cross_entropy(logits, targets, reduction="none")

    one, other = localizer(model, split), localizer(model, split, loss=scaled)
    assert_close(other, one, factor=1.0 if localizer == Magnitude() else abs(factor))
    assert masks(other) == masks(one)


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
    found = {key: masks(localizer(model, split))["weights"] for key, localizer in LOCALIZERS.items()}
    apart = ("gradient", "weight-gradient", "magnitude", "weight-gradient-of-all")
    assert len({found[key] for key in apart}) == len(apart)


@every_localizer
@every_case
def test_each_row_it_reads_is_read_once_and_no_other(name, localizer):
    allowed = range(24) if localizer.reads_retain else FORGET
    watched = Watched(*CASES[name].data(24), forbidden=set(range(24)) - set(allowed))
    model = CASES[name].make()
    engine = engine_for(model)
    localizer.score(model, Split(watched, forget=FORGET), engine)
    wanted = [] if isinstance(localizer, Magnitude) else list(allowed)
    assert watched.read == wanted
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (len(wanted), 0)


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
