"""The table of recipes: each name, and what it stands for in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from excise.attribution import Datamodel, Made, Part
from excise.localize import Region
from excise.methods import ClosestEpoch, Method, Partition, Sequence, Soften, Until, Widened, Within
from excise.recipes import controls, localized, published, whole
from excise.recipes.recipe import Recipe
from excise.train.plan import TrainPlan

RECIPES: dict[str, Callable[..., Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        localized.DEL,
        localized.SalUn,
        whole.SSD,
        whole.SCRUB,
        whole.SCRUBPlusR,
        whole.NegGrad,
        whole.NegGradPlus,
        whole.RandomLabel,
        whole.BadTeacher,
        whole.L1Sparse,
        whole.IU,
        whole.Finetune,
        localized.CFk,
        localized.EUk,
        localized.MSG,
        localized.CT,
        localized.RUM,
        published.DUCK,
        published.PGU,
        published.DMM,
        published.OracleMatching,
        published.JiT,
        controls.Retrain,
        controls.Nothing,
    )
}


def table() -> list[dict[str, Any]]:
    """Give every recipe as a row: name, year, paper, mask, method, and its named defaults."""
    rows = []
    for name, make in RECIPES.items():
        options = inspect.signature(make).parameters
        plain = {key: p.default for key, p in options.items() if isinstance(p.default, int | float | str)}
        example = example_of(make)
        rows.append(
            {
                "name": name,
                "year": example.year,
                "paper": example.paper,
                "mask": str(example.where),
                "method": _how(example.method, example.besides),
                "defaults": plain,
            }
        )
    return rows


def without_retain() -> list[str]:
    """Name the recipes that read no retain row, and need nothing made from such rows before."""
    ready = {name: make() for name, make in RECIPES.items() if not needed(make)}
    return [name for name, one in ready.items() if "retain" not in one.method.needs and not one.where.reads_retain]


def needed(make: Callable[..., Recipe]) -> tuple[str, ...]:
    """Name the settings that a recipe needs and that have no default: a plan, or something prepared beforehand."""
    options = inspect.signature(make).parameters.values()
    return tuple(option.name for option in options if option.default is option.empty)


def example_of(make: Callable[..., Recipe], **settings: Any) -> Recipe:
    """Give a recipe to look at, with stand-ins for what it needs and was not given (`STAND_INS`); not to be run."""
    return make(**{**{key: STAND_INS[key]() for key in needed(make)}, **settings})


def _knows_one_row() -> Datamodel:
    one = torch.zeros(1, 1)
    part = Part(torch.zeros(1, dtype=torch.int64), one, one[None])
    return Datamodel(weights=one, parts={"train": part}, made=Made(by="none"))


STAND_INS: dict[str, Callable[[], Any]] = {
    "plan": lambda: TrainPlan(epochs=1, lr=0.1),
    "datamodel": _knows_one_row,
    "models": lambda: [nn.Identity()],
}
"""What stands in for a prepared value, by the name of the setting, where recipes are looked at and not run."""


def _how(method: Method, besides: Region | None) -> str:
    def of(part: Method) -> str:
        return _how(part, besides)

    if isinstance(method, Sequence):
        return ", then ".join(map(of, method.methods))
    if isinstance(method, Partition):
        return ", ".join(f"{of(part)} for part {place}" for place, part in enumerate(method.methods, 1))
    if isinstance(method, Widened):
        return f"{of(method.method)} with {besides or 'nothing besides'}"
    if isinstance(method, Soften):
        return f"{of(method.method)}, slower by {method.outside:g} on the rest of {method.among}"
    if isinstance(method, Within):
        return f"{of(method.method)} in {method.where}"
    if isinstance(method, ClosestEpoch):
        return f"{of(method.method)}, back to the closest epoch"
    if isinstance(method, Until):
        return f"{of(method.method)}, until {method.rule}"
    return type(method).__name__
