"""Magnitude: the size of each weight, whatever the rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from excise import params
from excise.data.split import Split
from excise.localize.base import Localizer
from excise.localize.scores import Scores
from excise.train.engine import Engine


@dataclass(frozen=True)
class Magnitude(Localizer):
    """Score each weight by |theta|. Reads no rows and costs no pass; a control for criteria that do."""

    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give |theta|."""
        own = params.named_parameters(model)
        values = {name: value.detach().abs() for name, value in own.items() if value.requires_grad}
        return Scores(values, {name: tuple(value.shape) for name, value in own.items()})
