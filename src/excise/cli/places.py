"""Words to places: a criterion with its budget, or a region by name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise import checks, errors
from excise.cli import choices, offers, tables
from excise.localize import (
    Convolutions,
    CriticalChannels,
    Cut,
    Everything,
    Head,
    LastLayers,
    Localizer,
    Modules,
    Random,
    RandomLike,
    Region,
)
from excise.localize.scores import COUNTS, SCOPES


@dataclass(frozen=True, kw_only=True)
class Named:
    """A region that has a name here.

    Attributes:
        make: gives the region from the words after the colon and the budget.
        takes_words: whether it has words after a colon.
        reads_budget: whether the budget says something of it.
    """

    make: Callable[[str, float], Region]
    takes_words: bool = False
    reads_budget: bool = False


REGIONS: dict[str, Named] = {
    "critical": Named(make=lambda _, budget: CriticalChannels(budget_fraction=budget), reads_budget=True),
    "head": Named(make=lambda _, __: Head()),
    "convolutions": Named(make=lambda _, __: Convolutions()),
    "everything": Named(make=lambda _, __: Everything()),
    "modules": Named(make=lambda names, _: Modules(tuple(name for name in names.split(",") if name)), takes_words=True),
    "last-layers": Named(make=lambda number, _: LastLayers(_whole(number)), takes_words=True),
    "random-like": Named(make=lambda path, _: RandomLike(tables.read_mask(Path(path))), takes_words=True),
}

NAMES = (*choices.CRITERIA, *REGIONS)
"""Every criterion and region of ours."""

BUDGET = 0.3


def read_place(
    words: str,
    *,
    budget: float | None = None,
    granularity: str | None = None,
    count: str | None = None,
    scope: str | None = None,
    reduction: str | None = None,
    lowest: bool = False,
    partial: bool = False,
) -> tuple[Region, dict[str, Any]]:
    """Give the region that `--criterion` and the options beside it name, and the value that each of these has.

    An option that was not typed has its default; one that says nothing of a region is None.

    Raises:
        errors.BadRequest: an unknown name, with the nearest; options that contradict one another, or say nothing of a region.
    """
    typed: dict[str, Any] = {
        "budget": budget,
        "granularity": granularity,
        "count": count,
        "scope": scope,
        "reduction": reduction,
        "lowest": lowest or None,
        "partial": partial or None,
    }
    given = {option: value for option, value in typed.items() if value is not None}
    if budget is not None:
        checks.require_fraction("--budget", budget)
    idle = dict.fromkeys(typed)
    name = words.partition(":")[0]
    if name in REGIONS:
        offers.warn_of_clash(offers.WHERE, name, REGIONS)
        known = REGIONS[name]
        _refuse(name, given.keys() - ({"budget"} if known.reads_budget else set()))
        share = BUDGET if budget is None else budget
        return known.make(_argument(words, known), share), {**idle, "budget": share if known.reads_budget else None}
    known_names = [*NAMES, *offers.names(offers.WHERE, NAMES)]
    if words not in known_names:
        raise errors.BadRequest(
            f"--criterion: expected one of {', '.join(known_names)}; found {words!r}{tables.nearest(words, known_names)}"
        )
    found = choices.read_criterion(words)
    if isinstance(found, Region):
        _refuse(words, given)
        return found, idle
    return _cut(found, **given)


def _cut(
    localizer: Localizer,
    *,
    budget: float = BUDGET,
    granularity: str = "channel",
    count: str = "weights",
    scope: str = "network",
    reduction: str = "top:0.1",
    lowest: bool = False,
    partial: bool = False,
) -> tuple[Cut, dict[str, Any]]:
    unit = choices.read_granularity(granularity)
    cut = Cut(
        Random(unit=unit) if isinstance(localizer, Random) else localizer,
        budget,
        granularity=unit,
        count=tables.known_word("--count", count, {word: word for word in COUNTS}),
        scope=tables.known_word("--scope", scope, {word: word for word in SCOPES}),
        lowest=lowest,
        reduction=choices.read_reduction(reduction),
        partial=partial,
    )
    return cut, {
        "budget": budget,
        "granularity": granularity,
        "count": count,
        "scope": scope,
        "reduction": reduction,
        "lowest": lowest,
        "partial": partial,
    }


def _refuse(name: str, options: Collection[str]) -> None:
    """Refuse options that a region has no use for."""
    if options:
        raise errors.BadRequest(
            f"--{min(options)}: {name} has no scores to cut; leave it out, or take a criterion with scores"
        )


def _argument(words: str, known: Named) -> str:
    name, colon, argument = words.partition(":")
    if known.takes_words != bool(argument) or (colon and not argument):
        wanted = f"{name}:…, with words after a colon" if known.takes_words else f"{name} without words after a colon"
        raise errors.BadRequest(f"--criterion: expected {wanted}, found {words!r}")
    return argument


def _whole(number: str) -> int:
    if not number.isdecimal():
        raise errors.BadRequest(f"--criterion: expected last-layers:K with a number K, found {number!r}")
    return int(number)
