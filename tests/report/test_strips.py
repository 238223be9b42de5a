"""Strips of measures: marks, ticks and bands where closed forms put them."""

from xml.etree import ElementTree

import msgspec
import pytest

from excise.report import strips
from tests.report.drawings import marks, percent


def test_all_null_bands_look_alike(measures):
    reach = strips.reach(measures)
    for measure in measures:
        (strip,) = marks(strips.measure_strip(measure, reach), "rect", "band")
        assert percent(strip.get("x")) == pytest.approx(50 - 50 / reach, abs=1e-3)
        assert percent(strip.get("width")) == pytest.approx(100 / reach, abs=1e-3)


def test_a_measure_stands_in_half_widths_of_its_band(measures):
    reach = strips.reach(measures[:2])
    assert reach == pytest.approx(1.08 * (0.63 - 0.5) / 0.04)
    for measure, hollow in zip(measures, (False, True), strict=False):
        drawing = strips.measure_strip(measure, reach)
        (dot,), (interval,) = marks(drawing, "circle", "dot"), marks(drawing, "line", "interval")
        place = lambda value: 50 + 50 * (value - 0.5) / 0.04 / reach  # noqa: E731
        assert percent(dot.get("cx")) == pytest.approx(place(measure.value), abs=1e-3)
        assert percent(interval.get("x1")) == pytest.approx(place(measure.low), abs=1e-3)
        assert percent(interval.get("x2")) == pytest.approx(place(measure.high), abs=1e-3)
        assert ("out" in dot.get("class")) is hollow
        for tick in marks(drawing, "text", "tick"):
            assert percent(tick.get("x")) == pytest.approx(place(float(tick.text)), abs=1e-3)


def test_a_measure_far_out_is_an_arrow_and_the_others_stay_readable(measures):
    assert strips.reach(measures) == strips.FARTHEST_REACH
    assert strips.off_scale(measures)
    assert not strips.off_scale(measures[:2])
    drawing = strips.measure_strip(measures[2], strips.FARTHEST_REACH)
    assert len(marks(drawing, "path", "arrow")) == 1
    assert not marks(drawing, "circle", "dot") + marks(drawing, "path", "square")
    (interval,) = marks(drawing, "line", "interval")
    assert interval.get("x1") == interval.get("x2") == "0%"


def test_reach_is_never_less_than_two(measures):
    assert strips.reach([]) == 2.0
    calm = msgspec.structs.replace(measures[0], low=0.5, value=0.5, high=0.5)
    assert strips.reach([calm]) == 2.0


def test_a_null_without_width_is_a_line(measures):
    thin = msgspec.structs.replace(measures[0], null_low=0.5, null_mean=0.5, null_high=0.5)
    assert strips.standing(thin, 0.5) == 0
    assert strips.standing(thin, thin.high) == pytest.approx(2.0)
    (strip,) = marks(strips.measure_strip(thin, 2.16), "rect", "band")
    assert strip.get("width") == "0%"
    same = msgspec.structs.replace(thin, low=0.5, value=0.5, high=0.5)
    assert strips.standing(same, 0.5) == 0


def test_what_informs_has_another_shape_than_what_decides(measures):
    informs = [msgspec.structs.replace(measure, decides=False, rejected=False) for measure in measures[:2]]
    for measure, hollow in zip(informs, (False, True), strict=True):
        drawing = strips.measure_strip(measure, 4.0)
        assert not marks(drawing, "circle", "dot")
        (square,) = marks(drawing, "path", "square")
        assert ("out" in square.get("class").split()) is hollow


def test_a_measure_in_per_cent_is_written_times_a_hundred_where_the_fraction_stands(measures):
    plain, shown = measures[0], msgspec.structs.replace(measures[0], unit="%")
    places = []
    for measure, times in ((plain, 1), (shown, 100)):
        drawing = strips.measure_strip(measure, 4.0)
        ticks = marks(drawing, "text", "tick")
        assert 3 <= len(ticks) <= 9
        for tick in ticks:
            assert percent(tick.get("x")) == pytest.approx(50 + 50 * (float(tick.text) / times - 0.5) / 0.16, abs=1e-3)
        places.append([percent(tick.get("x")) for tick in ticks])
    assert places[0] == places[1]
    assert (strips.decimals(plain), strips.decimals(shown)) == (3, 1)
    assert "51.0 %, 95% interval 48.0 to 55.0" in ElementTree.fromstring(drawing).find("desc").text


def test_measures_stand_under_their_headings_those_that_decide_first(full):
    groups = strips.groups(full.measures)
    assert list(groups) == ["Accuracy", "Membership", "Population", "Representation", "Retained rows", "Correction"]
    assert sorted(each.name for rows in groups.values() for each in rows) == sorted(each.name for each in full.measures)
    for rows in groups.values():
        decides = [row.decides for row in rows]
        assert decides == sorted(decides, reverse=True)
        for kind in (True, False):
            names = [row.name for row in rows if row.decides is kind]
            assert names == sorted(names)


@pytest.mark.parametrize(
    ("deciding", "rejected", "informing", "words"),
    [
        (1, 0, 0, "1 measure decides the verdict."),
        (2, 1, 0, "2 measures decide the verdict; 1 of them tells the network apart."),
        (3, 2, 1, "3 measures decide the verdict; 2 of them tell the network apart; 1 more only informs."),
        (0, 0, 2, "0 measures decide the verdict; 2 more only inform."),
    ],
)
def test_a_summary_counts(measures, deciding, rejected, informing, words):
    decides = [msgspec.structs.replace(measures[0], rejected=index < rejected) for index in range(deciding)]
    informs = [msgspec.structs.replace(measures[0], decides=False)] * informing
    assert strips.summary([*decides, *informs]) == words


def test_numbers_far_from_one_still_have_an_axis(measures):
    for size in (1e-9, 1e9):
        numbers = {
            name: size * getattr(measures[0], name) for name in ("value", "low", "high", "null_low", "null_mean")
        }
        measure = msgspec.structs.replace(measures[0], null_high=0.54 * size, **numbers)
        ticks = [tick.text.replace("−", "-") for tick in marks(strips.measure_strip(measure, 2.0), "text", "tick")]
        assert len(set(ticks)) == len(ticks) >= 2
        assert all(0.3 * size < float(tick) < 0.7 * size for tick in ticks)
