"""Strings to objects, once: networks, data, ids, plans, recipes, criteria. Every table has its one home here."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import Tensor, nn

from excise import checks, errors, params, store
from excise.data import Split
from excise.data.rows import as_source
from excise.data.sets import SETS, DataSet, load
from excise.localize import Gradient, Localizer, Magnitude, Mean, Reduction, Top, WeightGradient
from excise.networks import NETWORKS
from excise.recipes import RECIPES, Recipe
from excise.train.plan import TrainPlan

CRITERIA: dict[str, Callable[[], Localizer]] = {
    "weight-gradient": WeightGradient,
    "gradient": Gradient,
    "magnitude": Magnitude,
    "weight-gradient-all": lambda: WeightGradient(rows="train"),
}


@dataclass(frozen=True)
class Problem:
    """What most commands start from.

    Attributes:
        model: the trained network on its device.
        fresh: builds the untrained one, or None.
        split: the rows.
    """

    model: nn.Module
    fresh: Callable[[], nn.Module] | None
    split: Split


def read_problem(
    *,
    model: str,
    weights: Path,
    data: str,
    forget: Path,
    device: str,
    test: str | None = None,
    data_root: Path | None = None,
) -> Problem:
    """Build the network, load its weights, read the data and the ids; refuse what does not fit.

    Raises:
        errors.BadRequest: any of the words names nothing usable; before any work.
    """
    train, held_out, known = read_data(data, test, data_root)
    fresh, network = build_model(model, known)
    params.load_strictly_(network, store.read_weights(weights), str(weights))
    try:
        network = network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise errors.BadRequest(f"--device {device}: {str(error).splitlines()[0]}") from error
    ids = read_ids(forget, len(as_source(train)))
    return Problem(network, fresh, Split(train, forget=ids, test=held_out))


def import_object(words: str, option: str) -> Any:
    """Give what `pkg.mod:name` names; the current directory is importable.

    Raises:
        errors.BadRequest: not of that form, no such module, no such name, or an error while importing.
    """
    module, _, name = words.partition(":")
    if not name or not module:
        raise errors.BadRequest(f"{option}: expected pkg.mod:name, found {words!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise errors.BadRequest(
            f"{option}: no module {error.name!r} (looked in {here} and where Python looks)"
        ) from error
    except Exception as error:
        raise errors.BadRequest(f"{option}: importing {module} failed: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise errors.BadRequest(f"{option}: {module} has no {name!r}{nearest(part, dir(found))}")
        found = getattr(found, part)
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """Give a "did you mean", or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def build_model(words: str, data: DataSet | None) -> tuple[Callable[[], nn.Module] | None, nn.Module]:
    """Give a builder of untrained networks (or None) and one network.

    A built-in network takes the number of classes, channels and pixels from built-in data.
    """
    if ":" not in words:
        if words not in NETWORKS:
            raise errors.BadRequest(
                f"--model: expected pkg.mod:make or one of {', '.join(NETWORKS)}; found {words!r}{nearest(words, NETWORKS)}"
            )
        sizes = _sizes(NETWORKS[words], data)
        return (lambda: NETWORKS[words](**sizes)), NETWORKS[words](**sizes)
    made = import_object(words, "--model")
    if isinstance(made, nn.Module):
        return None, made
    if not callable(made):
        raise errors.BadRequest(f"--model: expected {words} to be a callable or a network, found {type(made).__name__}")
    network = made()
    if not isinstance(network, nn.Module):
        raise errors.BadRequest(f"--model: expected {words}() to give a network, it gave {type(network).__name__}")
    return made, network


def _sizes(make: Callable[..., nn.Module], data: DataSet | None) -> dict[str, int]:
    if data is None:
        return {}
    example = as_source(data.train).read(as_ids([0]))[0]
    offered = {"num_classes": data.num_classes, "in_channels": example.shape[1], "image_size": example.shape[2]}
    return {name: size for name, size in offered.items() if name in inspect.signature(make).parameters}


def as_ids(values: list[int]) -> Tensor:
    """Give ids as the sources want them."""
    return checks.as_ids("ids", values, max(values) + 1)


def read_data(words: str, test: str | None, data_root: Path | None) -> tuple[Any, Any, DataSet | None]:
    """Give training data, test data (or None), and the built-in data set they are (or None)."""
    own_test = None if test is None else _called(import_object(test, "--test"))
    head = words.partition(":")[0]
    if head in SETS or head == "imagefolder" or ":" not in words:
        found = load(words, data_root)
        return found.train, own_test if own_test is not None else found.test, found
    return _called(import_object(words, "--data")), own_test, None


def _called(found: Any) -> Any:
    """Call what is a function; give a data set as it is."""
    return found() if inspect.isroutine(found) or inspect.isclass(found) else found


def read_ids(path: Path, num_rows: int) -> Tensor:
    """Read row ids: whitespace- or comma-separated integers, `#` to the end of a line left out; or a `.npy` array.

    Raises:
        errors.BadSplit: no such file, something that is not an integer, or ids that do not fit the data.
    """
    try:
        if path.suffix == ".npy":
            return checks.as_ids("--forget", np.load(path, allow_pickle=False), num_rows)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise errors.BadSplit(f"--forget: expected a file of row ids at {path}, found none") from error
    except (OSError, ValueError) as error:
        raise errors.BadSplit(f"--forget: {path} cannot be read: {error}") from error
    words = [word for line in text.splitlines() for word in line.partition("#")[0].replace(",", " ").split()]
    ids = []
    for place, word in enumerate(words):
        try:
            ids.append(int(word))
        except ValueError as error:
            raise errors.BadSplit(f"--forget: entry {place} of {path} is not an integer") from error
    return checks.as_ids("--forget", ids, num_rows)


def read_plan(words: str | None) -> Any:
    """Give a training plan from a TOML or JSON file, or what `pkg.mod:name` names; None for None.

    Raises:
        errors.BadRequest: unreadable, a field that a `TrainPlan` does not have, or a value out of range.
    """
    if words is None:
        return None
    path = Path(words)
    if path.suffix not in (".toml", ".json"):
        return import_object(words, "--plan")
    try:
        decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
        return decode(path.read_bytes(), type=TrainPlan)
    except FileNotFoundError as error:
        raise errors.BadRequest(f"--plan: expected a file at {path}, found none") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        fields = ", ".join(TrainPlan.__struct_fields__)
        raise errors.BadRequest(f"--plan: {path}: {error}; a plan has the fields {fields}") from error


def read_recipe(name: str, settings: list[str] | None) -> Recipe:
    """Give a recipe by name, with `key=value` settings.

    Raises:
        errors.BadRequest: unknown recipe or setting, with the nearest name; or a value of the wrong kind.
    """
    if name not in RECIPES:
        raise errors.BadRequest(
            f"--recipe: expected one of {', '.join(RECIPES)}; found {name!r}{nearest(name, RECIPES)}"
        )
    make = RECIPES[name]
    known = inspect.signature(make, eval_str=True).parameters
    options: dict[str, Any] = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or key not in known:
            raise errors.BadRequest(
                f"--set: expected key=value with a key of {name} ({', '.join(known)}); found {setting!r}{nearest(key, known)}"
            )
        options[key] = _setting(name, key, value, known[key].annotation)
    required = [key for key, parameter in known.items() if parameter.default is parameter.empty and key not in options]
    if required:
        raise errors.BadRequest(f"--recipe {name}: needs {required[0]}; give it as --set {required[0]}=…")
    return make(**options)


def _setting(recipe: str, key: str, value: str, kind: Any) -> Any:
    if key == "plan":
        return read_plan(value)
    if key == "reduction":
        return read_reduction(value)
    if key == "localizer":
        return read_criterion(value)
    try:
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, TypeError) as error:
        raise errors.BadRequest(f"--set {key}={value}: {recipe} takes {key} as {kind}; {error}") from error


def read_criterion(words: str) -> Localizer:
    """Give a localizer by name."""
    if words not in CRITERIA:
        raise errors.BadRequest(
            f"--criterion: expected one of {', '.join(CRITERIA)}; found {words!r}{nearest(words, CRITERIA)}"
        )
    return CRITERIA[words]()


def read_reduction(words: str) -> Reduction:
    """Give a channel reduction: `mean`, or `top:SHARE`."""
    if words == "mean":
        return Mean()
    head, _, share = words.partition(":")
    try:
        if head == "top":
            return Top(float(share))
    except ValueError as error:
        if isinstance(error, errors.ExciseError):
            raise
    raise errors.BadRequest(f"--reduction: expected mean or top:SHARE such as top:0.1, found {words!r}")
