"""How far each system is from the oracles: alone, under DEL's mask, under a random one; as SVG that follows light and dark."""

from xml.etree.ElementTree import Element, SubElement

from benchmarks.published.numbers import NOTHING, SAME_COST, Interval, distance
from benchmarks.published.problems import title_of
from excise.report.scales import Log
from excise.report.svg import add, drawn, short, text, title

WIDTH, LEFT, RIGHT, ROW, TOP = 920, 110, 20, 17, 64
MARKS = {
    "none": ("c0", "no mask"),
    "del": ("c1", "DEL's channels"),
    "random": ("c2", "as many of each layer at random"),
}
LINES = {"floor": "two arms of oracles", "same": "retraining at DEL's cost", "idle": "doing nothing"}
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 } .head { font-weight: 600 } .grid { stroke: #e3e3e3 }
.floor { stroke: #15803d; stroke-dasharray: 4 3 } .same { stroke: #999; stroke-dasharray: 2 3 } .idle { stroke: #999 }
.c0 { stroke: #0b6bcb; fill: #0b6bcb } .c1 { stroke: #c2410c; fill: #c2410c } .c2 { stroke: #7e22ce; fill: #fff }
.bar { stroke-width: 1.4 }
@media (prefers-color-scheme: dark) {
 text { fill: #c9d1d9 } .grid { stroke: #30363d } .floor { stroke: #56d364 } .same, .idle { stroke: #8b949e }
 .c0 { stroke: #58a6ff; fill: #58a6ff } .c1 { stroke: #ff9b5e; fill: #ff9b5e } .c2 { stroke: #d2a8ff; fill: #0d1117 } }
"""


def pictures(found, masked):
    """Give a figure for each problem, by its file's name."""
    return {f"published-masks-{name}.svg": picture(name, sets, masked) for name, sets in found["problems"].items()}


def picture(problem, sets, masked):
    """Give one figure: a panel a forget set, a line a system, three marks on it."""
    panels = [(name, place, [arm for arm in masked if arm in place["arms"]]) for name, place in sets.items()]
    height = TOP + sum(34 + 1.5 * ROW * len(some) for _, _, some in panels) + 30
    svg = Element(
        "svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {short(height)}", "role": "img"}
    )
    title(svg, f"{problem}: distance to the oracles, alone and under masks")
    SubElement(svg, "style").text = STYLE
    scale = Log(low=0.7, high=_highest(panels))
    _legend(svg)
    y = float(TOP)
    for name, place, some in panels:
        text(svg, title_of(name), x=LEFT, y=y, class_="head")
        y += 10
        _panel(svg, scale, y, place, some)
        y += 24 + 1.5 * ROW * len(some)
    for tick in scale.ticks():
        text(svg, f"{tick:g}", x=_across(scale, tick), y=y, text_anchor="middle")
    text(svg, "distance of margins from the oracles', in units of their spread (log)", x=LEFT, y=y + 18)
    return drawn(svg)


def _highest(panels):
    means = [
        Interval.of(distance(place, arm if mask == "none" else f"{arm}/{mask}")).mean
        for _, place, some in panels
        for arm in some
        for mask in MARKS
    ]
    return min(max([5.0, *(1.3 * mean for mean in means if mean == mean)]), 100.0)


def _across(scale, value):
    inside = min(max(value, scale.low), scale.high)
    return LEFT + scale.position(inside) / 100 * (WIDTH - LEFT - RIGHT)


def _panel(svg, scale, y, place, some):
    bottom = y + 1.5 * ROW * len(some)
    for tick in scale.ticks():
        x = _across(scale, tick)
        add(svg, "line", x1=x, x2=x, y1=y, y2=bottom, class_="grid")
    floor = Interval.of([one["floor"]["distance"] for one in place["scene"]]).mean
    lines = [("floor", floor, LINES["floor"])]
    for look, arm in (("same", SAME_COST), ("idle", NOTHING)):
        if arm in place["arms"]:
            lines.append((look, Interval.of(distance(place, arm)).mean, LINES[look]))
    for look, value, words in lines:
        x = _across(scale, value)
        title(add(svg, "line", x1=x, x2=x, y1=y, y2=bottom, class_=look), f"{words}: {value:.2f}")
    for place_of_arm, arm in enumerate(some):
        middle = y + 1.5 * ROW * (place_of_arm + 0.5)
        text(svg, arm, x=LEFT - 8, y=middle + 4, text_anchor="end")
        for step, (mask, (look, words)) in enumerate(MARKS.items()):
            found = Interval.of(distance(place, arm if mask == "none" else f"{arm}/{mask}"))
            if found.mean != found.mean:
                continue
            at = middle + (step - 1) * 6
            ends = [_across(scale, found.mean + side * min(found.reach, 1e9)) for side in (-1, 1)]
            add(svg, "line", x1=ends[0], x2=ends[1], y1=at, y2=at, class_=f"bar {look}")
            mark = add(svg, "circle", cx=_across(scale, found.mean), cy=at, r=2.8, class_=look)
            title(mark, f"{arm}, {words}: {found}")


def _legend(svg):
    for place, (look, words) in enumerate(MARKS.values()):
        add(svg, "circle", cx=LEFT + 6 + 180 * place, cy=16, r=3, class_=look)
        text(svg, words, x=LEFT + 14 + 180 * place, y=20)
    for place, (look, words) in enumerate(LINES.items()):
        x = LEFT + 6 + 180 * place
        add(svg, "line", x1=x - 4, x2=x + 4, y1=36, y2=36, class_=look)
        text(svg, words, x=x + 8, y=40)
