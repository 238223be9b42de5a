"""What the result of a run depends on beside its rows, as plain values: to go on with a run, and to repeat it."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from excise import params
from excise.attribution import Datamodel
from excise.curvature import Moments
from excise.masks import Mask
from excise.recipes import Recipe
from excise.store import file_digest
from excise.version import __version__


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Give every setting of a recipe, defaults included, as plain values that are the same in every process.

    What was prepared from rows is one digest. Of a datamodel without some rows the digest of its ids alone would say, to who
    tries them, which rows those are.
    """
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(_sealed(recipe), enc_hook=_plain))
    return found


def _sealed(value: Any) -> Any:
    """Give a value with each datamodel, and all moments, in it replaced by the digest of the whole."""
    if isinstance(value, Datamodel | Moments):
        return value.digest
    if isinstance(value, Mapping):
        return {key: _sealed(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_sealed(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _sealed(getattr(value, field.name)) for field in fields(value)}
    return value


def _plain(value: Any) -> str:
    """Give a tensor, a mask or a network by its digest, a function or class by its name, anything else by its kind."""
    if isinstance(value, Tensor):
        return params.digest({"": value})
    if isinstance(value, Mask):
        return value.digest
    if isinstance(value, nn.Module):
        return params.model_digest(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def code_digest() -> str:
    """Give version and SHA-256 of this library's source files."""
    root = Path(__file__).parents[1]
    running = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        running.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return f"excise {__version__} sha256:{running.hexdigest()}"


def source_digest(build: Callable[..., Any]) -> str | None:
    """Give `sha256:` and the SHA-256 of the source file in which a function or class stands; None where there is none to read.

    What that file imports is not covered.
    """
    while isinstance(build, functools.partial):
        build = build.func
    try:
        path = inspect.getsourcefile(inspect.unwrap(build))
        return None if path is None else f"sha256:{file_digest(Path(path))}"
    except (TypeError, ValueError, OSError):  # an object that is called; made in a console; a file that is gone
        return None


def differing(before: Any, now: Any, where: str = "") -> list[str]:
    """Say in which fields two records of plain values differ, with both values.

    >>> differing({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
    ['b.c: 2 there, 3 here']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now})
        at = f"{where}." if where else ""
        return [told for key in keys for told in differing(before.get(key), now.get(key), f"{at}{key}")]
    return [] if before == now else [f"{where}: {before!r} there, {now!r} here"]
