"""Drawings as markup: nothing that is said can become an element."""

from xml.etree import ElementTree

import jinja2
import pytest

from excise.report.svg import Drawing, add, box, drawn, short, text, title

HOSTILE = "</svg><script>alert(1)</script>\" onload='x' &amp; \n"


def test_whatever_is_said_comes_back_as_text():
    svg = box(10, HOSTILE, HOSTILE)
    text(svg, HOSTILE, x=1, text_anchor="end", class_=HOSTILE)
    title(add(svg, "rect", width="5%"), HOSTILE)
    tree = ElementTree.fromstring(drawn(svg))
    assert [each.tag for each in tree.iter()] == ["svg", "title", "desc", "text", "rect", "title"]
    assert tree[0].text == tree[1].text == tree[2].text == tree[3][0].text == HOSTILE
    assert tree[2].attrib == {"x": "1", "text-anchor": "end", "class": HOSTILE}


def test_a_box_without_words_is_decoration():
    assert box(1, None).get("aria-hidden") == "true"
    assert len(box(1, None)) == 0
    said = box(1, "said")
    assert said.get("role") == "img"
    assert [(each.tag, each.text) for each in said] == [("title", "said")]


@pytest.mark.parametrize(
    ("number", "written"), [(1, "1"), (100.0, "100"), (-0.0001, "0"), (1 / 3, "0.333"), (-2.5, "-2.5")]
)
def test_coordinates_are_short(number, written):
    assert short(number) == written


def test_a_template_shows_a_drawing_as_it_is_and_other_text_escaped():
    template = jinja2.Environment(autoescape=True).from_string("{{ a }}{{ b }}")
    assert template.render(a=Drawing("<svg />"), b="<svg />") == "<svg />&lt;svg /&gt;"
