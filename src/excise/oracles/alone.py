"""One training from scratch, by itself: from fresh weights to a network that is kept in the bank, and on after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from excise import errors, params, seeds, store
from excise.data.rows import Rows
from excise.masks import Mask
from excise.oracles import keys
from excise.oracles.bank import TRAINING, Bank, Kind, Trained
from excise.train.checkpoints import Checkpoints
from excise.train.engine import Engine
from excise.train.hooks import EpochTrace, Forwarding, Hooks
from excise.train.loop import fit_
from excise.train.plan import TrainPlan
from excise.train.step import Pass

TrainFunction = Callable[[nn.Module, Dataset[Any], int], nn.Module]


@dataclass(frozen=True, eq=False)
class Wanted:
    """A network to be found or trained: its place among those asked for, its seed, fresh weights, and rows."""

    number: int
    seed: int
    model: nn.Module
    rows: Rows
    fingerprint: str


Missing = tuple[Wanted, Mapping[str, str]]
"""A network that is to be trained, and what its key is the hash of."""


@dataclass(frozen=True, eq=False)
class Alone:
    """What the trainings of one call of `retrain` share.

    Attributes:
        plan: how.
        engine: task, hooks and cost; without checkpoints.
        checkpoints: how often one is kept in the bank; None for never.
        stage: name for progress.
        rows: of each network asked for.
        bank: where networks are kept; None for nowhere.
        kind: what the rows are.
    """

    plan: TrainPlan | TrainFunction
    engine: Engine
    checkpoints: Checkpoints | None
    stage: str
    rows: Sequence[Rows]
    bank: Bank | None
    kind: Kind

    def train(self, missing: Missing, ids: Tensor | str | None = None) -> Trained:
        """Train a network and keep it; `ids` as in `keep`."""
        one, told = missing
        stage = f"{self.stage} {one.number + 1}/{len(self.rows)}"
        with self.resumable(told) as engine:
            trained = _train(one.model, one.rows, self.plan, one.seed, engine, stage)
            self.keep(missing, trained, ids, together=False)
        return trained

    def keep(self, missing: Missing, trained: Trained, ids: Tensor | str | None = None, *, together: bool) -> None:
        """Keep a network in the bank, if there is one; `ids` of its rows, or their digest, are its own if None."""
        one, told = missing
        if self.bank is not None:
            self.bank.keep(
                keys.key(told, together=together),
                trained,
                kind=self.kind,
                architecture=type(params.unwrapped(one.model)).__name__,
                num_parameters=sum(value.numel() for value in one.model.parameters()),
                num_rows=len(one.rows),
                rows=one.rows.ids if ids is None else ids,
            )

    @contextmanager
    def resumable(self, told: Mapping[str, str]) -> Iterator[Engine]:
        """Give the engine for one training, whose checkpoints are removed at the end of the block, when the network is kept."""
        if self.checkpoints is None or self.bank is None:
            yield self.engine
            return
        key = keys.key(told, together=False)
        place = self.bank.directory / f"{TRAINING}{key}"
        own = self.checkpoints.at(place, key, ends=False)
        with ExitStack() as held:
            try:
                held.enter_context(store.lock(place))
            except errors.InUse:  # another process trains this very network: each does so by itself
                yield self.engine
                return
            yield replace(self.engine, checkpoints=own)
            own.clear()
        store.remove_empty(place)  # now that its lock is gone

    def put_away(self, told: Mapping[str, str]) -> None:
        """Remove the checkpoints of a training that was killed when its network had just been kept."""
        if self.bank is not None and (self.bank.directory / f"{TRAINING}{keys.key(told, together=False)}").exists():
            with self.resumable(told):
                pass


def train_here(alone: Alone, missing: Missing) -> Trained:
    """Train a network in this process, as a job of `excise.cluster.Here`."""
    return alone.train(missing)


def _train(
    model: nn.Module, rows: Rows, plan: TrainPlan | TrainFunction, seed: int, engine: Engine, stage: str
) -> Trained:
    started, before, earlier = time.perf_counter(), engine.cost.trained_rows, engine.cost.seconds
    if isinstance(plan, TrainPlan):
        own = replace(engine, seed=seed, trace=[], hooks=Retold(engine.hooks, stage))
        fit_(model, _passes, {"retain": rows}, plan, Mask.full(model), own, stage="train", statistics="adapt")
        seconds = time.perf_counter() - started + engine.cost.seconds - earlier
        return Trained(seed, params.state_of(model), seconds, engine.cost.trained_rows - before)
    engine.hooks.on_stage(stage, 1)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    with seeds.isolated(seed, "train"):
        trained = plan(model, rows.as_dataset(), seed)
    engine.hooks.on_stage_end(stage)
    if not isinstance(trained, nn.Module):
        raise errors.BadRequest(
            f"plan: expected train(model, dataset, seed) to return the network, found {type(trained).__name__}"
        )
    state = params.state_of(trained)
    if {name: value.shape for name, value in state.items()} != expected:
        raise errors.BadRequest("plan: train(model, dataset, seed) returned a network of another architecture")
    return Trained(seed, state, time.perf_counter() - started, None)


class Retold(Forwarding):
    """Tells of the one stage under a name that counts the networks. Random numbers depend on the stage and not on the count."""

    def __init__(self, inner: Hooks, stage: str) -> None:
        super().__init__(inner)
        self._stage = stage

    def on_stage(self, name: str, num_steps: int) -> None:
        """Tell it under the other name."""
        super().on_stage(self._stage, num_steps)

    def on_epoch(self, trace: EpochTrace) -> None:
        """Tell it under the other name."""
        super().on_epoch(replace(trace, stage=self._stage))

    def on_stage_end(self, name: str) -> None:
        """Tell it under the other name."""
        super().on_stage_end(self._stage)


def _passes(_: int) -> tuple[Pass]:
    return (Pass(lambda step: step.mean_loss("retain"), ("retain",)),)
