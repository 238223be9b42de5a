"""Measures as strips: each value with its interval over the band of its null, on an axis of its own."""

from __future__ import annotations

from collections.abc import Sequence

from excise.report.findings import MeasureRow
from excise.report.formats import factor, fixed, measured, span_decimals
from excise.report.marks import across, mark, strip, tick_writer, ticks
from excise.report.scales import Linear
from excise.report.svg import Drawing, add, box, drawn

STRIP_HEIGHT = 24
FARTHEST_REACH = 6.0


def groups(measures: Sequence[MeasureRow]) -> dict[str, list[MeasureRow]]:
    """Give the measures under their headings, in order of first mention; within a group those that decide come first."""
    found: dict[str, list[MeasureRow]] = {}
    for measure in measures:
        found.setdefault(measure.group, []).append(measure)
    return {group: sorted(rows, key=lambda row: not row.decides) for group, rows in found.items()}


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


def outside(measure: MeasureRow) -> bool:
    """Tell whether a measure lies outside the band of its null."""
    return not measure.null_low <= measure.value <= measure.null_high


def standing(measure: MeasureRow, x: float) -> float:
    """Place a number against the null band: -1 is its lower end, 1 its upper end.

    A band without width counts as half as wide as the farthest of the measure's own numbers is away from it.
    """
    middle, half = _frame(measure)
    return (x - middle) / half


def _frame(measure: MeasureRow) -> tuple[float, float]:
    """Give the middle of the null band and half its width."""
    middle, half = (measure.null_low + measure.null_high) / 2, (measure.null_high - measure.null_low) / 2
    own = (measure.low, measure.value, measure.high)
    rounding = max(1e-9 * max(map(abs, (middle, *own))), 1e-100)  # narrower than this, floats cannot be told apart
    if half <= rounding:
        half = max(abs(each - middle) for each in own) / 2
    return middle, half if half > rounding else rounding if middle else 1.0


def decimals(measure: MeasureRow) -> int:
    """Give the decimals with which a measure's numbers are written in its unit."""
    spans = (measure.high - measure.low, measure.null_high - measure.null_low)
    return span_decimals(*(factor(measure.unit) * span for span in spans))


def measure_strip(measure: MeasureRow, reach: float) -> Drawing:
    """Draw a measure and its interval over its null band, in the measure's own unit.

    The axes differ but every band is drawn equally wide and in the middle, so that one glance down a column of strips
    finds the marks that leave it.

    Args:
        measure: the numbers; what decides is a disc, what only informs a square.
        reach: what `reach` gave for all measures of the page. What lies farther out becomes an arrow at the edge.

    Returns:
        A drawing `STRIP_HEIGHT` pixels high, with ticks below.
    """
    middle, half = _frame(measure)
    axis = Linear(low=middle - reach * half, high=middle + reach * half)
    texts = [
        measured(x, decimals(measure), measure.unit)
        for x in (measure.value, measure.low, measure.high, measure.null_low, measure.null_high)
    ]
    words = "{} {u}, 95% interval {} to {}; networks that never saw the rows: {} to {}".format(*texts, u=measure.unit)
    svg = box(STRIP_HEIGHT, measure.title, f"{words}.")
    y = STRIP_HEIGHT / 2
    ticks(svg, axis, STRIP_HEIGHT, tick_writer(axis, factor(measure.unit)))
    add(svg, "line", x1="0", x2="100%", y1=y, y2=y, class_="guide")
    low, high, *null = (
        max(axis.low, min(axis.high, x))
        for x in (measure.low, measure.high, measure.null_low, measure.null_mean, measure.null_high)
    )
    strip(svg, axis, (null[0], null[1], null[2]), 0, STRIP_HEIGHT, words)
    add(svg, "line", x1=across(axis, low), x2=across(axis, high), y1=y, y2=y, class_="interval")
    shape = "dot" if measure.decides else "square"
    mark(svg, axis, measure.value, y, words, inside=not outside(measure), shape=shape)
    return drawn(svg)


def summary(measures: Sequence[MeasureRow]) -> str:
    """Say how many measures decide, how many of these tell the network apart, and how many only inform."""
    deciding = [measure for measure in measures if measure.decides]
    informing = len(measures) - len(deciding)
    rejected = sum(measure.rejected for measure in deciding)
    parts = [f"{_number(len(deciding), 'measure decides', 'measures decide')} the verdict"]
    if rejected:
        parts.append(f"{fixed(rejected, 0)} of them {'tells' if rejected == 1 else 'tell'} the network apart")
    if informing:
        parts.append(f"{fixed(informing, 0)} more only {'informs' if informing == 1 else 'inform'}")
    return f"{'; '.join(parts)}."


def _number(count: int, one: str, many: str) -> str:
    return f"{fixed(count, 0)} {one if count == 1 else many}"
