"""Lines of growth on two log axes, as SVG files of their own: light and dark follow the reader's browser."""

import math
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from excise.report.scales import Log
from excise.report.svg import add, drawn, short, text, title

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 60, 220, 20, 44
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #444 } .grid { stroke: #e3e3e3 } .guide { stroke: #999; stroke-dasharray: 4 4 }
.line { fill: none; stroke-width: 1.8 } .c0 { stroke: #0b6bcb } .c1 { stroke: #c2410c } .c2 { stroke: #15803d }
.c3 { stroke: #7e22ce } .c4 { stroke: #a16207 } .c5 { stroke: #0f766e } .dashed { stroke-dasharray: 6 3 }
@media (prefers-color-scheme: dark) {
 text { fill: #c9d1d9 } .grid { stroke: #30363d } .guide { stroke: #8b949e } .c0 { stroke: #58a6ff } .c1 { stroke: #ff9b5e }
 .c2 { stroke: #56d364 } .c3 { stroke: #d2a8ff } .c4 { stroke: #e3b341 } .c5 { stroke: #39c5bb } }
"""


def name_of(axis: str) -> str:
    """Give an axis' part of a file name."""
    return axis.replace(" ", "-")


def draw(lines) -> None:
    """Draw each axis of growth into docs/images."""
    IMAGES.mkdir(exist_ok=True)
    for axis, some in lines.items():
        (IMAGES / f"growth-{name_of(axis)}.svg").write_text(picture(axis, some["sizes"], some["values"]) + "\n")


def picture(axis, sizes, values) -> str:
    """Give one drawing: a line a part, and a dashed one in proportion to the size."""
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img"})
    title(svg, f"Growth by {axis}")
    SubElement(svg, "style").text = STYLE
    every = [value for line in values.values() for value in line]
    across = Log(low=min(sizes), high=max(sizes))
    up = Log(low=10 ** math.floor(math.log10(min(every))), high=10 ** math.ceil(math.log10(max(every))))

    def place(size, value):
        x = LEFT + across.position(size) / 100 * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - up.position(value) / 100 * (HEIGHT - TOP - BOTTOM)

    for tick in up.ticks():
        x, y = place(min(sizes), tick)
        add(svg, "line", x1=x, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
        text(svg, f"{tick:g}", x=x - 8, y=y + 4, text_anchor="end")
    for size in sizes:
        text(
            svg, f"{size:,}" if size > 1 else f"{size:g}", x=place(size, up.low)[0], y=HEIGHT - 24, text_anchor="middle"
        )
    text(svg, f"{axis} (seconds, where nothing else is said)", x=LEFT, y=HEIGHT - 6)
    _proportion(svg, sizes, max(every), up, place)
    ends = _apart([place(sizes[-1], line[-1])[1] for line in values.values()])
    for index, (name, line) in enumerate(values.items()):
        look = f"line c{index % 6}{' dashed' if index >= 6 else ''}"
        points = "L".join(f"{short(x)} {short(y)}" for x, y in map(place, sizes, line))
        title(add(svg, "path", d=f"M{points}", class_=look), name)
        x = WIDTH - RIGHT + 8
        add(svg, "path", d=f"M{x} {short(ends[index] - 4)}h16", class_=look)
        text(svg, name, x=x + 22, y=ends[index])
    return drawn(svg)


def _proportion(svg, sizes, highest, up, place) -> None:
    """Draw what grows as the size does, down from the highest value."""
    low = max(up.low, highest * sizes[0] / sizes[-1])
    (x1, y1), (x2, y2) = place(sizes[-1] * low / highest, low), place(sizes[-1], highest)
    title(add(svg, "line", x1=x1, y1=y1, x2=x2, y2=y2, class_="guide"), "in proportion")


def _apart(heights, least=15):
    """Move labels apart from the top down."""
    found = dict.fromkeys(range(len(heights)), 0.0)
    last = 0.0
    for index in sorted(found, key=lambda one: heights[one]):
        found[index] = last = max(heights[index] + 4, last + least)
    over = max(last - (HEIGHT - BOTTOM + 10), 0)
    return {index: height - over for index, height in found.items()}
