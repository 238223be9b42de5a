"""Before and after: marks where the axis puts them, and which classes are drawn."""

from xml.etree import ElementTree

import msgspec
import pytest

from excise.report import Band, ClassAccuracy, Classes, Compared, pairs
from tests.report.drawings import marks, percent

LINES = [
    Compared(title="a", unit="nats", original=6.0, unlearned=2.0, oracles=Band(low=1.0, mean=1.5, high=2.5)),
    Compared(title="b", unit="nats", unlearned=-2.0, oracles=Band(low=1.0, mean=1.25, high=1.5)),
    Compared(title="c", unit="nats", unlearned=3.0),
]


def test_all_lines_stand_on_one_axis():
    axis = pairs.axis_of(LINES)
    assert (axis.low, axis.high) == pytest.approx((-2.0 - 0.48, 6.0 + 0.48))
    drawing = pairs.pair_panel(LINES, "Said")
    place = lambda value: 100 * (value - axis.low) / (axis.high - axis.low)  # noqa: E731
    dots = marks(drawing, "circle", "dot")
    assert [percent(dot.get("cx")) for dot in dots] == pytest.approx(
        [place(line.unlearned) for line in LINES], abs=1e-3
    )
    assert [("out" in dot.get("class").split()) for dot in dots] == [False, True, False]
    (diamond,) = marks(drawing, "path", "diamond")
    assert "out" in diamond.get("class").split()
    (way,) = marks(drawing, "line", "way")
    assert [percent(way.get(end)) for end in ("x1", "x2")] == pytest.approx([place(6.0), place(2.0)], abs=1e-3)
    first, second = marks(drawing, "rect", "band")
    assert percent(first.get("x")) == pytest.approx(place(1.0), abs=1e-3)
    assert percent(second.get("x")) + percent(second.get("width")) == pytest.approx(place(1.5), abs=2e-3)
    middles = [pairs.LINE_HEIGHT * (index + 0.5) for index in range(3)]
    assert [float(dot.get("cy")) for dot in dots] == middles
    assert [float(band.get("y")) + pairs.BAND_HEIGHT / 2 for band in (first, second)] == middles[:2]
    assert [name.text for name in marks(drawing, "text", "name")] == ["a", "b", "c"]


def test_a_line_alone_has_neither_name_nor_number():
    drawing = pairs.pair_panel(LINES[:1], "Said", named=False)
    assert not marks(drawing, "text", "name") + marks(drawing, "text", "number")
    assert (
        ElementTree.fromstring(drawing).find("desc").text == "a: unlearned 2.0, original 6.0, oracles 1.0 to 2.5 nats."
    )


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-6])
def test_one_number_has_an_axis(value):
    axis = pairs.axis_of([Compared(title="a", unlearned=value)])
    assert axis.low < value < axis.high


def classes(count):
    """Classes whose distance from the oracles grows and shrinks by turns, each another."""
    away = [((-1) ** i) * (i * 37 % count) / (3 * count) for i in range(count)]
    band = Band(low=0.4, mean=0.5, high=0.6)
    return Classes(
        name="test",
        title="Test rows",
        classes=[ClassAccuracy(name=f"c{i}", num_rows=50, unlearned=0.5 + x, oracles=band) for i, x in enumerate(away)],
    )


@pytest.mark.parametrize("count", [1, 19, 20])
def test_few_classes_are_all_drawn_in_order(count):
    assert pairs.farthest(classes(count)) == list(classes(count).classes)


@pytest.mark.parametrize("count", [21, 100, 1000])
def test_of_many_classes_the_farthest_from_the_oracles_are_drawn(count):
    chosen = pairs.farthest(classes(count))
    away = lambda each: abs(each.unlearned - 0.5)  # noqa: E731
    assert len(chosen) == pairs.MOST_CLASSES
    assert [away(each) for each in chosen] == sorted((away(each) for each in classes(count).classes), reverse=True)[:20]
    drawing = pairs.pair_panel(pairs.class_lines(classes(count)), "Said", within=(0, 1))
    assert len(marks(drawing, "circle", "dot")) == pairs.MOST_CLASSES


def test_no_accuracy_below_zero_or_above_a_hundred_is_written():
    band = Band(low=-0.2, mean=0.4, high=1.3)
    all_ = Classes(name="a", title="A", classes=[ClassAccuracy(name="c", num_rows=3, unlearned=0.5, oracles=band)])
    ticks = [
        float(tick.text)
        for tick in marks(pairs.pair_panel(pairs.class_lines(all_), "A", within=(0, 1)), "text", "tick")
    ]
    assert min(ticks) == 0
    assert max(ticks) == 100


def test_strata_are_lines_of_log_odds(full):
    lines = pairs.stratum_lines(full.strata)
    assert [(line.title, line.unlearned, line.original) for line in lines] == [
        (each.name, each.unlearned, each.original) for each in full.strata.strata
    ]
    assert pairs.decimals(lines) == 2


def test_decimals_follow_the_narrowest_band():
    narrow = msgspec.structs.replace(LINES[0], oracles=Band(low=1.0, mean=1.0, high=1.02))
    assert pairs.decimals([narrow, LINES[0]]) == 3
    assert pairs.decimals(LINES) == 2
    assert pairs.decimals(LINES[:1]) == 1
    assert pairs.decimals([msgspec.structs.replace(narrow, unit="%")]) == 1
    assert pairs.decimals([]) == 2
