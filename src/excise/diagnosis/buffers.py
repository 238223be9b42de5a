"""Whose rows the running statistics of normalisation layers remember, measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from excise import params, seeds
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.diagnosis.findings import Finding, counted, listed, theirs
from excise.diagnosis.neighbours import drawn
from excise.train.hooks import Hooks
from excise.train.task import Task, device_of

MAX_ROWS = 2_000
MAX_BATCH = 64
MIN_BATCHES = 16
EPS = 1e-5
NUM_ERRORS = 4.0
"""Standard errors that a stored mean must lie from where it should, before anything is claimed.

A running mean is one over the last few batches, under weights that still moved: where the learning rate did not fall to
zero, it misses the mean of all rows by more than independent rows would. Held against 40 networks retrained on the digits
without forget rows of five kinds, none is said to remember them at 4, and two are at 2.
"""

_REMEDY = (
    "nothing, if you leave recompute at its default: unlearn(..., recompute=True) computes running statistics anew from "
    "the retain rows. With recompute=False they stay as they are"
)


@dataclass(frozen=True)
class Lean:
    """Where a stored mean lies between the retain rows (0) and the forget rows (1).

    Attributes:
        name: of the module.
        share: least-squares coefficient of (stored - retain) on (forget - retain), each channel in units of its stored
            standard deviation.
        resolution: what is not claimed below: four standard errors, from what the line leaves unexplained and from the
            spread of the retain mean over shuffled batches.
    """

    name: str
    share: float
    resolution: float


def tracked(model: nn.Module) -> dict[str, nn.Module]:
    """Give the modules that hold a running mean and a running variance."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "running_mean", None), Tensor)
        and isinstance(getattr(module, "running_var", None), Tensor)
    }


def remembered(model: nn.Module, split: Split, task: Task, seed: int, hooks: Hooks) -> list[Finding]:
    """Find normalisation layers with running statistics, and say whose rows these remember, as far as it can be seen.

    Cost: one forward pass over at most 2,000 forget and 2,000 retain rows, in eval mode. The network is left as it was.

    Raises:
        errors.BadData: the network cannot be run on some of the rows.
    """
    names = list(tracked(model))
    if not names:
        return []
    expected = len(split.forget) / len(split.train)
    counts = (getattr(module, "num_batches_tracked", None) for module in tracked(model).values())
    if all(isinstance(count, Tensor) and not int(count) for count in counts):
        return [
            Finding(
                f"{counted(len(names), 'normalisation layer')} whose running statistics were never updated: the network was "
                "never trained, or its weights were saved without their buffers",
                listed(names),
                "load the whole state dict, running_mean and running_var included",
                "warning",
            )
        ]
    leans = measured(model, split, task, seed, hooks)
    what = (
        f"{counted(len(names), 'normalisation layer')} with running statistics, which are a mean over training rows and are "
        "no parameters: no gradient and no mask reaches them. "
    )
    if not leans:
        unseen = "They were computed with the forget rows among the others; where they lie could not be measured"
        return [Finding(what + unseen, listed(names), _REMEDY, "note")]
    finest = min(leans, key=lambda lean: lean.resolution)  # chosen by what it can see, not by what it shows
    said, remembers = words(finest, expected)
    return [Finding(what + said, listed(names), _REMEDY, "warning" if remembers else "note")]


def words(lean: Lean, expected: float) -> tuple[str, bool]:
    """Say what a stored mean shows, and whether that is that the forget rows are in it."""
    measure = (
        f"the stored mean of {lean.name} lies {lean.share:+.3f} of the way from the retain rows to the forget rows, give or "
        f"take {lean.resolution:.3f} ({expected:.3f} expected if all training rows took part alike)"
    )
    if lean.share < -lean.resolution or lean.share - lean.resolution > 1:
        return f"They were not computed from these rows with these weights alone: {measure}", False
    if lean.share > lean.resolution:
        more = lean.share - lean.resolution > expected
        return f"The forget rows are in them{', and with more than their share' if more else ''}: {measure}", True
    if max(0.0, lean.share) + lean.resolution < expected:
        return f"The forget rows do not show in them: {measure}", False
    return (
        f"They were computed with the forget rows among the others; too few of them to be seen in a mean: {measure}",
        False,
    )


def measured(model: nn.Module, split: Split, task: Task, seed: int, hooks: Hooks) -> list[Lean]:
    """Measure each module's lean; a module that does not run, or has too few channels, is left out.

    Both kinds of row run in eval mode. With statistics of their own batch instead, forget rows alone would have their mean
    taken out by the first layer, and later layers would show less of it than training did.
    """
    forget = _means(model, "forget", _sample(split.forget, seed, "forget"), task, seed, hooks)
    retain = _means(model, "retain", _sample(split.retain, seed, "retain"), task, seed, hooks)
    leans = []
    for name, module in tracked(model).items():
        if forget[name].sizes and retain[name].sizes:
            mean, variance = (getattr(module, key).detach().double().cpu() for key in ("running_mean", "running_var"))
            lean = leaning(name, mean, variance, forget[name].mean(), retain[name])
            if lean is not None:
                leans.append(lean)
    return leans


def _sample(rows: Rows, seed: int, name: str) -> Rows:
    return Rows(rows.source, drawn(rows.ids, MAX_ROWS, seed, f"buffers {name}"))


@dataclass
class Means:
    """What came into a module, batch by batch: the mean of each channel, and the number of rows."""

    means: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def hear(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        """Take a batch `[batch, channels, ...]` into account; called by torch before the module runs."""
        inputs, channels = given[0] if given else None, module.running_mean.numel()  # type: ignore[operator]
        if isinstance(inputs, Tensor) and inputs.ndim > 1 and inputs.shape[1] == channels:
            self.means.append(inputs.detach().double().transpose(0, 1).flatten(1).mean(1).cpu())
            self.sizes.append(len(inputs))

    def mean(self) -> Tensor:
        """Give the mean over all rows, `[channels]`."""
        weights = torch.tensor(self.sizes, dtype=torch.float64)
        return (weights / weights.sum()) @ torch.stack(self.means)

    def error_along(self, direction: Tensor) -> float:
        """Give the standard error of the mean's coordinate along a direction, from its spread over the batches."""
        weights = torch.tensor(self.sizes, dtype=torch.float64)
        values = (torch.stack(self.means) - self.mean()) @ direction
        return float((weights * values).square().sum().sqrt() / weights.sum())


def leaning(name: str, stored: Tensor, variance: Tensor, forget: Tensor, retain: Means) -> Lean | None:
    """Regress (stored - retain) on (forget - retain) over channels; None with fewer than two, or where that has no answer."""
    scale = (variance + EPS).sqrt()
    direction, offset = (forget - retain.mean()) / scale, (stored - retain.mean()) / scale
    length = float(direction @ direction)
    if len(direction) < 2 or not math.isfinite(length) or length == 0:
        return None
    share = float(offset @ direction) / length
    unexplained = float((offset - share * direction).square().sum()) / (len(direction) - 1) / length
    spread = retain.error_along(direction / scale) / length
    resolution = NUM_ERRORS * math.sqrt(unexplained + spread**2)
    return Lean(name, share, resolution) if math.isfinite(share) and math.isfinite(resolution) else None


def _means(model: nn.Module, part: str, rows: Rows, task: Task, seed: int, hooks: Hooks) -> dict[str, Means]:
    heard = {name: Means() for name in tracked(model)}
    size = max(1, min(MAX_BATCH, len(rows) // MIN_BATCHES))
    shuffle = seeds.generator(seed, "doctor", "buffers", part)
    hooks.on_stage(f"running {part} rows", -(-len(rows) // size))
    with params.untouched(model), torch.no_grad(), _listening(tracked(model), heard):
        model.eval()
        stream = batches(rows, size, device_of(model), shuffle=shuffle)
        for _ in range(-(-len(rows) // size)):
            with theirs(f"{type(model).__name__} could not be run on some {part} rows", "check those rows' inputs"):
                task.forward(model, next(stream).content)
            hooks.on_step()
    hooks.on_stage_end(f"running {part} rows")
    return heard


@contextmanager
def _listening(modules: dict[str, nn.Module], heard: dict[str, Means]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(heard[name].hear) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
