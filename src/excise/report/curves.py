"""Attacks as curves: true against false positive rates, both on log axes, since an attack that finds a few rows surely is
a success that an area under the curve does not show.

References:
    Carlini et al., Membership Inference Attacks From First Principles, IEEE S&P 2022, https://arxiv.org/abs/2112.03570
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from excise.report.exhibits import Curve, CurveBand, Roc
from excise.report.formats import fixed, percent, power
from excise.report.marks import per_cent, series_class
from excise.report.scales import Log
from excise.report.svg import Drawing, add, box, drawn, short, text, title

ROC_HEIGHT = 320
LOWEST_RATE = 1e-3
AXIS = Log(low=LOWEST_RATE, high=1.0)


def roc(attack: Roc) -> Drawing:
    """Draw the curves of one attack from a false positive rate of 0.1% to 100%, on log axes.

    What fewer than one non-member would show is marked as blind. Curves are stairs: between two thresholds an attacker
    keeps the lower true positive rate.

    Returns:
        A drawing `ROC_HEIGHT` pixels high. Curves lie in a nested box of 1000 units across, stretched to the width.
    """
    areas = ", ".join(f"{curve.name} {fixed(curve.auc, 3)}" for curve in attack.curves)
    words = (
        f"True positive rate against false positive rate, log axes. Area under the curve: {areas}. The numbers are in the "
        "table below."
    )
    svg = box(ROC_HEIGHT, f"{attack.title}: receiver operating characteristic", words)
    resolved = 1 / max(attack.num_non_members, 1)
    if resolved > LOWEST_RATE:
        blind = add(svg, "rect", x="0", y=0, width=per_cent(AXIS.position(resolved)), height=ROC_HEIGHT, class_="blind")
        title(blind, f"fewer than one of {fixed(attack.num_non_members, 0)} non-members: nothing can be seen here")
    _grid(svg)
    sheet = add(svg, "svg", x="0", y="0", width="100%", height=ROC_HEIGHT)
    sheet.set("viewBox", f"0 0 1000 {ROC_HEIGHT}")
    sheet.set("preserveAspectRatio", "none")
    if attack.band:
        add(sheet, "path", d=_area(attack.band), class_="span")
    add(sheet, "path", d=f"M0 {ROC_HEIGHT}L1000 0", class_="chance")
    looks = [(series_class(curve.name, index), curve) for index, curve in enumerate(attack.curves)]
    for look, curve in sorted(looks, key=lambda pair: pair[0] == "series-unlearned"):  # the one on trial lies on top
        title(add(sheet, "path", d=_stairs(curve), class_=f"{look} line"), f"{curve.name}: area {fixed(curve.auc, 3)}")
    add(svg, "rect", x="0", y="0", width="100%", height=ROC_HEIGHT, class_="frame")
    return drawn(svg)


def _grid(svg: Element) -> None:
    """Draw the decades of both axes and write them in per cent."""
    for tick in AXIS.ticks():
        x, y = per_cent(AXIS.position(tick)), _down(tick)
        add(svg, "line", x1=x, x2=x, y1=0, y2=ROC_HEIGHT, class_="grid")
        add(svg, "line", x1="0", x2="100%", y1=y, y2=y, class_="grid")
        text(svg, f"{power(100 * tick)}%", x=x, y=ROC_HEIGHT + 17, text_anchor="middle", class_="tick")
        text(svg, f"{power(100 * tick)}%", x=-8, y=y + 4, text_anchor="end", class_="tick")


def _stairs(curve: Curve) -> str:
    """Give the path of a curve: over to a threshold's false positive rate, then up to its true positive rate."""
    path, here, height = "", 0.0, 0.0
    for false, true in zip(curve.false_positive, curve.true_positive, strict=True):
        if false > LOWEST_RATE and not path:
            path = f"M0 {short(_down(height))}"
        if path and false > here:
            path += f"H{short(_right(false))}"
        if path and true > height:
            path += f"V{short(_down(true))}"
        here, height = false, max(true, height)
    return f"{path or f'M0 {short(_down(height))}'}H1000"


def _area(band: CurveBand) -> str:
    """Give the path around the oracles' band: along the top and back below."""
    above = _line(band.false_positive, band.high)
    below = _line(band.false_positive, band.low)
    return f"M{'L'.join([*above, *reversed(below)])}Z"


def _line(grid: Sequence[float], rates: Sequence[float]) -> list[str]:
    """Give the points of a line."""
    return [f"{short(_right(x))} {short(_down(y))}" for x, y in zip(grid, rates, strict=True)]


def _right(rate: float) -> float:
    """Give a false positive rate's place across the box, in thousandths; what is lower than the axis lies at its end."""
    return 10 * AXIS.position(max(rate, LOWEST_RATE))


def _down(rate: float) -> float:
    """Give a true positive rate's place down the box, in pixels; what is lower than the axis lies at its end."""
    return ROC_HEIGHT * (1 - AXIS.position(max(rate, LOWEST_RATE)) / 100)


def rate(value: float | None, fewest: int, attack: Roc) -> str:
    """Write a true positive rate in per cent, or why there is none."""
    if value is not None:
        return percent(value, attack.num_members)
    return f"needs {fixed(fewest, 0)} non-members" if attack.num_non_members < fewest else "not measured"
