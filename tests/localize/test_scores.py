import itertools
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise import errors
from excise.localize import Mean, Scores, Top
from excise.masks import Mask
from tests.cases import CASES
from tests.naive.localization import greedy_channels, naive_row_scores
from tests.probes import spelled_out

every_case = pytest.mark.parametrize("name", CASES)


def drawn(name, *, levels=None, seed=0):
    """Give scores for a case's network, on few levels for many ties."""
    draws = torch.Generator().manual_seed(seed)
    shapes = {key: tuple(value.shape) for key, value in CASES[name].make().named_parameters()}
    values = {
        key: torch.rand(shape, generator=draws, dtype=torch.float64)
        if levels is None
        else torch.randint(levels, shape, generator=draws).double()
        for key, shape in shapes.items()
    }
    return Scores(values, shapes), values


def full(mask):
    return {key: mask.expand(key) for key in mask.names}


def naive_channel_mask(values, budget, share, of, *, partial=False):
    """Greedy whole-channel filling, written out with lists; the last row cut from its first weight on if `partial`."""
    listed = []
    for key, value in values.items():
        scores, size = naive_row_scores(value, share, of)
        listed += [(score, size, key, row) for row, score in enumerate(scores)]
    taken, missed = greedy_channels([(score, size) for score, size, _, _ in listed], budget)
    chosen = {key: torch.zeros_like(value, dtype=torch.bool).reshape(len(value), -1) for key, value in values.items()}
    for place in taken:
        _, _, key, row = listed[place]
        chosen[key][row] = True
    if partial and missed is not None:
        _, _, key, row = listed[missed[0]]
        chosen[key][row, : missed[1]] = True
    return {key: rows.reshape(values[key].shape) for key, rows in chosen.items()}


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("reduction", "share", "of"),
    [(None, 0.1, "row"), (Top(0.25), 0.25, "row"), (Top(0.5, of="layer"), 0.5, "layer"), (Mean(), None, "mean")],
)
@every_case
def test_channels_are_those_of_greedy_filling(name, reduction, share, of, partial):
    scores, values = drawn(name)
    total = scores.num_weights
    for budget in {total // 5, total // 3, total // 2, total - 1, total}:
        mask = scores.select(budget_fraction=budget / total, reduction=reduction, partial=partial)
        wanted = naive_channel_mask(values, budget, share, of, partial=partial)
        assert all(torch.equal(full(mask)[key], wanted[key]) for key in values), budget


@every_case
def test_ties_among_channels_go_to_the_earlier_parameter_and_the_earlier_row(name):
    scores, values = drawn(name, levels=2)
    for budget in range(scores.num_weights // 4, scores.num_weights, scores.num_weights // 7):
        mask = scores.select(budget_fraction=budget / scores.num_weights, reduction=Top(0.01))
        wanted = naive_channel_mask(values, budget, 0.01, "row")
        assert all(torch.equal(full(mask)[key], wanted[key]) for key in values)


@every_case
def test_whole_channels_only_and_never_more_than_the_budget(name):
    scores, values = drawn(name)
    largest_row = max(value[0].numel() for value in values.values())
    for thousandths in range(300, 1001, 50):
        mask = scores.select(budget_fraction=thousandths / 1000)
        budget = thousandths * scores.num_weights // 1000
        assert budget - largest_row < mask.num_selected <= budget
        for key, chosen in full(mask).items():
            rows = chosen.reshape(len(chosen), -1)
            assert bool((rows.all(1) == rows.any(1)).all()), key


@pytest.mark.parametrize("partial", [True, "weight"])
@given(thousandths=st.integers(0, 1000))
def test_a_budget_that_may_cut_is_met_exactly(partial, thousandths):
    scores, _ = drawn("batchnorm", levels=3)
    how = {"granularity": "weight"} if partial == "weight" else {"partial": True}
    mask = scores.select(budget_fraction=thousandths / 1000, **how)
    assert mask.num_selected == thousandths * scores.num_weights // 1000


WAYS = [
    {**way, **which}
    for way in (
        {},
        {"reduction": Mean()},
        {"partial": True},
        {"count": "channels"},
        {"count": "channels", "partial": True},
        {"scope": "layer"},
        {"granularity": "weight"},
        {"granularity": "weight", "scope": "layer"},
        {"granularity": "module"},
        {"granularity": "module", "partial": True},
    )
    for which in ({}, {"lowest": True})
]
every_way = pytest.mark.parametrize("how", WAYS, ids=lambda how: " ".join(map(str, how.values())) or "channels")


@every_way
@every_case
def test_a_larger_budget_gives_a_superset(name, how):
    scores, _ = drawn(name, levels=4)
    smallest = 0.83 if how.get("granularity") == "module" else 0.3  # the first module must be paid for
    shares = (0.0, smallest, 0.84, 0.85, 0.9, 0.99, 1.0)
    masks = [scores.select(budget_fraction=share, **how) for share in shares]
    for small, large in itertools.pairwise(masks):
        assert (small - large).num_selected == 0
    assert masks[0].num_selected == 0
    assert masks[-1].fraction == 1


@pytest.mark.parametrize("lowest", [False, True])
@every_case
def test_weights_of_each_parameter_are_a_rounded_share_of_its_highest_or_lowest(name, lowest):
    scores, values = drawn(name, levels=5)
    for share in (0.1, 0.3, 0.5, 0.77):
        mask = scores.select(budget_fraction=share, granularity="weight", scope="layer", lowest=lowest)
        for key, value in values.items():
            flat = value.flatten().tolist()
            order = sorted(range(len(flat)), key=lambda place: (flat[place] if lowest else -flat[place], place))
            wanted = sorted(order[: round(share * len(flat))])
            assert full(mask)[key].flatten().nonzero().flatten().tolist() == wanted


@pytest.mark.parametrize("lowest", [False, True])
@every_case
def test_channels_of_each_parameter_are_a_rounded_share_of_its_rows(name, lowest):
    scores, values = drawn(name, levels=3)
    for share in (0.2, 0.5, 0.7):
        mask = scores.select(budget_fraction=share, scope="layer", lowest=lowest, reduction=Mean())
        for key, value in values.items():
            listed, size = naive_row_scores(value, None, "mean")
            order = sorted(range(len(listed)), key=lambda row: (listed[row] if lowest else -listed[row], row))
            chosen = full(mask)[key].reshape(len(value), -1)
            assert chosen.all(1).nonzero().flatten().tolist() == sorted(order[: round(share * len(listed))])
            assert mask.count(key) == size * round(share * len(listed))


@pytest.mark.parametrize("lowest", [False, True])
@every_case
def test_a_budget_of_channels_counts_channels_whatever_their_size(name, lowest):
    scores, values = drawn(name, levels=3)
    listed = [
        (score, key, row)
        for key, value in values.items()
        for row, score in enumerate(naive_row_scores(value, 0.1, "row")[0])
    ]
    order = sorted(range(len(listed)), key=lambda place: (listed[place][0] * (1 if lowest else -1), place))
    for share in (0.1, 0.35, 0.5, 0.99):
        mask = scores.select(budget_fraction=share, count="channels", lowest=lowest)
        wanted = {key: [] for key in values}
        for place in sorted(order[: math.floor(share * len(listed) + 1e-9)]):
            wanted[listed[place][1]].append(listed[place][2])
        for key, value in values.items():
            chosen = full(mask)[key].reshape(len(value), -1)
            assert chosen.all(1).nonzero().flatten().tolist() == chosen.any(1).nonzero().flatten().tolist()
            assert chosen.all(1).nonzero().flatten().tolist() == wanted[key]


def turned(values):
    """Give scores of the same ranks from the other end, ties kept."""
    highest = max(float(value.max()) for value in values.values())
    return Scores(
        {key: highest - value for key, value in values.items()}, {k: tuple(v.shape) for k, v in values.items()}
    )


@pytest.mark.parametrize("how", [way for way in WAYS if "lowest" not in way], ids=lambda how: str(how))
@every_case
def test_the_lowest_are_the_highest_of_the_reversed(name, how):
    scores, values = drawn(name, levels=4)
    how = (
        how if how.get("granularity") in ("weight", "module") else how | {"reduction": Mean()}
    )  # which keeps ranks turned
    for share in (0.85, 0.9, 0.97):
        lowest = scores.select(budget_fraction=share, lowest=True, **how)
        assert lowest == turned(values).select(budget_fraction=share, **how)
        assert how.get("scope") == "layer" or lowest != scores.select(budget_fraction=share, **how)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("lowest", [False, True])
@every_case
def test_modules_are_taken_whole_by_their_mean_score_and_the_last_in_part_if_asked(name, lowest, partial):
    scores, values = drawn(name)
    inside = {}
    for key in values:
        inside.setdefault(key.rpartition(".")[0] or key, []).append(key)
    listed = []
    for keys in inside.values():
        flat = [weight for key in keys for weight in values[key].flatten().tolist()]
        mean = math.fsum(flat) / len(flat)
        listed.append((-mean if lowest else mean, len(flat)))
    names = list(inside)
    for budget in range(max(size for _, size in listed), scores.num_weights + 1, 17):
        taken, missed = greedy_channels(listed, budget)
        wanted = {key: torch.zeros_like(value, dtype=torch.bool) for key, value in values.items()}
        for place in taken:
            for key in inside[names[place]]:
                wanted[key][...] = True
        left = missed[1] if partial and missed else 0
        for key in inside[names[missed[0]]] if left else ():
            wanted[key].view(-1)[:left] = True
            left = max(left - wanted[key].numel(), 0)
        mask = scores.select(
            budget_fraction=budget / scores.num_weights, granularity="module", lowest=lowest, partial=partial
        )
        assert all(torch.equal(full(mask)[key], wanted[key]) for key in values), budget
        assert mask.num_selected == budget or not partial


def test_a_module_that_the_budget_does_not_pay_for_is_named():
    scores = Scores(
        {"a.w": torch.ones(4), "a.b": torch.ones(2), "c": torch.zeros(3)}, {"a.w": (4,), "a.b": (2,), "c": (3,)}
    )
    with pytest.raises(
        errors.BadRequest, match=r"^a budget of 5 weights does not pay for the first module, of 'a' \(6"
    ):
        scores.select(budget_fraction=5 / 9, granularity="module")
    cut = scores.select(budget_fraction=5 / 9, granularity="module", partial=True)
    assert [cut.count(key) for key in cut.names] == [4, 1, 0]
    assert [scores.select(budget_fraction=8 / 9, granularity="module").count(key) for key in cut.names] == [4, 2, 0]
    assert scores.select(budget_fraction=0.1, granularity="module").num_selected == 0  # floor(0.9) weights


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_a_share_of_each_layer_that_rounds_to_nothing_everywhere_is_refused(granularity):
    scores = Scores({"w": torch.ones(4, 2)}, {"w": (4, 2)})
    said = f"^a share of 0.05 of each parameter is less than half a {granularity} everywhere; raise it$"
    with pytest.raises(errors.BadRequest, match=said):
        scores.select(budget_fraction=0.05, granularity=granularity, scope="layer")
    assert scores.select(budget_fraction=0.0, granularity=granularity, scope="layer").num_selected == 0


@pytest.mark.parametrize("threshold", [0.0, 1.0, 2.5, 4.0])
@every_case
def test_above_a_threshold_are_the_weights_above_it(name, threshold):
    scores, values = drawn(name, levels=5)
    mask = scores.above(threshold)
    assert all(torch.equal(full(mask)[key], value > threshold) for key, value in values.items())
    assert mask.num_selected == sum(
        weight > threshold for value in values.values() for weight in value.flatten().tolist()
    )


@every_case
def test_among_whole_parameters_the_others_have_no_part_in_the_budget(name):
    scores, values = drawn(name, levels=5)
    mask = Mask.from_tensors(
        {key: torch.full(value.shape, place % 2 == 0) for place, (key, value) in enumerate(values.items())}
    )
    some = scores.among(mask)
    assert some.names == tuple(key for key in values if mask.count(key))
    assert some.num_weights == mask.num_selected
    alone = Scores({key: values[key] for key in some.names}, mask.shapes)
    for how in ({}, {"granularity": "weight"}, {"granularity": "weight", "lowest": True}, {"scope": "layer"}):
        chosen = some.select(budget_fraction=0.5, **how)
        assert chosen == alone.select(budget_fraction=0.5, **how)
        assert (chosen - mask).num_selected == 0
    assert some.select(budget_fraction=1.0) == mask


def test_among_a_part_of_a_parameter_or_of_another_network_is_refused():
    scores, _ = drawn("mlp")
    part = Mask.from_tensors(spelled_out(CASES["mlp"].make(), "weights"))
    with pytest.raises(
        errors.MaskMismatch, match=r"expected whole parameters to choose among, found .* of '0.weight'; cut"
    ):
        scores.among(part)
    with pytest.raises(
        errors.MaskMismatch, match="the mask is of another network than the scores; cut both from the same"
    ):
        scores.among(Mask.full(CASES["separable"].make()))


@every_case
def test_scores_of_a_network_have_its_shapes(name):
    model = CASES[name].make()
    key, value = next(iter(model.named_parameters()))
    scores = Scores.of(model, {key: value.detach().abs()})
    assert scores.names == (key,)
    assert scores.select(budget_fraction=1.0).shapes == {k: tuple(v.shape) for k, v in model.named_parameters()}


@every_case
def test_weights_are_the_highest_and_ties_go_in_order(name):
    scores, values = drawn(name, levels=5)
    flat = torch.cat([value.reshape(-1) for value in values.values()])
    order = sorted(range(len(flat)), key=lambda place: (-float(flat[place]), place))
    for thousandths in (1, 100, 333, 500, 999):
        budget = thousandths * len(flat) // 1000
        mask = scores.select(budget_fraction=thousandths / 1000, granularity="weight")
        chosen = torch.cat([value.reshape(-1) for value in full(mask).values()])
        assert chosen.nonzero().flatten().tolist() == sorted(order[:budget])


def test_a_cut_row_keeps_its_first_weights():
    values = {"w": torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 9.0]])}
    mask = Scores(values, {"w": (2, 3)}).select(budget_fraction=2 / 3, reduction=Mean(), partial=True)
    assert full(mask)["w"].tolist() == [[True, False, False], [True, True, True]]
    alone = Scores(values, {"w": (2, 3)}).select(budget_fraction=1 / 3, reduction=Mean(), partial=True)
    assert full(alone)["w"].tolist() == [[False, False, False], [True, True, False]]  # where no whole channel fits


@every_case
def test_multiplying_all_scores_changes_no_mask(name):
    scores, values = drawn(name, levels=6)
    scaled = Scores(
        {key: value * 2.0**-30 for key, value in values.items()}, {k: tuple(v.shape) for k, v in values.items()}
    )
    for how in ({}, {"partial": True}, {"granularity": "weight"}, {"reduction": Mean()}):
        assert scores.select(budget_fraction=0.4, **how) == scaled.select(budget_fraction=0.4, **how)


def test_parameters_without_scores_are_never_chosen_and_not_in_the_budget():
    shapes = {"a": (2, 2), "b": (4,), "c": ()}
    scores = Scores({"a": torch.ones(2, 2), "c": torch.ones(())}, shapes)
    assert scores.names == ("a", "c")
    assert scores.num_weights == 5
    for how in ({}, {"granularity": "weight"}):
        mask = scores.select(budget_fraction=1.0, **how)
        assert mask.shapes == shapes
        assert [mask.count(key) for key in shapes] == [4, 0, 1]
        assert scores.select(budget_fraction=0.8, **how) == Mask.from_tensors(
            {"a": torch.ones(2, 2) > 0, "b": torch.zeros(4) > 0, "c": torch.zeros(()) > 0}
        )


def test_scores_are_read_back_by_name():
    scores, values = drawn("mlp")
    assert scores.names == tuple(values)
    assert all(torch.equal(scores[key], values[key]) for key in values)
    assert scores.num_weights == sum(value.numel() for value in values.values())


def test_a_budget_that_pays_for_no_channel_says_which():
    scores = Scores({"w": torch.ones(4, 100)}, {"w": (4, 100)})
    said = "a budget of 99 weights does not pay for the first channel, of 'w' (100 weights); raise the budget, or use"
    with pytest.raises(errors.BadRequest, match=re.escape(said)):
        scores.select(budget_fraction=99 / 400)
    assert scores.select(budget_fraction=100 / 400).num_selected == 100
    assert scores.select(budget_fraction=99 / 400, partial=True).num_selected == 99
    assert scores.select(budget_fraction=99 / 400, granularity="weight").num_selected == 99
    assert scores.select(budget_fraction=1 / 500).num_selected == 0  # floor(0.8) weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_fraction": 1.1}, "budget_fraction: expected a fraction between 0 and 1, found 1.1"),
        ({"budget_fraction": -0.1}, "budget_fraction: expected a fraction between 0 and 1, found -0.1"),
        ({"budget_fraction": True}, "budget_fraction: expected a fraction between 0 and 1, found True"),
        (
            {"budget_fraction": 0.5, "granularity": "layer"},
            "granularity: expected weight or channel or module, found 'layer'",
        ),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        drawn("mlp")[0].select(**options)


@pytest.mark.parametrize("wrong", [-1.0, torch.nan, torch.inf, -(2.0**-1074)])
def test_scores_that_are_no_scores_are_refused_by_name(wrong):
    values = {"fine": torch.ones(2), "broken": torch.tensor([1.0, wrong], dtype=torch.float64)}
    with pytest.raises(
        errors.BadRequest, match="scores of 'broken' are negative or not finite; check that the network's"
    ):
        Scores(values, {"fine": (2,), "broken": (2,)})


def test_minus_zero_is_zero():
    values = {"w": torch.tensor([[-0.0, 1.0], [0.0, 2.0]])}
    for share, wanted in ((0.25, [[False, False], [False, True]]), (0.75, [[True, True], [False, True]])):
        mask = Scores(values, {"w": (2, 2)}).select(budget_fraction=share, granularity="weight")
        assert full(mask)["w"].tolist() == wanted


def test_a_kept_ranking_gives_the_masks_of_a_fresh_one():
    scores, values = drawn("batchnorm", levels=3)
    cuts = [
        {"budget_fraction": fraction, "lowest": lowest, "reduction": reduction}
        for fraction in (0.3, 0.6)
        for lowest in (False, True)
        for reduction in (None, Mean(), Top(0.5), Top())
    ]
    fresh = [Scores(values, {key: tuple(value.shape) for key, value in values.items()}).select(**how) for how in cuts]
    assert [scores.select(**how) for how in cuts] == fresh
    assert [scores.select(**how) for how in reversed(cuts)] == fresh[::-1]
