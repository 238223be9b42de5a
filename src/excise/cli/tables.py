"""Strings to objects, once: networks, data, ids, plans, masks; and how a word is looked up in any table.

Recipes and criteria are read in `choices`, places in `places`.
"""

from __future__ import annotations

import array
import difflib
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from excise import checks, errors, params, store
from excise.cli import offers
from excise.data import Split
from excise.data.rows import as_source
from excise.data.sets import DataSet, load
from excise.masks import Mask
from excise.networks import NETWORKS
from excise.oracles.retrain import TrainFunction
from excise.pipeline.unlearned import MASK
from excise.store.hidden import hide
from excise.store.values import MAX_TEXT_BYTES, read_array, read_content, read_json, read_toml
from excise.train.plan import TrainPlan

_Value = TypeVar("_Value")
EVERY_ROW = "all"
"""What `--forget` says of data that are rows to forget and nothing else."""


@dataclass(frozen=True)
class Problem:
    """What most commands start from.

    Attributes:
        model: the trained network on its device.
        fresh: builds the untrained one, or None.
        split: the rows.
        request: the words this was read from, and digests of what they named; plain values.
    """

    model: nn.Module
    fresh: Callable[[], nn.Module] | None
    split: Split
    request: dict[str, Any]


def read_problem(
    *,
    model: str,
    weights: Path,
    data: str,
    forget: Path,
    device: str,
    test: str | None = None,
    holdout: str | None = None,
    data_root: Path | None = None,
) -> Problem:
    """Build the network, load its weights, read the data and the ids; refuse what does not fit.

    Raises:
        errors.BadRequest: any of the words names nothing usable; before any work.
    """
    require_device(device)
    state = store.read_weights(weights)
    train, held_out, known = read_data(data, test, data_root)
    fresh, network = build_model(model, known)
    params.load_strictly_(network, state, str(weights))
    num_rows = len(as_source(train))
    if num_rows == 0:
        raise errors.BadData(f"--data: expected training rows, found an empty data set in {data}")
    unseen = None if holdout is None else read_rows(holdout, "--holdout")
    if str(forget) == EVERY_ROW:
        split = Split.of_forget(train, test=held_out, holdout=unseen)
    else:
        split = Split(train, forget=read_ids(forget, num_rows), test=held_out, holdout=unseen)
    request = {
        "model": model,
        "weights": str(weights),
        "weights_sha256": store.file_digest(weights),
        "data": data,
        "data_root": None if data_root is None else str(data_root),
        "num_rows": len(split.train),
        "forget": hide(str(forget)),  # a path may name a person
        "forget_commitment": store.commitment(split.forget.ids),
        "num_forget": len(split.forget),
        "device": device,
    }
    return Problem(network.to(device), fresh, split, request)


def require_device(words: str) -> None:
    """Refuse a device that torch cannot compute on here."""
    try:
        torch.zeros(1, device=words).cpu()
    except (RuntimeError, AssertionError) as error:
        raise errors.BadRequest(f"--device: {words!r} cannot be used here: {str(error).splitlines()[0]}") from error


def import_object(words: str, option: str) -> Any:
    """Give what `pkg.mod:name` names; the current directory is importable.

    Raises:
        errors.BadRequest: not of that form, no such module, no such name, or an error while importing.
    """
    module, _, name = words.partition(":")
    if not name or not module or "/" in module or module.endswith(".py"):
        raise errors.BadRequest(f"{option}: expected pkg.mod:name (a module as in `import pkg.mod`), found {words!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found = _theirs(lambda: _module(module, option, here), f"{option}: importing {module}")
    for part in name.split("."):
        if not hasattr(found, part):
            raise errors.BadRequest(f"{option}: {module} has no {name!r}{nearest(part, dir(found))}")
        found = getattr(found, part)
    return found


def _module(name: str, option: str, here: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # found, but it imports something that is not there
        raise errors.BadRequest(
            f"{option}: no module {error.name!r}; looked in {here} and where Python looks"
        ) from error


def _theirs(call: Callable[[], _Value], what: str) -> _Value:
    """Run the user's own code; what it raises is told as theirs."""
    try:
        return call()
    except (errors.ExciseError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise errors.BadRequest(
            f"{what} raised {type(error).__name__}: {error}; correct it there (--debug shows where)"
        ) from error


def nearest(word: str, known: Iterable[str]) -> str:
    """Give a "did you mean", or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def known_word(option: str, word: str, table: Mapping[str, _Value], groups: offers.Groups = ()) -> _Value:
    """Look a word up in its table, then among what other packages offer."""
    if word in table:
        offers.warn_of_clash(groups, word, table)
        return table[word]
    others = offers.names(groups, table)
    if word in others:
        made: Any = offers.maker(groups, word)
        return made  # type: ignore[no-any-return]
    known = [*table, *others]
    raise errors.BadRequest(f"{option}: expected one of {', '.join(known)}; found {word!r}{nearest(word, known)}")


def build_model(words: str, data: DataSet | None) -> tuple[Callable[[], nn.Module] | None, nn.Module]:
    """Give a builder of untrained networks (or None) and one network.

    A built-in network takes the number of classes, channels and pixels from built-in data.

    Raises:
        errors.BadRequest: neither a network of ours nor a callable that gives one.
        errors.UnsupportedModel: a network without parameters that may change.
    """
    if ":" not in words:
        make = known_word("--model, without a colon", words, NETWORKS)
        sizes = _sizes(make, data)
        return (lambda: make(**sizes)), make(**sizes)
    made = import_object(words, "--model")
    if not isinstance(made, nn.Module) and not callable(made):
        raise errors.BadRequest(f"--model: expected {words} to be a callable or a network, found {type(made).__name__}")
    network = made if isinstance(made, nn.Module) else _theirs(made, f"--model: {words}()")
    if not isinstance(network, nn.Module):
        raise errors.BadRequest(f"--model: expected {words}() to give a network, it gave {type(network).__name__}")
    params.require_parameters(network)
    return (None if made is network else made), network


def _sizes(make: Callable[..., nn.Module], data: DataSet | None) -> dict[str, int]:
    if data is None:
        return {}
    example = as_source(data.train).read(torch.tensor([0]))[0]
    offered = {"num_classes": data.num_classes, "in_channels": example.shape[1], "image_size": example.shape[2]}
    return {name: size for name, size in offered.items() if name in inspect.signature(make).parameters}


def read_data(words: str, test: str | None, data_root: Path | None) -> tuple[Any, Any, DataSet | None]:
    """Give training data, test data (or None), and the built-in data set they are (or None)."""
    own_test = None if test is None else read_rows(test, "--test")
    if ":" in words and not words.startswith("imagefolder:"):
        return read_rows(words, "--data"), own_test, None
    found = load(words, data_root)
    return found.train, found.test if own_test is None else own_test, found


def read_rows(words: str, option: str) -> Any:
    """Give a data set, or call what is not one."""
    found = import_object(words, option)
    if callable(found) and (inspect.isclass(found) or not hasattr(found, "__getitem__")):
        return _theirs(found, f"{option}: {words}()")
    return found


def read_ids(path: Path, num_rows: int) -> Tensor:
    """Read row ids: whitespace- or comma-separated integers, `#` to the end of a line left out; or a `.npy` array; or `all`.

    Raises:
        errors.BadSplit: no such file, something that is not an integer, or ids that do not fit the data.
    """
    if str(path) == EVERY_ROW:
        return torch.arange(num_rows)
    try:
        if path.suffix == ".npy":
            return checks.as_ids("--forget", read_array(path), num_rows)
        text = read_content(path, MAX_TEXT_BYTES).decode("utf-8-sig")
    except (errors.BadData, UnicodeDecodeError) as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise errors.BadSplit(f"--forget: expected a file of row ids at {path}, found none") from error
        raise errors.BadSplit(f"--forget: {path} cannot be read as row ids: {error}") from error
    ids = array.array("q")
    for found in _WORD.finditer(text):
        word = found[0]
        if word[0] == "#":
            continue
        digits = word[1:] if word[0] in "+-" else word
        if not (digits.isascii() and digits.isdecimal()) or len(word) > _LONGEST_ID:
            line = text.count("\n", 0, found.start()) + 1
            raise errors.BadSplit(
                f"--forget: expected integers, row ids from 0 to {num_rows - 1}; found something else in line {line} of {path}"
            )
        ids.append(int(word))
        if len(ids) > 2 * num_rows:  # so many are refused, whatever follows
            break
    return checks.as_ids("--forget", np.frombuffer(ids, np.int64) if ids else [], num_rows)


_WORD = re.compile(r"#[^\r\n]*|[^\s,#]+")
_LONGEST_ID = 18  # digits; more do not fit 64 bits


def read_mask(path: Path) -> Mask:
    """Give the mask that a file, or the directory of a run, holds."""
    found = path / MASK if path.is_dir() else path
    if not found.is_file():
        raise errors.BadRequest(f"--mask: expected a mask of `excise localize` at {path}, found no such file")
    return Mask.load(found)


def read_plan(words: str | None) -> TrainPlan | TrainFunction | None:
    """Give a training plan from a TOML or JSON file, or what `pkg.mod:name` names; None for None.

    Raises:
        errors.BadRequest: unreadable, a field that a `TrainPlan` does not have, or a value out of range.
    """
    if words is None:
        return None
    path = Path(words)
    if path.suffix in (".toml", ".json"):
        return _plan_in(path)
    if ":" not in words:
        raise errors.BadRequest(f"--plan: expected a .toml or .json file, or pkg.mod:name; found {words!r}")
    found: TrainPlan | TrainFunction = import_object(words, "--plan")
    if not isinstance(found, TrainPlan) and not callable(found):
        raise errors.BadRequest(
            f"--plan: expected {words} to be an excise.TrainPlan or train(model, dataset, seed) -> model, found "
            f"{type(found).__name__}"
        )
    return found if isinstance(found, TrainPlan) else _told_as_theirs(found, f"--plan: {words}()")


def _told_as_theirs(train: TrainFunction, what: str) -> TrainFunction:
    @functools.wraps(train)
    def told(model: nn.Module, rows: Dataset[Any], seed: int) -> nn.Module:
        return _theirs(lambda: train(model, rows, seed), what)

    return told


def _plan_in(path: Path) -> TrainPlan:
    try:
        return msgspec.convert((read_toml if path.suffix == ".toml" else read_json)(path), TrainPlan)
    except (errors.ExciseError, msgspec.ValidationError) as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise errors.BadRequest(f"--plan: expected a file at {path}, found none") from error
        what = f"{path}: {error}" if isinstance(error, msgspec.ValidationError) else str(error)
        fields = ", ".join(TrainPlan.__struct_fields__)
        raise errors.BadRequest(f"--plan: {what}; a plan has the fields {fields}") from error


def plan_values(plan: TrainPlan | TrainFunction | None) -> dict[str, Any] | None:
    """Give a plan as plain values for a record; None where it is the user's own code."""
    return msgspec.to_builtins(plan) if isinstance(plan, TrainPlan) else None
