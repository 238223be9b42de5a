"""The command line: what was typed is read, what does the work is called, and all that can go wrong is one exit code.

That module is imported when it is needed, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence

import msgspec
import typer

from excise import errors
from excise.cli import (  # noqa: F401 - they add their commands
    commands_attribution,
    commands_custody,
    commands_ledger,
    commands_moments,
)
from excise.cli.commands import UNSEEDED, app
from excise.cli.printable import printable
from excise.cli.stopping import Terminated, listen
from excise.cli.wrapping import wrapped


def call(words: Sequence[str]) -> int:
    """Act on a command line and give the exit code. Whatever goes wrong is one message, and with `--json` one object."""
    as_json, debug, out = "--json" in words, "--debug" in words, sys.stdout
    try:
        asked = app(list(words) or ["--help"], prog_name="excise", standalone_mode=False)
        if not isinstance(asked, tuple):  # --help and --version have said it all
            return int(asked or 0)
        room, options = asked
        as_json, debug = options.pop("as_json"), options.pop("debug")
        del options["config"]
        if room in UNSEEDED:  # taken, like everywhere, and of no use there
            del options["seed"], options["device"]
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():  # users' code may print
            if "devices" in options:  # may be several processes
                found, code = importlib.import_module("excise.cli.ranks").run(room, options)
            else:
                found, code = importlib.import_module(f"excise.cli.{room}").run(**options)
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if debug:
            traceback.print_exc()
        message, code = _explained(error)
        message = printable(message)
        found = {"error": message, "exit_code": code}
        text = f"excise: {message}"
        typer.echo(wrapped(text, shutil.get_terminal_size().columns) if sys.stderr.isatty() else text, err=True)
    if as_json:
        out.write(_object(found) + "\n")
    return int(code)


def _object(found: object) -> str:
    """Give one JSON object; a name of a file that is no UTF-8 stands in it by its escapes."""
    try:
        return msgspec.json.encode(found).decode()
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(found))


def _explained(error: BaseException) -> tuple[str, int]:
    """Give the message and the exit code of whatever was raised."""
    text, cause = f"{type(error).__name__}: {error}", error.__cause__ or error
    if isinstance(error, Terminated | KeyboardInterrupt):
        word, code = ("terminated", 143) if isinstance(error, Terminated) else ("interrupted", 130)
        return f"{word}; nothing is half-written; give the same command again to go on", code
    if isinstance(cause, MemoryError) or (isinstance(cause, RuntimeError) and "allocate" in str(cause)):  # torch's own
        return f"out of memory ({type(cause).__name__}: {cause}); take smaller batches", errors.OutOfMemory.exit_code
    if isinstance(error, errors.ExciseError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # the parser's; no name for its class fits all versions of typer
        context = getattr(error, "ctx", None)
        message = error.format_message().replace(" (env var: 'None')", "").rstrip(".")  # as typer before 0.22 writes
        usage = f"(see {context.command_path if context else 'excise'} --help)"
        return f"{message} {usage}", errors.BadRequest.exit_code
    if isinstance(error, OSError):
        return text, errors.DiskError.exit_code
    return f"an error that excise did not foresee: {text}; give --debug to see where", errors.ExciseError.exit_code


def run() -> None:
    """Enter from the shell."""
    listen()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a bar is no reason to fail in a C locale
    try:
        code = call(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; nothing may be flushed into the pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
