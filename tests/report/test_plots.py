"""Drawings of recipes: every mark stands where a closed form says it must."""

from itertools import pairwise
from xml.etree import ElementTree

import msgspec
import pytest

from excise.report import Band, Costs, Layer, Row, Section, Step, Timing, plots
from tests.report.drawings import marks, percent

SPLITS = ("forget", "retain", "test")


@pytest.fixture(params=SPLITS)
def split(request):
    return request.param


def test_every_recipe_is_once_in_every_panel_in_order(section, split):
    drawing = plots.accuracy_panel(section, split)
    assert [name.text for name in marks(drawing, "text", "name")] == ["Nothing", "DEL", "NegGrad"]
    assert len(marks(drawing, "circle", "dot")) + len(marks(drawing, "path", "arrow")) == 3


def test_the_band_and_the_dots_stand_where_the_scale_puts_them(section, split):
    axis, band = plots.accuracy_axis(section, split), section.bands[split]
    place = lambda value: 100 * (value - axis.low) / (axis.high - axis.low)  # noqa: E731
    drawing = plots.accuracy_panel(section, split)
    (strip,) = marks(drawing, "rect", "band")
    (mean,) = marks(drawing, "line", "mean")
    assert percent(strip.get("x")) == pytest.approx(
        place(band.low), abs=1e-3
    )  # coordinates are written to three decimals
    assert percent(strip.get("x")) + percent(strip.get("width")) == pytest.approx(place(band.high), abs=2e-3)
    assert percent(mean.get("x1")) == percent(mean.get("x2")) == pytest.approx(place(band.mean), abs=1e-3)
    inside_axis = [row for row in section.rows if axis.low <= row.accuracy[split] <= axis.high]
    for row, dot in zip(inside_axis, marks(drawing, "circle", "dot"), strict=True):
        assert percent(dot.get("cx")) == pytest.approx(place(row.accuracy[split]), abs=1e-3)
        assert float(dot.get("cy")) == plots.ROW_HEIGHT * (section.rows.index(row) + 0.5)
        assert ("out" in dot.get("class")) != (band.low <= row.accuracy[split] <= band.high)


def test_the_axis_holds_the_band_and_ends_some_bands_away(section, split):
    axis, band = plots.accuracy_axis(section, split), section.bands[split]
    width = band.high - band.low
    assert axis.low < band.low <= band.high < axis.high
    assert axis.low > band.low - 1.2 * plots.FARTHEST_BANDS * width - 0.01
    assert axis.high < band.high + 1.2 * plots.FARTHEST_BANDS * width + 0.01


def test_a_recipe_beyond_the_axis_is_an_arrow_at_its_end(section):
    assert plots.beyond(section)
    (arrow,) = marks(plots.accuracy_panel(section, "retain"), "path", "arrow")  # NegGrad, 0.61 under a band at 0.99
    assert arrow.find("title").text == "NegGrad 61.00 %"
    near = msgspec.structs.replace(section, rows=section.rows[:2])
    assert not plots.beyond(near)
    assert not marks(plots.accuracy_panel(near, "retain"), "path", "arrow")
    high = Row(recipe="High", accuracy=dict.fromkeys(SPLITS, 1.0), seconds=1.0)
    low = dict.fromkeys(SPLITS, Band(low=0.1, mean=0.1, high=0.1))
    over = msgspec.structs.replace(section, rows=[high], bands=low, num_forget=10_000)
    (tip,) = [
        each for each in ElementTree.fromstring(plots.accuracy_panel(over, "forget")).iter("svg") if each.get("y")
    ]
    assert tip.get("x") == "100%"


def test_without_a_band_there_is_no_strip_and_no_dot_is_hollow(section, split):
    drawing = plots.accuracy_panel(msgspec.structs.replace(section, bands={}), split)
    assert not marks(drawing, "rect", "band")
    assert not marks(drawing, "circle", "out")
    assert len(marks(drawing, "circle", "dot")) == 3


def test_an_axis_of_one_number_is_still_an_axis():
    row = Row(recipe="One", accuracy=dict.fromkeys(SPLITS, 1.0), seconds=1.0)
    alike = dict.fromkeys(SPLITS, Band(low=1.0, mean=1.0, high=1.0))
    section = Section(
        name="a", title="A", num_forget=1, num_retain=1, num_test=1, num_oracles=1, rows=[row], bands=alike
    )
    for split in SPLITS:
        axis = plots.accuracy_axis(section, split)
        assert axis.position(1.0) == pytest.approx(50.0)
        (dot,) = marks(plots.accuracy_panel(section, split), "circle", "dot")
        assert dot.get("class") == "dot"
    nothing = msgspec.structs.replace(section, rows=[], bands={})
    assert plots.accuracy_axis(nothing, "test").position(0.5) == pytest.approx(50.0)


def test_no_accuracy_outside_of_zero_to_a_hundred_is_written_on_the_axis(section, split):
    ticks = [float(tick.text) for tick in marks(plots.accuracy_panel(section, split), "text", "tick")]
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 8
    assert 0 <= min(ticks) <= max(ticks) <= 100


def test_a_long_name_is_shortened_in_the_margin_and_whole_when_hovered(section):
    name = "A recipe with quite a long name"
    long = msgspec.structs.replace(section.rows[0], recipe=name)
    drawing = plots.accuracy_panel(msgspec.structs.replace(section, rows=[long]), "forget")
    (label,), (dot,) = marks(drawing, "text", "name"), marks(drawing, "circle", "dot")
    assert len(label.text) == plots.LABEL_LENGTH
    assert dot.find("title").text == f"{name} 99.2 %"


def test_a_bar_is_as_long_as_its_fraction_and_sixty_layers_stay_apart():
    layers = [Layer(name=f"layer{i}", fraction=i / 59, num_parameters=1000 * i) for i in range(60)]
    drawing = plots.mask_bars(layers)
    bars = marks(drawing, "rect", "bar")
    assert [percent(bar.get("width")) for bar in bars] == pytest.approx([100 * i / 59 for i in range(60)], abs=1e-3)
    tops = [float(bar.get("y")) for bar in bars]
    assert {below - above for above, below in pairwise(tops)} == {float(plots.LAYER_HEIGHT)}
    assert plots.LAYER_HEIGHT >= 14  # a line of text of 11.5 pixels
    assert [name.text for name in marks(drawing, "text", "layer")] == [layer.name for layer in layers]
    assert [size.text for size in marks(drawing, "text", "tick")][-1] == "59k"
    assert float(ElementTree.fromstring(drawing).get("height")) == 60 * plots.LAYER_HEIGHT


def test_the_longest_time_fills_its_cell():
    timings = [Timing(what="a", seconds=2.0), Timing(what="b", seconds=8.0), Timing(what="c", seconds=0.0)]
    widths = [marks(plots.timing_bar(timing, timings), "rect", "bar")[0].get("width") for timing in timings]
    assert widths == ["25%", "100%", "0%"]
    assert marks(plots.timing_bar(timings[2], timings[2:]), "rect", "bar")[0].get("width") == "0%"


def test_ticks_of_the_percent_axis_have_as_many_decimals_as_they_need(section):
    rows = [msgspec.structs.replace(section.rows[1], accuracy={"forget": 0.5, "retain": 0.9995, "test": 0.5})]
    near = msgspec.structs.replace(section, rows=rows, bands={"retain": Band(low=0.999, mean=0.9992, high=0.9999)})
    ticks = [tick.text for tick in marks(plots.accuracy_panel(near, "retain"), "text", "tick")]
    assert len(set(ticks)) == len(ticks) >= 2
    axis = plots.accuracy_axis(near, "retain")
    for written, value in zip(ticks, [tick for tick in axis.ticks() if tick <= 1], strict=True):
        assert float(written) == pytest.approx(100 * value)


def test_a_cost_is_a_bar_beside_the_line_of_one_retraining():
    steps = [Step(what="a", seconds=5.0), Step(what="b", seconds=40.0)]
    costs = Costs(steps=steps, retraining=Step(what="c", seconds=20.0))
    for step, width in zip(steps, ("12.5%", "100%"), strict=True):
        drawing = plots.cost_bar(step, costs)
        (bar,), (line,) = marks(drawing, "rect", "bar"), marks(drawing, "line", "limit")
        assert (bar.get("width"), line.get("x1"), line.get("x2")) == (width, "50%", "50%")
    alone = Costs(steps=steps)
    assert not marks(plots.cost_bar(steps[0], alone), "line", "limit")
    free = Costs(steps=[Step(what="nothing", seconds=0.0)])
    assert marks(plots.cost_bar(free.steps[0], free), "rect", "bar")[0].get("width") == "0%"
