"""The bases of every unlearning method: by gradient steps, or at one stroke.

A method changes a network in place, inside a mask, through the engine's loop or the enforcer. It owns no loop over
epochs, no loader, no file, no metric, and does not judge itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, final

from torch import Tensor, nn

from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.loop import Pass, Passes, Step, fit_
from excise.train.masked import Statistics, write_
from excise.train.plan import TrainPlan

Need = Literal["forget", "retain", "holdout", "fresh"]
NEEDS: tuple[Need, ...] = ("forget", "retain", "holdout", "fresh")


class Method(ABC):
    """How to change a network so that it forgets."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """What the method reads: forget, retain, holdout rows, a fresh network. What is not named is never touched."""

    @property
    def statistics(self) -> Statistics:
        """The rule for buffers that the method follows, see `excise.train.masked`."""
        return "follow-mask"

    @property
    def widens(self) -> bool:
        """Whether the method trains what a recipe may train besides its mask."""
        return False

    @abstractmethod
    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Change `model` in place, inside `mask` only."""


class Wrapping(Method):
    """A method that runs another one, of which it takes over what it does not say itself."""

    method: Method

    @property
    def statistics(self) -> Statistics:
        """The method's."""
        return self.method.statistics

    @property
    def widens(self) -> bool:
        """As the method."""
        return self.method.widens


class Phased(Method):
    """A method of gradient steps, whose epochs consist of passes over rows, each with an objective of its own.

    A subclass is a frozen dataclass with a `plan`.
    """

    plan: TrainPlan

    @abstractmethod
    def passes(self, model: nn.Module, split: Split, engine: Engine) -> Passes:
        """Give what each epoch consists of. A pass may stream what `rows` names."""

    def rows(self, split: Split, engine: Engine) -> Mapping[str, Rows]:
        """Give the rows that passes may stream, by name: forget and retain as needed, and `train` if both are."""
        every: dict[Need, Rows] = {"forget": split.forget, "retain": split.retain}
        found: dict[str, Rows] = {name: rows for name, rows in every.items() if name in self.needs}
        return found | {"train": split.train} if len(found) == 2 else found

    def batch_sizes(self) -> Mapping[str, int]:
        """Give the batch size of each stream that has one of its own; the plan's holds for the others."""
        return {}

    @final
    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Run the one loop on the method's passes, in place."""
        self.run_(model, split, mask, engine)

    @final
    def run_(
        self,
        model: nn.Module,
        split: Split,
        mask: Mask,
        engine: Engine,
        after_epoch: Callable[[int], None] | None = None,
    ) -> None:
        """Run the one loop on the method's passes, in place; `after_epoch` may look at the network after each epoch."""
        fit_(
            model,
            self.passes(model, split, engine),
            self.rows(split, engine),
            self.plan,
            mask,
            engine,
            stage=type(self).__name__,
            statistics=self.statistics,
            batch_sizes=self.batch_sizes(),
            after_epoch=after_epoch,
        )


class Iterative(Phased):
    """A method that minimises one objective by gradient steps.

    A subclass is a frozen dataclass with a `plan`; it says which rows it reads and what one step's objective is.
    """

    streams: ClassVar[tuple[Need, ...]]

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

    @final
    def passes(self, model: nn.Module, split: Split, engine: Engine) -> Passes:
        """One pass an epoch, over all streams together."""
        return lambda _: (Pass(self.objective, self.paced_streams()),)


class OneShot(Method):
    """A method that computes new parameter values once. What it gives is written inside the mask only."""

    @abstractmethod
    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give new values by parameter name, full size; parameters left out keep theirs. `model` is not changed.

        `mask` tells where the values will be written; most edits need not look at it.
        """

    @final
    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Write the edit through the enforcer, in place."""
        write_(model, self.edit(model, split, mask, engine), mask)
