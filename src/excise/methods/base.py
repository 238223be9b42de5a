"""The two bases of every unlearning method.

A method changes a network in place, inside a mask, through the engine's loop or the enforcer. It owns no loop over
epochs, no loader, no file, no metric, and does not judge itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, final

from torch import Tensor, nn

from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.loop import Step, fit_
from excise.train.masked import Statistics, write_
from excise.train.plan import TrainPlan

Need = Literal["forget", "retain", "fresh"]


class Method(ABC):
    """How to change a network so that it forgets."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """What the method reads: forget rows, retain rows, a fresh network. What is not named is never touched."""

    @property
    def statistics(self) -> Statistics:
        """The rule for buffers that the method follows, see `excise.train.masked`."""
        return "follow-mask"

    @property
    def trains_head(self) -> bool:
        """Whether the method asks for the classifier head besides its mask."""
        return False

    @abstractmethod
    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Change `model` in place, inside `mask` only."""


class Iterative(Method):
    """A method that minimises an objective by gradient steps.

    A subclass is a frozen dataclass with a `plan`; it says which rows it reads and what one step's objective is.
    """

    streams: ClassVar[tuple[Need, ...]]
    plan: TrainPlan

    @property
    def needs(self) -> frozenset[Need]:
        """The rows it streams."""
        return frozenset(self.streams)

    @abstractmethod
    def objective(self, step: Step) -> Tensor:
        """Give the scalar to minimise in one step."""

    def paced_streams(self) -> tuple[Need, ...]:
        """Name the streams, the one that paces the epochs first."""
        return self.streams

    def batch_sizes(self) -> Mapping[str, int]:
        """Give the batch size of each stream that has one of its own; the plan's holds for the others."""
        return {}

    @final
    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Run the one loop on the method's streams, in place."""
        rows: dict[str, Rows] = {name: getattr(split, name) for name in self.paced_streams()}
        fit_(
            model,
            self.objective,
            rows,
            self.plan,
            mask,
            engine,
            stage=type(self).__name__,
            statistics=self.statistics,
            batch_sizes=self.batch_sizes(),
        )


class OneShot(Method):
    """A method that computes new parameter values once. What it gives is written inside the mask only."""

    @abstractmethod
    def edit(self, model: nn.Module, split: Split, engine: Engine) -> Mapping[str, Tensor]:
        """Give new values by parameter name, full size; parameters left out keep theirs. `model` is not changed."""

    @final
    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Write the edit through the enforcer, in place."""
        write_(model, self.edit(model, split, engine), mask)
