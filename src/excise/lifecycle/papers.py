"""A ledger's directory: the book, the log of receipts, the manifest and the runs; and the book brought up to the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from excise import errors
from excise.ledger.book import Book
from excise.ledger.entries import Run
from excise.ledger.log import Log
from excise.pipeline.unlearned import MODEL
from excise.store.places import require_private

BOOK, RECEIPTS, MANIFEST, RUNS = "book.sqlite", "receipts.jsonl", "manifest.bin", "runs"
ADOPTED = ("PASS", "INCONCLUSIVE")
"""Verdicts after which the unlearned network takes the place of the one before, and its requests count as answered."""


@dataclass(frozen=True, eq=False)
class Papers:
    """What lies in a ledger's directory, open.

    Attributes:
        directory: of the ledger.
        book: requests and runs.
        log: receipts.
    """

    directory: Path
    book: Book
    log: Log

    def run_directory(self, number: int) -> Path:
        """Give where a run is kept."""
        return self.directory / RUNS / f"{number:04d}"

    def newest(self) -> Run | None:
        """Give the run that made the network in use; None while that is the original."""
        return next((run for run in reversed(self.book.runs()) if run.found.get("adopted")), None)

    def model(self) -> Path | None:
        """Give the file of the network in use; None while that is the original.

        Raises:
            errors.Corrupt: it is gone.
        """
        newest = self.newest()
        path = None if newest is None else self.run_directory(newest.number) / MODEL
        if path is not None and not path.is_file():
            raise errors.Corrupt(f"{path}, the network in use, is gone; put it back from a copy")
        return path


@contextmanager
def opened(directory: str | Path) -> Iterator[Papers]:
    """Open a ledger for the block, after entering in the book what the log knows and it does not.

    Raises:
        errors.BadData: there is no ledger.
        errors.BadRequest: anybody may write to its directory.
        errors.Corrupt: book or log are damaged, or do not belong to one another.
    """
    where = Path(directory)
    require_private(where, "directory")
    held = [name for name in (MANIFEST, RECEIPTS) if (where / name).exists()]
    if len(held) == 2 and not (where / BOOK).exists():
        raise errors.Corrupt(
            f"{where}: {BOOK} is gone, and {RECEIPTS} is there; put back a copy of the whole directory"
        )
    with Book(where / BOOK) as book:
        if not (where / MANIFEST).is_file():
            raise errors.Corrupt(f"{where}: {MANIFEST} is gone, and {BOOK} is there; put it back from a copy")
        papers = Papers(where, book, Log(where / RECEIPTS))
        _reconcile(papers)
        yield papers


def _reconcile(papers: Papers) -> None:
    runs = {run.number: run for run in papers.book.runs()}  # before the log: what is done here, the log must have
    receipts = papers.log.receipts()
    if any(receipt["sequence"] not in runs for receipt in receipts):
        runs = {run.number: run for run in papers.book.runs()}  # begun by another process in between
    for receipt in receipts:
        run = runs.get(receipt["sequence"])
        if run is None or not _is_of(receipt, run):
            raise errors.Corrupt(
                f"{papers.directory}: entry {receipt['seq']} of {RECEIPTS} is of a run that {BOOK} does not know; they come "
                "from different times or ledgers; put back both from one copy"
            )
        if run.state == "begun":
            enter(papers.book, run, receipt)
    missing = [run for run in runs.values() if run.seq is not None and run.seq > len(receipts)]
    if missing:
        raise errors.Corrupt(
            f"{papers.directory}: {BOOK} knows entry {missing[0].seq} of {RECEIPTS}, which ends at {len(receipts)}: its end "
            "was cut off; put back both from one copy"
        )


def _is_of(receipt: Mapping[str, Any], run: Run) -> bool:
    same = {one["id"] for one in receipt["requests"]} == set(run.requests)
    return same and receipt["run"] == run.id and run.state != "dropped" and run.receipt in (None, receipt["hash"])


def enter(book: Book, run: Run, receipt: Mapping[str, Any]) -> None:
    """Note in the book what a receipt says of its run."""
    verdict = receipt["audit"]["verdict"]
    found = {
        "verdict": verdict,
        "adopted": verdict in ADOPTED,
        "model_after": receipt["model_after"],
        "retraining_share": receipt["retraining_share"],
        "drift": receipt["drift"],
    }
    book.finish(run.number, seq=receipt["seq"], receipt=receipt["hash"], found=found, answered=verdict in ADOPTED)


def now() -> str:
    """Give date and time, UTC, to the second."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
