"""The command line: its options, and the exit code of everything that can go wrong.

Bodies of commands live beside this file and are imported when a command runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from excise import errors
from excise.version import __version__

app = typer.Typer(
    name="excise",
    help="Make a trained PyTorch network forget chosen training rows, and show how well it did.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _config(context: typer.Context, path: Path | None) -> Path | None:
    """Take a TOML file's values as the command's defaults."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read as TOML: {error}") from error
    known = {parameter.name for parameter in context.command.params}
    unknown = sorted(key for key in values if key.replace("-", "_") not in known)
    if unknown:
        raise typer.BadParameter(
            f"{path} sets {unknown[0]!r}, which {context.command.name} does not know: {sorted(known)}"
        )
    context.default_map = {**(context.default_map or {}), **{k.replace("-", "_"): v for k, v in values.items()}}
    return path


Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output; words for people on standard error.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option(help="All randomness follows from it.")]
Device = Annotated[str, typer.Option(help="Where to compute, as torch names it.")]
Config = Annotated[
    Path | None, typer.Option("--config", callback=_config, is_eager=True, help="TOML file of option values.")
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
DataRoot = Annotated[Path | None, typer.Option(help="Folder to look for built-in data in first.")]
Plan = Annotated[
    str | None, typer.Option(help="How the network was trained: a TrainPlan as TOML or JSON, or pkg.mod:name.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="A setting of the recipe, as key=value; repeatable.")]
Out = Annotated[Path, typer.Option(help="Run directory to write.")]


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
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> None:
    """Tell the whole story on data that ships with a dependency; about a minute."""
    _run("demo", locals())


@app.command()
def unlearn(
    model: Model,
    weights: Weights,
    data: Data,
    forget: Forget,
    out: Out,
    recipe: Annotated[str, typer.Option(help="See `excise recipes`.")] = "DEL",
    set_: Set = None,
    mask: Annotated[Path | None, typer.Option(help="A mask of `excise localize`; a promise for any recipe.")] = None,
    plan: Plan = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> None:
    """Make a network forget rows; write the new weights, the mask, the patch and the record."""
    _run("forget", locals())


@app.command()
def localize(
    model: Model,
    weights: Weights,
    data: Data,
    forget: Forget,
    out: Out,
    criterion: Annotated[str, typer.Option(help="weight-gradient, gradient, magnitude or weight-gradient-all.")] = (
        "weight-gradient"
    ),
    budget: Annotated[float, typer.Option(help="Share of the weights to choose, 0 to 1.")] = 0.3,
    granularity: Annotated[str, typer.Option(help="channel or weight.")] = "channel",
    reduction: Annotated[str, typer.Option(help="top:SHARE of a channel's weights, or mean.")] = "top:0.1",
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> None:
    """Find the channels on which the rows lean most; write the mask."""
    _run("localize", locals())


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
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> None:
    """Hold the unlearned network against networks retrained without the rows; write audit.json and report.html."""
    _run("audit", locals())


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Directory with an audit.json or a demo.json.")],
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    config: Config = None,
) -> None:
    """Draw report.html again from the numbers in a run directory."""
    _run("report", locals())


@app.command()
def recipes(json_: Json = False, quiet: Quiet = False, debug: Debug = False, config: Config = None) -> None:
    """List the recipes with their papers and defaults."""
    _run("recipes", locals())


def _run(command: str, options: dict[str, Any]) -> None:
    """Run a command's body and turn what it raises into one message and an exit code."""
    given = {key.rstrip("_"): value for key, value in options.items() if key not in ("config", "debug")}
    try:
        body: Callable[..., int] = importlib.import_module(f"excise.cli.{command}").run
        code = body(**given)
    except errors.ExciseError as error:
        code = _tell(str(error), error.exit_code, options)
    except (MemoryError, OSError) as error:
        is_memory = isinstance(error, MemoryError)
        kind: type[errors.ExciseError] = errors.OutOfMemory if is_memory else errors.DiskError
        code = _tell(f"{type(error).__name__}: {error}", kind.exit_code, options)
    except KeyboardInterrupt:
        code = _tell("interrupted; the same command again starts over from the last finished artifact", 130, options)
    except Exception as error:
        if options["debug"]:
            raise
        text = f"{type(error).__name__}: {error}"
        memory = "memory" in str(error).lower() and "alloc" in str(error).lower()
        code = _tell(
            f"{text}; out of memory, try a smaller batch"
            if memory
            else f"an error inside excise or the given code: {text}",
            errors.OutOfMemory.exit_code if memory else errors.ExciseError.exit_code,
            options,
        )
    raise typer.Exit(code)


def _tell(message: str, code: int, options: dict[str, Any]) -> int:
    if options["debug"]:
        raise
    typer.echo(f"excise: {message}", err=True)
    if options["json_"]:
        typer.echo(json.dumps({"error": message, "exit_code": code}))
    return code


def _terminated(*_: object) -> NoReturn:
    typer.echo("excise: terminated; finished artifacts are whole", err=True)
    sys.stderr.flush()
    os._exit(143)


def run() -> None:
    """Enter from the shell."""
    signal.signal(signal.SIGTERM, _terminated)
    app()
