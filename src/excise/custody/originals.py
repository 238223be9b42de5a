"""`Originals`: the content of the rows to forget, by which copies of the rows themselves are told in arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.custody.finding import Reason
from excise.data.rows import Rows

FEWEST_NUMBERS = 4
"""A part of a row with fewer numbers, such as its label, says nothing by itself; nor does one whose numbers are all one."""
BYTES = 255.0
"""Pictures are often kept as bytes and read as numbers from 0 to 1."""


@dataclass(frozen=True, eq=False)
class Originals:
    """Hashes of what the rows hold.

    Attributes:
        digests: for each number of values that a part of a row has, the hashes of those parts.
    """

    digests: Mapping[int, frozenset[bytes]]

    @classmethod
    def of(cls, rows: Rows) -> Originals:
        """Read rows, one after another, as training reads them; random changes of transforms are not undone."""
        found: dict[int, set[bytes]] = {}
        for place in rows.ids:
            for part in _parts(rows.source.read(place.reshape(1))):
                values = part.reshape(1, -1)
                scaled = (values * BYTES).round() if values.is_floating_point() else values
                for digest in (*_hashed(values), *_hashed(scaled)):
                    found.setdefault(values.shape[1], set()).add(digest)
        return cls({size: frozenset(held) for size, held in found.items()})

    def reasons(self, arrays: Mapping[str, Tensor]) -> Iterator[Reason]:
        """Say which arrays hold some of the rows, each in a line, or as a whole."""
        for name, value in arrays.items():
            if not value.numel() or value.is_complex():
                continue
            for lines in (value.reshape(1, -1), value.reshape(len(value) if value.ndim else 1, -1)):
                known = self.digests.get(lines.shape[1])
                count = 0 if known is None else sum(one in known for one in _hashed(lines))
                if count:
                    yield Reason(
                        what="copies of forgotten rows",
                        why=f"{name}: {count:,} of {len(lines):,} lines hold just what a row to forget holds",
                        certainty="sure",
                        lists_rows=True,
                    )
                    break


def _parts(content: object) -> Iterator[Tensor]:
    """Give the tensors of a row, which may be nested."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | tuple | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _parts(part)


def _hashed(lines: Tensor) -> Iterator[bytes]:
    """Give a hash of the numbers in each line, whatever type they are kept as; of none that says nothing by itself."""
    for line in lines:
        if len(line) >= FEWEST_NUMBERS and bool((line != line[0]).any()):
            whole = line.to(torch.float64) + 0.0  # no zero is negative
            yield hashlib.sha256(whole.contiguous().numpy().tobytes()).digest()
