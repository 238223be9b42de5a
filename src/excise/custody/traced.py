"""`Traced`: a finished removal, as far as its copies have to know it: two networks, counts of rows, keyed digests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from excise import errors, params, store
from excise.custody.contents import original_weights
from excise.custody.lives import LEDGER, MODEL, PATCH, RELEASED, LedgerRun
from excise.custody.network import Network
from excise.custody.originals import Originals
from excise.custody.rows import RowCounts

ROWS = "rows.json"
"""Results of single rows, which an audit writes if asked to."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the copies need to know of the request of a run, or of a ledger's run; what is not known is empty, or None."""

    command: str
    weights: str = ""
    weights_sha256: str = ""
    num_rows: int = 0
    num_forget: int = 0
    forget: str = ""
    forget_commitment: str = ""
    data_commitment: str | None = None


@dataclass(frozen=True, eq=False)
class Traced:
    """A removal whose copies are looked for.

    Attributes:
        run: its directory.
        asked: its request.
        network: the weights before and after.
        rows: counts, and how to tell the rows by their keyed digest.
        retained: keyed digest of the rows that stayed; empty where the ids are not at hand.
        num_retained: how many those are.
        released: files of the run that stay: network, mask, patch, record, audit, page, receipts.
        data: keyed digests of the content of the rows that the original, or an earlier network of the ledger, was trained on;
            none where that was not recorded.
        ledger: what the ledger's book says of a run of `excise ledger`; None for one of `excise unlearn`.
        originals: what the rows to forget hold; None where the data are not at hand.
    """

    run: Path
    asked: Asked
    network: Network
    rows: RowCounts
    retained: str
    num_retained: int
    released: frozenset[Path]
    data: frozenset[str]
    ledger: LedgerRun | None = None
    originals: Originals | None = None

    @classmethod
    def of(cls, run: Path, forget: Tensor | None = None, originals: Originals | None = None) -> Traced:
        """Read a run directory.

        Args:
            run: of `excise unlearn` or `excise ledger`, finished.
            forget: int64 ids that were to be forgotten, ascending; without them it cannot be told of a network which was
                trained without some rows whether they were these. A ledger holds no ids: those of one of its runs are held
                against their number alone, and without them no list of rows is told by what it holds.

            originals: of those rows, to tell copies of the rows themselves.

        Raises:
            errors.BadRequest: not the directory of such a run, or other rows than its own.
            errors.Corrupt: a file of the run is not what its record says.
        """
        if not (run / store.RECORD).is_file():
            raise errors.BadRequest(
                f"expected the directory of an `excise unlearn` or `excise ledger` run, found no {store.RECORD} in {run}"
            )
        record = store.read_record(run)
        asked = read_asked(run, record)
        ledger = LedgerRun.of(run, record) if asked.command == LEDGER else None
        if ledger is not None:
            asked = _asked_of(ledger, asked, forget)
        elif forget is not None and store.commitment(forget) != asked.forget_commitment:
            raise errors.BadRequest(
                f"the ids given are not those that {run} was made with (or this machine has not the key they were recorded "
                "under); give the same file, where the run was made"
            )
        after = store.read_tensors(run / MODEL)[0]
        counts = RowCounts(
            asked.num_rows, asked.num_forget, lambda ids: store.commitment(ids) == asked.forget_commitment
        )
        known = forget is not None and (ledger is None or not ledger.num_before)
        return cls(
            run=run,
            asked=asked,
            network=Network.of(_original(asked), after, _digest_before(run, ledger)),
            rows=counts,
            retained=store.commitment(_others(forget, asked.num_rows)) if forget is not None and known else "",
            num_retained=asked.num_rows - asked.num_forget - (0 if ledger is None else ledger.num_before),
            released=frozenset(_released(run, record)),
            data=frozenset(filter(None, [asked.data_commitment])) if ledger is None else ledger.data,
            ledger=ledger,
            originals=originals,
        )

    def released_in(self, folder: Path) -> frozenset[Path]:
        """Give what stays in another folder: what a run of this very request released; what this run's ledger goes on with."""
        if self.ledger is not None and self.ledger.holds(folder):
            return frozenset(self.ledger.staying(folder))
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
    """Give what was asked for in a run of `excise unlearn`; of one of `excise ledger` what its record says of that.

    Raises:
        errors.BadRequest: a run of another command.
        errors.Corrupt: no request that this version can read.
    """
    try:
        asked = msgspec.convert(record.get("request"), Asked)
    except msgspec.ValidationError as error:
        raise errors.Corrupt(f"{run / store.RECORD} is not a record that this version can read: {error}") from error
    if asked.command not in ("unlearn", LEDGER):
        raise errors.BadRequest(
            f"expected the directory of an `excise unlearn` or `excise ledger` run, found one of {asked.command!r} in {run}"
        )
    return asked


def _asked_of(ledger: LedgerRun, asked: Asked, forget: Tensor | None) -> Asked:
    """Complete a request from the ledger's book."""
    if forget is not None and (len(forget) != ledger.num_forget or int(forget.max()) >= ledger.num_rows):
        raise errors.BadRequest(
            f"expected the ids of the {ledger.num_forget:,} rows (of {ledger.num_rows:,}, exact copies included) that run "
            f"{ledger.number} of the ledger was to forget, found {len(forget):,}, the highest {int(forget.max()):,}; give "
            "those, or none"
        )
    path = Path(ledger.weights)
    return msgspec.structs.replace(
        asked,
        weights=ledger.weights,
        weights_sha256=store.file_digest(path) if holds(path, ledger.original) else "",
        num_rows=ledger.num_rows,
        num_forget=ledger.num_forget,
        forget_commitment="" if forget is None else store.commitment(forget),
    )


def holds(path: Path, digest: str) -> bool:
    """Say whether a file holds the network of a digest."""
    state = original_weights(path) if path.is_file() else None
    return state is not None and params.digest(state) == digest


def _digest_before(run: Path, ledger: LedgerRun | None) -> str:
    """Give the digest of the original network, as it was recorded."""
    if ledger is not None:
        return ledger.original
    patched = run / PATCH
    return store.read_metadata(patched).get("base_digest", "") if patched.is_file() else ""


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
        if (listed or RELEASED.fullmatch(path.name)) and not path.is_symlink():
            yield path.resolve()
