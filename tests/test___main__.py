"""The command line is there as a module, too."""

import json
import runpy
import sys

import pytest

from excise.recipes import RECIPES


def test_the_module_is_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["excise", "recipes", "--json"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("excise", run_name="__main__")
    assert ended.value.code == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} >= set(RECIPES)
