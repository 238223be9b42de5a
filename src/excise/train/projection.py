"""Directions that the steps of a training keep out of, as a value; and the enforcement of it on a leaf of the optimizer.

A row of a weight (an output channel, flat) is a vector of d numbers. `Directions` says of a whole weight which subspace of
them no row may move in. What is held to it is the *update*: where a row stands after an optimizer's step, less where it stood
before the training, is put back into what is left. So momentum, weight decay, Adam's moments and clipping cannot lead out, and
rounding does not add up from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from excise import errors, params
from excise.distributed import shard_of

NOT_FREE = 1e-9
"""Part of a direction, of length 1, that single weights may still see of it before it is taken from them, too."""
MAX_BYTES = 2**31
"""Memory that the bases of rows with single free weights may take, each row's being its own."""


@dataclass(frozen=True, eq=False)
class Directions:
    """A subspace for each group of a weight's rows, whose part no update has.

    Attributes:
        basis: float64 `[groups, d, k]`, orthonormal columns, or columns of zeros where a group has fewer.
        taken: whether the columns span what is taken from updates, so that g becomes g - (g M) M^T; or what is left of them,
            so that it becomes (g N) N^T. It is whichever is smaller.
        ranks: number of directions taken, by group.
    """

    basis: Tensor
    taken: bool
    ranks: tuple[int, ...]

    @classmethod
    def first(cls, vectors: Tensor, ranks: Sequence[int]) -> Directions:
        """Take the first of each group's directions.

        Args:
            vectors: `[groups, d, d]`, orthonormal columns.
            ranks: how many of each.
        """
        width = vectors.shape[2]
        most, fewest = max(ranks), min(ranks)
        taken = most <= width - fewest
        order = torch.arange(width)
        chosen = torch.stack([(order < rank) == taken for rank in ranks])
        kept = vectors * chosen[:, None, :].to(vectors)
        basis = kept[:, :, :most] if taken else kept[:, :, fewest:]
        return cls(basis.double().contiguous(), taken, tuple(ranks))

    @property
    def everything(self) -> bool:
        """Whether nothing is left to any row."""
        return all(rank == self.basis.shape[1] for rank in self.ranks)

    @property
    def nothing(self) -> bool:
        """Whether nothing is taken from any row."""
        return not any(self.ranks)

    def spanning(self) -> Tensor:
        """Give a basis of what is taken, `[groups, d, k]`, whichever of the two is held."""
        if self.taken:
            return self.basis
        width = self.basis.shape[1]
        found = self.basis.new_zeros(len(self.ranks), width, max(self.ranks))
        for group, rank in enumerate(self.ranks):
            left = self.basis[group][:, self.basis[group].any(0)]
            found[group, :, :rank] = torch.linalg.qr(left, mode="complete").Q[:, width - rank :]
        return found


Projection = Mapping[str, Directions]
"""Directions by name of parameter. A parameter that is not named may move anywhere."""


def projection_digest(projection: Projection) -> str:
    """Give the SHA-256 of all of it."""
    return params.digest({f"{name}/{one.taken}": one.basis for name, one in projection.items()})


class Confined:
    """A leaf of the optimizer, confined to what `Directions` leave to its rows, from where it stands now.

    Args:
        name: of the parameter, for people.
        parameter: `[rows, ...]`.
        leaf: all of it, some of its rows, or single weights, flat.
        index: of those rows, or of those weights in the flat parameter; None for all.
        directions: what is taken.

    Raises:
        errors.BadRequest: directions of another width or number of groups; a sharded parameter; or single weights whose bases
            would take more than `MAX_BYTES`.
    """

    def __init__(
        self, name: str, parameter: Tensor, leaf: Tensor, index: Tensor | None, directions: Directions
    ) -> None:
        rows, width, groups = len(parameter), parameter[0].numel(), len(directions.ranks)
        if directions.basis.shape[1] != width or rows % groups:
            raise errors.BadRequest(
                f"projection of {name!r}: expected {groups} groups of rows of {directions.basis.shape[1]} weights, found "
                f"{rows} rows of {width}; take directions of this very network"
            )
        if shard_of(parameter) is not None:
            raise errors.BadRequest(f"projection of {name!r}: its rows lie in several processes; use the strategy ddp")
        self._start, self._nothing = leaf.detach().clone(), directions.nothing
        self._shape = (groups, rows // groups, width)
        self._flat: Tensor | None = (
            None  # where the leaf's weights stand in that shape, where they are not all of it in order
        )
        self._taken, basis = directions.taken, directions.basis
        if index is not None and leaf.ndim != parameter.ndim:
            self._taken, basis = True, self._of_free(name, directions, index.long())
        elif index is not None and groups > 1:
            self._flat = (index.long()[:, None] * width + torch.arange(width, device=index.device)).reshape(-1)
        self._basis = basis.to(leaf.device, self._precision)

    @property
    def _precision(self) -> torch.dtype:
        return torch.promote_types(self._start.dtype, torch.float32)

    def _of_free(self, name: str, directions: Directions, index: Tensor) -> Tensor:
        """Give for each row with free weights an orthonormal basis of what they see of the directions taken, `[rows, d, k]`.

        Of a direction m that is taken, a row whose free weights are F sees the part of m in F: keeping out of all such parts
        is keeping out of the directions, for a row that moves in F alone.
        """
        _, rows, width = self._shape
        every, device, index = directions.spanning(), index.device, index.cpu()
        own, where = torch.unique(index // width, return_inverse=True)
        needed = len(own) * width * every.shape[2] * self._precision.itemsize
        if needed > MAX_BYTES:
            raise errors.BadRequest(
                f"{name!r}: a mask of single weights needs a basis for each of {len(own)} rows, {needed / 1e9:.1f} GB in all; "
                'take a mask of whole channels (granularity="channel")'
            )
        free = torch.zeros(len(own), width, dtype=torch.float64)
        free[where, index % width] = 1
        self._shape, self._flat = (len(own), 1, width), (where * width + index % width).to(device)
        seen = torch.empty(len(own), width, min(every.shape[1:]), dtype=torch.float64)
        for place, row in enumerate(own.tolist()):
            parts = torch.linalg.svd(free[place][:, None] * every[row // rows], full_matrices=False)
            seen[place] = parts.U * (parts.S > NOT_FREE)
        return seen[:, :, : int(seen.any(1).sum(1).max())]

    @torch.no_grad()
    def confine_(self, leaf: Tensor) -> None:
        """Take from a leaf, in place, what its rows have moved in the directions taken."""
        if self._nothing:
            return
        moved = (leaf - self._start).to(self._basis.dtype)
        if self._flat is None:
            inside = self._left(moved.reshape(self._shape[0], -1, self._shape[2]))
        else:
            whole = moved.new_zeros(self._shape).view(-1)
            whole[self._flat] = moved.reshape(-1)
            inside = self._left(whole.view(self._shape)).view(-1)[self._flat]
        leaf.copy_(self._start + inside.reshape(leaf.shape).to(leaf.dtype))

    def _left(self, moved: Tensor) -> Tensor:
        """Give what is left of `[groups, rows, d]`."""
        part = moved @ self._basis @ self._basis.mT
        return moved - part if self._taken else part
