"""The one loader: rows in, batches out, on the network's device."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from excise import seeds
from excise.data.rows import Rows, Source
from excise.data.workers import read_by_workers


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples on a device.

    Attributes:
        ids: int64 `[batch]`, on the CPU.
        content: what the data set gives, collated: usually `(inputs [batch, ...], targets [batch])`.
    """

    ids: Tensor
    content: Any

    def __len__(self) -> int:
        return len(self.ids)


class UnreadBatch(Batch):
    """A batch that is read when somebody asks for its content, and then once."""

    def __init__(self, source: Source, ids: Tensor, device: torch.device) -> None:
        vars(self).update(ids=ids, _read=lambda: source.read_to(ids, device))

    @functools.cached_property
    def content(self) -> Any:
        """What the data set gives, collated."""
        return vars(self)["_read"]()


def batches(
    rows: Rows,
    size: int,
    device: torch.device,
    *,
    shuffle: torch.Generator | None = None,
    drop_last: bool = False,
    keep_single: bool = True,
) -> Iterator[Batch]:
    """Give the rows in batches of `size`, in order of id or shuffled by a generator.

    Args:
        rows: what to read.
        size: examples a batch.
        device: where the content goes.
        shuffle: draws one permutation; None keeps the order of ids.
        drop_last: leave out a final batch that is not full (unless it is the only one).
        keep_single: with False, a final batch of one row joins the one before it, since batch normalisation cannot
            train on one row.

    Where the rows' source has workers they read ahead, each batch with the generators seeded from torch's global seed.
    """
    parts = in_batches(order_of(rows, shuffle), size, drop_last=drop_last, keep_single=keep_single)
    if rows.source.workers and len(parts) > 1:
        start = torch.initial_seed()
        wanted = [(seeds.derive(start, "rows", index), ids) for index, ids in enumerate(parts)]
        for ids, content in read_by_workers(rows.source, wanted, device):
            yield Batch(ids, content)
        return
    for ids in parts:
        yield read_batch(rows.source, ids, device)


def order_of(rows: Rows, shuffle: torch.Generator | None) -> Tensor:
    """Give the ids of the rows, ascending or in one permutation drawn by a generator."""
    return rows.ids if shuffle is None else rows.ids[torch.randperm(len(rows), generator=shuffle)]


def in_batches(order: Tensor, size: int, *, drop_last: bool = False, keep_single: bool = True) -> list[Tensor]:
    """Divide the last axis of `order` as `batches` does."""
    chunks = list(torch.split(order, size, dim=-1))
    if drop_last and len(chunks) > 1 and chunks[-1].shape[-1] < size:
        chunks.pop()
    if not keep_single and len(chunks) > 1 and chunks[-1].shape[-1] == 1:
        last = chunks.pop()
        chunks[-1] = torch.cat([chunks[-1], last], dim=-1)
    return chunks


def read_batch(source: Source, ids: Tensor, device: torch.device) -> Batch:
    """Read rows and bring their content to a device."""
    return Batch(ids, source.read_to(ids, device))


def num_batches(num_rows: int, size: int, *, drop_last: bool = False, keep_single: bool = True) -> int:
    """Count the batches that `batches` gives, without reading a row."""
    whole, rest = divmod(num_rows, size)
    found, last = whole + (rest > 0), rest or size
    gone = (drop_last and last < size) or (not keep_single and last == 1)
    return found - (gone and found > 1)
