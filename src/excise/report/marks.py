"""The marks that all drawings share: bands, dots, arrows, ticks, and the keys and signs that explain them.

A network is told by shape as well as by hue: the unlearned one is a disc, the original a diamond, the oracles a shaded
band with a line at their mean. What only informs is a small grey square. A hollow mark lies outside its band.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final
from xml.etree.ElementTree import Element

from excise.report.formats import fixed
from excise.report.scales import Linear, Log
from excise.report.svg import Drawing, add, drawn, short, text, title

_SHAPES: Final = {"diamond": "M0 -6L6 0L0 6L-6 0Z", "square": "M-4 -4H4V4H-4Z"}
_SIGNS: Final = {
    "PASS": "M4 13l5.5 5.5L20 6",
    "FAIL": "M5.5 5.5l13 13M18.5 5.5l-13 13",
    "INCONCLUSIVE": "M4 9.5c5-4 11 4 16 0M4 16.5c5-4 11 4 16 0",
    "INVALID": "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18M5.7 5.7l12.6 12.6",
    "open": "M5 12h14",
}


def strip(svg: Element, axis: Linear, band: tuple[float, float, float], y: float, height: float, words: str) -> None:
    """Shade a band from its low to its high end, `height` pixels down from `y`, and mark its mean."""
    low, mean, high = band
    width = per_cent(axis.position(high) - axis.position(low))
    title(add(svg, "rect", x=across(axis, low), y=y, width=width, height=height, class_="band"), words)
    add(svg, "line", x1=across(axis, mean), x2=across(axis, mean), y1=y, y2=y + height, class_="mean")


def mark(svg: Element, axis: Linear, value: float, y: float, words: str, *, inside: bool, shape: str = "dot") -> None:
    """Set a mark, hollow when it is not inside its band; beyond the axis, an arrow at the nearer end."""
    look = shape if inside else f"{shape} out"
    if not axis.low <= value <= axis.high:
        high = value > axis.high
        at = add(svg, "svg", x="100%" if high else "0", y=y, overflow="visible")
        sign = add(at, "path", d="M-10 -6L0 0L-10 6Z" if high else "M10 -6L0 0L10 6Z", class_=f"arrow of-{shape}")
    elif shape == "dot":
        sign = add(svg, "circle", cx=across(axis, value), cy=y, r=5, class_=look)
    else:
        at = add(svg, "svg", x=across(axis, value), y=y, overflow="visible")
        sign = add(at, "path", d=_SHAPES[shape], class_=look)
    title(sign, words)


def ticks(
    svg: Element,
    axis: Linear,
    height: float,
    write: Callable[[float], str],
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> None:
    """Draw the lines of a linear axis down a drawing and write its numbers below; none outside of `within`."""
    low, high = within
    for tick in axis.ticks():
        if not low <= tick <= high:
            continue
        add(svg, "line", x1=across(axis, tick), x2=across(axis, tick), y1=0, y2=height, class_="grid")
        text(svg, write(tick), x=across(axis, tick), y=height + 15, text_anchor="middle", class_="tick")


def tick_writer(axis: Linear, factor: float = 1.0, count: int = 4) -> Callable[[float], str]:
    """Give what writes an axis's ticks, times a factor, with as many decimals as tell them apart."""
    step = factor * axis.step(count)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 5 or factor * max(abs(axis.low), abs(axis.high)) >= 1e7:
        return lambda tick: f"{factor * tick:.2g}".replace("-", "\u2212")
    return lambda tick: fixed(factor * tick, decimals)


def across(axis: Linear | Log, value: float) -> str:
    """Give a number's place across the box."""
    return per_cent(axis.position(value))


def per_cent(position: float) -> str:
    """Write a place across the box."""
    return f"{short(position)}%"


def verdict_sign(word: str) -> Drawing:
    """Draw the sign of a verdict, so that it is told by shape as well as by word and colour."""
    svg = Element(
        "svg", {"class": "sign", "width": "28", "height": "28", "viewBox": "0 0 24 24", "aria-hidden": "true"}
    )
    add(svg, "path", d=_SIGNS[word])
    return drawn(svg)


def series_class(name: str, index: int) -> str:
    """Give the class that fixes how a line looks: by name where the name is known, else by order."""
    return f"series-{name}" if name in ("original", "unlearned", "oracles") else f"series-{'abc'[index % 3]}"


def legend_key(kind: str) -> Drawing:
    """Draw what a legend shows before a name.

    Args:
        kind: `band`, `mean`, `interval`, `arrow`, `chance`, `blind`, a mark (`dot`, `diamond`, `square`, each also with
            ` out`), or the class of a line or of a histogram (then with ` steps`).
    """
    svg = Element("svg", {"class": "key", "width": "26", "height": "14", "aria-hidden": "true"})
    shape = kind.partition(" ")[0]
    if kind == "mean":
        add(svg, "line", x1=13, x2=13, y1=0, y2=14, class_="mean")
    elif shape == "dot":
        add(svg, "circle", cx=13, cy=7, r=5, class_=kind)
    elif shape in _SHAPES:
        add(svg, "path", d=_SHAPES[shape], transform="translate(13 7)", class_=kind)
    elif kind == "interval":
        add(svg, "line", x1=1, x2=25, y1=7, y2=7, class_=kind)
    elif kind == "arrow":
        add(svg, "path", d="M18 1L8 7L18 13Z", class_=kind)
    elif kind in ("band", "blind"):
        add(svg, "rect", x=1, y=0, width=24, height=14, class_=kind)
    elif kind.endswith(" steps"):
        add(svg, "path", d="M2 13V6H13V2H24V13", class_=shape)
    else:
        add(svg, "path", d="M1 12C8 12 8 3 25 2", class_=kind)
    return drawn(svg)
