"""Commitments to rows: what shows, to who is given the key, that a record was among them, and tells others nothing.

A row is hidden as HMAC-SHA256 of its content under a key that belongs to one request; no row id enters. The commitment is
the Merkle root over these digests in ascending order, so that the order says nothing about ids either. The same rows under
another key give digests that nobody can connect with the first. Destroying the key leaves random bytes.
"""

from __future__ import annotations

import bisect
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from excise import errors, params
from excise.data.rows import Rows
from excise.ledger import merkle
from excise.store.keys import Key, destroy_key, load_key, new_key
from excise.verify import root_from

__all__ = [
    "Commitment",
    "Inclusion",
    "Key",
    "commit",
    "destroy_key",
    "included",
    "inclusion",
    "load_key",
    "new_key",
    "record_digests",
]

CHUNK_ROWS = 1024
PROBED_ROWS = 8


@dataclass(frozen=True)
class Commitment:
    """One hash over some rows.

    Attributes:
        root: `sha256:` and the Merkle root over the rows' digests, ascending.
        key_id: the key that hid them, see `excise.store.keys`.
        num_rows: how many, repeated ones counted each time.
    """

    root: str
    key_id: str
    num_rows: int


@dataclass(frozen=True)
class Inclusion:
    """What leads from one digest to a root.

    Attributes:
        path: from the leaf upwards, the hash beside, and whether it stands `left` or `right`.
    """

    path: tuple[tuple[str, bytes], ...]

    def to_dict(self, digest: bytes) -> dict[str, Any]:
        """Give it with its digest as plain values, which `python verify.py --record` reads."""
        return {"leaf": digest.hex(), "path": [[side, beside.hex()] for side, beside in self.path]}


def commit(rows: Rows, key: Key) -> Commitment:
    """Commit to rows under a key. Reads every row once.

    Raises:
        errors.BadData: rows that differ from one reading to the next.
    """
    digests = sorted(record_digests(rows, key))
    return Commitment(f"sha256:{merkle.root(digests).hex()}", key.id, len(digests))


def inclusion(rows: Rows, key: Key, position: int) -> Inclusion:
    """Give the path that shows the row at `position` of `rows` to be among them. Reads every row once.

    Raises:
        errors.BadRequest: no such position.
        errors.BadData: rows that differ from one reading to the next.
    """
    if not 0 <= position < len(rows):
        raise errors.BadRequest(f"position: expected one of the {len(rows)} rows, counted from 0; found {position}")
    found = record_digests(rows, key)
    digests = sorted(found)
    index = bisect.bisect_left(digests, found[position])
    return Inclusion(tuple(merkle.path(digests, index)))


def included(root: str, digest: bytes, path: Inclusion) -> bool:
    """Say whether a path leads from a digest to a root."""
    return root == root_from(digest, path.path)


def record_digests(rows: Rows, key: Key) -> list[bytes]:
    """Give HMAC-SHA256(key, 0x00 || content) of each row, in the order of `rows`, reading them in pieces.

    The content is the form of the example (type and shape of each part, up to a byte 0), then the bytes of each part; the
    label is the last part, an integer label as int64 however it is kept. So the same record gives the same digest in an
    array and in a data set. No row id enters.

    Raises:
        errors.BadData: rows that differ from one reading to the next (random augmentation).
    """
    ids = rows.ids[:PROBED_ROWS]
    first, again = (list(_contents(rows.source.read(ids), len(ids))) if len(ids) else [] for _ in range(2))
    if first != again:
        raise errors.BadData(
            "expected rows that are the same each time they are read, found others at the second reading; give the data "
            "without random augmentation"
        )
    return [
        hmac.digest(key.secret, content, "sha256")
        for ids in torch.split(rows.ids, CHUNK_ROWS)
        if len(ids)
        for content in _contents(rows.source.read(ids), len(ids))
    ]


def _contents(batch: Any, num_rows: int) -> Iterator[bytes]:
    """Give the bytes to be hidden of each row of a collated batch."""
    parts = list(_parts(batch, num_rows, ""))
    name, last = parts[-1]
    if len(parts) > 1 and isinstance(last, Tensor) and last.ndim == 1 and not _is_fractional(last):
        parts[-1] = name, last.to(torch.int64)
    form = ";".join(f"{name}{_form(part)}" for name, part in parts)
    start = f"\0{form}\0".encode()
    for row in zip(*(_pieces(part, num_rows) for _, part in parts), strict=True):
        yield b"".join((start, *row))


def _is_fractional(values: Tensor) -> bool:
    return values.is_floating_point() or values.is_complex() or values.dtype == torch.bool


def _parts(batch: Any, num_rows: int, name: str) -> Iterator[tuple[str, Tensor | list[str | bytes]]]:
    """Give what each example is made of, with its key where it has one: tensors `[rows, ...]` and lists of texts."""
    if isinstance(batch, Tensor) and batch.ndim and len(batch) == num_rows:
        yield name, batch
    elif isinstance(batch, dict) and batch:
        for key in sorted(batch):
            yield from _parts(batch[key], num_rows, f"{name}{key!r}:")
    elif isinstance(batch, tuple | list) and batch:
        texts = [part for part in batch if isinstance(part, str | bytes)]
        if len(texts) == len(batch) == num_rows:
            yield name, texts
        else:
            for part in batch:
                yield from _parts(part, num_rows, name)
    else:
        raise errors.BadData(
            f"expected examples of tensors, numbers and texts to take digests of, found {type(batch).__name__}; have the data "
            "set give those"
        )


def _form(part: Tensor | list[str | bytes]) -> str:
    return f"{part.dtype}{list(part.shape[1:])}" if isinstance(part, Tensor) else "text"


def _pieces(part: Tensor | list[str | bytes], num_rows: int) -> Iterator[bytes | memoryview]:
    """Give the bytes of each row: as many as the form says, or, of a text, as many as its first eight bytes say."""
    if isinstance(part, Tensor):
        raw = params.raw_bytes(part)
        width = len(raw) // num_rows
        yield from (raw[index * width : (index + 1) * width] for index in range(num_rows))
    else:
        for text in part:
            content = text.encode() if isinstance(text, str) else text
            yield len(content).to_bytes(8, "big") + content
