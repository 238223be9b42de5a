"""Inline SVG, element by element: everything a drawing says is escaped, because it is written by an XML writer.

Every drawing keeps to one convention, which makes it fluid without a script: the SVG's own box *is* the plotting area.
Across it, places are per cent of its width, straight from a scale in `scales`; down it, they are pixels. Text is
therefore never scaled. Names, ticks and numbers hang outside the box, in margins that the style sheet keeps free.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, tostring


class Drawing(str):
    """Markup that is finished: a template shows it as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """Give the markup, as template engines ask for it."""
        return str(self)


def box(height: float, label: str | None, words: str = "") -> Element:
    """Start a drawing as wide as its surroundings let it be.

    Args:
        height: in pixels.
        label: what the drawing is, for those who hear the page; without it the drawing is decoration.
        words: what the drawing says.
    """
    spoken = {"role": "img"} if label else {"aria-hidden": "true"}
    svg = Element("svg", {"class": "plot", "width": "100%", "height": short(height), **spoken})
    if label:
        SubElement(svg, "title").text = label
        if words:
            SubElement(svg, "desc").text = words
    return svg


def add(parent: Element, tag: str, **attributes: str | float) -> Element:
    """Append an element; `class_` and `text_anchor` stand for `class` and `text-anchor`."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    return SubElement(parent, tag, {key: x if isinstance(x, str) else short(x) for key, x in named.items()})


def text(parent: Element, words: str, **attributes: str | float) -> None:
    """Append a line of text."""
    add(parent, "text", **attributes).text = words


def title(element: Element, words: str) -> None:
    """Give an element the words that show when it is hovered."""
    SubElement(element, "title").text = words


def drawn(svg: Element) -> Drawing:
    """Write the markup, with everything escaped that HTML or XML would act on."""
    return Drawing(tostring(svg, encoding="unicode"))


def short(number: float) -> str:
    """Write a coordinate with at most three decimals: finer than any screen, and the same text on every platform."""
    digits = f"{number:.3f}".rstrip("0").rstrip(".")
    return "0" if digits == "-0" else digits
