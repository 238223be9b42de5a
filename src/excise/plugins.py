"""What other packages offer by entry point: methods, localizers, recipes, by name. Code is loaded only when asked for.

A package offers something with a line of its pyproject.toml:

    [project.entry-points."excise.methods"]
    Shrink = "excise_shrink:Shrink"
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import metadata
from typing import Any

from excise import errors

METHODS, LOCALIZERS, RECIPES = "excise.methods", "excise.localizers", "excise.recipes"
GROUPS = (METHODS, LOCALIZERS, RECIPES)


def names(group: str) -> list[str]:
    """Give the names that installed packages offer in a group, sorted, each once. Loads none of their code.

    Raises:
        errors.BadRequest: no group of ours.
    """
    return sorted({point.name for point in _points(group)})


def origins(group: str, name: str) -> list[str]:
    """Give the distributions that offer a name, with their versions, sorted. Loads none of their code."""
    return sorted({_origin(point) for point in _points(group) if point.name == name})


def clash(group: str, name: str, built_in: Collection[str]) -> str | None:
    """Say in words that a name of ours is offered by another package too, or give None. The built-in one is what counts."""
    others = origins(group, name) if name in built_in else []
    return f"{name!r} of {' and '.join(others)} is hidden by excise's own {name!r}" if others else None


def load(group: str, name: str) -> Any:
    """Give what a package offers under a name; this runs the package's code.

    Raises:
        errors.BadRequest: nobody offers the name; two distributions do; or the package cannot be imported, or has no
            such object.
    """
    found = {_origin(point): point for point in _points(group) if point.name == name}
    if not found:
        raise errors.BadRequest(
            f"{group}: expected one of {', '.join(names(group)) or 'the names of installed packages, which offer none'}; "
            f"found {name!r}; install the package that offers it"
        )
    if len(found) > 1:
        raise errors.BadRequest(
            f"{group}: {name!r} is offered by {' and by '.join(sorted(found))}; uninstall one of them"
        )
    ((origin, point),) = found.items()
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise errors.BadRequest(
            f"{group}: {name!r} of {origin} cannot be loaded from {point.value}: {type(error).__name__}: {error}; "
            "correct, update or uninstall that package"
        ) from error


def _points(group: str) -> list[metadata.EntryPoint]:
    if group not in GROUPS:
        raise errors.BadRequest(f"group: expected one of {', '.join(GROUPS)}, found {group!r}")
    return list(metadata.entry_points(group=group))


def _origin(point: metadata.EntryPoint) -> str:
    """Name a distribution; one seen on two paths of the same search is one."""
    dist = point.dist
    return "an unnamed distribution" if dist is None else f"{dist.name} {dist.version}"
