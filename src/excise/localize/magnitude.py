"""Magnitude: the size of each weight, whatever the rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from excise.curvature import trainable
from excise.data.split import Split
from excise.localize.base import Localizer
from excise.localize.scores import Scores
from excise.train.engine import Engine


@dataclass(frozen=True)
class Magnitude(Localizer):
    """Score each weight by |theta|. Reads no rows and costs no pass; a control for criteria that do."""

    @property
    def reads_forget(self) -> bool:
        """No."""
        return False

    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give |theta|."""
        return Scores.of(model, {name: value.detach().abs() for name, value in trainable(model).items()})
