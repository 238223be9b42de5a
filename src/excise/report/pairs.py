"""Before and after: one line per class, stratum or number, with the original's mark, the unlearned one's, and the band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from excise.report.exhibits import ClassAccuracy, Classes, Compared, Strata
from excise.report.formats import factor, measured, shortened, span_decimals
from excise.report.marks import across, mark, strip, tick_writer, ticks
from excise.report.scales import Linear
from excise.report.svg import Drawing, add, box, drawn, text

LINE_HEIGHT = 26
BAND_HEIGHT = 16
MOST_CLASSES = 20
LABEL_LENGTH = 17


def farthest(classes: Classes) -> list[ClassAccuracy]:
    """Give the classes to draw: all, in order, or the `MOST_CLASSES` farthest from the oracles' mean, farthest first."""
    everyone = list(classes.classes)
    if len(everyone) <= MOST_CLASSES:
        return everyone
    return sorted(everyone, key=lambda each: -abs(each.unlearned - each.oracles.mean))[:MOST_CLASSES]


def class_lines(classes: Classes) -> list[Compared]:
    """Give the lines of the drawing of a data set's classes."""
    return [
        Compared(
            title=each.name,
            unit="%",
            original=each.original,
            unlearned=each.unlearned,
            oracles=each.oracles,
            num_rows=each.num_rows,
        )
        for each in farthest(classes)
    ]


def stratum_lines(strata: Strata) -> list[Compared]:
    """Give the lines of the drawing of the strata."""
    return [
        Compared(
            title=each.name, unit="log-odds", original=each.original, unlearned=each.unlearned, oracles=each.oracles
        )
        for each in strata.strata
    ]


def axis_of(lines: Sequence[Compared]) -> Linear:
    """Give the axis on which all numbers of some lines fit, with a little air at both ends."""
    numbers = [number for line in lines for number in _numbers(line)]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return Linear(low=low - air, high=high + air)


def _numbers(line: Compared) -> list[float]:
    """Give every number on a line."""
    band = [line.oracles.low, line.oracles.mean, line.oracles.high] if line.oracles else []
    return [line.unlearned, *([line.original] if line.original is not None else []), *band]


def decimals(lines: Sequence[Compared]) -> int:
    """Give the decimals that suit all numbers of some lines: one in per cent, else two digits of their bands' widths."""
    unit = lines[0].unit if lines else ""
    if unit == "%":
        return 1
    spans = [line.oracles.high - line.oracles.low for line in lines if line.oracles]
    return max(1, min(3, span_decimals(*(factor(unit) * span for span in spans))))


def pair_panel(
    lines: Sequence[Compared],
    label: str,
    *,
    named: bool = True,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Drawing:
    """Draw lines of the same unit over one axis.

    Args:
        lines: at least one; all in the unit of the first.
        label: what the drawing is, for those who hear the page.
        named: whether names stand at the left and numbers at the right; a line alone needs neither.
        within: where the axis has numbers; accuracies are between 0 and 1 even if a band is not.

    Returns:
        A drawing with one line per number, `LINE_HEIGHT` pixels each. A mark outside its band is hollow.
    """
    axis, height, unit = axis_of(lines), LINE_HEIGHT * len(lines), lines[0].unit
    words = [_words(line, decimals(lines)) for line in lines]
    svg = box(height, label, "; ".join(words) + "." if len(lines) <= MOST_CLASSES else "")
    ticks(svg, axis, height, tick_writer(axis, factor(unit)), within=within)
    for index, line in enumerate(lines):
        y = LINE_HEIGHT * (index + 0.5)
        _line(svg, axis, line, y, words[index])
        if named:
            text(svg, shortened(line.title, LABEL_LENGTH), x=-12, y=y + 4.5, text_anchor="end", class_="name")
            own = measured(line.unlearned, decimals(lines), unit)
            text(svg, own, x="100%", dx=46, y=y + 4.5, text_anchor="end", class_="number")
    return drawn(svg)


def _line(svg: Element, axis: Linear, line: Compared, y: float, words: str) -> None:
    """Draw one line: its band, the way from the original to the unlearned, and both marks."""
    band, original = line.oracles, line.original
    add(svg, "line", x1="0", x2="100%", y1=y, y2=y, class_="guide")
    if band:
        strip(svg, axis, (band.low, band.mean, band.high), y - BAND_HEIGHT / 2, BAND_HEIGHT, words)
    if original is not None:
        add(svg, "line", x1=across(axis, original), x2=across(axis, line.unlearned), y1=y, y2=y, class_="way")
        mark(svg, axis, original, y, words, inside=band is None or band.low <= original <= band.high, shape="diamond")
    mark(svg, axis, line.unlearned, y, words, inside=band is None or band.low <= line.unlearned <= band.high)


def _words(line: Compared, places: int) -> str:
    """Say what a line shows."""
    said = [f"unlearned {measured(line.unlearned, places, line.unit)}"]
    if line.original is not None:
        said.append(f"original {measured(line.original, places, line.unit)}")
    if line.oracles:
        low, high = (measured(end, places, line.unit) for end in (line.oracles.low, line.oracles.high))
        said.append(f"oracles {low} to {high}")
    return f"{line.title}: {', '.join(said)}{f' {line.unit}' if line.unit else ''}"
