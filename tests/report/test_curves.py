"""Curves of attacks: log axes, stairs, and what so few rows cannot show."""

import math
from xml.etree import ElementTree

import msgspec
import pytest

from excise.report import Curve, CurveBand, Roc, curves
from tests.report.drawings import marks, percent, points

CURVE = Curve(name="unlearned", false_positive=[0, 0.001, 0.01, 0.1, 1], true_positive=[0, 0.01, 0.1, 0.5, 1], auc=0.7)


def attack(*drawn, num_non_members=5000, band=None):
    return Roc(name="a", title="A", num_members=80, num_non_members=num_non_members, curves=drawn or [CURVE], band=band)


def right(rate):
    """A false positive rate's place across a box of a thousand, three decades wide."""
    return 1000 * (1 + math.log10(rate) / 3)


def down(rate):
    """A true positive rate's place down the box."""
    return -curves.ROC_HEIGHT * math.log10(rate) / 3


def rate_at(corners, x):
    """The height of a stair just right of `x`."""
    return [y for place, y in corners if place <= x][-1]


def test_a_curve_is_a_stair_of_its_thresholds():
    (path,) = marks(curves.roc(attack()), "path", "series-unlearned")
    corners = points(path.get("d"))
    for false, true in zip(CURVE.false_positive[1:-1], CURVE.true_positive[1:-1], strict=True):
        assert rate_at(corners, right(false) + 0.5) == pytest.approx(down(true), abs=2e-3)
        assert rate_at(corners, right(false) * 0.999 if false > 0.001 else 0) >= down(true) - 2e-3
    assert corners[-1] == pytest.approx((1000, 0))
    assert [x for x, _ in corners] == sorted(x for x, _ in corners)
    assert [y for _, y in corners] == sorted((y for _, y in corners), reverse=True)


def test_what_is_lower_than_the_axis_lies_at_its_end():
    steep = Curve(name="a", false_positive=[0, 1e-5, 1e-4, 0.5, 1], true_positive=[0, 0.0001, 0.3, 0.4, 1], auc=0.6)
    (path,) = marks(curves.roc(attack(steep)), "path", "series-a")
    assert points(path.get("d"))[0] == pytest.approx((0, down(0.3)), abs=1e-3)
    never = Curve(name="a", false_positive=[0, 0.5, 1], true_positive=[0, 0, 1], auc=0.4)
    corners = points(marks(curves.roc(attack(never)), "path", "series-a")[0].get("d"))
    assert corners[0] == (0, curves.ROC_HEIGHT)
    blind = Curve(name="a", false_positive=[0, 0], true_positive=[0, 1], auc=1)
    assert points(marks(curves.roc(attack(blind)), "path", "series-a")[0].get("d")) == [(0, 0), (1000, 0)]


def test_guessing_is_the_diagonal_of_the_log_axes():
    (chance,) = marks(curves.roc(attack()), "path", "chance")
    assert points(chance.get("d")) == [(0, curves.ROC_HEIGHT), (1000, 0)]
    for rate in (0.002, 0.05, 0.7):
        assert down(rate) == pytest.approx(curves.ROC_HEIGHT * (1 - right(rate) / 1000))


def test_the_band_of_oracles_goes_along_its_top_and_back_below():
    band = CurveBand(false_positive=[0.001, 0.1, 1], low=[0, 0.05, 1], high=[0.01, 0.2, 1])
    (area,) = marks(curves.roc(attack(band=band)), "path", "span")
    high = [(0, down(0.01)), (right(0.1), down(0.2)), (1000, 0)]
    low = [(0, curves.ROC_HEIGHT), (right(0.1), down(0.05)), (1000, 0)]
    for found, wanted in zip(points(area.get("d")), [*high, *low[::-1]], strict=True):
        assert found == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("num_non_members", [20, 128, 999, 1000, 5000])
def test_where_there_is_not_one_wrong_row_nothing_can_be_seen(num_non_members):
    blind = marks(curves.roc(attack(num_non_members=num_non_members)), "rect", "blind")
    assert bool(blind) is (num_non_members < 1000)
    for each in blind:
        assert percent(each.get("width")) == pytest.approx(right(1 / num_non_members) / 10, abs=1e-3)


def test_the_curve_on_trial_lies_on_top():
    others = [msgspec.structs.replace(CURVE, name=name) for name in ("unlearned", "original", "b")]
    paths = [path.get("class") for path in ElementTree.fromstring(curves.roc(attack(*others))).iter("path")]
    assert paths == ["chance", "series-original line", "series-c line", "series-unlearned line"]


def test_both_axes_are_written_in_per_cent_at_the_decades():
    ticks = marks(curves.roc(attack()), "text", "tick")
    assert sorted(tick.text for tick in ticks) == sorted(["0.1%", "1%", "10%", "100%"] * 2)


def test_a_rate_is_written_or_it_is_said_why_not():
    assert curves.rate(0.25, 100, attack()) == "25.0"
    assert curves.rate(None, 1000, attack(num_non_members=999)) == "needs 1\u202f000 non-members"
    assert curves.rate(None, 1000, attack(num_non_members=1000)) == "not measured"
