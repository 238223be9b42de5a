"""Train networks from scratch, by the user's plan or the user's own code, one after another.

Content-addressed: where a cache directory is given, a network is found again by the hash of all it depends on (code
version, fresh weights, rows and their content, plan, seed, threads), never by a file name or a count.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from excise import errors, params, seeds, store
from excise.data.rows import Rows
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.loop import Step, fit_
from excise.train.plan import TrainPlan
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
        fresh: builds an untrained network; called with global random numbers seeded from each seed.
        rows: what to train on.
        plan: a `TrainPlan`, or `train(model, dataset, seed) -> model`.
        train_seeds: one network each.
        engine: task and hooks; its cost counts what is trained.
        stage: name for progress.
        cache: directory to find networks in and keep them; networks trained by the user's own code are not kept, since
            their code cannot be hashed.

    Raises:
        errors.Diverged: a training did.
        errors.BadRequest: the user's code gave no network, or another architecture.
    """
    fingerprint = rows.fingerprint() if cache is not None and isinstance(plan, TrainPlan) else None
    found = []
    for number, seed in enumerate(train_seeds):
        with seeds.isolated(seed, "fresh"):
            model = fresh()
        path = (
            None
            if cache is None or fingerprint is None
            else cache / f"{_key(model, fingerprint, plan, seed)}.safetensors"
        )
        kept = _read(path, seed)
        if kept is None:
            kept = _train(model, rows, plan, seed, engine, f"{stage} {number + 1}/{len(train_seeds)}")
            if path is not None:
                told = {"seconds": f"{kept.seconds:.3f}", "trained_rows": str(kept.trained_rows)}
                store.write_tensors(path, kept.state, told)
        found.append(kept)
    return found


def _key(model: nn.Module, fingerprint: str, plan: object, seed: int) -> str:
    parts = [__version__, torch.__version__, params.model_digest(model), fingerprint, str(seed)]
    parts += [msgspec.json.encode(plan).decode(), str(torch.get_num_threads())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _read(path: Path | None, seed: int) -> Trained | None:
    if path is None or not path.exists():
        return None
    state, told = store.read_tensors(path)
    return Trained(seed, state, float(told["seconds"]), int(told["trained_rows"]))


def _train(
    model: nn.Module, rows: Rows, plan: TrainPlan | TrainFunction, seed: int, engine: Engine, stage: str
) -> Trained:
    started, before = time.perf_counter(), engine.cost.trained_rows
    if isinstance(plan, TrainPlan):
        own = replace(engine, seed=seed, trace=[])
        fit_(model, _objective, {"retain": rows}, plan, Mask.full(model), own, stage=stage, statistics="adapt")
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


def _objective(step: Step) -> Tensor:
    return step.mean_loss("retain")
