"""What an unlearning run holds in memory, on paper: by component and phase, before a byte of it is asked for.

Nothing is computed but shapes. The network is taken over to torch's `meta` device, where tensors have no content, and one
forward and backward is run there while every tensor that comes and goes is counted. What the run holds besides follows
from what its parts keep (`MaskedParameters`, `Sound`, torch's optimizer, `Patch`). So a network that fits no machine at
hand can be asked about, from `with torch.device("meta"): ...`.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from excise import checks, errors, params
from excise.data.batches import Batch
from excise.masks import Mask
from excise.train.masked import enforced
from excise.train.plan import TrainPlan
from excise.train.task import Task

PLACE_BYTES = 8
"""Of one place in a `Patch`: an int64."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a run of reset and finetune under a channel mask holds at the fullest moment of each phase.

    Attributes:
        phases: bytes by component, by phase in order: `localize` (one gradient over the forget rows), `reset` (an untrained
            network is there, to take values from), `unlearn` (gradient steps), `finish` (the patch is made).
        num_weights: of the network.
    """

    phases: Mapping[str, Mapping[str, int]]
    num_weights: int

    @property
    def totals(self) -> dict[str, int]:
        """Bytes by phase."""
        return {phase: sum(parts.values()) for phase, parts in self.phases.items()}

    @property
    def peak(self) -> int:
        """Bytes in the fullest phase."""
        return max(self.totals.values())

    @property
    def per_weight(self) -> dict[str, float]:
        """Bytes a weight by phase: without activations 4 are one copy of a network in single precision."""
        return {phase: total / max(self.num_weights, 1) for phase, total in self.totals.items()}

    def __str__(self) -> str:
        lines = [f"{self.num_weights:,} weights, peak {self.peak / 2**30:.2f} GiB"]
        for phase, parts in self.phases.items():
            told = ", ".join(f"{name} {value / 2**20:,.0f}" for name, value in parts.items())
            lines.append(f"{phase}: {sum(parts.values()) / 2**20:,.0f} MiB ({told})")
        return "\n".join(lines)


def footprint(
    model: nn.Module,
    example_batch: Any,
    mask_fraction: float = 0.3,
    *,
    plan: TrainPlan | None = None,
    task: Task | None = None,
) -> Footprint:
    """Give the memory of `excise.unlearn` with a recipe that localizes by channels, resets and finetunes (DEL's shape).

    Assumes `mask_fraction` of the rows of every parameter that may change. A gradient exists of those rows where `chosen_rows`
    has them computed alone, and else in full until they are picked. Not counted: the process itself, the rows, what kernels
    need while they run, and activations that are kept from step to step (`Kept` bounds these). Cost: two forward and backward
    passes of shapes. Memory: none to speak of.

    Args:
        model: on any device, `meta` included; left alone.
        example_batch: what a data set of rows is collated to, such as `(inputs, labels)`; only shapes are looked at. Scored and
            trained in batches of this size.
        mask_fraction: share of the weights that may change, in [0, 1].
        plan: whose optimizer is used; SGD with momentum if None.
        task: forward and loss; logits and cross-entropy if None.

    Raises:
        errors.BadRequest: a fraction outside [0, 1], or a batch without tensors.
        errors.UnsupportedModel: no parameters, or a forward pass that looks at values, which has no shape on paper.

    >>> batch = torch.zeros(8, 10), torch.zeros(8, dtype=torch.int64)
    >>> held = footprint(nn.Linear(10, 4), batch)
    >>> held.phases["localize"]["weights"], held.phases["localize"]["gradients"]
    (176, 176)
    """
    checks.require_fraction("mask_fraction", mask_fraction)
    params.require_parameters(model)
    plan = plan or TrainPlan(epochs=1, lr=0.01)
    inner, task = params.unwrapped(model), task or Task()
    scoring = _traced(inner, example_batch, task, 1.0)
    training = _traced(inner, example_batch, task, mask_fraction)
    own = params.named_parameters(model)
    weights = sum(_bytes(value) for value in own.values())
    buffers = sum(_bytes(buffer) for _, buffer in params.unwrapped(model).named_buffers())
    free = sum(_bytes(value) for value in own.values() if value.requires_grad)
    count = sum(value.numel() for value in own.values() if value.requires_grad)
    chosen = round(mask_fraction * free)
    network = {"weights": weights, "buffers": buffers}
    both = {**network, "working copy": weights + buffers}
    phases = {
        "localize": {
            **network,
            "shadow buffers": 2 * buffers,  # of the copy that is run, and as they were before
            "gradients": free,  # which become the scores, in place
            "activations": scoring.activations,
        },
        "reset": {**both, "untrained network": weights + buffers},
        "unlearn": {
            **both,
            "gradients": training.gradients_at_peak,
            "activations": training.activations_at_peak,
            "compact leaves": chosen if mask_fraction < 1 else 0,
            "optimizer": optimizer_bytes(plan, chosen),
            "last sound state": chosen + buffers,
        },
        "finish": {
            **both,
            "patch": 2 * chosen + PLACE_BYTES * round(mask_fraction * count),  # places, old values and new ones
            "comparison": max(value.numel() for value in own.values()),  # one boolean a weight, a parameter at a time
        },
    }
    return Footprint(phases, sum(value.numel() for value in own.values()))


def optimizer_bytes(plan: TrainPlan, chosen: int) -> int:
    """Give the bytes of a plan's optimizer state over chosen coordinates of so many bytes (Adam's step counters apart)."""
    if plan.optimizer == "sgd":
        return chosen if plan.momentum else 0
    return 2 * chosen


@dataclass(frozen=True)
class _Pass:
    """The fullest moments of one forward and backward: with the gradients that are there by then, and without any."""

    gradients_at_peak: int
    activations_at_peak: int
    activations: int


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of every tensor made inside, for as long as it lives; gradients are looked up where they lie."""

    def __init__(self, trained: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trained = trained
        self.live = self.peak = self.gradients_at_peak = self.activations = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def keep_out(self, tensors: Iterable[Tensor]) -> None:
        """Leave out what was there before."""
        for value in tensors:
            storage = value.untyped_storage()
            self._known[storage._cdata] = weakref.ref(storage)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return found

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = weakref.ref(storage, partial(self._gone, key, storage.nbytes()))
        self.live += storage.nbytes()
        gradients = sum(_bytes(value.grad) for value in self._trained if value.grad is not None)
        self.activations = max(self.activations, self.live - gradients)
        if self.live > self.peak:
            self.peak, self.gradients_at_peak = self.live, gradients

    def _gone(self, key: int, size: int, _: object) -> None:
        self._known.pop(key, None)
        self.live -= size


def _traced(model: nn.Module, batch: Any, task: Task, mask_fraction: float) -> _Pass:
    """Run one forward and backward of shapes under a mask of so much of each parameter, and give its fullest moments."""
    empty = {id(value): _empty(value) for value in (*model.parameters(), *model.buffers())}
    network = copy.deepcopy(model, dict(empty))
    content = tree_map_only(Tensor, lambda value: torch.empty_like(value, device="meta"), batch)
    rows = [len(value) for value in tree_leaves(content) if isinstance(value, Tensor)]
    if not rows:
        raise errors.BadRequest(
            f"example_batch: expected tensors, such as (inputs, labels), found {type(batch).__name__}"
        )
    try:
        with torch.enable_grad(), enforced(network, _share(network, mask_fraction), "adapt") as free:
            counted = _Counted([*network.parameters(), *free.leaves])
            counted.keep_out([*empty.values(), *free.leaves])
            with counted:
                free.backward(task.losses(network, Batch(torch.arange(rows[0]), content)).mean())
    except (RuntimeError, NotImplementedError) as error:
        raise errors.UnsupportedModel(
            f"{type(model).__name__} has no shape on paper: {str(error).splitlines()[0]}; its forward pass looks at values, "
            "or does not take this batch. Measure a run instead: `Unlearned.cost.peak_bytes`"
        ) from error
    return _Pass(counted.gradients_at_peak, counted.peak - counted.gradients_at_peak, counted.activations)


def _share(model: nn.Module, fraction: float) -> Mask:
    """Give the mask of the first rows of every parameter: such a share of them, and one at least."""
    shapes = {name: tuple(value.shape) for name, value in params.named_parameters(model).items()}
    entries = {}
    for name, shape in shapes.items():
        rows = shape[0] if shape else 1
        first = torch.arange(rows) < max(round(fraction * rows), 1)
        entries[name] = first.reshape(-1, *(1,) * (len(shape) - 1)) if shape else first.reshape(())
    return Mask(entries, shapes)


def _empty(value: Tensor) -> Tensor:
    made = torch.empty_like(value, device="meta")
    return nn.Parameter(made, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else made


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()
