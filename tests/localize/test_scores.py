import itertools
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


@pytest.mark.parametrize("how", [{}, {"partial": True}, {"granularity": "weight"}])
@every_case
def test_a_larger_budget_gives_a_superset(name, how):
    scores, _ = drawn(name, levels=4)
    masks = [scores.select(budget_fraction=share, **how) for share in (0.0, 0.3, 0.4, 0.41, 0.6, 0.9, 1.0)]
    for small, large in itertools.pairwise(masks):
        assert (small - large).num_selected == 0
    assert masks[0].num_selected == 0
    assert masks[-1].fraction == 1


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
        ({"budget_fraction": 0.5, "granularity": "layer"}, "granularity: expected weight or channel, found 'layer'"),
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
