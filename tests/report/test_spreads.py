"""Histograms: steps and areas as high as their counts."""

import math
import re
from xml.etree import ElementTree

import msgspec
import pytest

from excise.report import BinBand, Distribution, Histogram, spreads
from tests.report.drawings import marks, percent, points


def drawn(section):
    """The histograms of a section's losses."""
    return spreads.histogram(spreads.losses(section))


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
    return [top.get(index, float(spreads.HISTOGRAM_HEIGHT)) for index in range(len(edges) - 1)]


@pytest.mark.parametrize("counts", [[100, 28, 0, 0], [0, 31, 90, 7], [0, 0, 0, 0], [5, 0, 5, 5], [0, 0, 0, 1.5]])
def test_an_outline_shows_the_counts_at_log_spaced_columns(section, counts):
    alone = msgspec.structs.replace(section, histograms=[Histogram(name="unlearned", counts=counts)])
    (outline,) = marks(drawn(alone), "path", "series-unlearned")
    columns = [1000 * math.log(edge / 0.001) / math.log(10.0 / 0.001) for edge in section.histogram_edges]
    expected = [spreads.HISTOGRAM_HEIGHT * (1 - count / (1.08 * (max(counts) or 1))) for count in counts]
    assert heights(outline.get("d") or "", columns) == pytest.approx(expected, abs=1e-3)
    assert ("H1000" in outline.get("d")) == (counts[-1] > 0)  # an empty end leaves the base line alone


def test_the_oracles_are_behind_wherever_they_are_named(section):
    for order in (section.histograms, section.histograms[::-1]):
        drawing = drawn(msgspec.structs.replace(section, histograms=order))
        looks = [path.get("class") for path in ElementTree.fromstring(drawing).iter("path")]
        assert looks[0] == "series-oracles"
        assert set(looks) == {"series-original", "series-unlearned", "series-oracles"}


def test_every_bin_tells_its_counts(section):
    bins = marks(drawn(section), "rect", "bin")
    assert [each.find("title").text for each in bins][1] == "loss 0.01 to 0.1: original 28, unlearned 31, oracles 30.5"
    assert sum(percent(each.get("width")) for each in bins) == pytest.approx(100, abs=0.01)


def level(top, count):
    """A count's place down a drawing whose highest count is `top`."""
    return spreads.HISTOGRAM_HEIGHT * (1 - count / (1.08 * top))


@pytest.fixture
def margins():
    """Log-odds on a linear axis, with a band of oracles whose parts touch, part and are empty."""
    return Distribution(
        name="margin",
        title="Log-odds",
        unit="log-odds",
        edges=[-4.0, -2.0, 0.0, 4.0],
        histograms=[Histogram(name="unlearned", counts=[1, 9, 2])],
        oracles=BinBand(low=[0, 2, 2], mean=[1, 4.5, 3], high=[3, 12, 3]),
    )


def test_a_band_of_oracles_is_the_area_between_its_lowest_and_its_highest_counts(margins):
    drawing = spreads.histogram(margins)
    (area,) = marks(drawing, "path", "span")
    corners = points(area.get("d"))
    across = [0.0, 250.0, 500.0, 1000.0]
    above = [
        (x, level(12, y)) for left, right, y in zip(across, across[1:], (3, 12, 3), strict=False) for x in (left, right)
    ]
    below = [
        (x, level(12, y)) for left, right, y in zip(across, across[1:], (0, 2, 2), strict=False) for x in (left, right)
    ]
    for corner in [*above, *below]:
        assert any(corner == pytest.approx(found, abs=1e-3) for found in corners), corner
    covered = 0.5 * sum(
        x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True)
    )
    wanted = sum(
        (right - left) * (high - low)
        for left, right, low, high in zip(across, across[1:], (0, 2, 2), (3, 12, 3), strict=False)
    )
    assert covered == pytest.approx(wanted * spreads.HISTOGRAM_HEIGHT / (1.08 * 12), rel=1e-4)


def test_the_mean_of_the_oracles_is_an_outline_and_the_band_lies_behind(margins):
    drawing = spreads.histogram(margins)
    assert [path.get("class") for path in ElementTree.fromstring(drawing).iter("path")] == [
        "span",
        "series-mean",
        "series-unlearned",
    ]
    (mean,) = marks(drawing, "path", "series-mean")
    assert heights(mean.get("d"), [0.0, 250.0, 500.0, 1000.0]) == pytest.approx(
        [level(12, count) for count in (1, 4.5, 3)], abs=1e-3
    )


def test_ticks_of_a_linear_axis_stand_at_their_numbers(margins):
    drawing = spreads.histogram(margins)
    below = [tick for tick in marks(drawing, "text", "tick") if float(tick.get("y")) > spreads.HISTOGRAM_HEIGHT]
    assert len(below) >= 4
    for tick in below:
        number = float(tick.text.replace("−", "-"))
        assert percent(tick.get("x")) == pytest.approx(100 * (number + 4) / 8, abs=1e-3)


def test_a_bin_tells_the_band_of_the_oracles(margins):
    told = [each.find("title").text for each in marks(spreads.histogram(margins), "rect", "bin")]
    assert told[1] == "log-odds -2 to 0: unlearned 9, oracles 4.5 (2 to 12)"


def test_a_distribution_of_nothing_is_an_empty_drawing():
    empty = Distribution(name="a", title="A", unit="a", edges=[0.0, 1.0])
    assert not marks(spreads.histogram(empty), "path", "span")
