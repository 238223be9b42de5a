"""The two bases of every answer to "where": a network and a split in, `Scores` or a `Mask` out, no weight changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from torch import nn

from excise import errors, params, seeds
from excise.data.split import Split
from excise.localize.scores import Scores
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.task import Forward, Loss, Task, cross_entropy, forward_pair


class Localizer(ABC):
    """Scores the weights of a network by how much they matter to some rows."""

    @property
    def reads_forget(self) -> bool:
        """Whether the scores depend on the forget rows."""
        return True

    @property
    def reads_retain(self) -> bool:
        """Whether the scores depend on retain rows besides the forget rows. If not, no retain row is touched."""
        return False

    @abstractmethod
    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give the scores; `model` is left as it was."""

    @final
    def __call__(
        self,
        model: nn.Module,
        split: Split,
        *,
        forward: Forward = forward_pair,
        loss: Loss = cross_entropy,
        seed: int = 0,
        hooks: Hooks | None = None,
    ) -> Scores:
        """Give the scores of a user's network, after checking that network and rows go together.

        Args:
            model: any module that maps inputs to logits `[batch, classes]`; left as it was.
            split: which rows to forget.
            forward: `(model, batch) -> logits, targets`, for other shapes of example.
            loss: `(logits, targets) -> [batch]`.
            seed: of whatever is drawn.
            hooks: who watches.

        Raises:
            errors.UnsupportedModel: no parameters, or no finite logits.
            errors.BadData: rows the network cannot take, or labels outside its head.
        """
        own, engine = _checked(model, split, Task(forward, loss), seed, hooks, reads_retain=self.reads_retain)
        with seeds.isolated(seed, "localize"):
            return self.score(own, split, engine)


class Region(ABC):
    """A part of a network, found by whatever rule: a mask, not scores."""

    @property
    def reads_forget(self) -> bool:
        """Whether the mask depends on the forget rows."""
        return True

    @property
    def reads_retain(self) -> bool:
        """Whether the mask depends on retain rows besides the forget rows. If not, no retain row is touched."""
        return False

    @abstractmethod
    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the mask; `model` is left as it was."""

    @final
    def __call__(
        self,
        model: nn.Module,
        split: Split,
        *,
        forward: Forward = forward_pair,
        loss: Loss = cross_entropy,
        seed: int = 0,
        hooks: Hooks | None = None,
    ) -> Mask:
        """Give the mask of a user's network, after checking that network and rows go together; see `Localizer`."""
        own, engine = _checked(model, split, Task(forward, loss), seed, hooks, reads_retain=self.reads_retain)
        with seeds.isolated(seed, "localize"):
            return self.locate(own, split, engine)


def require_localizer(value: object) -> None:
    """Refuse what gives no scores."""
    if not isinstance(value, Localizer):
        raise errors.BadRequest(
            f"localizer: expected one that gives scores, such as excise.localize.WeightGradient(), found "
            f"{type(value).__name__}"
        )


def _checked(
    model: nn.Module, split: Split, task: Task, seed: int, hooks: Hooks | None, *, reads_retain: bool
) -> tuple[nn.Module, Engine]:
    params.require_parameters(model)
    own = params.shadow_of(model, trainable=True)
    with seeds.isolated(seed, "probe"):
        task.require_fit(own, {"forget": split.forget} | ({"retain": split.retain} if reads_retain else {}))
    return own, Engine(task, seed, Mask.empty(own), hooks=hooks or Hooks())
