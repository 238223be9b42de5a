"""What the program says of itself: never more than it knows."""

import ast
import html
import re
from pathlib import Path

import pytest
from msgspec import structs

from excise.pipeline import pages
from excise.report import render
from tests.report.samples import small_page

SOURCE = Path(pages.__file__).parent.parent
STRONG = re.compile(r"\b(proof\w*|prove[sdn]?|certif\w+|guarant\w+|complian\w+|GDPR)\b", re.IGNORECASE)
ASIDE = re.compile(r"proof of inclusion|inclusion proof|\(\?:proof\|certif\|complian\|guarante\)", re.IGNORECASE)
"""What a hash tree's list of hashes is called everywhere."""


def spoken(source):
    """Give the texts of a module that can come out: every string but the docstrings of what the command line never shows."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    silent = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            shown = source.name.startswith("commands") and isinstance(node, ast.FunctionDef)  # typer prints these
            silent |= set() if shown else {id(body[0].value)}
        if isinstance(body, list):
            silent |= {id(one.value) for one in body if isinstance(one, ast.Expr)}  # a docstring below a name
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value


def strong(sources):
    for source in sources:
        lines = enumerate(source.read_text(encoding="utf-8").splitlines(), 1)
        for line, text in spoken(source) if source.suffix == ".py" else lines:
            found = STRONG.search(ASIDE.sub("", text))
            if found:
                yield f"{source.relative_to(SOURCE.parent)}:{line}: {found.group()!r} in {text[:80]!r}"


def test_no_word_that_promises_more_than_was_measured_can_come_out():
    sources = [path for path in SOURCE.rglob("*") if path.suffix in (".py", ".html", ".css", ".js", ".txt", ".json")]
    assert len(sources) > 100
    assert list(strong(sources)) == []


@pytest.mark.parametrize("word", ["proof", "Certified", "certificate", "guarantees", "GDPR", "compliance"])
def test_such_a_word_would_be_seen(tmp_path, monkeypatch, word):
    monkeypatch.setattr("tests.privacy.test_words.SOURCE", tmp_path / "excise")
    path = tmp_path / "told.py"
    path.write_text(f'"""Says {word}, to readers of the code."""\nx = f"this is a {{x}} {word} of it"\n')
    seen = list(strong([path]))
    assert len(seen) == 1 and f"'{word}'" in seen[0]


def test_the_limits_stand_on_every_page_of_an_audit():
    assert len(pages.LIMITS) >= 3
    assert pages.page("A title", "A lead").limits == list(pages.LIMITS)
    drawn = html.unescape(render(structs.replace(small_page(), limits=list(pages.LIMITS))))
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", drawn))
    for sentence in pages.LIMITS:
        assert sentence in said
