"""`Traced`: a finished removal, as far as its copies have to know it: two networks, counts of rows, keyed digests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from excise import errors, store
from excise.custody.contents import original_weights
from excise.custody.network import Network
from excise.custody.rows import RowCounts

MODEL, PATCH = "model.safetensors", "patch.safetensors"
ROWS = "rows.json"
"""Results of single rows, which an audit writes if asked to."""
_RELEASED = re.compile(r"run\.json|audit[\w.-]*\.json|report\.html|receipts?[\w.-]*\.jsonl?|\.lock")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the copies need to know of the request of a run."""

    command: str
    weights: str = ""
    weights_sha256: str = ""
    num_rows: int = 0
    num_forget: int = 0
    forget: str = ""
    forget_commitment: str = ""


@dataclass(frozen=True, eq=False)
class Traced:
    """A removal whose copies are looked for.

    Attributes:
        run: its directory.
        asked: its request.
        network: the weights before and after.
        rows: counts, and how to tell the rows by their keyed digest.
        retained: keyed digest of the rows that stayed; empty where the ids are not at hand.
        released: files of the run that stay: network, mask, patch, record, audit, page, receipts.
    """

    run: Path
    asked: Asked
    network: Network
    rows: RowCounts
    retained: str
    released: frozenset[Path]

    @classmethod
    def of(cls, run: Path, forget: Tensor | None = None) -> Traced:
        """Read a run directory.

        Args:
            run: of `excise unlearn`, finished.
            forget: int64 ids that were to be forgotten, ascending; without them it cannot be told of a network which was
                trained without some rows whether they were these.

        Raises:
            errors.BadRequest: not the directory of such a run, or other rows than its own.
            errors.Corrupt: a file of the run is not what its record says.
        """
        if not (run / store.RECORD).is_file():
            raise errors.BadRequest(
                f"expected the directory of an `excise unlearn` run, found no {store.RECORD} in {run}"
            )
        record = store.read_record(run)
        asked = read_asked(run, record)
        if forget is not None and store.commitment(forget) != asked.forget_commitment:
            raise errors.BadRequest(
                f"the ids given are not those that {run} was made with (or this machine has not the key they were recorded "
                "under); give the same file, where the run was made"
            )
        patched = run / PATCH
        digest = store.read_metadata(patched).get("base_digest", "") if patched.is_file() else ""
        after = store.read_tensors(run / MODEL)[0]
        counts = RowCounts(
            asked.num_rows, asked.num_forget, lambda ids: store.commitment(ids) == asked.forget_commitment
        )
        return cls(
            run=run,
            asked=asked,
            network=Network.of(_original(asked), after, digest),
            rows=counts,
            retained="" if forget is None else store.commitment(_others(forget, asked.num_rows)),
            released=frozenset(_released(run, record)),
        )

    def released_in(self, folder: Path) -> frozenset[Path]:
        """Give what another run released in a folder that answered this very request: the same weights, the same rows."""
        if not (folder / store.RECORD).is_file():
            return frozenset()
        try:
            record = store.read_record(folder)
            asked = read_asked(folder, record)
        except errors.ExciseError:
            return frozenset()
        same = (asked.weights_sha256, asked.forget_commitment, asked.num_rows) == (
            self.asked.weights_sha256,
            self.asked.forget_commitment,
            self.asked.num_rows,
        )
        return frozenset(_released(folder, record)) if same else frozenset()


def read_asked(run: Path, record: Mapping[str, Any]) -> Asked:
    """Give what was asked for in a run of `excise unlearn`.

    Raises:
        errors.BadRequest: a run of another command.
        errors.Corrupt: no request that this version can read.
    """
    try:
        asked = msgspec.convert(record.get("request"), Asked)
    except msgspec.ValidationError as error:
        raise errors.Corrupt(f"{run / store.RECORD} is not a record that this version can read: {error}") from error
    if asked.command != "unlearn":
        raise errors.BadRequest(
            f"expected the directory of an `excise unlearn` run, found one of {asked.command!r} in {run}"
        )
    return asked


def _original(asked: Asked) -> Mapping[str, Tensor] | None:
    """Give the original's weights if the very file is still there."""
    path = Path(asked.weights)
    if not path.is_file() or store.file_digest(path) != asked.weights_sha256:
        return None
    return original_weights(path)


def _others(ids: Tensor, num_rows: int) -> Tensor:
    kept = torch.ones(num_rows, dtype=torch.bool)
    kept[ids] = False
    return kept.nonzero().flatten()


def _released(run: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    for path in run.iterdir():
        listed = path.name in record["files"] and path.name != ROWS
        if (listed or _RELEASED.fullmatch(path.name)) and not path.is_symlink():
            yield path.resolve()
