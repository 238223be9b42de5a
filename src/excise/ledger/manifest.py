"""`Manifest`: which rows a network was trained on, as keyed digests, to find a record again or see that the data changed."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from excise import errors
from excise.data.rows import Rows
from excise.ledger import merkle
from excise.ledger.commitments import record_digests
from excise.store.files import write_bytes
from excise.store.keys import Key, load_key

DIGEST_BYTES = 32
_MAGIC = b"EXCISE-MANIFEST1"
_HEADER = struct.Struct("<16s34sQQ")  # magic, key id, rows, highest id + 1
_PIECE_BYTES = 1 << 20
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Manifest:
    """The rows of a training set by content: 32 bytes a row, in the order of their ids. Holds nothing of a row in clear.

    Attributes:
        digests: uint8 `[rows, 32]`, see `record_digests`.
        ids: int64 `[rows]`, ascending.
        key_id: the key under which the rows are hidden.
        seal: SHA-256 of the file that it was read from; empty where it was not.
    """

    digests: np.ndarray[Any, np.dtype[np.uint8]]
    ids: Tensor
    key_id: str
    seal: bytes = b""

    @classmethod
    def of(cls, rows: Rows, key: Key) -> Manifest:
        """Give the manifest of rows. Reads every row once.

        Raises:
            errors.BadData: rows that differ from one reading to the next.
        """
        return cls(_table(record_digests(rows, key)), rows.ids, key.id)

    def __repr__(self) -> str:
        return f"Manifest({self.num_rows} rows, root {self.root[:19]}…, key {self.key_id})"

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.digests)

    @cached_property
    def root(self) -> str:
        """`sha256:` and the Merkle root over the digests in the order of the ids: another order is another manifest."""
        pieces = (self.digests[start : start + 4096].tobytes() for start in range(0, self.num_rows, 4096))
        return f"sha256:{merkle.root(one for piece in pieces for one in _cut(piece)).hex()}"

    def save(self, path: str | Path) -> None:
        """Write it whole or not at all: header, which ids there are (a bit each), 32 bytes a row, SHA-256 of all that.

        Raises:
            errors.DiskError: it could not be written.
        """
        places = int(self.ids[-1]) + 1 if self.num_rows else 0
        present = np.zeros(places, dtype=bool)
        present[self.ids.numpy()] = True
        header = _HEADER.pack(_MAGIC, self.key_id.encode(), self.num_rows, places)
        content = header + np.packbits(present).tobytes() + self.digests.tobytes()
        write_bytes(Path(path), content + hashlib.sha256(content).digest())

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Read it back, checked; the digests stay on the disk until they are asked for.

        Raises:
            errors.BadData: no such file, or one of another kind.
            errors.Corrupt: the file was changed or cut off.
        """
        where = Path(path)
        key_id, num_rows, places, seal = _checked(where)
        with where.open("rb") as file:
            file.seek(_HEADER.size)
            packed = np.frombuffer(file.read((places + 7) // 8), dtype=np.uint8)
        ids = torch.from_numpy(np.flatnonzero(np.unpackbits(packed, count=places)))
        if len(ids) != num_rows:
            raise errors.Corrupt(f"{where}: expected {num_rows} ids, found {len(ids)}; restore it from a copy")
        shape, offset = (num_rows, DIGEST_BYTES), _HEADER.size + len(packed)
        held = np.memmap(where, np.uint8, "r", offset, shape) if num_rows else np.zeros(shape, np.uint8)
        return cls(held, ids, key_id, seal)

    def require_same(self, rows: Rows) -> None:
        """Refuse rows that are not those of the manifest, id by id. Reads every row once.

        Raises:
            errors.Corrupt: other ids or contents, and how many.
            errors.BadRequest: the key is not there.
        """
        if len(rows) != self.num_rows or not torch.equal(rows.ids, self.ids):
            raise errors.Corrupt(
                f"the training data is not what the manifest says: expected {self.num_rows} rows, found {len(rows)}"
                f"{' with other ids' if len(rows) == self.num_rows else ''}; give the data that the network was trained on"
            )
        found = _table(record_digests(rows, load_key(self.key_id)))
        changed = int((found != self.digests).any(axis=1).sum())
        if changed:
            raise errors.Corrupt(
                f"the training data is not what the manifest says: {changed} of {self.num_rows} rows have changed since; give "
                "the data that the network was trained on, without augmentation"
            )

    def holds_exactly(self, digests: Sequence[bytes]) -> bool:
        """Say whether its rows have these digests, in this order."""
        if len(digests) != self.num_rows:
            return False
        starts = range(0, self.num_rows, 4096)
        return all(self.digests[at : at + 4096].tobytes() == b"".join(digests[at : at + 4096]) for at in starts)

    def find(self, rows: Rows) -> Tensor:
        """Give the ids of the training rows that are exactly these records, every copy of each, int64 ascending.

        Raises:
            errors.BadSplit: records that are in no training row; they are named by their position among `rows`.
            errors.BadRequest: the key is not there.
        """
        wanted = record_digests(rows, load_key(self.key_id))
        places = self._places(set(wanted))
        missing = [position for position, digest in enumerate(wanted) if digest not in places]
        if missing:
            shown = ", ".join(str(position) for position in missing[:_SHOWN])
            raise errors.BadSplit(
                f"{len(missing)} of {len(wanted)} records are in no training row (at position{'s' * (len(missing) > 1)} {shown}"
                f"{' and further' * (len(missing) > _SHOWN)}); a record must be exactly as the network was trained on it, "
                "its label included"
            )
        return self.ids[torch.tensor(sorted(place for found in places.values() for place in found), dtype=torch.int64)]

    def _places(self, wanted: set[bytes]) -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        for start in range(0, self.num_rows, 4096):
            for place, digest in enumerate(_cut(self.digests[start : start + 4096].tobytes()), start):
                if digest in wanted:
                    found.setdefault(digest, []).append(place)
        return found


def _table(digests: list[bytes]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def _cut(piece: bytes) -> list[bytes]:
    return [piece[start : start + DIGEST_BYTES] for start in range(0, len(piece), DIGEST_BYTES)]


def _checked(path: Path) -> tuple[str, int, int, bytes]:
    """Read the header of a manifest's file, and the whole file once to see that it is what was written."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(None, "it is a directory, a pipe or a device")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            header = file.read(_HEADER.size)
            if not header.startswith(_MAGIC[:15]):
                raise errors.BadData(f"{path} is no manifest; give the file that Manifest.save has written")
            if not header.startswith(_MAGIC) or len(header) < _HEADER.size:
                raise errors.Corrupt(f"{path} is damaged, or of a later version of excise; restore it from a copy")
            running, left = hashlib.sha256(header), size - _HEADER.size - DIGEST_BYTES
            while left > 0:
                piece = file.read(min(left, _PIECE_BYTES))
                running.update(piece)
                left -= len(piece) or left
            recorded = file.read(DIGEST_BYTES)
    except OSError as error:
        raise errors.BadData(f"expected a manifest at {path}: {error.strerror or error}") from error
    _, key_id, num_rows, places = _HEADER.unpack(header)
    expected = _HEADER.size + (places + 7) // 8 + DIGEST_BYTES * num_rows + DIGEST_BYTES
    if size != expected or recorded != running.digest():
        raise errors.Corrupt(
            f"{path} is not what was written: expected {expected} bytes, SHA-256 {recorded.hex()[:12]}…, found {size} bytes, "
            f"{running.hexdigest()[:12]}…; restore it from a copy"
        )
    return key_id.decode("ascii", "replace"), num_rows, places, recorded
