"""Pictures: each function takes values and gives one drawing, and nothing else.

Colours come from classes of the style sheet, so that a drawing follows the page from light to dark to paper. Hovering
shows exact numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element

from excise.report.formats import (
    NARROW_SPACE,
    fixed,
    percent,
    power,
    quantity,
    shortened,
    span_decimals,
    time_decimals,
)
from excise.report.scales import Linear, Log
from excise.report.svg import Drawing, add, box, drawn, short, text, title
from excise.report.values import SPLITS, Histogram, Layer, MeasureRow, Section, Timing

ROW_HEIGHT = 28
LAYER_HEIGHT = 16
HISTOGRAM_HEIGHT = 220
STRIP_HEIGHT = 24
FARTHEST_REACH = 6.0
FARTHEST_BANDS = 12
LABEL_LENGTH = 15

_WORD_SIGNS = {
    "PASS": "M4 13l5.5 5.5L20 6",
    "FAIL": "M5.5 5.5l13 13M18.5 5.5l-13 13",
    "INCONCLUSIVE": "M4 9.5c5-4 11 4 16 0M4 16.5c5-4 11 4 16 0",
    "INVALID": "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18M5.7 5.7l12.6 12.6",
}


def accuracy_axis(section: Section, split: str) -> Linear:
    """Give the axis on which the oracles' band and the recipes' accuracies fit, with a little air at both ends.

    One recipe far out would squeeze the band to a line, so the axis ends `FARTHEST_BANDS` widths of the band away from
    it; a band narrower than four rows counts as that wide.
    """
    numbers, band = [row.accuracy[split] for row in section.rows], section.bands.get(split)
    if band:
        far = FARTHEST_BANDS * max(band.high - band.low, 4 / max(_num_rows(section, split), 4))
        numbers = [band.low, band.high, *(max(band.low - far, min(band.high + far, number)) for number in numbers)]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    air = max(0.06 * (high - low), 0.005)
    return Linear(low=low - air, high=high + air)


def beyond(section: Section) -> bool:
    """Tell whether some recipe lies beyond the axis of one of its panels, and so is drawn as an arrow."""
    axes = {split: accuracy_axis(section, split) for split in SPLITS}
    return any(not axes[split].low < row.accuracy[split] < axes[split].high for row in section.rows for split in SPLITS)


def accuracy_panel(section: Section, split: str) -> Drawing:
    """Draw one dot per recipe at its accuracy on a split, over the strip in which the oracles lie.

    Args:
        section: the rows and bands to draw.
        split: `forget`, `retain` or `test`.

    Returns:
        A drawing with one line per recipe, `ROW_HEIGHT` pixels each; a dot outside the band is hollow, and one beyond
        the axis is an arrow at its end.
    """
    axis, band, num_rows = accuracy_axis(section, split), section.bands.get(split), _num_rows(section, split)
    height = ROW_HEIGHT * len(section.rows)
    said = [f"{row.recipe} {percent(row.accuracy[split], num_rows)} %" for row in section.rows]
    svg = box(height, f"Accuracy on the {split} rows: {', '.join(said)}.")
    _percent_ticks(svg, axis, height)
    if band:
        low, mean, high = (percent(number, num_rows) for number in (band.low, band.mean, band.high))
        _strip(svg, axis, (band.low, band.mean, band.high), height, f"oracles: {low} to {high} %, mean {mean} %")
    for index, row in enumerate(section.rows):
        y, value = ROW_HEIGHT * (index + 0.5), row.accuracy[split]
        add(svg, "line", x1="0", x2="100%", y1=y, y2=y, class_="guide")
        text(svg, shortened(row.recipe, LABEL_LENGTH), x=-12, y=y + 4.5, text_anchor="end", class_="name")
        _mark(svg, axis, value, y, said[index], inside=band is None or band.low <= value <= band.high)
        text(svg, percent(value, num_rows), x="100%", dx=46, y=y + 4.5, text_anchor="end", class_="number")
    return drawn(svg)


def _num_rows(section: Section, split: str) -> int:
    """Give the number of rows in a split."""
    return {"forget": section.num_forget, "retain": section.num_retain, "test": section.num_test}[split]


def _percent_ticks(svg: Element, axis: Linear, height: float) -> None:
    """Write a fraction's axis in per cent under the box; nothing below 0 or above 1 is written."""
    decimals = max(0, -2 - math.floor(math.log10(axis.step()) + 1e-9))
    for tick in axis.ticks():
        if 0 <= tick <= 1:
            x = _across(axis, tick)
            add(svg, "line", x1=x, x2=x, y1=0, y2=height, class_="grid")
            text(svg, fixed(100 * tick, decimals), x=x, y=height + 16, text_anchor="middle", class_="tick")


def series_class(name: str, index: int) -> str:
    """Give the class that fixes how a histogram looks: by name where the name is known, else by order."""
    return f"series-{name}" if name in ("original", "unlearned", "oracles") else f"series-{'abc'[index % 3]}"


def loss_histogram(section: Section) -> Drawing:
    """Draw the histograms of a section as outlines over one another, on a log loss axis.

    Args:
        section: its `histogram_edges` and `histograms` are drawn, `oracles` filled and at the back.

    Returns:
        A drawing `HISTOGRAM_HEIGHT` pixels high. Outlines lie in a nested box of 1000 units across, stretched to the
        width.
    """
    edges = section.histogram_edges
    axis = Log(low=edges[0], high=edges[-1])
    top = max((count for histogram in section.histograms for count in histogram.counts), default=0) or 1.0
    rows = Linear(low=0.0, high=1.08 * top)
    names = ", ".join(histogram.name for histogram in section.histograms)
    svg = box(
        HISTOGRAM_HEIGHT,
        f"Histograms of the loss of each forget row, log axis: {names}. The numbers are in the table below.",
    )
    steps = rows.ticks()[1:]
    for tick in steps:
        add(svg, "line", x1="0", x2="100%", y1=_down(rows, tick), y2=_down(rows, tick), class_="grid")
    for tick in axis.ticks():
        x = axis.position(tick)
        anchor = "start" if x < 3 else "end" if x > 97 else "middle"
        add(svg, "line", x1=_per_cent(x), x2=_per_cent(x), y1=HISTOGRAM_HEIGHT, y2=HISTOGRAM_HEIGHT + 5, class_="stop")
        text(svg, power(tick), x=_per_cent(x), y=HISTOGRAM_HEIGHT + 19, text_anchor=anchor, class_="tick")
    sheet = add(svg, "svg", x="0", y="0", width="100%", height=HISTOGRAM_HEIGHT, overflow="visible")
    sheet.set("viewBox", f"0 0 1000 {HISTOGRAM_HEIGHT}")
    sheet.set("preserveAspectRatio", "none")
    looks = [(series_class(each.name, index), each) for index, each in enumerate(section.histograms)]
    for look, histogram in sorted(looks, key=lambda pair: pair[0] != "series-oracles"):  # the filled one stays behind
        add(sheet, "path", d=_outline(axis, rows, edges, histogram), class_=look)
    add(svg, "line", x1="0", x2="100%", y1=HISTOGRAM_HEIGHT, y2=HISTOGRAM_HEIGHT, class_="base")
    for tick in steps:
        text(svg, fixed(tick, 0) if tick >= 1 else f"{tick:g}", x=0, y=_down(rows, tick) - 4, class_="tick halo")
    _bins(svg, axis, section)
    return drawn(svg)


def _outline(axis: Log, rows: Linear, edges: Sequence[float], histogram: Histogram) -> str:
    """Give the path of a histogram's steps; where it is empty the base line is left alone."""
    path, height = "", 0.0
    for left, count in zip(edges, histogram.counts, strict=False):
        if (count > 0) != (height > 0):
            x = short(10 * axis.position(left))
            path += f"M{x} {HISTOGRAM_HEIGHT}" if count > 0 else f"H{x}V{HISTOGRAM_HEIGHT}"
        elif count != height:
            path += f"H{short(10 * axis.position(left))}"
        if count > 0 and count != height:
            path += f"V{short(_down(rows, count))}"
        height = count
    return f"{path}H1000V{HISTOGRAM_HEIGHT}" if height > 0 else path


def _bins(svg: Element, axis: Log, section: Section) -> None:
    """Lay an invisible column over every bin, which tells its counts when hovered."""
    edges = section.histogram_edges
    for index, (left, right) in enumerate(pairwise(edges)):
        width = _per_cent(axis.position(right) - axis.position(left))
        column = add(svg, "rect", x=_across(axis, left), y=0, width=width, height=HISTOGRAM_HEIGHT, class_="bin")
        counts = ", ".join(f"{histogram.name} {histogram.counts[index]:.4g}" for histogram in section.histograms)
        title(column, f"loss {left:.3g} to {right:.3g}: {counts}")


def mask_bars(layers: Sequence[Layer]) -> Drawing:
    """Draw one bar per layer, from 0 to 100 per cent of its parameters, in the order given.

    Args:
        layers: the layers from the input on; long lists are better split into several drawings.

    Returns:
        A drawing with one line per layer, `LAYER_HEIGHT` pixels each.
    """
    axis, height = Linear(low=0.0, high=1.0), LAYER_HEIGHT * len(layers)
    svg = box(
        height,
        f"Share of each layer that may change, {len(layers)} layers by depth. The numbers are in the table below.",
    )
    for index, layer in enumerate(layers):
        y = LAYER_HEIGHT * index
        add(svg, "rect", x="0", y=y + 4, width="100%", height=LAYER_HEIGHT - 8, class_="track")
        bar = add(
            svg, "rect", x="0", y=y + 3, width=_across(axis, layer.fraction), height=LAYER_HEIGHT - 6, class_="bar"
        )
        title(bar, f"{layer.name}: {fixed(100 * layer.fraction, 2)} % of {fixed(layer.num_parameters, 0)} parameters")
        text(svg, shortened(layer.name, 19), x=-8, y=y + 12, text_anchor="end", class_="layer")
        text(svg, fixed(100 * layer.fraction, 0), x="100%", dx=30, y=y + 12, text_anchor="end", class_="number")
        text(svg, quantity(layer.num_parameters), x="100%", dx=72, y=y + 12, text_anchor="end", class_="tick")
    return drawn(svg)


def reach(measures: Sequence[MeasureRow]) -> float:
    """Give how far the measures' drawings reach from the middle of the null band, in half widths of the band.

    Returns:
        The farthest of all values and interval ends, with a little air, but at least 2 and at most `FARTHEST_REACH`.
    """
    farthest = max(
        (abs(standing(each, x)) for each in measures for x in (each.low, each.value, each.high)), default=0.0
    )
    return min(max(1.08 * farthest, 2.0), FARTHEST_REACH)


def off_scale(measures: Sequence[MeasureRow]) -> bool:
    """Tell whether some measure lies farther out than its drawing reaches, and so is drawn as an arrow."""
    return any(abs(standing(measure, measure.value)) > FARTHEST_REACH for measure in measures)


def standing(measure: MeasureRow, x: float) -> float:
    """Place a number against the null band: -1 is its lower end, 1 its upper end.

    A band without width counts as half as wide as the farthest of the measure's own numbers is away from it.
    """
    middle, half = (measure.null_low + measure.null_high) / 2, (measure.null_high - measure.null_low) / 2
    if half == 0:
        half = max(abs(each - middle) for each in (measure.low, measure.value, measure.high)) / 2 or 1.0
    return (x - middle) / half


def measure_strip(measure: MeasureRow, reach: float) -> Drawing:
    """Draw a measure and its interval over its null band, scaled so that the bands of all measures look alike.

    Args:
        measure: the numbers; the ends of the null band are written under the band.
        reach: what `reach` gave for all measures of the page. What lies farther out becomes an arrow at the edge.

    Returns:
        A drawing `STRIP_HEIGHT` pixels high.
    """
    axis = Linear(low=-reach, high=reach)
    decimals = span_decimals(measure.high - measure.low, measure.null_high - measure.null_low)
    low, high, null_low, null_mean, null_high = (
        max(-reach, min(reach, standing(measure, x)))
        for x in (measure.low, measure.high, measure.null_low, measure.null_mean, measure.null_high)
    )
    texts = [
        fixed(x, decimals) for x in (measure.value, measure.low, measure.high, measure.null_low, measure.null_high)
    ]
    words = "{}: {}, interval {} to {}; networks that never saw the rows: {} to {}".format(measure.title, *texts)
    svg, middle = box(STRIP_HEIGHT, f"{words}."), STRIP_HEIGHT / 2
    add(svg, "line", x1="0", x2="100%", y1=middle, y2=middle, class_="guide")
    _strip(svg, axis, (null_low, null_mean, null_high), STRIP_HEIGHT, words)
    text(svg, texts[3], x=_across(axis, null_low), y=STRIP_HEIGHT + 14, text_anchor="end", dx=-3, class_="tick")
    text(svg, texts[4], x=_across(axis, null_high), y=STRIP_HEIGHT + 14, dx=3, class_="tick")
    add(svg, "line", x1=_across(axis, low), x2=_across(axis, high), y1=middle, y2=middle, class_="interval")
    inside = measure.null_low <= measure.value <= measure.null_high
    _mark(svg, axis, standing(measure, measure.value), middle, words, inside=inside)
    return drawn(svg)


def timing_bar(timing: Timing, timings: Sequence[Timing]) -> Drawing:
    """Draw a bar as long as a thing took, the longest of all filling the width."""
    longest = max(each.seconds for each in timings) or 1.0
    svg = box(10, None)
    bar = add(
        svg,
        "rect",
        x="0",
        y="1",
        height="8",
        width=_across(Linear(low=0.0, high=longest), timing.seconds),
        class_="bar",
    )
    title(bar, f"{timing.what}: {fixed(timing.seconds, time_decimals([timing.seconds]))}{NARROW_SPACE}s")
    return drawn(svg)


def verdict_sign(word: str) -> Drawing:
    """Draw the sign of a verdict, so that it is told by shape as well as by word and colour."""
    svg = Element(
        "svg", {"class": "sign", "width": "28", "height": "28", "viewBox": "0 0 24 24", "aria-hidden": "true"}
    )
    add(svg, "path", d=_WORD_SIGNS[word])
    return drawn(svg)


def legend_key(kind: str) -> Drawing:
    """Draw what a legend shows before a name: `band`, `mean`, `dot`, `dot out`, `arrow`, or a histogram's class."""
    svg = Element("svg", {"class": "key", "width": "26", "height": "14", "aria-hidden": "true"})
    if kind == "mean":
        add(svg, "line", x1=13, x2=13, y1=0, y2=14, class_="mean")
    elif kind.startswith("dot"):
        add(svg, "circle", cx=13, cy=7, r=5, class_=kind)
    elif kind == "arrow":
        add(svg, "path", d="M18 1L8 7L18 13Z", class_=kind)
    elif kind == "band":
        add(svg, "rect", x=1, y=0, width=24, height=14, class_="band")
    else:
        add(svg, "path", d="M2 13V6H13V2H24V13", class_=kind)
    return drawn(svg)


def _strip(svg: Element, axis: Linear, band: tuple[float, float, float], height: float, words: str) -> None:
    """Shade a band from its low to its high end, all the way down, and mark its mean."""
    low, mean, high = band
    width = _per_cent(axis.position(high) - axis.position(low))
    title(add(svg, "rect", x=_across(axis, low), y=0, width=width, height=height, class_="band"), words)
    add(svg, "line", x1=_across(axis, mean), x2=_across(axis, mean), y1=0, y2=height, class_="mean")


def _mark(svg: Element, axis: Linear, value: float, y: float, words: str, *, inside: bool) -> None:
    """Set a dot, hollow when it is not inside its band; beyond the axis, an arrow at the nearer end."""
    if axis.low <= value <= axis.high:
        mark = add(svg, "circle", cx=_across(axis, value), cy=y, r=5, class_="dot" if inside else "dot out")
    else:
        tip = add(svg, "svg", x="100%" if value > axis.high else "0", y=y, overflow="visible")
        mark = add(tip, "path", d="M-10 -6L0 0L-10 6Z" if value > axis.high else "M10 -6L0 0L10 6Z", class_="arrow")
    title(mark, words)


def _across(axis: Linear | Log, value: float) -> str:
    """Give a number's place across the box."""
    return _per_cent(axis.position(value))


def _down(rows: Linear, count: float) -> float:
    """Give a count's place down the histogram's box, in pixels."""
    return HISTOGRAM_HEIGHT * (1 - rows.position(count) / 100)


def _per_cent(position: float) -> str:
    """Write a place across the box."""
    return f"{short(position)}%"
