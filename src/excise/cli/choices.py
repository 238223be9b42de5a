"""Strings to recipes with their settings, and to criteria, granularities and reductions."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from excise import errors, store
from excise.attribution import Datamodel
from excise.cli import offers
from excise.cli.tables import known_word, nearest, read_plan
from excise.curvature import Moments
from excise.lifecycle.settings import recipe_values as recipe_values
from excise.localize import (
    Deepest,
    FisherRatio,
    Gradient,
    GradientDifference,
    Localizer,
    Magnitude,
    Mean,
    Random,
    Reduction,
    Region,
    Shallowest,
    Top,
    WeightGradient,
)
from excise.localize.scores import Granularity
from excise.recipes import RECIPES, Recipe
from excise.recipes.table import needed
from excise.store.values import read_array
from excise.train.machine import Machine
from excise.train.plan import TrainPlan

CRITERIA: dict[str, Callable[[], Localizer]] = {
    "weight-gradient": WeightGradient,
    "gradient": Gradient,
    "magnitude": Magnitude,
    "weight-gradient-all": lambda: WeightGradient(rows="train"),
    "fisher-ratio": FisherRatio,
    "gradient-difference": GradientDifference,
    "deepest": Deepest,
    "shallowest": Shallowest,
    "random": Random,
}

GRANULARITIES: dict[str, Granularity] = {word: word for word in typing.get_args(Granularity)}


def read_machine(*, precision: str, layout: str, compiled: str, workers: int) -> Machine:
    """Give what the four options come to.

    Raises:
        errors.BadRequest: a word that is none of its option's.
    """
    words: dict[str, Any] = {"precision": precision, "layout": layout, "compiled": compiled, "workers": workers}
    return Machine(**words)  # which refuses words that are not its own


def told_machine(machine: Machine) -> dict[str, Any]:
    """Give what a record says of a machine: nothing where it is the default, as in records of earlier versions."""
    return {} if machine == Machine() else {"machine": msgspec.to_builtins(machine)}


def rounding_of(machine: Machine) -> dict[str, str]:
    """Give, by option, what of a machine changes the last digits of a training."""
    return {"precision": machine.precision, "layout": machine.layout, "compile": machine.compiled}


def read_recipe(name: str, settings: list[str] | None, plan: object = None) -> Recipe:
    """Give a recipe by name, with `key=value` settings; one that needs a plan takes that of `--plan`, if it is a `TrainPlan`.

    Raises:
        errors.BadRequest: unknown recipe or setting, with the nearest name; or a value of the wrong kind.
    """
    make, options = read_settings(name, settings, plan)
    required = [key for key in needed(make) if key not in options]
    if required:
        how = f"; {WHENCE[required[0]]}" if required[0] in WHENCE else ""
        raise errors.BadRequest(f"--recipe: {name} needs {required[0]}; give it as --set {required[0]}=…{how}")
    return make(**options)


def read_settings(
    name: str, settings: list[str] | None, plan: object = None
) -> tuple[Callable[..., Recipe], dict[str, Any]]:
    """Give what makes a recipe, and the settings for it, as `read_recipe` takes them."""
    make = known_word("--recipe", name, RECIPES, offers.HOW)
    known = inspect.signature(make, eval_str=True).parameters
    options: dict[str, Any] = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or key not in known or key in options:
            raise errors.BadRequest(
                f"--set: expected key=value, once for each key of {name} ({', '.join(known) or 'it has none'}); "
                f"found {setting!r}{nearest(key, set(known) - {key})}"
            )
        read = READERS.get(key)
        options[key] = (
            read(value) if read else converted(f"--set {key}={value}", name, key, value, known[key].annotation)
        )
    if "plan" in known and "plan" not in options and isinstance(plan, TrainPlan):
        options["plan"] = plan
    return make, options


def told_files(settings: list[str] | None) -> dict[str, Any]:
    """Give what a record says of files that settings name and that a run is to be known by: the SHA-256 of each."""
    words = dict(setting.partition("=")[::2] for setting in settings or ())
    found = {key: store.file_digest(Path(words[key])) for key in RECORDED if key in words}
    return {"files_sha256": found} if found else {}


def converted(option: str, recipe: str, key: str, value: str, kind: Any) -> Any:
    """Give a word in the type that a recipe takes as a setting."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise errors.BadRequest(f"{option}: {error}, which is what {recipe} takes as {key}") from error


def read_criterion(words: str) -> Localizer | Region:
    """Give a localizer by name; what another package offers under it may be a region."""
    return known_word("--criterion", words, CRITERIA, offers.WHERE)()


def read_granularity(words: str) -> Granularity:
    """Give a granularity by name."""
    return known_word("--granularity", words, GRANULARITIES)


def read_reduction(words: str) -> Reduction:
    """Give a channel reduction: `mean`, or `top:SHARE`."""
    if words == "mean":
        return Mean()
    head, _, share = words.partition(":")
    try:
        if head == "top":
            return Top(float(share))
    except errors.ExciseError:
        raise
    except ValueError:
        pass
    raise errors.BadRequest(f"reduction: expected mean or top:SHARE such as top:0.1, found {words!r}")


def read_numbers(path: Path) -> Tensor:
    """Read a `.npy` array of finite numbers, `[rows]`.

    Raises:
        errors.BadRequest: no such file, or something else in it.
    """
    try:
        found = torch.as_tensor(read_array(path))
    except (errors.BadData, ValueError, TypeError) as error:
        raise errors.BadRequest(f"expected a .npy file of numbers at {path}: {error}") from error
    if found.ndim != 1 or found.is_complex() or not bool(found.isfinite().all()):
        raise errors.BadRequest(
            f"expected finite numbers in one dimension in {path}, found {found.dtype} of shape {tuple(found.shape)}"
        )
    return found.double()


def read_states(words: str) -> list[dict[str, Tensor]]:
    """Read weights of several networks: one file, or several with commas between them."""
    return [store.read_weights(Path(word)) for word in words.split(",")]


READERS: dict[str, Callable[[str], Any]] = {
    "plan": read_plan,
    "reduction": read_reduction,
    "localizer": read_criterion,
    "initial": lambda words: store.read_weights(Path(words)),
    "moments": lambda words: Moments.load(Path(words)),
    "memorization": lambda words: read_numbers(Path(words)),
    "datamodel": lambda words: Datamodel.load(Path(words)),
    "models": read_states,
}
"""Settings of recipes that are not numbers or words themselves."""

RECORDED = ("datamodel", "moments")
"""Those whose file a record names by its digest."""
WHENCE = {
    "plan": "a plan is a .toml file with the fields of a TrainPlan",
    "datamodel": "a datamodel is a file that `excise datamodel` writes",
    "models": "these are weights of networks that never saw the forget rows, FILE.safetensors,FILE.safetensors,…",
}
"""What recipes need and have no default for, and where it comes from."""
