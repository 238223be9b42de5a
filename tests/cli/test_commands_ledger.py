"""What can be typed after `excise ledger`: every word has what does its work, with just its options."""

import inspect

import pytest

from excise.cli import commands_ledger, ledger

COMMANDS = {one.name or one.callback.__name__: one.callback for one in commands_ledger.ledger.registered_commands}
TAKEN_BY_MAIN = {"as_json", "debug", "config"}
PASSED_ON = {"to", "quiet"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_done_by_a_function_that_takes_just_its_options(name, monkeypatch):
    function = f"_{name.replace('-', '_')}"
    taken = inspect.signature(getattr(ledger, function)).parameters
    seen = []
    monkeypatch.setattr(ledger, function, lambda **options: seen.append(set(options)) or ({}, 0))
    asked = dict.fromkeys(set(inspect.signature(COMMANDS[name]).parameters) - TAKEN_BY_MAIN)
    assert ledger.run(what=name, **{**asked, "quiet": True}) == ({}, 0)
    assert seen == [set(taken)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_what_all_commands_take(name):
    asked = inspect.signature(COMMANDS[name]).parameters
    assert {"seed", "device", "as_json", "quiet", "debug", "config"} <= set(asked)
    values = {key: object() for key in asked}
    room, options = COMMANDS[name](**values)
    assert (room, options.pop("what")) == ("ledger", name) and options == values
