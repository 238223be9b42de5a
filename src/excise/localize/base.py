"""The two bases of every answer to "where": a network and a split in, `Scores` or a `Mask` out, no weight changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar, final

from torch import nn

from excise import errors, params, seeds
from excise.data.placing import placed
from excise.data.split import Split
from excise.distributed import Processes
from excise.localize.scores import Scores
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.machine import Machine, require_machine
from excise.train.running import without_autocast
from excise.train.task import Forward, Loss, Task, cross_entropy, device_of, forward_pair

Found = TypeVar("Found")


class _Finder(ABC, Generic[Found]):
    """What both bases share: what is read, and the checked call on a user's network."""

    @property
    def reads_forget(self) -> bool:
        """Whether what is found depends on the forget rows."""
        return True

    @property
    def reads_retain(self) -> bool:
        """Whether it depends on retain rows besides the forget rows. If not, no retain row is touched."""
        return False

    @abstractmethod
    def _find(self, model: nn.Module, split: Split, engine: Engine) -> Found: ...

    @final
    @without_autocast()
    def __call__(
        self,
        model: nn.Module,
        split: Split,
        *,
        forward: Forward = forward_pair,
        loss: Loss = cross_entropy,
        seed: int = 0,
        hooks: Hooks | None = None,
        machine: Machine = Machine(),  # noqa: B008 - a frozen value
        processes: Processes = Processes.alone(),  # noqa: B008 - frozen
    ) -> Found:
        """Give the scores or the mask of a user's network, after checking that network and rows go together.

        Args:
            model: any module that maps inputs to logits `[batch, classes]`; left as it was.
            split: which rows to forget.
            forward: `(model, batch) -> logits, targets`, for other shapes of example.
            loss: `(logits, targets) -> [batch]`.
            seed: of whatever is drawn.
            hooks: who watches.
            machine: who reads the rows and where they lie. Scores are in the network's own precision whatever it says.
            processes: who calls this, each with the same arguments; gradients summed over rows are shared.

        Raises:
            errors.UnsupportedModel: no parameters, or no finite logits.
            errors.BadData: rows the network cannot take, or labels outside its head.
            errors.BadSplit: retain rows are read and there are none.
        """
        params.require_parameters(model)
        require_machine(machine)
        if self.reads_retain:
            split.require_retain(type(self).__name__, "; or a localizer of forget rows alone, such as WeightGradient()")
        own, task = params.shadow_of(model, trainable=True), Task(forward, loss)
        split = placed(split, device_of(own), on_device=machine.on_device, workers=machine.workers)
        with seeds.isolated(seed, "probe"):
            task.require_fit(own, {"forget": split.forget} | ({"retain": split.retain} if self.reads_retain else {}))
        with seeds.isolated(seed, "localize"):
            watch, nothing = hooks or Hooks(), Mask.empty(own)
            return self._find(
                own, split, Engine(task, seed, nothing, hooks=watch, machine=machine, processes=processes)
            )


class Localizer(_Finder[Scores]):
    """Scores the weights of a network by how much they matter to some rows."""

    @abstractmethod
    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give the scores; `model` is left as it was."""

    @final
    def _find(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        return self.score(model, split, engine)


class Region(_Finder[Mask]):
    """A part of a network, found by whatever rule: a mask, not scores."""

    @abstractmethod
    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the mask; `model` is left as it was."""

    @final
    def _find(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        return self.locate(model, split, engine)


def require_localizer(value: object) -> None:
    """Refuse what gives no scores."""
    if not isinstance(value, Localizer):
        raise errors.BadRequest(
            f"localizer: expected one that gives scores, such as excise.localize.WeightGradient(), found "
            f"{type(value).__name__}"
        )
