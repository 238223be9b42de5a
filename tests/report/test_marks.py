"""Marks: each shape where it must stand, hollow outside its band, an arrow beyond the axis."""

import pytest

from excise.report import marks
from excise.report.scales import Linear
from excise.report.svg import box, drawn
from tests.report import drawings


def test_unknown_names_have_looks_of_their_own():
    assert marks.series_class("oracles", 2) == "series-oracles"
    assert [marks.series_class("<b>", index) for index in range(3)] == ["series-a", "series-b", "series-c"]


def test_signs_and_keys_differ():
    words = ("PASS", "FAIL", "INCONCLUSIVE", "INVALID", "open")
    shapes = ("dot", "dot out", "diamond", "diamond out", "square", "square out")
    lines = ("mean", "interval", "arrow", "chance", "series-original line", "series-unlearned line")
    areas = ("band", "blind", "series-original steps", "series-unlearned steps", "series-oracles steps")
    kinds = (*shapes, *lines, *areas)
    assert len({marks.verdict_sign(word) for word in words}) == len(words)
    assert len({marks.legend_key(kind) for kind in kinds}) == len(kinds)


AXIS = Linear(low=0.0, high=8.0)


@pytest.mark.parametrize("shape", ["dot", "diamond", "square"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_mark_stands_at_its_value_and_is_hollow_outside_its_band(shape, inside):
    svg = box(10, "A")
    marks.mark(svg, AXIS, 2.0, 5, "said", inside=inside, shape=shape)
    tag = "circle" if shape == "dot" else "path"
    (found,) = drawings.marks(drawn(svg), tag, shape)
    assert ("out" in found.get("class").split()) is not inside
    assert found.find("title").text == "said"
    place = svg.find("circle").get("cx") if shape == "dot" else svg.find("svg").get("x")
    assert place == "25%"


@pytest.mark.parametrize(("value", "place"), [(-0.1, "0"), (8.1, "100%")])
def test_beyond_the_axis_a_mark_is_an_arrow_at_the_nearer_end(value, place):
    svg = box(10, "A")
    marks.mark(svg, AXIS, value, 5, "said", inside=True, shape="diamond")
    assert svg.find("svg").get("x") == place
    (arrow,) = drawings.marks(drawn(svg), "path", "of-diamond")
    tip = arrow.get("d").split("L")[1]
    assert tip.startswith("0 0")
    assert arrow.get("d").startswith("M-10" if value > 0 else "M10")


def test_a_strip_lies_between_the_ends_of_its_band():
    svg = box(10, "A")
    marks.strip(svg, AXIS, (2.0, 3.0, 6.0), 4, 12, "said")
    (band,), (mean,) = drawings.marks(drawn(svg), "rect", "band"), drawings.marks(drawn(svg), "line", "mean")
    assert (band.get("x"), band.get("width"), band.get("y"), band.get("height")) == ("25%", "50%", "4", "12")
    assert (mean.get("x1"), mean.get("y1"), mean.get("y2")) == ("37.5%", "4", "16")


def test_ticks_stay_within_what_can_be():
    svg = box(10, "A")
    axis = Linear(low=-0.5, high=1.5)
    marks.ticks(svg, axis, 10, marks.tick_writer(axis, 100), within=(0, 1))
    assert [tick.text for tick in drawings.marks(drawn(svg), "text", "tick")] == ["0", "50", "100"]


@pytest.mark.parametrize(
    ("low", "high", "factor", "texts"),
    [
        (0.0, 1.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.0, 1.0, 100.0, ["0", "20", "40", "60", "80", "100"]),
        (-0.01, 0.02, 1.0, ["−0.01", "0.00", "0.01", "0.02"]),
        (0.0, 4e-9, 1.0, ["0", "1e−09", "2e−09", "3e−09", "4e−09"]),
        (0.0, 4e9, 1.0, ["0", "1e+09", "2e+09", "3e+09", "4e+09"]),
    ],
)
def test_ticks_are_written_with_the_decimals_that_tell_them_apart(low, high, factor, texts):
    axis = Linear(low=low, high=high)
    write = marks.tick_writer(axis, factor)
    assert [write(tick) for tick in axis.ticks()] == texts
