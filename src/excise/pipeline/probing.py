"""Probes: what a network still knows and does not say. Each looks at a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from excise import errors, seeds
from excise.data.rows import Rows, Source
from excise.data.split import Split
from excise.measure import Measure, Relearner, accuracy, canary_test, fresh_projections, linear_probe
from excise.observe import collect, collect_recalibrated, features, projections, relearn
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.statistics import running_statistics
from excise.train.task import forward_pair

FITTED_ROWS = 2000
"""Retain rows that the linear probe is fitted to, at most."""

RELEARNT_ROWS = 256
"""Forget rows that are learnt again, at most: looking at all of them every few steps would cost their number squared."""

RELEARNING_EVERY = 4
"""Steps from one look at a relearning network to the next."""


@dataclass(frozen=True)
class Trigger:
    """A pattern that was planted with a class: what the removal of the rows is to undo.

    Attributes:
        apply: puts the pattern on a batch of inputs, `[batch, ...] -> [batch, ...]`.
        target: the class that the pattern calls for.
    """

    apply: Callable[[Tensor], Tensor]
    target: int


@dataclass(frozen=True)
class Confusion:
    """Two classes whose labels were exchanged in the rows to forget.

    Attributes:
        first: a class.
        second: another.
    """

    first: int
    second: int


Goal = Trigger | Confusion
"""What a correction is to undo. An oracle is no gold standard for it: it may have kept manipulated rows nobody knew of."""


@dataclass(frozen=True, eq=False)
class Canaries:
    """Rows that were trained on with secret Gaussian noise in them (`excise.observe.plant`), and were to be forgotten.

    Attributes:
        inputs: `[canaries, ...]`, before the noise.
        targets: `[canaries]`.
        noise: of the shape of `inputs`.
        scale: standard deviation of the noise.
    """

    inputs: Tensor
    targets: Tensor
    noise: Tensor
    scale: float

    def test(self, model: nn.Module, engine: Engine) -> Measure:
        """Test whether a network still knows the noise. Cost: one pass forward and backward over the canaries."""
        found = projections(model, self.inputs, self.targets, self.noise, engine, scale=self.scale)
        return canary_test(
            found, fresh_projections(found, np.random.default_rng(seeds.derive(engine.seed, "canaries")))
        )


@dataclass(frozen=True, eq=False)
class Probed:
    """What the probes found of one network. What does not apply to it is None.

    Attributes:
        recalibrated: accuracy on forget rows after its running statistics were recomputed from retain rows.
        probe: accuracy on forget rows of a new linear head, fitted to its features of retain rows.
        relearner: its curve of learning the forget rows again.
        logits: of test rows, with and without the goal's trigger; or of the goal's two classes.
    """

    recalibrated: float | None
    probe: float | None
    relearner: Relearner | None
    logits: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Prober:
    """Looks at networks, all in the same way.

    Attributes:
        split: forget, retain and test rows.
        engine: task and seed.
        goal: what is to be undone, or None.
        has_linear_head: whether features can be taken, see `prober_for`.
        fitted: rows that hold every class, to fit a linear head to: retain rows, or test rows where a class was removed.
        hooks: who hears of progress, network by network; of the steps within nobody does.
    """

    split: Split
    engine: Engine
    goal: Goal | None
    has_linear_head: bool
    fitted: Rows
    hooks: Hooks

    def look(self, model: nn.Module, test_accuracy: float) -> Probed:
        """Probe one network; it is left as it was."""
        with seeds.isolated(self.engine.seed, "probes"):
            return Probed(
                recalibrated=self._recalibrated(model),
                probe=self._probe(model) if self.has_linear_head else None,
                relearner=self._relearner(model, test_accuracy),
                logits=self._goal_logits(model),
            )

    def logits(self, model: nn.Module, rows: Rows) -> np.ndarray:
        """Give a network's logits, `[rows, classes]`."""
        return collect(model, rows, self.engine).logits

    def _recalibrated(self, model: nn.Module) -> float | None:
        if not running_statistics(model) or len(self.split.retain) < 2:
            return None
        found = collect_recalibrated(model, self.split.retain, self.split.forget, self.engine)
        return None if found is None else accuracy(found.logits, found.targets)

    def _probe(self, model: nn.Module) -> float:
        generator = np.random.default_rng(seeds.derive(self.engine.seed, "linear probe"))
        fitted = _some(self.fitted, FITTED_ROWS, self.engine.seed, "fitted")
        labels = [rows.labels().numpy() for rows in (fitted, self.split.forget)]
        inside, outside = (features(model, rows, self.engine) for rows in (fitted, self.split.forget))
        return linear_probe(inside, labels[0], {"forget": (outside, labels[1])}, generator)["forget"]

    def _relearner(self, model: nn.Module, test_accuracy: float) -> Relearner | None:
        try:
            some = _some(self.split.forget, RELEARNT_ROWS, self.engine.seed, "relearnt")
            found = relearn(model, some, self.engine, every=RELEARNING_EVERY)
        except errors.Diverged:
            return None
        return Relearner(accuracy=found.accuracy, utility=test_accuracy)

    def _goal_logits(self, model: nn.Module) -> dict[str, np.ndarray]:
        test = self.split.test
        if self.goal is None or test is None:
            return {}
        found = {"clean": collect(model, test, self.engine).logits}
        if isinstance(self.goal, Trigger):
            triggered = Rows(_Triggered(test.source, self.goal.apply), test.ids)
            found["triggered"] = collect(model, triggered, self.engine).logits
        return found


def prober_for(model: nn.Module, split: Split, engine: Engine, goal: Goal | None) -> Prober:
    """Give a prober, after finding out what can be probed of networks like this one.

    Raises:
        errors.BadRequest: a goal that does not fit the data.
    """
    own = replace(engine, trace=[], hooks=Hooks())
    plain = engine.task.forward is forward_pair
    if goal is not None and not plain:
        raise errors.BadRequest("goal: expected examples of the form (input, label), found a custom forward=")
    _require_goal(goal, split)
    fitted = split.retain
    if plain and split.test is not None and not torch.isin(split.forget.labels(), split.retain.labels()).all():
        fitted = split.test
    try:
        features(model, split.forget.head(1), own)
        has_head = plain and len(torch.unique(fitted.labels())) > 1
    except errors.UnsupportedModel:
        has_head = False
    return Prober(split, own, goal, has_head, fitted, engine.hooks)


def _some(rows: Rows, most: int, seed: int, purpose: str) -> Rows:
    """Give at most so many of the rows, drawn from the seed."""
    if len(rows) <= most:
        return rows
    drawn = torch.randperm(len(rows), generator=seeds.generator(seed, purpose))[:most]
    return Rows(rows.source, rows.ids[drawn].sort().values)


def _require_goal(goal: Goal | None, split: Split) -> None:
    if goal is None or split.test is None:
        return
    known = torch.unique(split.test.labels()).tolist()
    wanted = [goal.target] if isinstance(goal, Trigger) else [goal.first, goal.second]
    missing = sorted(set(wanted) - set(known))
    alone = isinstance(goal, Trigger) and known == wanted
    if missing or alone or len(set(wanted)) < len(wanted):
        what = f"class {missing[0]}" if missing else f"{wanted} among {known}"
        raise errors.BadRequest(f"goal: expected classes that the test rows have, and others beside them, found {what}")
    if isinstance(goal, Trigger):
        _require_trigger(goal, split.test)


def _require_trigger(goal: Trigger, rows: Rows) -> None:
    """Try the trigger on two rows."""
    inputs = rows.source.read(rows.ids[:2])[0]
    try:
        found = goal.apply(inputs.clone())
    except Exception as error:
        raise errors.BadRequest(
            f"goal: the trigger's apply raised {type(error).__name__} on two test rows: {error}; it takes a batch of inputs"
        ) from error
    if not isinstance(found, Tensor) or found.shape != inputs.shape:
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise errors.BadRequest(
            f"goal: expected the trigger's apply to give inputs of shape {list(inputs.shape)}, found {what}"
        )


def probed(prober: Prober, models: Sequence[nn.Module], test_accuracies: Sequence[float], stage: str) -> list[Probed]:
    """Probe several networks, telling of progress."""
    hooks = prober.hooks
    hooks.on_stage(stage, len(models))
    found = []
    for model, value in zip(models, test_accuracies, strict=True):
        found.append(prober.look(model, value))
        hooks.on_step()
    hooks.on_stage_end(stage)
    return found


class _Triggered(Source):
    """Rows whose inputs carry a trigger."""

    def __init__(self, inner: Source, apply: Callable[[Tensor], Tensor]) -> None:
        self._inner, self._apply = inner, apply

    def __len__(self) -> int:
        return len(self._inner)

    def read(self, ids: Tensor) -> Any:
        inputs, *rest = self._inner.read(ids)
        return (self._apply(inputs.clone()), *rest)

    def labels(self, ids: Tensor) -> Tensor:
        return self._inner.labels(ids)
