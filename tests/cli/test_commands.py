"""What can be typed: every command has what does its work."""

import importlib
import inspect

import pytest

from excise.cli import commands

COMMANDS = {command.name or command.callback.__name__: command for command in commands.app.registered_commands}
TAKEN_BY_MAIN = {"as_json", "debug", "config"}
OF_NO_USE = {"report": {"seed", "device"}, "recipes": {"seed", "device"}, "bank": {"seed", "device"}}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_done_by_a_module_that_takes_just_its_options(name):
    asked = inspect.signature(COMMANDS[name].callback).parameters
    room = {"unlearn": "forget"}.get(name, name)
    taken = inspect.signature(importlib.import_module(f"excise.cli.{room}").run).parameters
    assert set(taken) == set(asked) - TAKEN_BY_MAIN - OF_NO_USE.get(name, set())
