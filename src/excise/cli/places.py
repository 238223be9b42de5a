"""Words to places: a criterion with its budget, or a region by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from excise import errors
from excise.cli import choices, offers, tables
from excise.localize import (
    Convolutions,
    CriticalChannels,
    Cut,
    Everything,
    Head,
    LastLayers,
    Modules,
    Random,
    RandomLike,
    Reduction,
    Region,
)
from excise.localize.scores import COUNTS, SCOPES

REGIONS: dict[str, tuple[bool, Callable[[str, float], Region]]] = {
    "critical": (False, lambda _, budget: CriticalChannels(budget_fraction=budget)),
    "head": (False, lambda _, __: Head()),
    "convolutions": (False, lambda _, __: Convolutions()),
    "everything": (False, lambda _, __: Everything()),
    "modules": (True, lambda names, _: Modules(tuple(name for name in names.split(",") if name))),
    "last-layers": (True, lambda number, _: LastLayers(_whole(number))),
    "random-like": (True, lambda path, _: RandomLike(tables.read_mask(Path(path)))),
}
"""Regions by name: whether one takes words after a colon, and how it is made of these and the budget."""


def read_place(
    words: str,
    *,
    budget: float,
    granularity: str,
    count: str,
    scope: str,
    reduction: Reduction,
    lowest: bool,
    partial: bool,
) -> Region:
    """Give the region that `--criterion` and the options beside it name.

    Raises:
        errors.BadRequest: an unknown name, with the nearest; options that contradict one another, or say nothing of a region.
    """
    name, colon, argument = words.partition(":")
    if name in REGIONS:
        takes, make = REGIONS[name]
        if takes != bool(argument) or (colon and not argument):
            wanted = f"{name}:…, with words after a colon" if takes else f"{name} without words after a colon"
            raise errors.BadRequest(f"--criterion: expected {wanted}, found {words!r}")
        if lowest or partial:
            option = "--lowest" if lowest else "--partial"
            raise errors.BadRequest(
                f"{option}: {name} has no scores to cut; leave it out, or take a criterion with scores"
            )
        return make(argument, budget)
    known = [*choices.CRITERIA, *REGIONS, *offers.names(offers.WHERE, choices.CRITERIA)]
    if words not in known:
        raise errors.BadRequest(
            f"--criterion: expected one of {', '.join(known)}; found {words!r}{tables.nearest(words, known)}"
        )
    unit = choices.read_granularity(granularity)
    return Cut(
        Random(unit=unit) if words == "random" else choices.read_criterion(words),
        budget,
        granularity=unit,
        count=tables.known_word("--count", count, {word: word for word in COUNTS}),
        scope=tables.known_word("--scope", scope, {word: word for word in SCOPES}),
        lowest=lowest,
        reduction=reduction,
        partial=partial,
    )


def _whole(number: str) -> int:
    if not number.isdecimal():
        raise errors.BadRequest(f"--criterion: expected last-layers:K with a number K, found {number!r}")
    return int(number)
