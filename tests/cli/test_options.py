"""Options mean the same in every command, and a file of them is read as if it had been typed."""

import inspect
import os
import typing

import pytest
import typer

from excise import errors
from excise.cli import commands as asked
from excise.cli import options
from excise.store import values


def commands():
    return {
        one.callback.__name__: inspect.signature(one.callback, eval_str=True) for one in asked.app.registered_commands
    }


def test_every_command_takes_what_is_taken_everywhere():
    for name, signature in commands().items():
        found = {parameter.annotation for parameter in signature.parameters.values()}
        assert {options.Json, options.Quiet, options.Debug, options.Config} <= found, name
        assert {"seed", "device"} <= set(signature.parameters), name


def test_every_option_says_what_it_is():
    for name, signature in commands().items():
        for word, parameter in signature.parameters.items():
            (told,) = typing.get_args(parameter.annotation)[1:]
            assert told.help and told.help[-1] in ".…?", (name, word)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("= 3", "cannot be read as TOML"),
        ("forgotten = 1", r"sets 'forgotten'; expected options of report: .*run"),
        ("quiet = [1]", r"quiet: expected a string, a number or a boolean, found \[1\]"),
        ("quiet" + ".a" * 2000 + " = 1", "quiet: expected a string, a number or a boolean, found {.a.: {.a.: "),
        ("a = " + "[" * 10_000, "cannot be read as TOML: maximum recursion depth"),
        ("#" * 20_000, "expected at most 16384 bytes of options, found more"),
    ],
)
def test_a_file_of_options_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "excise.toml"
    path.write_text(text)
    command = typer.main.get_command(asked.app).commands["report"]
    context = typer.Context(command, info_name="report")
    with pytest.raises(errors.BadRequest, match=message):
        options._config(context, path)


def test_a_file_of_options_is_a_default_for_what_was_not_typed(tmp_path):
    path = tmp_path / "excise.toml"
    path.write_text("quiet = true\nseed = 3\n")
    command = typer.main.get_command(asked.app).commands["report"]
    context = typer.Context(command, info_name="report")
    context.default_map = {"json": True}
    assert options._config(context, path) == path
    assert context.default_map == {"json": True, "quiet": "True", "seed": "3"}
    assert options._config(context, None) is None


def test_a_pipe_is_no_file_of_options(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    context = typer.Context(typer.main.get_command(asked.app).commands["report"], info_name="report")
    with pytest.raises(errors.BadRequest, match=r"--config: .* cannot be read as TOML: it is a pipe or a device"):
        options._config(context, tmp_path / "pipe")


def test_the_limit_is_that_of_other_toml_files():
    assert options._MAX_BYTES == values.MAX_TOML_BYTES
