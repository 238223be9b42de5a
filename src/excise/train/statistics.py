"""Running statistics recomputed: the means and variances of normalisation layers, from chosen rows alone.

They are sums over every row that training saw. Weights can be as if they had never seen a row while these still lie in
its direction: exactly retrained weights with the old statistics keep the forget rows' accuracy and give the rows away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from excise import checks, errors, params, seeds
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.train.engine import Engine
from excise.train.task import device_of

STATISTICS_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
STAGE = "statistics"


def running_statistics(model: nn.Module) -> list[str]:
    """Name every buffer that is a running statistic of a normalisation layer, as the state dict does.

    These are the running means, variances and counts of batch normalisation of any kind, and of instance normalisation
    that tracks. Buffers of other modules are not among them: nothing tells a constant from a statistic.

    >>> running_statistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    ['1.running_mean', '1.running_var', '1.num_batches_tracked']
    """
    prefixes = ((f"{name}." if name else "", module) for name, module in _tracking(model).items())
    return [
        prefix + kind for prefix, module in prefixes for kind in STATISTICS_BUFFERS if getattr(module, kind) is not None
    ]


def recompute_statistics_(model: nn.Module, rows: Rows, engine: Engine, *, batch_size: int = 256) -> None:
    """Make every running mean and variance anew from `rows` alone, in place; nothing else of the network changes.

    One pass forward over the rows in random order, in batches of nearly equal size: a statistic becomes the plain mean of
    its values over the batches. The tracking layers alone are in training mode, so each layer sees what the layers before
    it give for the batch itself, as in training; dropout does not act. A layer that the pass never enters as a module (its
    statistics are used by hand, or in training only) keeps the old ones, and the hooks are told which. Without tracking
    layers no row is read.

    Args:
        model: changed in place, its running statistics alone; it may be wrapped.
        rows: what the statistics are to be of.
        engine: task, seed, hooks; counts the cost.
        batch_size: examples a batch, at most (one more where a single row would be left over).

    Raises:
        errors.BadRequest: fewer than two rows, which have no variance.
        errors.Diverged: a statistic is not finite; the old ones are back in place.

    References:
        Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, "Averaging Weights Leads to Wider Optima and Better
        Generalization", UAI 2018, section 3 (the same pass, there for averaged weights).
    """
    checks.require_positive_int("batch_size", batch_size)
    names, inner = running_statistics(model), params.unwrapped(model)
    if not names:
        return
    if len(rows) < 2:
        raise errors.BadRequest(
            f"running statistics need two rows or more to have a variance, found {len(rows)}; "
            "retain more rows, or keep the old statistics (recompute=False, --keep-statistics)"
        )
    with torch.no_grad():
        found = _collected(inner, names, rows, engine, batch_size)
        broken = [name for name in found if not bool(found[name].isfinite().all())]
        if broken:
            raise errors.Diverged(
                f"{STAGE}: {broken[0]!r} would not be finite; the old statistics are kept; "
                "check the weights and the scaling of the inputs",
                params.state_of(inner),
            )
        for name, value in found.items():
            inner.get_buffer(name).copy_(value)


def _collected(model: nn.Module, names: list[str], rows: Rows, engine: Engine, batch_size: int) -> dict[str, Tensor]:
    """Give the new statistics, of the layers that ran, by name; the network is as before, its old statistics included."""
    order = rows.ids[torch.randperm(len(rows), generator=seeds.generator(engine.seed, STAGE))]
    chunks = order.tensor_split(min(-(-len(rows) // batch_size), len(rows) // 2))
    engine.hooks.on_stage(STAGE, len(chunks))
    with params.untouched(model), _averaging(model) as entered, seeds.isolated(engine.seed, STAGE):
        for ids in chunks:
            for batch in batches(Rows(rows.source, ids.sort().values), len(ids), device_of(model)):
                engine.task.forward(model, batch.content)
                engine.cost.count(forward=len(batch))
            engine.hooks.on_step()
        found = {name: model.get_buffer(name).clone() for name in names if name.rpartition(".")[0] in entered}
    engine.hooks.on_stage_end(STAGE)
    left = [name for name in _tracking(model) if name not in entered]
    if left:
        engine.hooks.on_note(
            f"no retain row entered {', '.join(left[:5])}{' and others' if len(left) > 5 else ''}: running statistics there "
            "are still the old ones, which the forget rows took part in"
        )
    return found


def _tracking(model: nn.Module) -> dict[str, _NormBase]:
    return {
        name: module
        for name, module in params.unwrapped(model).named_modules()
        if isinstance(module, _NormBase) and module.track_running_stats and module.running_mean is not None
    }


@contextmanager
def running_statistics_used(model: nn.Module) -> Iterator[None]:
    """Have batch normalisation that trains normalise by its running statistics, which stay: one row has none of its own."""
    layers = [layer for layer in _tracking(model).values() if isinstance(layer, _BatchNorm) and layer.training]
    try:
        for layer in layers:
            layer.training = False
        yield
    finally:
        for layer in layers:
            layer.training = True


@contextmanager
def _averaging(model: nn.Module) -> Iterator[set[str]]:
    """Let the tracking layers alone train, as plain means from nothing; gives the names of those entered so far.

    Flags are set one by one: a network's own `train` or `eval` may do more than set them, such as merge weights.
    """
    tracking, entered = _tracking(model), set[str]()
    layers = list(tracking.values())
    for module in model.modules():
        module.training = False
    kept = [(layer, layer.momentum) for layer in layers]
    hooks = [
        layer.register_forward_pre_hook(lambda *_, name=name: entered.add(name)) for name, layer in tracking.items()
    ]
    try:
        for layer in layers:
            layer.training = True
            layer.momentum = None
            layer.reset_running_stats()
            if isinstance(layer, _InstanceNorm):  # for which torch takes None to mean: never move
                hooks.append(layer.register_forward_pre_hook(_counted()))
        yield entered
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in kept:
            layer.momentum = momentum


def _counted() -> Callable[[nn.Module, Any], None]:
    """Give a hook that sets a layer's momentum to one over the number of calls so far."""
    calls = 0

    def hook(layer: nn.Module, _: Any) -> None:
        nonlocal calls
        calls += 1
        layer.momentum = 1 / calls  # type: ignore[assignment]

    return hook
