"""The illusion test: what a network says once its running statistics are computed anew from the retain rows."""

from __future__ import annotations

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
    if not running_statistics(model):
        return None
    copy = params.clone_model(params.unwrapped(model))
    recompute_statistics_(copy, retain, engine)
    return collect(copy, rows, engine, batch_size=batch_size)
