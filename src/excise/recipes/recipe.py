"""`Recipe`: a place and a method under a name, with the paper they come from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from excise import errors
from excise.localize import Everything, Given, Region
from excise.masks import Mask
from excise.methods import Method


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published way to forget: where to change, and how.

    Attributes:
        name: as the literature calls it.
        paper: authors, title, venue.
        year: of publication, 0 where there is no paper.
        method: how to change.
        where: where to change.
        besides: what `methods.Widened` may train together with that; None for nothing.
    """

    name: str
    paper: str
    year: int
    method: Method
    where: Region = field(default_factory=Everything)
    besides: Region | None = None

    def __post_init__(self) -> None:
        """Check that what may be trained besides is trained."""
        if self.besides is not None and not self.method.widens:
            raise errors.BadRequest(
                f"besides: {type(self.method).__name__} trains nothing besides its mask; "
                "wrap it, as in methods.Widened(method), or leave besides out"
            )

    def named(self, name: str) -> Recipe:
        """Give the same recipe under another name, for tables that hold one twice."""
        return replace(self, name=name)

    def at(self, where: Region | Mask) -> Recipe:
        """Give the same recipe in another place, such as `Cut(WeightGradient(), 0.3)` or a mask of one's own.

        What it may train besides stays, so that two places are compared with all else equal: DEL's head, the whole network
        for MSG. To allow nothing but a mask, pass it to `unlearn` as `mask=`.

        Raises:
            errors.BadRequest: neither a region nor a mask.
        """
        if isinstance(where, Mask):
            where = Given(where)
        if not isinstance(where, Region):
            raise errors.BadRequest(
                f"at: expected a region, such as Cut(WeightGradient(), 0.3), or a mask; found {type(where).__name__}"
            )
        return replace(self, where=where)
