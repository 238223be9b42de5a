"""Which settings of a recipe are searched, and where: what the caller asks for, or what the recipe's own defaults suggest."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from excise import errors
from excise.recipes import Recipe

MakeRecipe = Callable[..., Recipe]
"""A function of `excise.recipes`, or anything with keyword settings that gives a recipe."""

DECADE = 10.0
"""How far a searched learning rate may lie from the recipe's own: a decade to either side, since the published rates are of
other networks and data."""

NOT_SEARCHED = ("batch_size", "momentum", "weight_decay", "temperature", "num_rows")
"""Numeric settings that no default space holds."""


class Range(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: the smallest.
        high: the largest.
        log: evenly in the logarithm.
        whole: integers only.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Say whether a value lies inside."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high


class Choices(msgspec.Struct, frozen=True, tag=True):
    """A few values to choose from: numbers, words, booleans or None."""

    values: tuple[Any, ...]

    def holds(self, value: object) -> bool:
        """Say whether a value is one of them."""
        return any(type(value) is type(one) and value == one for one in self.values)

    @property
    def ends(self) -> tuple[Any, Any]:
        """The first and the last."""
        return self.values[0], self.values[-1]


Space = dict[str, Range | Choices]


def read_space(make: MakeRecipe, space: Mapping[str, object] | None) -> Space:
    """Give the space to search, checked against the recipe's own settings.

    Args:
        make: gives the recipe; what is to stay fixed is bound with `functools.partial`.
        space: for each setting a list of values, `(low, high)` or `(low, high, "log")`; None for `default_space`.

    Raises:
        errors.BadRequest: no function that makes a recipe; settings that it does not have, that are left out though it needs
            them, or of which a value is refused by the recipe.
    """
    options = _options(make)
    name = recipe_name(make)
    if space is None:
        found = default_space(make)
        if not found:
            raise errors.BadRequest(f"space: {name} has no numeric setting to search; there is nothing to tune")
    else:
        if not isinstance(space, Mapping) or not space:
            raise errors.BadRequest(
                'space: expected settings and where to search them, such as {"lr": (1e-3, 0.3, "log"), '
                f'"epochs": [2, 4, 8]}}; found {space!r}'
            )
        unknown = [key for key in space if key not in options]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), list(options), n=1)
            raise errors.BadRequest(
                f"space: {name} has no setting {unknown[0]!r}{f'; did you mean {near[0]!r}?' if near else ''}; it has "
                f"{', '.join(options) or 'none'}"
            )
        found = {key: _read(key, value, options[key].annotation) for key, value in space.items()}
    missing = [key for key, one in options.items() if one.default is one.empty and key not in found]
    if missing:
        raise errors.BadRequest(
            f"recipe: {name} needs {missing[0]}; bind it, as in functools.partial(recipes.{name}, {missing[0]}=...)"
        )
    for end in (0, 1):  # what the recipe refuses anyway is told before any work
        make(**{key: place.ends[end] for key, place in found.items()})
    return found


def recipe_name(make: MakeRecipe) -> str:
    """Give the name of the function under any bound settings."""
    return str(getattr(getattr(make, "func", make), "__name__", "the recipe"))


def default_settings(make: MakeRecipe, space: Space) -> dict[str, Any] | None:
    """Give the recipe's own values of what is searched, or None where one of them is not in the space."""
    options = _options(make)
    own = {key: options[key].default for key in space}
    return own if all(place.holds(own[key]) for key, place in space.items()) else None


def default_space(make: MakeRecipe) -> Space:
    """Give a space from a recipe's own numeric defaults.

    - `lr`, and `sigma` of noise: evenly in the logarithm, a decade to either side.
    - `epochs` and whatever ends in `_epochs`: half of it, itself, twice that.
    - what ends in `_fraction`: from a third of it to twice that, at most 0.9.
    - Where there is none of these (SSD, IU), every other positive number but those of `NOT_SEARCHED`: a decade to either side
      in the logarithm, whole numbers half and twice.
    """
    own = {key: one.default for key, one in _options(make).items() if type(one.default) in (int, float)}
    own = {key: value for key, value in own.items() if value > 0 and key not in NOT_SEARCHED}
    usual = {key: place for key, value in own.items() if (place := _usual(key, value)) is not None}
    return usual or {key: _around(value) for key, value in own.items()}


def _usual(key: str, value: float) -> Range | Choices | None:
    if key in ("lr", "sigma"):
        return _around(float(value))
    if key == "epochs" or key.endswith("_epochs"):
        return _around(int(value))
    if key.endswith("_fraction"):
        return Range(low=value / 3, high=min(0.9, 2 * value))
    return None


def _around(value: float) -> Range | Choices:
    if isinstance(value, int):
        return Choices(tuple(sorted({max(1, value // 2), value, 2 * value})))
    return Range(low=value / DECADE, high=value * DECADE, log=True)


def _options(make: MakeRecipe) -> Mapping[str, inspect.Parameter]:
    if isinstance(make, Recipe) or not callable(make):
        raise errors.BadRequest(
            "recipe: expected a function that makes a recipe from settings, such as excise.recipes.DEL (not called), found "
            f"{type(make).__name__}"
        )
    return inspect.signature(make, eval_str=True).parameters


def _read(key: str, value: object, kind: Any) -> Range | Choices:
    if isinstance(value, list) and value:
        values = tuple(_typed(key, one, kind) for one in value)
        if len({(type(one), one) for one in values}) == len(values):
            return Choices(values)
    elif isinstance(value, tuple) and (len(value) == 2 or (len(value) == 3 and value[2] == "log")):
        ends = [_typed(key, end, kind) for end in value[:2]]
        log = len(value) == 3
        numbers = all(type(end) in (int, float) and math.isfinite(end) for end in ends)
        if numbers and ends[0] < ends[1] and (ends[0] > 0 or not log):
            return Range(low=ends[0], high=ends[1], log=log, whole=all(isinstance(end, int) for end in ends))
    raise errors.BadRequest(
        f'space: {key}: expected a list of different values, (low, high), or (low, high, "log") with 0 < low; '
        f"found {value!r}"
    )


def _typed(key: str, value: object, kind: Any) -> Any:
    """Give a value in the type that the recipe takes."""
    plain = isinstance(value, bool | int | float | str) or value is None
    try:
        if plain and kind is not inspect.Parameter.empty:
            return msgspec.convert(value, kind)
    except (msgspec.ValidationError, TypeError) as error:  # a type that takes no plain value at all is a TypeError
        raise errors.BadRequest(f"space: {key}: {value!r} is not what the recipe takes: {error}") from error
    if not plain:
        raise errors.BadRequest(
            f"space: {key}: only numbers, words, booleans and None can be searched, found {type(value).__name__}"
        )
    return value
