"""The promise: outside the mask every coordinate stays equal, bit for bit.

The optimizer is handed only what may change. A parameter wholly in the mask goes to it as it is. One wholly outside asks
for no gradient. One partly inside is represented by a compact leaf that holds its chosen rows (or weights); gradients are
gathered into the leaf before the step, and the leaf's values written back after it. (The rows of a large layer are computed
for the leaf alone, see `chosen_rows`.) Momentum, weight decay, Adam's moments, gradient clipping, foreach and fused loops
therefore never see a frozen coordinate, and none is ever written. Only the optimizer state of the chosen coordinates exists.
Optimizers that look at a tensor as a whole (LARS, Muon) see the chosen rows as the tensor.

A `Projection` confines what may change further, to a subspace of each row, after every step of the optimizer.

Buffers (running statistics) follow a stated rule, `Statistics`:

- `follow-mask`: a module with buffers of its own and parameters of its own, none of them in the mask, is frozen: it runs in
  eval mode and its buffers stay. A module with buffers and no parameters stays if the whole mask is empty.
- `adapt`: every module trains, as in the published DEL code; all buffers may move.
- `hold`: every module with buffers runs in eval mode; no buffer moves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from excise import errors, params
from excise.distributed import Processes, Shard, shard_of
from excise.masks import Mask
from excise.train.chosen_rows import ChosenLayers, ChosenRows
from excise.train.projection import Confined, Projection

Statistics = Literal["follow-mask", "adapt", "hold"]
STATISTICS: tuple[Statistics, ...] = ("follow-mask", "adapt", "hold")


def require_statistics(value: str) -> None:
    """Refuse a word that is no rule for buffers."""
    if value not in STATISTICS:
        raise errors.BadRequest(f"buffers: expected one of {', '.join(STATISTICS)}, found {value!r}")


def most_permissive(rules: Iterable[Statistics]) -> Statistics:
    """Give the rule of several that lets most move: adapt, then follow-mask, then hold."""
    order: tuple[Statistics, ...] = ("adapt", "follow-mask", "hold")
    return min(rules, key=order.index)


def effective(mask: Mask, model: nn.Module) -> Mask:
    """Take out of a mask the parameters whose `requires_grad` is False: the user froze them.

    Raises:
        errors.MaskMismatch: the mask is of another network.
    """
    mask.require_fit(model)
    trainable = {name for name, value in params.named_parameters(model).items() if value.requires_grad}
    return mask if trainable.issuperset(mask.names) else mask & Mask.where(model, lambda name: name in trainable)


def _reaches(mask: Mask, name: str) -> bool:
    entry = mask.entry(name)
    return entry.numel() > 1 or bool(entry)  # a constant one is kept as one value, so that no other need be read


class _Part(ABC):
    """The coordinates of one parameter that may change, as the leaf that the optimizer is given."""

    leaf: Tensor
    pace: Tensor | None = None
    index: Tensor | None = None
    confined: Confined | None = None

    @abstractmethod
    def gather_gradient(self) -> None:
        """Add the parameter's gradient to the leaf's own."""

    @abstractmethod
    def write_back(self) -> None:
        """Bring the leaf's values to the parameter."""

    @abstractmethod
    def pick(self, full: Tensor) -> Tensor:
        """Give what belongs to the leaf of a tensor of the parameter's shape."""

    def slow_down(self, entry: Tensor, factor: float) -> None:
        """Have the gradient multiplied by `factor` where `entry`, of the parameter's shape, is True."""
        chosen = self.pick(entry.to(self.leaf.device))
        self.pace = torch.ones_like(self.leaf, requires_grad=False).masked_fill_(chosen, factor)


class _Whole(_Part):
    def __init__(self, parameter: nn.Parameter) -> None:
        self.leaf = parameter

    def gather_gradient(self) -> None:
        if self.leaf.grad is not None:
            self.leaf.grad = self.leaf.grad.to_dense()  # itself, but for an embedding's sparse gradient

    def write_back(self) -> None:
        return None

    def pick(self, full: Tensor) -> Tensor:
        return full


class _Chosen(_Part):
    """Rows of a parameter, or single weights of it flattened, picked by index along the first axis."""

    index: Tensor

    def __init__(self, parameter: nn.Parameter, index: Tensor, *, flat: bool) -> None:
        self._parameter = parameter
        self.index = index
        self._flat = flat
        self.leaf = self._view(parameter.detach()).index_select(0, index).requires_grad_()

    def _view(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1) if self._flat else tensor

    def pick(self, full: Tensor) -> Tensor:
        return self._view(full).index_select(0, self.index)

    def gather_gradient(self) -> None:
        if self._parameter.grad is None:
            return
        gathered = self._view(self._parameter.grad.to_dense()).index_select(0, self.index)
        self._parameter.grad = None
        self.leaf.grad = gathered if self.leaf.grad is None else self.leaf.grad.add_(gathered)

    def rows(self) -> ChosenRows | None:
        """Give the rows that the leaf stands for; None if it stands for single weights."""
        return None if self._flat else ChosenRows(self._parameter, self.index, self.leaf)

    def write_back(self) -> None:
        target = self._parameter.detach()
        index, values = self.index.long(), self.leaf.detach()
        if not self._flat:
            target.index_copy_(0, index, values)
        elif target.is_contiguous():
            target.view(-1).scatter_(0, index, values)  # less than half of what index_copy_ takes for single weights
        else:
            target[torch.unravel_index(index, target.shape)] = values


class _Here(_Part):
    """What may change of the rows of a sharded parameter that lie here, as a part of those rows; there may be none."""

    def __init__(self, parameter: nn.Parameter, shard: Shard, entry: Tensor) -> None:
        self._parameter, self._shard = parameter, shard
        self.rows = nn.Parameter(shard.local)
        whole = entry.numel() == 1
        self._part = _Whole(self.rows) if whole else _chosen(self.rows, shard.of(entry), like=entry)
        self.leaf = self._part.leaf

    def pick(self, full: Tensor) -> Tensor:
        return self._part.pick(self._shard.of(full))

    def gather_gradient(self) -> None:
        gradient = self._parameter.grad
        if gradient is not None:
            here: Tensor = gradient.to_local()  # type: ignore[attr-defined]
            self.rows.grad = here if self.rows.grad is None else self.rows.grad + here
        self._parameter.grad = None
        self._part.gather_gradient()

    def write_back(self) -> None:
        self._part.write_back()


def _chosen(parameter: nn.Parameter, entry: Tensor, like: Tensor) -> _Chosen:
    """Give the part for an entry, by rows or by single weights as another entry is."""
    index = (entry.reshape(-1)).nonzero().flatten().to(parameter.device, torch.int32)
    return _Chosen(parameter, index, flat=picked_one_by_one(like))


def picked_one_by_one(entry: Tensor) -> bool:
    """Say whether a parameter's entry in a mask, in its smallest shape, chooses single weights rather than all or rows."""
    return entry.ndim > 1 and entry.numel() not in (1, entry.shape[0])


def _part(parameter: nn.Parameter, entry: Tensor) -> _Part | None:
    if entry.numel() == 1 and not bool(entry):
        return None
    if (shard := shard_of(parameter)) is not None:
        return _Here(parameter, shard, entry)
    return _Whole(parameter) if entry.numel() == 1 else _chosen(parameter, entry, like=entry)


class MaskedParameters:
    """The coordinates of a network that may change, ready for an optimizer. Made by `enforced`."""

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        slow: tuple[Mask, float] | None = None,
        processes: Processes = Processes.alone(),  # noqa: B008 - frozen
        projection: Projection | None = None,
    ) -> None:
        self._processes = processes
        found = params.named_parameters(model)
        parts = {name: _part(value, mask.entry(name)) for name, value in found.items()}
        self._parts = [part for part in parts.values() if part]
        here = ((value, shard_of(value), parts[name]) for name, value in found.items())
        self.shards = [
            replace(shard, local=part.rows) if isinstance(part, _Here) else shard for _, shard, part in here if shard
        ]
        for name, part in parts.items():
            if slow is not None and part and slow[0].count(name):
                part.slow_down(slow[0].expand(name), slow[1])
            if part and projection and name in projection:
                part.confined = Confined(name, found[name], part.leaf, part.index, projection[name])
        rows = [part.rows() for part in self._parts if isinstance(part, _Chosen)]
        self.layers = ChosenLayers(model, [some for some in rows if some is not None])

    @property
    def leaves(self) -> list[Tensor]:
        """What to give the optimizer."""
        return [part.leaf for part in self._parts]

    def backward(self, loss: Tensor) -> None:
        """Run a loss backward, with as little work as the mask allows; `loss.backward()` gives the same with more."""
        self.layers.backward(loss)

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer, clip_norm: float | None) -> None:
        """Take one optimizer step on the chosen coordinates alone, gradients clipped to `clip_norm` if given.

        Only their gradients are exchanged between processes.
        """
        for part in self._parts:
            part.gather_gradient()
        if self._processes.several and not self._processes.sharded:  # of sharded ones they are averaged already
            found = self._processes.averaged([leaf.grad for leaf in self.leaves], self.leaves)
            for leaf, gradient in zip(self.leaves, found, strict=True):
                leaf.grad = gradient
        for part in self._parts:
            if part.pace is not None and part.leaf.grad is not None:
                part.leaf.grad.mul_(part.pace)
        if clip_norm is not None and self._processes.sharded:
            self._clip_together(clip_norm)
        elif clip_norm is not None:
            nn.utils.clip_grad_norm_(self.leaves, clip_norm)
        optimizer.step()
        for part in self._parts:
            if part.confined is not None:
                part.confined.confine_(part.leaf)
            part.write_back()

    def _clip_together(self, clip_norm: float) -> None:
        """Clip as torch does, by the norm of the gradients of all processes."""
        gradients = [leaf.grad for leaf in self.leaves if leaf.grad is not None]
        norms = [gradient.norm() for gradient in gradients]
        squares = torch.stack(norms).square().sum() if norms else self.leaves[0].new_zeros(())
        norm = self._processes.total(squares.detach()).sqrt()
        for gradient in gradients:
            gradient.mul_((clip_norm / (norm + 1e-6)).clamp(max=1.0).to(gradient.device))

    @torch.no_grad()
    def values(self) -> list[Tensor]:
        """Copy the chosen coordinates."""
        return [leaf.detach().clone() for leaf in self.leaves]

    @torch.no_grad()
    def restore_(self, values: list[Tensor]) -> None:
        """Write copied coordinates back, in place."""
        for part, value in zip(self._parts, values, strict=True):
            part.leaf.copy_(value)
            part.write_back()

    def finite(self) -> bool:
        """Say whether every chosen coordinate is a finite number."""
        each = [leaf.isfinite().all() for leaf in self.leaves]
        here = not each or bool(torch.stack([one.to(each[0].device) for one in each]).all())  # one look
        return not (self._processes.anywhere(fact=not here) if self._processes.sharded else not here)


@contextmanager
def enforced(
    model: nn.Module,
    mask: Mask,
    statistics: Statistics,
    slow: tuple[Mask, float] | None = None,
    processes: Processes = Processes.alone(),  # noqa: B008 - frozen
    projection: Projection | None = None,
) -> Iterator[MaskedParameters]:
    """Put a network in training mode with only `mask` free; modes, `requires_grad` and gradients are restored afterwards.

    Inside, layers partly in the mask by rows may compute those rows' gradients only, see `chosen_rows`. Gradients of the
    coordinates in `slow` are multiplied by its factor before each step; those of several processes are averaged.
    Rows of the parameters in `projection` stay out of its directions; that is not for sharded networks.
    """
    model = params.unwrapped(model)
    allowed = effective(mask, model)
    with params.modes_restored(model):
        model.train()
        for name in held_modules(model, allowed, statistics):
            model.get_submodule(name).training = False  # the module alone: dropout inside it still trains
        for name, value in params.named_parameters(model).items():
            value.grad = None
            value.requires_grad_(_reaches(allowed, name))
        free = MaskedParameters(model, allowed, slow, processes, projection)
        with free.layers.watched():
            yield free


@torch.no_grad()
def write_(model: nn.Module, values: Mapping[str, Tensor], mask: Mask) -> None:
    """Write new parameter values into a network, in place, inside the mask only.

    Args:
        model: changed in place.
        values: new values by parameter name, full size; parameters without an entry keep theirs.
        mask: where writing is allowed.

    Raises:
        errors.MaskMismatch: a value for an unknown parameter or of another shape.
    """
    allowed = effective(mask, model)
    own = params.named_parameters(model)
    for name, value in values.items():
        if name not in own or own[name].shape != value.shape:
            raise errors.MaskMismatch(
                f"new value for {name!r} of shape {tuple(value.shape)}: the network has "
                f"{tuple(own[name].shape) if name in own else 'no such parameter'}"
            )
        part = _part(own[name], allowed.entry(name))
        if isinstance(part, _Whole):
            own[name].copy_(value)
        elif isinstance(part, _Chosen):
            part.leaf.copy_(_Chosen(nn.Parameter(value.to(own[name])), part.index, flat=part._flat).leaf)
            part.write_back()


def held_modules(model: nn.Module, mask: Mask, statistics: Statistics) -> list[str]:
    """Name the modules whose buffers stay under a rule."""
    model = params.unwrapped(model)
    names = [
        name for name, module in model.named_modules() if next(iter(module.buffers(recurse=False)), None) is not None
    ]
    if statistics == "adapt":
        return []
    if statistics == "hold":
        return names
    rule = _moves(model, mask)
    return [name for name in names if not rule(name)]


def _moves(model: nn.Module, mask: Mask) -> Callable[[str], bool]:
    name_of = {id(value): name for name, value in params.named_parameters(model).items()}
    anything = any(_reaches(mask, name) for name in mask.names)

    def moves(module: str) -> bool:
        whole, _, inside = module.rpartition("parametrizations.")  # its weights lie in the list that it stands in
        owner = f"{whole}parametrizations.{inside.partition('.')[0]}" if inside and _ else module
        own = [name_of[id(value)] for value in model.get_submodule(owner).parameters(recurse=False)]
        return anything if not own else any(_reaches(mask, name) for name in own)

    return moves


def frozen_digest(
    model: nn.Module, mask: Mask, statistics: Statistics = "follow-mask", *, leaving_out: Iterable[str] = ()
) -> str:
    """Give the SHA-256 of everything that must not move: coordinates outside the mask, and buffers of held modules.

    Of a sharded network it is that of the coordinates that lie here.

    Buffers named in `leaving_out` are left out: running statistics that are to be recomputed.
    """
    model = params.unwrapped(model)
    allowed = effective(mask, model)
    outside = {
        name: partial(_outside, value, allowed.entry(name)) for name, value in params.named_parameters(model).items()
    }
    buffers = params.named_buffers(model)
    held = set(held_modules(model, allowed, statistics))
    free = set(leaving_out)
    kept = {
        name: partial(Tensor.detach, value)
        for name, value in buffers.items()
        if name.rpartition(".")[0] in held and name not in free
    }
    return params.digest_in_turn({**outside, **kept})


def _outside(parameter: Tensor, entry: Tensor) -> Tensor:
    """Give the coordinates outside an entry, flat, on the CPU: whole rows at once where the entry is of rows."""
    if (shard := shard_of(parameter)) is not None:
        parameter, entry = shard.local, entry if entry.numel() == 1 else shard.of(entry)
    value, frozen = parameter.detach().cpu(), ~entry.reshape(-1)
    if len(frozen) == 1:
        return value.reshape(-1)[: None if bool(frozen) else 0]
    by_row = len(frozen) == len(value)
    return (value if by_row else value.reshape(-1))[frozen].reshape(-1)
