"""`Mask`: which coordinates of a network may change. True means change is allowed.

An entry is kept in the smallest shape that says the same: one value for a parameter wholly in or out, one per row
(index along the first axis, the "channel") where rows are wholly in or out, else one per weight. A channel mask of an
11-million-weight network is a few thousand booleans; on disk every entry is packed, at most one bit a weight.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from excise import errors, params, store

Shapes = dict[str, tuple[int, ...]]
_NAME_WIDTH = 40


class Mask:
    """A set of coordinates of a network, by parameter name. Immutable.

    Args:
        entries: for each parameter a boolean tensor of the parameter's shape, or one that broadcasts to it along rows
            (`[rows, 1, 1, ...]`) or wholly (`[1, 1, ...]`).
        shapes: the shape of each parameter.

    Raises:
        errors.MaskMismatch: an entry that is not boolean or does not broadcast to its parameter's shape.

    >>> mask = Mask.from_tensors({"w": torch.tensor([[True, True], [False, False]])})
    >>> mask.fraction, (~mask).fraction, (mask | ~mask).fraction, (mask & ~mask).num_selected
    (0.5, 0.5, 1.0, 0)
    """

    __slots__ = ("_entries", "_shapes")

    def __init__(self, entries: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
        if set(entries) != set(shapes):
            raise errors.MaskMismatch(f"entries and shapes name different parameters: {set(entries) ^ set(shapes)}")
        self._shapes: Shapes = {name: tuple(shapes[name]) for name in shapes}
        self._entries = {name: _smallest(name, entries[name], self._shapes[name]) for name in shapes}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Give the mask that full-size boolean tensors spell out."""
        return cls(tensors, {name: tuple(value.shape) for name, value in tensors.items()})

    @classmethod
    def full(cls, model: nn.Module) -> Self:
        """Give the mask that allows every parameter of `model` to change."""
        return cls.where(model, lambda _: True)

    @classmethod
    def empty(cls, model: nn.Module) -> Self:
        """Give the mask that allows nothing."""
        return cls.where(model, lambda _: False)

    @classmethod
    def of_modules(cls, model: nn.Module, names: Iterable[str]) -> Self:
        """Give the mask that allows the named modules (and all inside them), or the named single parameters.

        A wrapped network (see `params.unwrapped`) is named as it is without its wrappers, here and wherever a mask is cut.

        Raises:
            errors.MaskMismatch: a name that is neither a module nor a parameter of `model`.
        """
        model, wanted = params.unwrapped(model), list(names)
        known = {name for name, _ in model.named_modules()} | set(params.named_parameters(model))
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise errors.MaskMismatch(
                f"{type(model).__name__} has no module or parameter named {unknown[0]!r}; it has {sorted(known - {''})}"
            )
        inside = {id(value) for name in wanted for value in _owned(model, name)}
        chosen = {name for name, value in params.named_parameters(model).items() if id(value) in inside}
        return cls.where(model, lambda name: name in chosen)

    @classmethod
    def where(cls, model: nn.Module, allowed: Callable[[str], bool]) -> Self:
        """Give the mask of the parameters for whose name `allowed` says True."""
        shapes = {name: tuple(value.shape) for name, value in params.named_parameters(model).items()}
        return cls({name: torch.full((1,) * len(shape), bool(allowed(name))) for name, shape in shapes.items()}, shapes)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the network's order."""
        return tuple(self._shapes)

    @property
    def shapes(self) -> Shapes:
        """The shape of every parameter, by name."""
        return dict(self._shapes)

    def entry(self, name: str) -> Tensor:
        """Give the boolean entry of one parameter in its smallest shape; it broadcasts to the parameter."""
        return self._entries[name]

    def expand(self, name: str) -> Tensor:
        """Give the entry at the parameter's full shape (a view where that costs nothing)."""
        return self._entries[name].expand(self._shapes[name])

    def count(self, name: str) -> int:
        """Count the coordinates of one parameter that may change."""
        entry = self._entries[name]
        return int(entry.sum()) * (math.prod(self._shapes[name]) // max(entry.numel(), 1))

    @property
    def num_parameters(self) -> int:
        """Weights covered, in the mask or not."""
        return sum(math.prod(shape) for shape in self._shapes.values())

    @property
    def num_selected(self) -> int:
        """Weights that may change."""
        return sum(self.count(name) for name in self._shapes)

    @property
    def fraction(self) -> float:
        """Share of all weights that may change, in [0, 1]."""
        return self.num_selected / max(self.num_parameters, 1)

    def per_module(self) -> dict[str, float]:
        """Give the fraction of each module's own weights that may change, in the network's order.

        A parameter that belongs to no submodule stands under its own name.
        """
        return {module: selected / max(total, 1) for module, (selected, total) in self._counts().items()}

    def picture(self, width: int = 40) -> str:
        """Draw how much of each module may change: a line a module, in the network's order, which mostly is that of depth.

        A line gives the module's name (long ones shortened in the middle), a bar, the share of its own weights that may
        change, and their number. A bar is empty only where nothing may change, and full only where everything may.

        Args:
            width: characters in a bar, at least 2.

        Raises:
            errors.BadRequest: a bar of fewer characters.

        >>> print(Mask.from_tensors({"a.w": torch.tensor([True, False, True, True]), "b.w": torch.zeros(2) > 0}).picture(8))
        a [######..]  75.0%  3 of 4
        b [........]   0.0%  0 of 2
        """
        if not isinstance(width, int) or isinstance(width, bool) or width < 2:
            raise errors.BadRequest(f"width: expected an integer of at least 2, found {width!r}")
        counts = self._counts()
        names = {module: _shortened(module) for module in counts}
        pad = max(map(len, names.values()), default=0)
        digits = max((len(f"{selected:,}") for selected, _ in counts.values()), default=0)
        lines = []
        for module, (selected, total) in counts.items():
            fraction = selected / max(total, 1)
            filled = int(fraction) * width if fraction in (0, 1) else min(max(round(fraction * width), 1), width - 1)
            bar = "#" * filled + "." * (width - filled)
            lines.append(f"{names[module]:<{pad}} [{bar}] {fraction:6.1%}  {selected:>{digits},} of {total:,}")
        return "\n".join(lines)

    def _counts(self) -> dict[str, tuple[int, int]]:
        """Count each module's own weights that may change, and all of them."""
        found: dict[str, tuple[int, int]] = {}
        for name, shape in self._shapes.items():
            module = name.rpartition(".")[0] or name
            selected, total = found.get(module, (0, 0))
            found[module] = selected + self.count(name), total + math.prod(shape)
        return found

    def _combine(self, other: Mask, operation: Callable[[Tensor, Tensor], Tensor]) -> Mask:
        if self._shapes != other._shapes:
            differing = sorted({*self._shapes.items()} ^ {*other._shapes.items()})
            raise errors.MaskMismatch(
                f"the two masks are of different networks; they differ at {differing[0][0]!r}; "
                "combine masks cut from the same network"
            )
        return Mask({name: operation(self._entries[name], other._entries[name]) for name in self._shapes}, self._shapes)

    def __and__(self, other: Mask) -> Mask:
        return self._combine(other, torch.logical_and)

    def __or__(self, other: Mask) -> Mask:
        return self._combine(other, torch.logical_or)

    def __sub__(self, other: Mask) -> Mask:
        return self & ~other

    def __invert__(self) -> Mask:
        return Mask({name: ~entry for name, entry in self._entries.items()}, self._shapes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self._shapes == other._shapes and all(
            torch.equal(entry, other._entries[name]) for name, entry in self._entries.items()
        )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Mask({self.num_selected:,} of {self.num_parameters:,} weights, {self.fraction:.1%})"

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes and the packed bits; independent of order and of how the mask was made."""
        running = hashlib.sha256()
        for name in sorted(self._shapes):
            entry = self._entries[name]
            running.update(f"{name}\0{self._shapes[name]}\0{tuple(entry.shape)}\0".encode())
            running.update(_pack(entry).tobytes())
        return running.hexdigest()

    def require_fit(self, model: nn.Module) -> None:
        """Refuse a network whose parameters are not those of the mask.

        Raises:
            errors.MaskMismatch: names the parameters that are missing, unknown or of another shape.
        """
        own = {name: tuple(value.shape) for name, value in params.named_parameters(model).items()}
        lines = [f"{name}: in the mask, not in the network" for name in self._shapes if name not in own]
        lines += [f"{name}: in the network, not in the mask" for name in own if name not in self._shapes]
        lines += [
            f"{name}: mask {self._shapes[name]}, network {own[name]}"
            for name in own
            if name in self._shapes and own[name] != self._shapes[name]
        ]
        if lines:
            shown = "\n  ".join(lines[:10]) + (f"\n  and {len(lines) - 10} more" if len(lines) > 10 else "")
            raise errors.MaskMismatch(
                f"the mask does not fit {type(model).__name__}:\n  {shown}\ncut it from scores of this very network"
            )

    def save(self, path: str | Path) -> None:
        """Write the mask as safetensors: one packed bit per row or weight, names and shapes in the header."""
        shapes = {name: [list(shape), list(self._entries[name].shape)] for name, shape in self._shapes.items()}
        packed = {name: torch.from_numpy(_pack(entry)) for name, entry in self._entries.items()}
        metadata = {"kind": "excise-mask-1", "shapes": msgspec.json.encode(shapes).decode()}
        store.write_tensors(Path(path), packed, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Mask:
        """Read a mask back.

        Raises:
            errors.BadData: not a mask file, or one whose header and content disagree.
        """
        packed, metadata = store.read_tensors(Path(path))
        store.require_form(Path(path), metadata, "excise-mask-1", "make one with `excise localize`")
        try:
            shapes = msgspec.json.decode(metadata["shapes"], type=dict[str, tuple[list[int], list[int]]])
            entries = {name: _unpack(packed[name], tuple(small)) for name, (_, small) in shapes.items()}
            return cls(entries, {name: tuple(full) for name, (full, _) in shapes.items()})
        except (KeyError, ValueError, RuntimeError) as error:
            raise errors.BadData(f"{path}: the mask's header and its content disagree ({error})") from error


def _shortened(name: str) -> str:
    """Give a name of at most `_NAME_WIDTH` characters, its beginning and its end."""
    if len(name) <= _NAME_WIDTH:
        return name
    end = 2 * _NAME_WIDTH // 3
    return f"{name[: _NAME_WIDTH - end - 3]}...{name[-end:]}"


def _owned(model: nn.Module, name: str) -> list[nn.Parameter]:
    own = params.named_parameters(model)
    return [own[name]] if name in own else list(model.get_submodule(name).parameters())


def _smallest(name: str, entry: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reduce an entry to `[1, 1, ...]` if constant, to `[rows, 1, ...]` if rows are constant, else to full size."""
    if entry.dtype != torch.bool:
        raise errors.MaskMismatch(f"mask of {name!r}: expected booleans, found {entry.dtype}; compare to get booleans")
    entry = entry.detach().to("cpu")
    if entry.ndim != len(shape) or any(have not in (1, want) for have, want in zip(entry.shape, shape, strict=True)):
        raise errors.MaskMismatch(f"mask of {name!r}: shape {tuple(entry.shape)} does not broadcast to {shape}")
    ones, chosen = (1,) * len(shape), int(entry.count_nonzero())
    if chosen in (0, entry.numel()):
        return torch.full(ones, chosen > 0 and 0 not in shape)  # one spelling for a parameter without weights
    if entry.numel() == entry.shape[0]:
        return entry.clone()
    rows = entry.reshape(entry.shape[0], -1)
    if bool((rows == rows[:, :1]).all()):
        return rows[:, 0].reshape(-1, *ones[1:]).clone()
    return entry.expand(shape).contiguous().clone()


def _pack(entry: Tensor) -> np.ndarray:
    return np.packbits(entry.contiguous().numpy().reshape(-1))


def _unpack(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.shape != (-(-count // 8),):  # numpy would fill up with zeros
        raise ValueError(f"{count} bits in {tuple(packed.shape)} of {packed.dtype}")
    bits = np.unpackbits(packed.numpy(), count=count).astype(bool)
    return torch.from_numpy(bits.reshape(shape))
