"""Distributions: histograms as outlines over one another, the oracles' as a shaded band behind them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element

from excise.report.exhibits import BinBand, Distribution
from excise.report.formats import fixed, power
from excise.report.marks import across, per_cent, series_class, tick_writer
from excise.report.scales import Linear, Log
from excise.report.svg import Drawing, add, box, drawn, short, text, title
from excise.report.values import Section

HISTOGRAM_HEIGHT = 220


def losses(section: Section) -> Distribution:
    """Give the losses of a section's forget rows as a distribution."""
    return Distribution(
        name="loss",
        title="Losses of the forget rows",
        unit="loss",
        axis="log",
        edges=section.histogram_edges,
        histograms=section.histograms,
    )


def histogram(distribution: Distribution) -> Drawing:
    """Draw the histograms of a distribution as outlines over one another.

    Args:
        distribution: a histogram called `oracles` is filled and at the back; a band of oracles is shaded from its lowest to
            its highest count in each bin, with a line at the mean.

    Returns:
        A drawing `HISTOGRAM_HEIGHT` pixels high. Outlines lie in a nested box of 1000 units across, stretched to the
        width.
    """
    edges, band = distribution.edges, distribution.oracles
    axis: Linear | Log = (Log if distribution.axis == "log" else Linear)(low=edges[0], high=edges[-1])
    most = [count for each in distribution.histograms for count in each.counts] + list(band.high if band else [])
    rows = Linear(low=0.0, high=1.08 * max(most, default=0.0) if max(most, default=0.0) > 1e-9 else 1.08)
    names = ", ".join([*(each.name for each in distribution.histograms), *(["oracles (band)"] if band else [])])
    words = f"Rows by {distribution.unit}, {distribution.axis} axis: {names}. The numbers are in the table below."
    svg = box(HISTOGRAM_HEIGHT, f"Histograms: {distribution.title}", words)
    steps = rows.ticks()[1:]
    for tick in steps:
        add(svg, "line", x1="0", x2="100%", y1=_down(rows, tick), y2=_down(rows, tick), class_="grid")
    _ticks(svg, axis)
    sheet = add(svg, "svg", x="0", y="0", width="100%", height=HISTOGRAM_HEIGHT, overflow="visible")
    sheet.set("viewBox", f"0 0 1000 {HISTOGRAM_HEIGHT}")
    sheet.set("preserveAspectRatio", "none")
    if band:
        add(sheet, "path", d=_area(axis, rows, edges, band), class_="span")
        add(sheet, "path", d=_outline(axis, rows, edges, band.mean), class_="series-mean")
    looks = [(series_class(each.name, index), each) for index, each in enumerate(distribution.histograms)]
    for look, each in sorted(looks, key=lambda pair: pair[0] != "series-oracles"):  # the filled one stays behind
        add(sheet, "path", d=_outline(axis, rows, edges, each.counts), class_=look)
    add(svg, "line", x1="0", x2="100%", y1=HISTOGRAM_HEIGHT, y2=HISTOGRAM_HEIGHT, class_="base")
    for tick in steps:
        text(svg, fixed(tick, 0) if tick >= 1 else f"{tick:g}", x=0, y=_down(rows, tick) - 4, class_="tick halo")
    _bins(svg, axis, distribution)
    return drawn(svg)


def _ticks(svg: Element, axis: Linear | Log) -> None:
    """Write the numbers along the bottom, those at the ends kept inside."""
    write = power if isinstance(axis, Log) else tick_writer(axis, count=6)
    for tick in axis.ticks() if isinstance(axis, Log) else axis.ticks(6):
        x = axis.position(tick)
        anchor = "start" if x < 3 else "end" if x > 97 else "middle"
        add(svg, "line", x1=per_cent(x), x2=per_cent(x), y1=HISTOGRAM_HEIGHT, y2=HISTOGRAM_HEIGHT + 5, class_="stop")
        text(svg, write(tick), x=per_cent(x), y=HISTOGRAM_HEIGHT + 19, text_anchor=anchor, class_="tick")


def _outline(axis: Linear | Log, rows: Linear, edges: Sequence[float], counts: Sequence[float]) -> str:
    """Give the path of a histogram's steps; where it is empty the base line is left alone."""
    path, height = "", 0.0
    for left, count in zip(edges, counts, strict=False):
        if (count > 0) != (height > 0):
            x = short(10 * axis.position(left))
            path += f"M{x} {HISTOGRAM_HEIGHT}" if count > 0 else f"H{x}V{HISTOGRAM_HEIGHT}"
        elif count != height:
            path += f"H{short(10 * axis.position(left))}"
        if count > 0 and count != height:
            path += f"V{short(_down(rows, count))}"
        height = count
    return f"{path}H1000V{HISTOGRAM_HEIGHT}" if height > 0 else path


def _area(axis: Linear | Log, rows: Linear, edges: Sequence[float], band: BinBand) -> str:
    """Give the path around what lies between the lowest and the highest counts: along the top and back below."""
    places = [short(10 * axis.position(edge)) for edge in edges]
    path = f"M{places[0]} {short(_down(rows, band.high[0]))}"
    for right, after, high in zip(places[1:], [*band.high[1:], None], band.high, strict=True):
        path += f"H{right}" + (f"V{short(_down(rows, after))}" if after is not None and after != high else "")
    path += f"V{short(_down(rows, band.low[-1]))}"
    for left, before, low in zip(places[-2::-1], [*band.low[-2::-1], None], band.low[::-1], strict=True):
        path += f"H{left}" + (f"V{short(_down(rows, before))}" if before is not None and before != low else "")
    return f"{path}Z"


def _bins(svg: Element, axis: Linear | Log, distribution: Distribution) -> None:
    """Lay an invisible column over every bin, which tells its counts when hovered."""
    band = distribution.oracles
    for index, (left, right) in enumerate(pairwise(distribution.edges)):
        width = per_cent(axis.position(right) - axis.position(left))
        column = add(svg, "rect", x=across(axis, left), y=0, width=width, height=HISTOGRAM_HEIGHT, class_="bin")
        counts = [f"{each.name} {each.counts[index]:.4g}" for each in distribution.histograms]
        if band:
            counts.append(f"oracles {band.mean[index]:.4g} ({band.low[index]:.4g} to {band.high[index]:.4g})")
        title(column, f"{distribution.unit} {left:.3g} to {right:.3g}: {', '.join(counts)}")


def _down(rows: Linear, count: float) -> float:
    """Give a count's place down the histogram's box, in pixels."""
    return HISTOGRAM_HEIGHT * (1 - rows.position(count) / 100)
