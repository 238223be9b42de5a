"""What a ledger's owner brings each time: the network, its rows, and how it was trained; and which network is in use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from excise import errors, params, store
from excise.ledger.entries import Life
from excise.lifecycle.papers import RUNS, Papers
from excise.lifecycle.settings import source_digest
from excise.lifecycle.trained import Trained
from excise.masks import Mask
from excise.measure import accuracy
from excise.observe import collect
from excise.oracles.retrain import TrainFunction
from excise.pipeline.audited import environment
from excise.train.engine import Engine
from excise.train.plan import TrainPlan
from excise.train.task import Forward, Loss, Task, cross_entropy, device_of, forward_pair


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A network with its rows.

    Attributes:
        model: the original network; or the one in use, where the original is gone.
        trained: its rows.
        plan: how it was trained.
        fresh: builds the untrained network.
        forward: as in `excise.unlearn`.
        loss: as in `excise.unlearn`.
    """

    model: nn.Module
    trained: Trained
    plan: TrainPlan | TrainFunction | None = None
    fresh: Callable[[], nn.Module] | None = None
    forward: Forward = forward_pair
    loss: Loss = cross_entropy

    def environment(self) -> dict[str, object]:
        """Give what bits depend on besides the request."""
        return {**environment(), "device": str(device_of(params.unwrapped(self.model)))}

    def model_code(self) -> str | None:
        """Give the SHA-256 of the source file that `fresh` stands in, or else the network's class; None where there is none."""
        return source_digest(self.fresh or type(params.unwrapped(self.model)))

    def test_accuracy(self, model: nn.Module) -> float:
        """Give a network's accuracy on the test rows, in [0, 1]."""
        inner = params.unwrapped(model)
        seen = collect(inner, self.trained.test, Engine(Task(self.forward, self.loss), 0, Mask.empty(inner)))
        return float(accuracy(np.asarray(seen.logits), seen.targets))

    def original(self, life: Life) -> nn.Module | None:
        """Give the original network; None where only the one in use was given."""
        return self.model if params.model_digest(self.model) == life.original else None

    def in_use(self, papers: Papers, life: Life) -> nn.Module:
        """Give the network that the newest adopted run has made, or the original.

        Raises:
            errors.Corrupt: the model given is neither of the two, or the run's file is gone or does not hold the network of its
                receipt.
        """
        own, newest = params.model_digest(self.model), papers.newest()
        wanted = life.original if newest is None else str(newest.found["model_after"]).removeprefix("sha256:")
        if own == wanted:
            return self.model
        path = papers.model()
        if own != life.original or path is None:
            raise errors.Corrupt(
                f"expected the original network of this ledger (digest {life.original[:12]}…) or the one in use "
                f"({wanted[:12]}…), found another ({own[:12]}…); give the weights that the ledger was opened with"
            )
        made = params.clone_model(self.model)
        params.load_strictly_(made, store.read_tensors(path)[0], str(path))
        found = params.model_digest(made)
        if found != wanted:
            raise errors.Corrupt(
                f"{RUNS}/{path.parent.name}/{path.name} is not the network of its receipt: expected digest {wanted}, found "
                f"{found}"
            )
        return made
