"""Whether networks can run as one, found out by running two copies on a few rows, alone and together."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from excise import errors, params, seeds
from excise.data.batches import read_batch
from excise.data.rows import ArraySource, Rows
from excise.train.engine import Engine
from excise.train.stacked import Stacked
from excise.train.statistics import running_statistics_used
from excise.train.task import device_of

FEW_ROWS = 8
NUM_PROBES = 3
"""Where values differ on the first rows, the others of so many sets of rows must all agree."""
NUM_STEPS = 2
"""Steps that are compared: with one, what a network keeps from step to step would not show."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference as a fraction of the largest entry, by type of number; 1/32 for shorter types."""


def why_not_stacked(model: nn.Module, rows: Sequence[Rows], engine: Engine) -> str | None:
    """Say why copies of a network cannot run as one on rows of equal number; None if they can.

    Leaves the network and all random state as they were.
    """
    if params.unwrapped(model) is not model:
        return f"the network is wrapped in a {type(model).__name__}"
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return "the network is scripted"
    if not isinstance(rows[0].source, ArraySource):
        return "the rows are no arrays but a data set that is read one by one, and may be different each time"
    if any(some.source is not rows[0].source for some in rows):
        return "their rows lie in different data sets"
    if any(
        value._backward_hooks or getattr(value, "_post_accumulate_grad_hooks", None) for value in model.parameters()
    ):
        return "a parameter has a hook on its gradient"
    try:
        with seeds.isolated(0, "together", "probe"), torch.enable_grad():
            reason = _difference(model, rows, engine)
            if not isinstance(reason, _Differs) or len(rows[0]) < NUM_PROBES * FEW_ROWS:
                return reason
            others = [_difference(model, rows, engine, place) for place in range(1, NUM_PROBES)]
            return next((other for other in others if other is not None), None)
    except errors.ExciseError as error:
        return f"a probe of a few rows failed ({error})"


class _Differs(str):
    """A value that differs. An input of a rectifier that is 0 but for rounding does it, so other rows are asked then."""


def _difference(model: nn.Module, rows: Sequence[Rows], engine: Engine, place: int = 0) -> str | None:
    alone = [params.clone_model(model).train() for _ in range(2)]
    for value in alone[1].parameters():
        if value.is_floating_point():
            value.detach().mul_(1.01)  # so that one network's weights taken for the other's would show
    copies = [params.clone_model(one) for one in alone]
    few = min(FEW_ROWS, len(rows[0]))
    one = place * few
    ids = torch.stack([rows[0].ids[one : one + few], rows[0].ids[len(rows[0]) - one - few : len(rows[0]) - one]])
    try:
        plain = [_alone(one, rows[0], own, engine) for one, own in zip(alone, ids, strict=True)]
    except _Unfit as reason:
        return str(reason)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        return f"the network could not be run on {few} rows ({_first_line(error)})"
    try:
        found = _together(copies, rows[0], ids, engine)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        NotImplementedError,
    ) as error:
        return f"{type(model).__name__} does something that cannot be done for many networks at once ({_first_line(error)})"
    except Warning as warning:
        return f"{type(model).__name__} does something that is slow for many networks at once ({_first_line(warning)})"
    return _disagreement(plain, found)


class _Unfit(Exception):
    """Why a network cannot run together with others, seen while it ran alone."""


def _alone(model: nn.Module, rows: Rows, ids: Tensor, engine: Engine) -> dict[str, Tensor]:
    """Give losses, gradients and buffers of a network's own steps, by name."""
    found: dict[str, Tensor] = {}
    batch = read_batch(rows.source, ids, device_of(model))
    for step in range(NUM_STEPS):
        before, attributes = _random_state(), _attributes(model)
        with running_statistics_used(model) if len(batch) == 1 else nullcontext():
            loss = engine.task.losses(model, batch).mean()
        if _random_state() != before:
            raise _Unfit("it draws random numbers in training")
        written = [where for where, value in _attributes(model).items() if attributes.get(where) is not value]
        if written:
            raise _Unfit(f"it writes to its attribute {written[0]!r} in training")
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        found[f"loss {step}"] = loss.detach().clone()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    found |= {f"gradient {name}": value.to_dense() for name, value in gradients.items()}
    return found | {f"buffer {name}": value for name, value in model.named_buffers()}


def _together(models: Sequence[nn.Module], rows: Rows, ids: Tensor, engine: Engine) -> dict[str, Tensor]:
    """Give the same as `_alone`, of all networks at once, `[models, ...]` by name."""
    stack, found = Stacked(models, engine.task), dict[str, Tensor]()
    content = read_batch(rows.source, ids.flatten(), stack.device).content
    content = tree_map(lambda value: value.unflatten(0, ids.shape), content)
    for step in range(NUM_STEPS):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*batching rule.*")
            losses = stack.mean_losses(content, ids.shape[1])
            if losses.requires_grad:
                losses.sum().backward()  # type: ignore[no-untyped-call]
        found[f"loss {step}"] = losses.detach().clone()
    found |= {f"gradient {name}": leaf.grad for name, leaf in stack.leaves.items() if leaf.grad is not None}
    return found | {f"buffer {name}": value for name, value in stack.buffers.items()}


def _disagreement(plain: Sequence[dict[str, Tensor]], found: dict[str, Tensor]) -> str | None:
    if found.keys() != plain[0].keys():
        return f"{min(found.keys() ^ plain[0].keys())} is there alone or together only"
    scales: dict[str, float] = {}
    expected = {name: torch.stack([one[name] for one in plain]) for name in found}
    for name, value in expected.items():  # a gradient that is zero but for rounding is measured by the others
        kind = name.partition(" ")[0]
        if value.is_floating_point() and value.numel():
            largest = float(value.nan_to_num(0.0, 0.0, 0.0).abs().max())
            own = name if kind == "buffer" else kind
            scales[own] = max(scales.get(own, 0.0), largest)
    for name, value in expected.items():
        kind = name.partition(" ")[0]
        scale = scales.get(name if kind == "buffer" else kind, 0.0)
        near = TOLERANCE.get(value.dtype, 1 / 32) * (scale or 1.0) if value.is_floating_point() else 0.0
        if not torch.allclose(found[name], value, rtol=0.0, atol=near, equal_nan=True):
            return _Differs(f"{name} differs between networks that run alone and together")
    return None


def _random_state() -> tuple[object, ...]:
    drawn: Any = np.random.get_state()  # noqa: NPY002 - read, to see whether a network draws from it
    return torch.get_rng_state().numpy().tobytes(), drawn[1].tobytes(), drawn[2:], random.getstate()


def _attributes(model: nn.Module) -> dict[str, object]:
    """Give what modules hold besides parameters, buffers and modules, by name."""
    return {
        f"{name}.{key}" if name else key: value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_")
    }


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
