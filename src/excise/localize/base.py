"""The base of every localizer: a network and a split in, `Scores` out, no weight changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from torch import nn

from excise.data.split import Split
from excise.localize.scores import Scores
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.task import Forward, Loss, Task, cross_entropy, forward_pair


class Localizer(ABC):
    """Scores the weights of a network by how much they matter to some rows."""

    @property
    def reads_retain(self) -> bool:
        """Whether the scores depend on retain rows besides the forget rows. If not, no retain row is touched."""
        return False

    @abstractmethod
    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give the scores; `model` is left as it was."""

    @final
    def __call__(
        self, model: nn.Module, split: Split, *, forward: Forward = forward_pair, loss: Loss = cross_entropy
    ) -> Scores:
        """Give the scores of a user's network, after checking that network and rows go together.

        Args:
            model: any module that maps inputs to logits `[batch, classes]`; left as it was.
            split: which rows to forget.
            forward: `(model, batch) -> logits, targets`, for other shapes of example.
            loss: `(logits, targets) -> [batch]`.

        Raises:
            errors.UnsupportedModel: no parameters, or no finite logits.
            errors.BadData: rows the network cannot take, or labels outside its head.
        """
        task = Task(forward, loss)
        task.require_fit(model, {"forget": split.forget} | ({"retain": split.retain} if self.reads_retain else {}))
        return self.score(model, split, Engine(task, seed=0, head=Mask.empty(model)))
