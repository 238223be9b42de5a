"""The README does what it says: its Python runs as it stands, and its table is the one that was measured."""

import json
from pathlib import Path

import pytest

from benchmarks.story import KEPT, with_table
from tests.planted import hurried

README = Path(__file__).parent.parent / "README.md"


def python_blocks():
    return [part.split("```")[0] for part in README.read_text(encoding="utf-8").split("```python\n")[1:]]


def test_the_snippets_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    with hurried():  # what only informs: nothing below speaks of it, and tests/test_front_door.py runs it in full
        for block in python_blocks():
            exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    audit = names["audit"]
    assert audit.controls == {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"}
    assert capsys.readouterr().out.startswith("FAIL\n")  # as the text says
    assert audit.own.accuracy["forget"] == pytest.approx(0.0, abs=0.05)
    assert audit.original.accuracy["forget"] == pytest.approx(0.23, abs=0.02)
    assert names["unlearned"].frozen_digest == names["unlearned"].frozen_digest_before


def test_the_table_is_what_was_measured():
    text = README.read_text(encoding="utf-8")
    assert with_table(text, json.loads(KEPT.read_text(encoding="utf-8"))["splits"]) == text
