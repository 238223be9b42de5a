"""Pictures of recipes: each function takes values and gives one drawing, and nothing else.

Colours come from classes of the style sheet, so that a drawing follows the page from light to dark to paper. Hovering
shows exact numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from excise.report.exhibits import Costs, Step
from excise.report.formats import NARROW_SPACE, fixed, percent, quantity, shortened, time_decimals
from excise.report.marks import across, mark, strip
from excise.report.scales import Linear
from excise.report.svg import Drawing, add, box, drawn, text, title
from excise.report.values import SPLITS, Layer, Section, Timing

ROW_HEIGHT = 28
LAYER_HEIGHT = 16
FARTHEST_BANDS = 12
LABEL_LENGTH = 15


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
    svg = box(height, f"Accuracy on the {split} rows", f"{', '.join(said)}.")
    _percent_ticks(svg, axis, height)
    if band:
        low, mean, high = (percent(number, num_rows) for number in (band.low, band.mean, band.high))
        strip(svg, axis, (band.low, band.mean, band.high), 0, height, f"oracles: {low} to {high} %, mean {mean} %")
    for index, row in enumerate(section.rows):
        y, value = ROW_HEIGHT * (index + 0.5), row.accuracy[split]
        add(svg, "line", x1="0", x2="100%", y1=y, y2=y, class_="guide")
        text(svg, shortened(row.recipe, LABEL_LENGTH), x=-12, y=y + 4.5, text_anchor="end", class_="name")
        mark(svg, axis, value, y, said[index], inside=band is None or band.low <= value <= band.high)
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
            x = across(axis, tick)
            add(svg, "line", x1=x, x2=x, y1=0, y2=height, class_="grid")
            text(svg, fixed(100 * tick, decimals), x=x, y=height + 16, text_anchor="middle", class_="tick")


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
        "Share of each layer that may change",
        f"{len(layers)} layers by depth. The numbers are in the table below.",
    )
    for index, layer in enumerate(layers):
        y = LAYER_HEIGHT * index
        add(svg, "rect", x="0", y=y + 4, width="100%", height=LAYER_HEIGHT - 8, class_="track")
        bar = add(
            svg, "rect", x="0", y=y + 3, width=across(axis, layer.fraction), height=LAYER_HEIGHT - 6, class_="bar"
        )
        title(bar, f"{layer.name}: {fixed(100 * layer.fraction, 2)} % of {fixed(layer.num_parameters, 0)} parameters")
        text(svg, shortened(layer.name, 19), x=-8, y=y + 12, text_anchor="end", class_="layer")
        text(svg, fixed(100 * layer.fraction, 0), x="100%", dx=30, y=y + 12, text_anchor="end", class_="number")
        text(svg, quantity(layer.num_parameters), x="100%", dx=72, y=y + 12, text_anchor="end", class_="tick")
    return drawn(svg)


def timing_bar(timing: Timing, timings: Sequence[Timing]) -> Drawing:
    """Draw a bar as long as a thing took, the longest of all filling the width."""
    return _bar(timing.what, timing.seconds, max(each.seconds for each in timings), None)


def cost_bar(step: Step, costs: Costs) -> Drawing:
    """Draw a bar as long as a step took, with a line where one retraining would have ended."""
    everything = [*costs.steps, *([costs.retraining] if costs.retraining else [])]
    limit = costs.retraining.seconds if costs.retraining else None
    return _bar(step.what, step.seconds, max(each.seconds for each in everything), limit)


def _bar(what: str, seconds: float, longest: float, limit: float | None) -> Drawing:
    """Draw a bar, and a line across it at a limit."""
    axis, svg = Linear(low=0.0, high=longest or 1.0), box(14, None)
    bar = add(svg, "rect", x="0", y="3", height="8", width=across(axis, seconds), class_="bar")
    title(bar, f"{what}: {fixed(seconds, time_decimals([seconds]))}{NARROW_SPACE}s")
    if limit is not None:
        add(svg, "line", x1=across(axis, limit), x2=across(axis, limit), y1="0", y2="14", class_="limit")
    return drawn(svg)
