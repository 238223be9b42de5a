"""Train networks from scratch, by the user's plan or the user's own code, one after another.

Content-addressed: where a cache directory is given, a network is found again by the hash of all it depends on (code
version, fresh weights, what the network computes, rows and their content, plan, seed, threads), never by a file name or
a count.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from excise import errors, params, seeds, store
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.hooks import EpochTrace, Hooks
from excise.train.loop import Pass, fit_
from excise.train.plan import TrainPlan
from excise.train.task import Task, device_of
from excise.version import __version__

TrainFunction = Callable[[nn.Module, Dataset[Any], int], nn.Module]


@dataclass(frozen=True, eq=False)
class Trained:
    """A network trained from scratch.

    Attributes:
        seed: of its initial weights and its batches.
        state: its state dict, on the CPU.
        seconds: what the training took, also if it was found in the cache.
        trained_rows: examples passed forward and backward; None if the user's own code trained it.
    """

    seed: int
    state: dict[str, Tensor]
    seconds: float
    trained_rows: int | None


def retrain(
    fresh: Callable[[], nn.Module],
    rows: Rows,
    plan: TrainPlan | TrainFunction,
    train_seeds: Sequence[int],
    engine: Engine,
    *,
    stage: str = "oracle",
    cache: Path | None = None,
) -> list[Trained]:
    """Train one network a seed on `rows`, from fresh weights.

    Args:
        fresh: builds an untrained network, a new one at each call; called with global random numbers seeded from each seed.
        rows: what to train on.
        plan: a `TrainPlan`, or `train(model, dataset, seed) -> model`.
        train_seeds: one network each.
        engine: task and hooks; its cost counts what is trained.
        stage: name for progress.
        cache: directory to find networks in and keep them; networks trained by the user's own code (plan, forward or loss)
            are not kept, since code cannot be hashed.

    Raises:
        errors.Diverged: a training did.
        errors.BadRequest: the user's code gave no network, or another architecture, or the same object twice.
        errors.Corrupt: a network in the cache is not what was put there.
    """
    kept_at = cache if isinstance(plan, TrainPlan) and engine.task == Task() else None
    fingerprint = _fingerprint(rows) if kept_at is not None else ""
    found: list[Trained] = []
    before: nn.Module | None = None
    for number, seed in enumerate(train_seeds):
        with seeds.isolated(seed, "fresh"):
            model = fresh()
        if model is before:
            raise errors.BadRequest(
                "fresh: expected a new untrained network at each call, it gave the same object twice, "
                "trained by then; build the network inside the callable"
            )
        before = model
        path = kept_at and kept_at / f"{_key(model, rows, fingerprint, plan, seed, engine)}.safetensors"
        kept = _read(path, seed) if path is not None and path.exists() else None
        if kept is None:
            kept = _train(model, rows, plan, seed, engine, f"{stage} {number + 1}/{len(train_seeds)}")
            if path is not None:
                _write(path, kept)
        found.append(kept)
    return found


def _fingerprint(rows: Rows) -> str:
    with seeds.isolated(0, "fingerprint"):  # rows may be augmented at random
        return rows.fingerprint()


def _key(model: nn.Module, rows: Rows, fingerprint: str, plan: object, seed: int, engine: Engine) -> str:
    parts = [__version__, torch.__version__, params.model_digest(model), repr(model), _computed(model, rows, engine)]
    parts += [fingerprint, str(seed), msgspec.json.encode(plan).decode(), str(torch.get_num_threads())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@torch.no_grad()
def _computed(model: nn.Module, rows: Rows, engine: Engine) -> str:
    """Give the digest of a network's logits on a few rows in training mode: equal weights may stand in unequal code."""
    with seeds.isolated(0, "probe"):
        batch = next(iter(batches(rows, 8, device_of(model))))
        return params.digest({"logits": engine.task.forward(params.clone_model(model).train(), batch.content)[0]})


def _write(path: Path, kept: Trained) -> None:
    told = {"seconds": f"{kept.seconds:.3f}", "trained_rows": str(kept.trained_rows)}
    store.write_tensors(path, kept.state, {**told, "seal": _seal(path, kept.state, told)})


def _read(path: Path, seed: int) -> Trained:
    try:
        state, told = store.read_tensors(path)
    except errors.BadData as error:
        raise errors.Corrupt(f"{error}; remove it to have the network trained again") from error
    if told.get("seal") != _seal(path, state, told):
        raise errors.Corrupt(f"{path} is not what was put there; remove it to have the network trained again")
    return Trained(seed, state, float(told["seconds"]), int(told["trained_rows"]))


def _seal(path: Path, state: Mapping[str, Tensor], told: Mapping[str, str]) -> str:
    parts = [path.stem, params.digest(state), told.get("seconds", ""), told.get("trained_rows", "")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _train(
    model: nn.Module, rows: Rows, plan: TrainPlan | TrainFunction, seed: int, engine: Engine, stage: str
) -> Trained:
    started, before = time.perf_counter(), engine.cost.trained_rows
    if isinstance(plan, TrainPlan):
        own = replace(engine, seed=seed, trace=[], hooks=_Retold(engine.hooks, stage))
        fit_(model, _passes, {"retain": rows}, plan, Mask.full(model), own, stage="train", statistics="adapt")
        return Trained(seed, params.state_of(model), time.perf_counter() - started, engine.cost.trained_rows - before)
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


class _Retold(Hooks):
    """Tells of the one stage under a name that counts the networks. Random numbers depend on the stage and not on the count."""

    def __init__(self, inner: Hooks, stage: str) -> None:
        self._inner, self._stage = inner, stage

    def on_stage(self, name: str, num_steps: int) -> None:
        self._inner.on_stage(self._stage, num_steps)

    def on_step(self) -> None:
        self._inner.on_step()

    def on_epoch(self, trace: EpochTrace) -> None:
        self._inner.on_epoch(replace(trace, stage=self._stage))

    def on_stage_end(self, name: str) -> None:
        self._inner.on_stage_end(self._stage)


def _passes(_: int) -> tuple[Pass]:
    return (Pass(lambda step: step.mean_loss("retain"), ("retain",)),)
