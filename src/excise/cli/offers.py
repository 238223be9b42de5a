"""Recipes, methods, criteria and regions of other packages, beside the tables of our own."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Collection
from typing import Any

from excise import errors, plugins
from excise.localize import Localizer, Region
from excise.methods import Method
from excise.recipes import RECIPES, Recipe, table

log = logging.getLogger(__name__)

Groups = tuple[str, ...]
HOW: Groups = (plugins.RECIPES, plugins.METHODS)
WHERE: Groups = (plugins.LOCALIZERS,)


def names(groups: Groups, built_in: Collection[str]) -> list[str]:
    """Give the names that other packages offer in some groups and that are not built in, each once; loads no code."""
    found = dict.fromkeys(name for group in groups for name in plugins.names(group))
    return [name for name in found if name not in built_in]


def warn_of_clash(groups: Groups, name: str, built_in: Collection[str]) -> None:
    """Tell, once for each group, of a package whose offer is hidden by a name of ours."""
    for group in groups:
        clash = plugins.clash(group, name, built_in)
        if clash:
            log.warning("%s", clash)


def maker(groups: Groups, name: str) -> Callable[..., Any]:
    """Give what makes a recipe, or a localizer or a region, with the parameters of the package's own class or function.

    Raises:
        errors.BadRequest: the package cannot be loaded, or offers nothing that can be called; and, when called, one that
            raises or gives something else.
    """
    group = next(group for group in groups if name in plugins.names(group))
    offered, origin = plugins.load(group, name), plugins.origins(group, name)[0]
    what = f"{group}: {name!r} of {origin}"
    kinds: tuple[type, ...] = (Localizer, Region) if group == plugins.LOCALIZERS else (Recipe, Method)
    expected = " or ".join(f"a {kind.__name__}" for kind in kinds)
    if not callable(offered) or isinstance(offered, kinds):
        raise errors.BadRequest(
            f"{what}: expected a class or a function that gives {expected}, found {type(offered).__name__}"
        )

    @functools.wraps(offered, updated=())
    def make(**options: Any) -> Any:
        try:
            made = offered(**options)
        except errors.ExciseError:
            raise
        except Exception as error:
            raise errors.BadRequest(f"{what} raised {type(error).__name__}: {error}; correct or update it") from error
        if not isinstance(made, kinds):
            raise errors.BadRequest(f"{what}: expected {expected}, it gave {type(made).__name__}")
        if isinstance(made, Method):
            return Recipe(name=name, paper=f"(a method of {origin})", year=0, method=made)
        return made

    make.__signature__ = _signature(offered, what)  # type: ignore[attr-defined]
    return make


def _signature(offered: Callable[..., Any], what: str) -> inspect.Signature:
    try:
        return inspect.signature(offered, eval_str=True)
    except (NameError, TypeError, ValueError, AttributeError) as error:
        raise errors.BadRequest(f"{what}: its parameters cannot be read ({error}); annotate them plainly") from error


def rows() -> list[dict[str, Any]]:
    """Give every recipe as a row, ours first, then recipes and methods of other packages, each with where it is from.

    A package that cannot be loaded has a row that says so.
    """
    ours = [{**row, "from": "excise"} for row in table()]
    return ours + [_row(name) for name in names(HOW, RECIPES)]


def _row(name: str) -> dict[str, Any]:
    group = next(group for group in HOW if name in plugins.names(group))
    row = {"name": name, "year": 0, "paper": "", "mask": "", "method": "", "defaults": {}}
    row["from"] = " and ".join(plugins.origins(group, name))
    try:
        make = maker(HOW, name)
        options = inspect.signature(make).parameters.values()
    except errors.BadRequest as error:
        return {**row, "paper": str(error)}
    row["defaults"] = {one.name: one.default for one in options if isinstance(one.default, int | float | str)}
    if all(one.default is not one.empty for one in options):
        try:
            made: Recipe = make()
        except errors.ExciseError as error:
            return {**row, "paper": str(error)}
        return {
            **row,
            "year": made.year,
            "paper": made.paper,
            "mask": str(made.where),
            "method": type(made.method).__name__,
        }
    needed = ", ".join(one.name for one in options if one.default is one.empty)
    return {**row, "paper": f"(needs {needed})", "method": make.__name__}


def clashes(groups: Groups, built_in: Collection[str]) -> list[str]:
    """Say which offers of other packages are hidden by names of ours."""
    found = (plugins.clash(group, name, built_in) for group in groups for name in plugins.names(group))
    return [clash for clash in found if clash]
