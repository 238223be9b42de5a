"""The command line: its options, and the exit code of everything that can go wrong.

The parser only reads: a command gives the name of the module beside this file that does the work, and its options. That
module is imported when it is needed, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import sys
import tomllib
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from excise import errors
from excise.cli.wrapping import wrapped
from excise.version import __version__

Asked = tuple[str, dict[str, Any]]

app = typer.Typer(
    name="excise",
    help="Make a trained PyTorch network forget chosen training rows, and show how well it did.",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _config(context: typer.Context, path: Path | None) -> Path | None:
    """Take a TOML file's values as if they had been typed, after what was typed."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise errors.BadRequest(f"--config: {path} cannot be read as TOML: {error}") from error
    known = {name.lstrip("-"): option for option in context.command.params for name in option.opts}
    known = {name: option for name, option in known.items() if name not in ("config", "help")}
    typed: dict[str, Any] = {}
    for key, value in values.items():
        option = known.get(key.replace("_", "-"))
        if option is None:
            names = ", ".join(sorted(known))
            raise errors.BadRequest(f"--config: {path} sets {key!r}; expected options of {context.info_name}: {names}")
        several = getattr(option, "multiple", False)
        words = [_word(path, key, one) for one in (value if several and isinstance(value, list) else [value])]
        typed[str(option.name)] = words if several else words[0]
    context.default_map = {**(context.default_map or {}), **typed}
    return path


def _word(path: Path, key: str, value: object) -> str:
    if not isinstance(value, str | int | float):
        raise errors.BadRequest(f"--config: {path}: {key}: expected a string, a number or a boolean, found {value!r}")
    return str(value)


Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output; words for people on standard error.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option(help="All randomness follows from it.")]
Device = Annotated[str, typer.Option(help="Where to compute, as torch names it.")]
NoSeed = Annotated[int, typer.Option("--seed", help="Taken everywhere; nothing here is random.")]
NoDevice = Annotated[str, typer.Option("--device", help="Taken everywhere; nothing here is computed.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", callback=_config, is_eager=True, help="TOML file of option values; what is typed wins."),
]
Model = Annotated[
    str, typer.Option(help="pkg.mod:make, a callable that builds the network; or a built-in: resnet18, …")
]
Weights = Annotated[Path, typer.Option(help="Trained weights: .safetensors, or .pt holding tensors only.")]
Data = Annotated[
    str, typer.Option(help="pkg.mod:train, a data set or (inputs, labels); or a built-in: digits, cifar10, …")
]
Forget = Annotated[
    Path, typer.Option(help="Row ids to forget: a text file of integers, or a .npy of integers or booleans.")
]
Test = Annotated[str | None, typer.Option("--test", help="pkg.mod:test; built-in data bring their own.")]
Holdout = Annotated[
    str | None,
    typer.Option("--holdout", help="pkg.mod:rows never trained on, for recipes that need them (SCRUBPlusR)."),
]
DataRoot = Annotated[Path | None, typer.Option(help="Folder to look for built-in data in first.")]
Plan = Annotated[
    str | None, typer.Option(help="How the network was trained: a TrainPlan as TOML or JSON, or pkg.mod:name.")
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting of the recipe, as key=value; repeatable.")]
Out = Annotated[Path, typer.Option(help="Run directory to write.")]
_CRITERION = (
    "weight-gradient, weight-gradient-all, gradient, magnitude, fisher-ratio, gradient-difference, deepest, shallowest, "
    "random; or a region: critical, head, convolutions, everything, modules:NAME,…, last-layers:K, random-like:MASK."
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"excise {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    """Make a trained PyTorch network forget chosen training rows, and show how well it did."""


@app.command()
def demo(
    out: Out = Path("excise-demo"),
    oracles: Annotated[int, typer.Option(min=2, help="Networks retrained for each forget set.")] = 8,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Tell the whole story on data that ships with a dependency; about a minute."""
    return "demo", locals()


@app.command()
def unlearn(
    model: Model,
    weights: Weights,
    data: Data,
    forget: Forget,
    out: Out,
    recipe: Annotated[str, typer.Option(help="See `excise recipes`.")] = "DEL",
    settings: Settings = None,
    mask: Annotated[Path | None, typer.Option(help="A mask of `excise localize`; a promise for any recipe.")] = None,
    plan: Plan = None,
    holdout: Holdout = None,
    keep_statistics: Annotated[
        bool, typer.Option("--keep-statistics", help="Do not recompute batch normalisation's statistics from retain.")
    ] = False,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Make a network forget rows; write the new weights, the mask, the patch and the record."""
    return "forget", locals()


@app.command()
def localize(
    model: Model,
    weights: Weights,
    data: Data,
    forget: Forget,
    out: Out,
    criterion: Annotated[str, typer.Option(help=_CRITERION)] = "weight-gradient",
    budget: Annotated[
        float | None, typer.Option(help="Share of the weights to choose, 0 to 1; 0.3 if left out.")
    ] = None,
    granularity: Annotated[str | None, typer.Option(help="channel (if left out), weight or module.")] = None,
    count: Annotated[
        str | None, typer.Option(help="What the budget is a share of: weights (if left out) or channels.")
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="network (if left out), one budget for all of it; or layer, the same share of each."),
    ] = None,
    lowest: Annotated[bool, typer.Option("--lowest", help="Choose the lowest scores.")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Cut the last channel or module in part.")] = False,
    reduction: Annotated[
        str | None, typer.Option(help="top:SHARE of a channel's weights, or mean; top:0.1 if left out.")
    ] = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Find the channels on which the rows lean most; write the mask."""
    return "localize", locals()


@app.command()
def doctor(
    model: Model,
    weights: Weights,
    data: Data,
    forget: Forget,
    test: Test = None,
    groups: Annotated[
        Path | None,
        typer.Option(help="A value a training row (a person, a source): a text file, one a line, or a .npy."),
    ] = None,
    loader: Annotated[
        str | None, typer.Option(help="pkg.mod:name, the DataLoader the network was trained with, or what gives it.")
    ] = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Name, before any work, what stands in the way of forgetting the rows, each with a remedy."""
    return "doctor", locals()


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="Run directory of `excise unlearn`.")],
    plan: Plan = None,
    oracles: Annotated[int, typer.Option(min=1, help="Networks to retrain without the rows; 4 or more to decide.")] = 8,
    model: Annotated[str | None, typer.Option(help="As in unlearn; the run's own if left out.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The original weights; the run's own if left out.")] = None,
    data: Annotated[str | None, typer.Option(help="As in unlearn; the run's own if left out.")] = None,
    forget: Annotated[Path | None, typer.Option(help="As in unlearn; the run's own if left out.")] = None,
    test: Test = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Hold the unlearned network against networks retrained without the rows; write audit.json and report.html."""
    return "audit", locals()


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Directory with an audit.json or a demo.json.")],
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """Draw report.html again from the numbers in a run directory."""
    return "report", locals()


@app.command()
def recipes(
    seed: NoSeed = 0,
    device: NoDevice = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> Asked:
    """List the recipes with their papers and defaults."""
    return "recipes", locals()


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
        if room in ("report", "recipes"):  # taken, like everywhere, and of no use there
            del options["seed"], options["device"]
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():  # users' code may print
            found, code = importlib.import_module(f"excise.cli.{room}").run(**options)
    except (Exception, KeyboardInterrupt, _Terminated) as error:
        if debug:
            traceback.print_exc()
        message, code = _explained(error)
        found = {"error": message, "exit_code": code}
        text = f"excise: {message}"
        typer.echo(wrapped(text, shutil.get_terminal_size().columns) if sys.stderr.isatty() else text, err=True)
    if as_json:
        out.write(msgspec.json.encode(found).decode() + "\n")
    return int(code)


def _explained(error: BaseException) -> tuple[str, int]:
    """Give the message and the exit code of whatever was raised."""
    text, cause = f"{type(error).__name__}: {error}", error.__cause__ or error
    if isinstance(error, _Terminated | KeyboardInterrupt):
        word, code = ("terminated", 143) if isinstance(error, _Terminated) else ("interrupted", 130)
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


class _Terminated(BaseException):
    """SIGTERM: stops whatever is running as Ctrl-C does, so that everything is put away."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def run() -> None:
    """Enter from the shell."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a bar is no reason to fail in a C locale
    try:
        code = call(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; nothing may be flushed into the pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
