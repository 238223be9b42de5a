"""The illusion test: what a network says once its running statistics are computed anew from the retain rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from excise import params
from excise.data.rows import Rows
from excise.observe.outputs import Outputs, collect
from excise.train.engine import Engine
from excise.train.statistics import recompute_statistics_, running_statistics


def collect_recalibrated(
    model: nn.Module, retain: Rows, rows: Rows, engine: Engine, *, batch_size: int = 512
) -> Outputs | None:
    """Collect outputs of a copy whose running statistics are those of `retain` alone; None for a network that has none.

    A network that gets forget rows wrong only because its batch normalisation no longer fits its weights has forgotten
    nothing: anyone who holds the weights and a few retain rows gets the answers back. Compare the accuracy with that of the
    network as it is, and with the oracles' own after the same.

    Cost: one forward pass over retain and one over the rows.

    Args:
        model: left alone; may be wrapped.
        retain: what the statistics are to be of.
        rows: what to collect, usually the forget rows.
        engine: task, seed; counts the cost.
        batch_size: rows at a time when collecting.

    Raises:
        errors.BadRequest: fewer than two retain rows, which have no variance.
        errors.Diverged: a new statistic is not finite.
    """
    copy = _recalibrated(model, retain, engine)
    return None if copy is None else collect(copy, rows, engine, batch_size=batch_size)


@dataclass(frozen=True)
class Held:
    """What one module's running statistics are, beside those that the retain rows give under the same weights.

    Attributes:
        share: how far they lie from these towards the original's: 0 for those of the retain rows, 1 for the original's,
            between them for a blend (the least-squares coefficient over the channels).
        distance: root mean square of how far they lie off, over channels, in standard deviations.
        apart: how far they lie from the original's, over how far these lie from those of the retain rows; 0 for the original's.
    """

    share: float
    distance: float
    apart: float


SMALL = 1e-5
"""Added to a variance, as torch's own batch normalisation does: channels that never vary would count for everything."""


def held_statistics(model: nn.Module, original: nn.Module, retain: Rows, engine: Engine) -> dict[str, Held]:
    """Measure, module by module, whose running statistics a network holds; modules whose cannot differ are left out.

    The original's statistics were computed with the forget rows among the others. Means and standard deviations of every
    channel count alike, in units of the standard deviation that the retain rows give.

    Cost: one forward pass over retain, for a network that has such statistics.

    Args:
        model: left alone; may be wrapped.
        original: the network before, of the same architecture.
        retain: rows without those to forget.
        engine: task, seed; counts the cost.

    Raises:
        errors.BadRequest: fewer than two retain rows, which have no variance.
        errors.Diverged: a new statistic is not finite.
    """
    anew = _recalibrated(model, retain, engine)
    if anew is None:
        return {}
    found = {}
    buffers = [params.named_buffers(params.unwrapped(one)) for one in (model, original, anew)]
    for name in (name for name in running_statistics(model) if name.endswith("running_mean")):
        variance = name.removesuffix("mean") + "var"
        scale = (buffers[2][variance].double() + SMALL).sqrt()
        own, before, wanted = (
            torch.cat([one[name].double() / scale, (one[variance].double() + SMALL).sqrt() / scale]) for one in buffers
        )
        off, towards = own - wanted, before - wanted
        length = float(towards @ towards)
        if length:
            module = name.removesuffix("running_mean").removesuffix(".")
            apart = float((own - before).norm()) / length**0.5
            found[module] = Held(float(off @ towards) / length, float(off.square().mean().sqrt()), apart)
    return found


def _recalibrated(model: nn.Module, retain: Rows, engine: Engine) -> nn.Module | None:
    """Give a copy whose running statistics are those of the retain rows; None for a network that has none."""
    if not running_statistics(model):
        return None
    copy = params.clone_model(params.unwrapped(model))
    recompute_statistics_(copy, retain, engine)
    return copy
