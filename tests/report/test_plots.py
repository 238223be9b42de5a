"""Drawings: every mark stands where a closed form says it must."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import msgspec
import pytest

from excise.report import Band, Histogram, Layer, Row, Section, Timing, plots
from excise.report.scales import Linear

SPLITS = ("forget", "retain", "test")


def marks(drawing, tag, name):
    """Elements of a drawing with this tag and this class among theirs."""
    found = ElementTree.fromstring(drawing).iter(tag)
    return [each for each in found if name in each.get("class", "").split()]


def percent(attribute):
    """A place such as `12.5%` as a number."""
    assert attribute.endswith("%")
    return float(attribute[:-1])


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


def heights(path, edges):
    """The counts that a path of steps shows: a plain reading of its commands, column by column."""
    top = {}
    x = y = 0.0
    for command, numbers in re.findall(r"([MHV])([-\d. ]+)", path):
        values = [float(number) for number in numbers.split()]
        if command == "M":
            x, y = values
        elif command == "V":
            (y,) = values
        else:
            for index in range(len(edges) - 1):
                middle = (edges[index] + edges[index + 1]) / 2
                if min(x, values[0]) < middle < max(x, values[0]):
                    top[index] = y
            (x,) = values
    return [top.get(index, float(plots.HISTOGRAM_HEIGHT)) for index in range(len(edges) - 1)]


@pytest.mark.parametrize("counts", [[100, 28, 0, 0], [0, 31, 90, 7], [0, 0, 0, 0], [5, 0, 5, 5], [0, 0, 0, 1.5]])
def test_an_outline_shows_the_counts_at_log_spaced_columns(section, counts):
    alone = msgspec.structs.replace(section, histograms=[Histogram(name="unlearned", counts=counts)])
    (outline,) = marks(plots.loss_histogram(alone), "path", "series-unlearned")
    columns = [1000 * math.log(edge / 0.001) / math.log(10.0 / 0.001) for edge in section.histogram_edges]
    expected = [plots.HISTOGRAM_HEIGHT * (1 - count / (1.08 * (max(counts) or 1))) for count in counts]
    assert heights(outline.get("d") or "", columns) == pytest.approx(expected, abs=1e-3)
    assert ("H1000" in outline.get("d")) == (counts[-1] > 0)  # an empty end leaves the base line alone


def test_the_oracles_are_behind_wherever_they_are_named(section):
    for order in (section.histograms, section.histograms[::-1]):
        drawing = plots.loss_histogram(msgspec.structs.replace(section, histograms=order))
        looks = [path.get("class") for path in ElementTree.fromstring(drawing).iter("path")]
        assert looks[0] == "series-oracles"
        assert set(looks) == {"series-original", "series-unlearned", "series-oracles"}


def test_every_bin_tells_its_counts(section):
    bins = marks(plots.loss_histogram(section), "rect", "bin")
    assert [each.find("title").text for each in bins][1] == "loss 0.01 to 0.1: original 28, unlearned 31, oracles 30.5"
    assert sum(percent(each.get("width")) for each in bins) == pytest.approx(100, abs=0.01)


def test_unknown_names_have_looks_of_their_own():
    assert plots.series_class("oracles", 2) == "series-oracles"
    assert [plots.series_class("<b>", index) for index in range(3)] == ["series-a", "series-b", "series-c"]


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


def test_all_null_bands_look_alike(measures):
    reach = plots.reach(measures)
    for measure in measures:
        (strip,) = marks(plots.measure_strip(measure, reach), "rect", "band")
        assert percent(strip.get("x")) == pytest.approx(50 - 50 / reach, abs=1e-3)
        assert percent(strip.get("width")) == pytest.approx(100 / reach, abs=1e-3)


def test_a_measure_stands_in_half_widths_of_its_band(measures):
    reach = plots.reach(measures[:2])
    assert reach == pytest.approx(1.08 * (0.63 - 0.5) / 0.04)
    for measure, hollow in zip(measures, (False, True), strict=False):
        drawing = plots.measure_strip(measure, reach)
        (dot,), (interval,) = marks(drawing, "circle", "dot"), marks(drawing, "line", "interval")
        place = lambda value: 50 + 50 * (value - 0.5) / 0.04 / reach  # noqa: E731
        assert percent(dot.get("cx")) == pytest.approx(place(measure.value), abs=1e-3)
        assert percent(interval.get("x1")) == pytest.approx(place(measure.low), abs=1e-3)
        assert percent(interval.get("x2")) == pytest.approx(place(measure.high), abs=1e-3)
        assert ("out" in dot.get("class")) is hollow
        assert [tick.text for tick in marks(drawing, "text", "tick")] == ["0.460", "0.540"]


def test_a_measure_far_out_is_an_arrow_and_the_others_stay_readable(measures):
    assert plots.reach(measures) == plots.FARTHEST_REACH
    assert plots.off_scale(measures)
    assert not plots.off_scale(measures[:2])
    drawing = plots.measure_strip(measures[2], plots.FARTHEST_REACH)
    assert len(marks(drawing, "path", "arrow")) == 1
    assert not marks(drawing, "circle", "dot")
    (interval,) = marks(drawing, "line", "interval")
    assert interval.get("x1") == interval.get("x2") == "0%"


def test_reach_is_never_less_than_two(measures):
    assert plots.reach([]) == 2.0
    calm = msgspec.structs.replace(measures[0], low=0.5, value=0.5, high=0.5)
    assert plots.reach([calm]) == 2.0


def test_a_null_without_width_is_a_line(measures):
    thin = msgspec.structs.replace(measures[0], null_low=0.5, null_mean=0.5, null_high=0.5)
    assert plots.standing(thin, 0.5) == 0
    assert plots.standing(thin, thin.high) == pytest.approx(2.0)
    (strip,) = marks(plots.measure_strip(thin, 2.16), "rect", "band")
    assert strip.get("width") == "0%"
    same = msgspec.structs.replace(thin, low=0.5, value=0.5, high=0.5)
    assert plots.standing(same, 0.5) == 0


def test_the_longest_time_fills_its_cell():
    timings = [Timing(what="a", seconds=2.0), Timing(what="b", seconds=8.0), Timing(what="c", seconds=0.0)]
    widths = [marks(plots.timing_bar(timing, timings), "rect", "bar")[0].get("width") for timing in timings]
    assert widths == ["25%", "100%", "0%"]
    assert marks(plots.timing_bar(timings[2], timings[2:]), "rect", "bar")[0].get("width") == "0%"


def test_signs_and_keys_differ():
    words = ("PASS", "FAIL", "INCONCLUSIVE", "INVALID")
    kinds = ("band", "mean", "dot", "dot out", "arrow", "series-original", "series-unlearned", "series-oracles")
    assert len({plots.verdict_sign(word) for word in words}) == len(words)
    assert len({plots.legend_key(kind) for kind in kinds}) == len(kinds)


def test_ticks_of_the_percent_axis_have_as_many_decimals_as_they_need(section):
    rows = [msgspec.structs.replace(section.rows[1], accuracy={"forget": 0.5, "retain": 0.9995, "test": 0.5})]
    near = msgspec.structs.replace(section, rows=rows, bands={"retain": Band(low=0.999, mean=0.9992, high=0.9999)})
    ticks = [tick.text for tick in marks(plots.accuracy_panel(near, "retain"), "text", "tick")]
    assert len(set(ticks)) == len(ticks) >= 2
    axis = plots.accuracy_axis(near, "retain")
    for written, value in zip(ticks, [tick for tick in axis.ticks() if tick <= 1], strict=True):
        assert float(written) == pytest.approx(100 * value)


def test_a_linear_scale_is_what_places_things():
    assert Linear(low=0.2, high=0.7).position(0.45) == pytest.approx(50.0)
