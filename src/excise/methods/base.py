"""The bases of every unlearning method: by gradient steps, or at one stroke.

A method changes a network in place, inside a mask, through the engine's loop or the enforcer. It owns no loop over
epochs, no loader, no file, no metric, and does not judge itself.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from excise import checks, errors, params, seeds
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.loop import fit_
from excise.train.masked import Statistics, write_
from excise.train.plan import TrainPlan, require_plan
from excise.train.projection import Projection
from excise.train.step import Pass, Passes, Step
from excise.train.task import device_of

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

    @property
    def reads_labels(self) -> bool:
        """Whether the targets of the rows matter to the method; where not, they may be anything."""
        return True

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:  # noqa: B027
        """Refuse, before any work, what this method could not do with this network and these rows; `model` is only looked at.

        `excise.unlearn` asks a whole composition, which asks its parts, before the first of them runs. It is cheap and may be
        asked more than once: it trains nothing, makes no pass that scores, and reads only rows that the method needs. By
        default nothing is refused.

        Args:
            model: the network before the run; in a composition the parts before may have moved its weights by then.
            split: the rows.
            mask: coordinates that the method will surely be given; a part that finds its place later may be given more.
            engine: that of the run.
        """

    def for_network(self, model: nn.Module, split: Split, engine: Engine) -> Method:
        """Give the same method for another network, with what was prepared on this one prepared anew.

        An audit puts a recipe to networks other than the one that it was made for. By default a method knows nothing of the
        network that it will be given, and is the same for all.

        Args:
            model: another network of the same architecture, trained on the same rows; only looked at.
            split: the rows, all of them at hand.
            engine: task and seed; counts the cost.
        """
        return self

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

    @property
    def reads_labels(self) -> bool:
        """As the method."""
        return self.method.reads_labels

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse what the method refuses."""
        self.method.require(model, split, mask, engine)

    def for_network(self, model: nn.Module, split: Split, engine: Engine) -> Method:
        """Wrap the method for another network."""
        other = copy.copy(self)
        object.__setattr__(other, "method", self.method.for_network(model, split, engine))
        return other


class Phased(Method):
    """A method of gradient steps, whose epochs consist of passes over rows, each with an objective of its own.

    A subclass is a frozen dataclass with a `plan`; with a `forget_batch_size` too, if its forget rows may have one.
    """

    plan: TrainPlan
    forget_batch_size: int | None = None

    @property
    def changes_inputs(self) -> bool:
        """Whether steps run the network on inputs that are not the rows' own: then no activations are kept for them."""
        return False

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
        return {} if self.forget_batch_size is None else {"forget": self.forget_batch_size}

    def confined(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> tuple[Mask, Projection]:
        """Give the part of the mask to train in, and directions that no step leads in; by default all of it, and none."""
        return mask, {}

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse what is no plan. A subclass that refuses more asks this one, too."""
        require_plan(self.plan, type(self).__name__)

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
        after_epoch: Callable[[int], bool | None] | None = None,
    ) -> None:
        """Run the one loop on the method's passes, in place; `after_epoch` may look at the network and end the run."""
        require_plan(self.plan, type(self).__name__)
        place, projection = self.confined(model, split, mask, engine)
        fit_(
            model,
            self.passes(model, split, engine),
            self.rows(split, engine),
            self.plan,
            place,
            replace(engine, keep=None) if self.changes_inputs else engine,
            stage=type(self).__name__,
            statistics=self.statistics,
            batch_sizes=self.batch_sizes(),
            after_epoch=after_epoch,
            projection=projection,
        )


def require_method(name: str, value: object) -> None:
    """Refuse what is no method."""
    if not isinstance(value, Method):
        found = type(value).__name__
        raise errors.BadRequest(f"{name}: expected a method such as Finetune(plan=...), found {found}")


@torch.no_grad()
def answers(network: nn.Module, rows: Rows, engine: Engine) -> tuple[Tensor, Tensor]:
    """Give a network's logits and the targets of the first rows, at most 8, in eval mode; nothing else moves."""
    with seeds.isolated(engine.seed, "require"), params.untouched(network):
        network.eval()
        batch = next(batches(rows.head(8), 8, device_of(network)))
        return engine.task.forward(network, batch.content)


def require_forget_batch_size(size: int | None) -> None:
    """Refuse a batch size of the forget rows' own that is neither None nor at least 1."""
    if size is not None:
        checks.require_positive_int("forget_batch_size", size)


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
        self.require(model, split, mask, engine)
        write_(model, self.edit(model, split, mask, engine), mask)
