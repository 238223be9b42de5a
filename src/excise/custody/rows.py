"""`RowCounts`: how many rows there are, how many are to be forgotten, and what an array with a line for each of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from excise.custody.finding import Reason

FEWEST = 8
"""Rows below which a length says nothing by itself: a head of three classes has three lines too."""
_WEIGHTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_PROTOTYPES = ("proto", "centroid", "center", "centre", "class_mean")


@dataclass(frozen=True, eq=False)
class RowCounts:
    """The rows of a request, without saying which.

    Attributes:
        num_rows: training rows.
        num_forget: those to forget.
        are_forgotten: says of int64 ids, ascending, whether they are the ones to forget; by their keyed digest.
    """

    num_rows: int
    num_forget: int
    are_forgotten: Callable[[Tensor], bool]

    def reasons(self, arrays: Mapping[str, Tensor], heads: set[tuple[int, ...]]) -> Iterator[Reason]:
        """Say which arrays have a line for every row, list the rows, or average over them.

        Args:
            arrays: of a file, by name.
            heads: shapes `(classes, features)` that class prototypes of this network may have.
        """
        for name, value in arrays.items():
            if name.rpartition(".")[2] in _WEIGHTS or value.ndim == 0 or not value.numel():
                continue
            reason = self._lists(value) or self._lines(name, value)
            like_head = value.is_floating_point() and tuple(value.shape) in heads
            if reason is None and like_head and any(word in name.lower() for word in _PROTOTYPES):
                reason = Reason(
                    what="class prototypes",
                    why=f"{name}: {tuple(value.shape)}, as the network's last weights: means of features, by class",
                    certainty="likely",
                )
            if reason is not None:
                yield reason

    def lengths(self, tables: Mapping[str, int]) -> Iterator[Reason]:
        """Say which tables have a line for every row."""
        for name, count in tables.items():
            part = self._part(count)
            if part:
                yield Reason(
                    what=f"a table of {part}", why=f"{name}: {count:,} lines", certainty="likely", lists_rows=True
                )

    def _part(self, count: int) -> str:
        if count >= FEWEST:
            if count == self.num_rows:
                return "all training rows"
            if count == self.num_forget:
                return "as many rows as were forgotten"
        return ""

    def _lists(self, value: Tensor) -> Reason | None:
        """Say whether whole numbers, flags or bits name the rows to forget, or all others."""
        if value.is_complex():
            return None
        numbers = value.reshape(-1)
        lengths = (self.num_rows, self.num_forget, self.num_rows - self.num_forget)
        if len(numbers) in lengths:
            whole = numbers.to(torch.int64)
            if not torch.equal(whole.to(value.dtype), numbers):
                return None
            if len(whole) == self.num_rows and bool(((whole == 0) | (whole == 1)).all()):
                if self._names(whole.nonzero().flatten()):
                    return _listed("a flag for each training row that says which ones are to be forgotten")
            elif self._names(whole):
                return _listed("the ids of the rows to forget, or of all others")
        if value.dtype == torch.uint8 and len(numbers) == -(-self.num_rows // 8):
            for order in ("big", "little"):
                bits = torch.from_numpy(np.unpackbits(numbers.numpy(), bitorder=order))[: self.num_rows]
                if self._names(bits.nonzero().flatten()):
                    return _listed("a bit for each training row that says which ones are to be forgotten")
        return None

    def _names(self, ids: Tensor) -> bool:
        ids = ids.unique()  # type: ignore[no-untyped-call]
        if not len(ids) or int(ids[0]) < 0 or int(ids[-1]) >= self.num_rows:
            return False
        if len(ids) == self.num_forget and self.are_forgotten(ids):
            return True
        others = torch.ones(self.num_rows, dtype=torch.bool)
        others[ids] = False
        left = others.nonzero().flatten()
        return len(left) == self.num_forget and self.are_forgotten(left)

    def _lines(self, name: str, value: Tensor) -> Reason | None:
        sizes = tuple(value.shape)
        part = self._part(sizes[0])
        if not part and value.ndim == 2 and sizes[1] == self.num_rows >= FEWEST:
            part = "all training rows, one line a network"
        if not part:
            return None
        what, guessable = _kind(value)
        return Reason(what=f"{what} of {part}", why=f"{name}: {sizes}", certainty="likely", lists_rows=guessable)


def _kind(value: Tensor) -> tuple[str, bool]:
    if value.is_floating_point() or value.is_complex():
        return ("features, embeddings or logits", False) if value.ndim > 1 else ("scores, losses or margins", False)
    if value.ndim > 2:
        return "pictures", False
    return ("neighbours or tokens", False) if value.ndim == 2 else ("labels, groups or an order", True)


def _listed(why: str) -> Reason:
    return Reason(
        what="a list of the forgotten rows",
        why=f"{why}; compared by their keyed digest",
        certainty="sure",
        lists_rows=True,
    )
