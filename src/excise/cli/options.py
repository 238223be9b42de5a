"""The options that commands share: what they are called, what they mean, and how a file of them is read."""

from __future__ import annotations

import reprlib
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from excise import errors


def _config(context: typer.Context, path: Path | None) -> Path | None:
    """Take a TOML file's values as if they had been typed, after what was typed."""
    if path is None:
        return None
    values = _toml(path)
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
        raise errors.BadRequest(
            f"--config: {path}: {key}: expected a string, a number or a boolean, found {reprlib.repr(value)}"
        )
    return str(value)


_MAX_BYTES = 16 << 10  # a key of many dots takes the square of its length to read; store.values, without torch


def _toml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise errors.BadRequest(f"--config: {path} cannot be read as TOML: it is a pipe or a device")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise errors.BadRequest(f"--config: {path}: expected at most {_MAX_BYTES} bytes of options, found more")
        return tomllib.loads(content.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise errors.BadRequest(f"--config: {path} cannot be read as TOML: {error}") from error


Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output; words for people on standard error.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Devices = Annotated[
    int | None, typer.Option(min=1, help="Processes a machine, one a device, that share the rows of every batch.")
]
Nodes = Annotated[int, typer.Option(min=1, help="Machines; srun or torchrun starts the command on each.")]
Strategy = Annotated[
    str, typer.Option(help="ddp: each process holds the network; fsdp: a part of every parameter while it trains.")
]
Seed = Annotated[int, typer.Option(help="All randomness follows from it.")]
Device = Annotated[str, typer.Option(help="Where to compute, as torch names it.")]
Precision = Annotated[
    str,
    typer.Option(help="auto, float32 or bfloat16, of training steps; auto is bfloat16 on an accelerator that has it."),
]
Layout = Annotated[
    str,
    typer.Option(help="auto, contiguous or channels-last, of images; auto is channels-last on an accelerator."),
]
Compile = Annotated[
    str,
    typer.Option("--compile", help="auto, never or always; auto compiles long trainings on an accelerator."),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read ahead from data that are no arrays.")]
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
    Path,
    typer.Option(
        help="Row ids to forget: a text file of integers, or a .npy of integers or booleans; or `all` that --data holds."
    ),
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
Cluster = Annotated[
    str | None,
    typer.Option(help="Train on the workers of a Ray cluster: its address, or `local` for the cores of this machine."),
]
AtOnce = Annotated[
    int | None, typer.Option(min=1, help="Networks under way at a time on the cluster; its room if left out.")
]
Out = Annotated[Path, typer.Option(help="Run directory to write.")]
CRITERION = (
    "weight-gradient, weight-gradient-all, gradient, magnitude, fisher-ratio, gradient-difference, deepest, shallowest, "
    "random; or a region: critical, head, convolutions, everything, modules:NAME,…, last-layers:K, random-like:MASK."
)
