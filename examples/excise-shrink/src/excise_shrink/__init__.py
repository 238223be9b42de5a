"""Forget by shrinking weights: a method, a localizer and a recipe for `excise`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from excise import checks
from excise.localize import Cut, Localizer, Scores
from excise.methods import OneShot
from excise.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Shrink(OneShot):
    """Multiply the weights in the mask by a factor. Reads no rows."""

    factor: float = 0.5

    def __post_init__(self):
        checks.require_fraction("factor", self.factor)

    @property
    def needs(self):
        return frozenset()

    def edit(self, model, split, mask, engine):
        return {name: value.detach() * self.factor for name, value in model.named_parameters()}


@dataclass(frozen=True)
class RowNorms(Localizer):
    """Score every weight by the norm of its row. Reads no rows of data."""

    reads_forget = False

    def score(self, model, split, engine):
        own = dict(model.named_parameters())
        with torch.no_grad():
            values = {name: _norms(value) for name, value in own.items() if value.requires_grad}
        return Scores(values, {name: tuple(value.shape) for name, value in own.items()})


def _norms(value):
    rows = value.reshape(len(value), -1).norm(dim=1)
    return rows.reshape(-1, *(1,) * (value.ndim - 1)).expand(value.shape).clone()


def ShrinkLargest(*, budget_fraction: float = 0.3, factor: float = 0.5) -> Recipe:
    """Shrink the rows of largest norm."""
    where = Cut(RowNorms(), budget_fraction)
    return Recipe(name="ShrinkLargest", paper="(an example)", year=0, method=Shrink(factor=factor), where=where)
