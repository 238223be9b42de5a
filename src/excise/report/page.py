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

from excise.report import formats, plots
from excise.report.svg import Drawing
from excise.report.values import SPLITS, Layer, Page, Section, checked

_HERE = Path(__file__).parent
_WORDS: Final = {
    "PASS": "The audit could not tell this network apart from networks that never saw the rows, and would have noticed "
    "an effect as large as the least detectable one.",
    "FAIL": "The audit can tell this network apart from networks that never saw the rows.",
    "INCONCLUSIVE": "The audit was not strong enough to decide: this is neither a pass nor a fail.",
    "INVALID": "A control of the audit itself came out wrong, so this audit says nothing about the network.",
}
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
    return _environment().get_template("page.html.j2").render(page=page, data=_data(page))


@cache
def _environment() -> jinja2.Environment:
    """Give the template's surroundings: the functions that it may call, and nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
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
        plots=plots,
        formats=formats,
        columns=_columns,
        split_sizes=_split_sizes,
    )
    return environment


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


def _data(page: Page) -> Drawing:
    """Give the page's JSON with the characters escaped that could end a script element or begin another."""
    text = msgspec.json.encode(page).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Drawing(text)
