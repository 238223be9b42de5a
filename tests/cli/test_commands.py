"""What can be typed: every command has what does its work."""

import importlib
import inspect

import pytest

from excise.cli import commands, main

COMMANDS = {command.name or command.callback.__name__: command for command in main.app.registered_commands}
TAKEN_BY_MAIN = {"as_json", "debug", "config"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_done_by_a_module_that_takes_just_its_options(name):
    asked = inspect.signature(COMMANDS[name].callback).parameters
    room = {"unlearn": "forget"}.get(name, name)
    taken = inspect.signature(importlib.import_module(f"excise.cli.{room}").run).parameters
    if "devices" in asked:
        asked = {*asked, "processes"} - {"devices", "nodes", "strategy"}
    assert set(taken) == set(asked) - TAKEN_BY_MAIN - ({"seed", "device"} if room in commands.UNSEEDED else set())
