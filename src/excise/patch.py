"""`Patch`: what an unlearning changed, and nothing else. It can be applied, inspected and reverted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from excise import errors, params, store

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as a number, to compare its bits at one stroke."""


@dataclass(frozen=True, eq=False)
class Patch:
    """The coordinates that differ between two networks of one architecture.

    Attributes:
        places: for each changed parameter or buffer, int64 flat indices of its changed elements.
        before: their values in the first network; None for a patch read from disk, since those values hold what was to be
            forgotten and are never written.
        after: their values in the second.
        base_digest: digest of the network it applies to (parameters and buffers).
    """

    places: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    base_digest: str
    before: Mapping[str, Tensor] | None = None

    def __repr__(self) -> str:
        return f"Patch({sum(self.num_changed.values()):,} values in {len(self.places)} tensors)"

    @classmethod
    def between(cls, original: nn.Module, changed: nn.Module) -> Patch:
        """Give the patch that turns `original` into `changed`; either may be wrapped, see `params.unwrapped`.

        Raises:
            errors.MaskMismatch: the two have other parameters or buffers, or some of another shape or type.
        """
        first, second = (params.unwrapped(model).state_dict() for model in (original, changed))
        kinds = [{name: (value.shape, value.dtype) for name, value in state.items()} for state in (first, second)]
        if kinds[0] != kinds[1]:
            name = next(name for name in {**first, **second} if kinds[0].get(name) != kinds[1].get(name))
            raise errors.MaskMismatch(
                f"expected two networks of one architecture; they differ at {name!r}; "
                "a patch says which values changed, not which layers"
            )
        places = {
            name: found
            for name, value in second.items()
            if len(found := _differing(first[name], value).nonzero().flatten())
        }
        return cls(
            places=places,
            before={name: first[name].detach().reshape(-1)[index].cpu().clone() for name, index in places.items()},
            after={name: second[name].detach().reshape(-1)[index].cpu().clone() for name, index in places.items()},
            base_digest=params.model_digest(original),
        )

    @property
    def num_changed(self) -> dict[str, int]:
        """Changed elements by parameter or buffer."""
        return {name: len(index) for name, index in self.places.items()}

    def apply(self, model: nn.Module) -> nn.Module:
        """Give a copy of the original network, wrapped as it is, with the changes made.

        Raises:
            errors.MaskMismatch: `model` is not the network that the patch was made for, to the bit.
        """
        if params.model_digest(model) != self.base_digest:
            raise errors.MaskMismatch(
                "this patch was made for other weights than these; apply it to the original network"
            )
        sizes = {name: value.numel() for name, value in params.unwrapped(model).state_dict().items()}
        for name, index in self.places.items():
            if int(index[-1:].sum()) >= sizes.get(name, 0):
                raise errors.MaskMismatch(
                    f"this patch changes values of {name!r} that the network does not have; make the patch again"
                )
        return self._written(model, self.after)

    def revert(self, model: nn.Module) -> nn.Module:
        """Give a copy of the changed network, wrapped as it is, with the changes undone.

        Raises:
            errors.BadRequest: a patch read from disk, which does not hold the old values.
            errors.MaskMismatch: `model` does not hold the patch's values.
        """
        if self.before is None:
            raise errors.BadRequest(
                "a patch read from disk does not hold the forgotten values; use the original weights"
            )
        state = params.unwrapped(model).state_dict()
        if any(
            not torch.equal(state[n].reshape(-1)[i.to(state[n].device)].cpu(), self.after[n])
            for n, i in self.places.items()
        ):
            raise errors.MaskMismatch(
                "this network does not hold the patch's values; revert the network that was unlearned"
            )
        return self._written(model, self.before)

    @torch.no_grad()
    def _written(self, model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
        result = params.clone_model(model)
        state = params.unwrapped(result).state_dict()
        for name, index in self.places.items():
            flat = state[name].contiguous().reshape(-1).clone()  # in row order, whatever the order in memory
            flat[index.to(flat.device)] = values[name].to(flat.device)
            state[name].copy_(flat.reshape(state[name].shape))
        return result

    def save(self, path: str | Path) -> None:
        """Write places and new values; the old values are not written."""
        tensors = {f"place/{name}": index for name, index in self.places.items()}
        tensors |= {f"value/{name}": value for name, value in self.after.items()}
        store.write_tensors(Path(path), tensors, {"kind": "excise-patch-1", "base_digest": self.base_digest})

    @classmethod
    def load(cls, path: str | Path) -> Patch:
        """Read a patch back, without old values.

        Raises:
            errors.BadData: not a patch file, or one whose parts disagree.
        """
        tensors, metadata = store.read_tensors(Path(path))
        store.require_form(Path(path), metadata, "excise-patch-1", "make one with `excise unlearn`")
        places = {name.removeprefix("place/"): value for name, value in tensors.items() if name.startswith("place/")}
        after = {name.removeprefix("value/"): value for name, value in tensors.items() if name.startswith("value/")}
        fits = places.keys() == after.keys() and "base_digest" in metadata
        if not fits or any(
            place.dtype != torch.int64
            or place.ndim != 1
            or place.shape != after[name].shape
            or bool((place[:1] < 0).any() | (place.diff() <= 0).any())
            for name, place in places.items()
        ):
            raise errors.BadData(f"{path}: its places and its values disagree; make the patch again")
        return cls(places=places, after=after, base_digest=metadata["base_digest"])


def _differing(first: Tensor, second: Tensor) -> Tensor:
    """Say where two tensors differ in their bits (so that -0.0 and 0.0 differ, and equal NaNs do not)."""
    flat = [tensor.detach().contiguous().reshape(-1).cpu() for tensor in (first, second)]
    width = flat[0].element_size()
    if width in _INTEGERS:
        return flat[0].view(_INTEGERS[width]) != flat[1].view(_INTEGERS[width])
    raw = [tensor.view(torch.uint8).reshape(-1, width) for tensor in flat]
    return (raw[0] != raw[1]).any(dim=1)
