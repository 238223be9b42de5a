"""The page: one HTML file that loads nothing, runs nothing and sends nothing.

Its Content-Security-Policy forbids every connection and every script, and admits the one style sheet by its hash. All
text passes Jinja's autoescaping. The value it was drawn from lies inside it as JSON, so that the numbers can be read by
programs and the page drawn again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import jinja2
import msgspec

from excise.report import curves, formats, marks, pairs, plots, spreads, strips
from excise.report.checking import checked
from excise.report.contents import Page
from excise.report.exhibits import Costs
from excise.report.findings import Control
from excise.report.svg import Drawing
from excise.report.values import SPLITS, Layer, Section

_HERE = Path(__file__).parent
_WORDS: Final = {
    "PASS": "No measure that decides could tell it apart, and each would probably have noticed an effect as large as the "
    "least detectable one that stands beside it.",
    "FAIL": "It was told apart by more than chance allows over everything that decides.",
    "INCONCLUSIVE": "The audit was not strong enough to decide: this is neither a pass nor a fail.",
    "INVALID": "A control of the audit itself came out wrong, so this audit says nothing about the network.",
}
_RATES: Final = (("at_one_percent", "1%", 100), ("at_one_permille", "0.1%", 1000))
_FEW_LAYERS = 16  # as many as stand beside the histogram; more get the full width, in columns


def render(page: Page) -> str:
    """Give the page as one HTML document.

    The same value gives the same bytes. A part of the page that is empty is left out.

    Args:
        page: what to show.

    Returns:
        The document. Written to a file as UTF-8, it opens from anywhere, with or without a network or JavaScript.

    Raises:
        BadRequest: a number is not finite or out of range, or two parts do not fit each other; the message names the
            field.

    Examples:
        >>> render(Page(title="Audit of a toy")).startswith("<!doctype html>")
        True
    """
    page = checked(page)
    contents = _contents(page)
    shown = {name for name, _ in contents}
    template = _environment().get_template("page.html.j2")
    return template.render(page=page, contents=contents, shown=shown, data=_data(page))


@cache
def _environment() -> jinja2.Environment:
    """Give the template's surroundings: the functions that it may call, and nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment.globals.update(
        style=Drawing(style),
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        splits=SPLITS,
        words=_WORDS,
        absent=formats.ABSENT,
        rate_names=_RATES,
        curves=curves,
        formats=formats,
        marks=marks,
        pairs=pairs,
        plots=plots,
        spreads=spreads,
        strips=strips,
        as_it_must=_as_it_must,
        columns=_columns,
        split_sizes=_split_sizes,
        cost_sizes=_cost_sizes,
    )
    return environment


def _contents(page: Page) -> list[tuple[str, str]]:
    """Give the parts of the page that are there: the id and the title of each, in order."""
    parts = [
        ("measures", "Measures", page.measures),
        ("attacks", "Attacks", page.rocs),
        *((f"section-{index}", section.title, True) for index, section in enumerate(page.sections, 1)),
        ("distributions", "Distributions", page.distributions),
        ("classes", "Classes", page.classes),
        ("strata", "Memorisation", page.strata and (page.strata.strata or page.strata.lines)),
        ("costs", "Cost", page.costs and (page.costs.steps or page.costs.rows)),
        ("timings", "Time", page.timings),
        ("limits", "Limits", page.untested or page.assumptions or page.limits),
        ("numbers", "Every number", page.measures),
        ("facts", "Record", page.facts),
    ]
    return [(name, title) for name, title, there in parts if there]


def _as_it_must(control: Control) -> tuple[str, str, str]:
    """Give how a control stands: a class, a sign and words, so that nobody takes a FAIL that must be for a failure."""
    if control.outcome == control.expected:
        return "good", "PASS", "as it must"
    if control.excused:
        return "open", "open", control.excused
    if control.outcome in ("PASS", "FAIL"):
        return "bad", "FAIL", f"not as it must: it must {control.expected}"
    return "open", "open", f"would have to {control.expected}"


def _columns(layers: Sequence[Layer]) -> list[Sequence[Layer]]:
    """Divide the layers into one, two or three columns of nearly equal length, each read downwards."""
    if not layers:
        return []
    num_columns = 1 if len(layers) <= _FEW_LAYERS else 2 if len(layers) <= 2 * _FEW_LAYERS else 3
    length = -(-len(layers) // num_columns)
    return [layers[start : start + length] for start in range(0, len(layers), length)]


def _split_sizes(section: Section) -> dict[str, int]:
    """Give the number of rows in each split."""
    return {"forget": section.num_forget, "retain": section.num_retain, "test": section.num_test}


def _cost_sizes(costs: Costs) -> dict[str, int]:
    """Give the number of rows in each split; a thousand where that is not told, for one decimal."""
    return {split: costs.num_rows.get(split, 1000) for split in SPLITS}


def _data(page: Page) -> Drawing:
    """Give the page's JSON with the characters escaped that could end a script element or begin another."""
    text = msgspec.json.encode(page).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Drawing(text)
