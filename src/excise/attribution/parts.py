"""`Part`: what a datamodel knows of the outputs on some rows; and products of its factors, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from excise import errors

TRAIN = "train"
"""Name of the part that the rows with effects make up."""
_BLOCK_NUMBERS = 2**22
"""Numbers that are taken to float64 at a time."""


@dataclass(frozen=True, eq=False)
class Part:
    """What a datamodel knows of the outputs on some rows.

    Attributes:
        ids: int64 `[rows]`, ascending.
        base: float32 `[rows, classes]`, the logits expected of a network trained on a random half.
        factors: `[rows, factors, classes]`, what the weights of training rows are multiplied by.
        margins: `[rows, factors]`, the same for the margin of each row's label; None where labels are no classes.
        content: int64 `[rows]`, the first 8 bytes of each row's SHA-256, see `row_digests`; 0 where rows change as they are
            read, None where that is not recorded.
    """

    ids: Tensor
    base: Tensor
    factors: Tensor
    margins: Tensor | None = None
    content: Tensor | None = None

    def places(self, name: str, ids: Tensor) -> Tensor:
        """Give the places of rows among these, in the order given, which may name a row more than once.

        Raises:
            errors.BadRequest: an id that is none of these rows'.
        """
        return places_of(name, ids, self.ids)

    def taken(self, places: Tensor) -> Part:
        """Give what is known of some of the rows."""
        kept = {name: value[places] for name, value in vars(self).items() if value is not None}
        return replace(self, **kept)


def places_of(name: str, ids: Tensor, known: Tensor) -> Tensor:
    """Give the places of ids among ascending known ones, in the order given; refuse what is not there."""
    try:
        wanted = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise errors.BadRequest(f"{name}: expected row ids, integers [rows], found {type(ids).__name__}") from error
    if wanted.ndim != 1 or wanted.is_floating_point() or wanted.dtype == torch.bool or wanted.is_complex():
        raise errors.BadRequest(f"{name}: expected row ids, integers [rows], found {wanted.dtype} {list(wanted.shape)}")
    wanted = wanted.to("cpu", torch.int64)
    places = torch.searchsorted(known, wanted).clamp(max=max(len(known) - 1, 0))
    strange = (known[places] != wanted).nonzero().flatten() if len(known) else torch.arange(len(wanted))
    if len(strange):
        shown = ", ".join(str(place) for place in strange[:5].tolist())
        raise errors.BadRequest(
            f"{name}: {len(strange)} ids (at position{'s' if len(strange) > 1 else ''} {shown} of {len(wanted)}) are none of "
            f"the {len(known)} rows that the datamodel knows here; name rows that it was made from, or estimate another one"
        )
    return places


def products(weights: Tensor, factors: Tensor, places: Tensor) -> Tensor:
    """Give the sum over k of weights[r, k] factors[places[r], k, c], float64 `[rows, classes]`."""
    found = torch.zeros(len(places), factors.shape[2], dtype=torch.float64)
    for chunk in chunks(places, factors):
        found[chunk] = torch.einsum("rk,rkc->rc", weights[chunk].double(), factors[places[chunk]].double())
    return found


def chunks(places: Tensor, factors: Tensor) -> Iterator[slice]:
    """Give slices of places whose factors are few enough to be taken to float64 at once."""
    step = max(1, _BLOCK_NUMBERS // max(factors.shape[1] * factors.shape[2], 1))
    yield from (slice(start, start + step) for start in range(0, len(places), step))
