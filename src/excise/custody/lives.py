"""`LedgerRun`: what the book of a model's life says of one of its runs, and which files the life goes on with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise import errors, store
from excise.ledger.book import Book

LEDGER = "ledger"
"""The command in the record of such a run."""
BOOK, RUNS = "book.sqlite", "runs"
PAPERS = (BOOK, "receipts.jsonl", "manifest.bin")
"""What lies in a ledger's directory besides its runs."""
MODEL, PATCH = "model.safetensors", "patch.safetensors"
RELEASED = re.compile(r"run\.json|audit[\w.-]*\.json|report\.html|receipts?[\w.-]*\.jsonl?|\.lock")
"""Names of what a run releases besides network, mask and patch."""


@dataclass(frozen=True)
class LedgerRun:
    """A run of a ledger.

    Attributes:
        directory: of the ledger.
        number: of the run.
        original: digest of the network that the life began with.
        weights: where that network was read, as it was typed; empty for a ledger opened from Python.
        num_rows: training rows at the beginning.
        num_forget: rows of the run's requests, exact copies included.
        num_before: rows that earlier runs have forgotten, whose ids the run's own do not tell.
        in_use: number of the run that made the network in use; 0 while that is the original.
        data: keyed digests of what this run and those before it were made from: rows that an earlier one forgot are no
            training rows of a later one.
    """

    directory: Path
    number: int
    original: str
    weights: str
    num_rows: int
    num_forget: int
    num_before: int
    in_use: int
    data: frozenset[str]

    @classmethod
    def of(cls, run: Path, record: Mapping[str, Any]) -> LedgerRun:
        """Read the book beside a run.

        Raises:
            errors.BadRequest: the run does not lie where its ledger keeps it.
            errors.Corrupt: the book does not know the run, or is damaged.
        """
        place = run.resolve()
        directory = place.parent.parent
        if place.parent.name != RUNS or not (directory / BOOK).is_file():
            raise errors.BadRequest(
                f"expected a run of `excise ledger` where its ledger keeps it, as LEDGER/{RUNS}/0001 beside LEDGER/{BOOK}; "
                f"found no such file for {run}; give the run in the ledger's own directory"
            )
        with Book(directory / BOOK) as book:
            life, runs, requests = book.life(), book.runs(), book.requests()
        own = next((one for one in runs if one.id == record["request"].get("run")), None)
        if own is None or place.name != f"{own.number:04d}":
            raise errors.Corrupt(f"{directory / BOOK} does not know the run in {run}; put back both from one copy")
        adopted = [one.number for one in runs if one.found.get("adopted")]
        before = {id for one in runs if one.number in adopted and one.number < own.number for id in one.requests}
        return cls(
            directory=directory,
            number=own.number,
            original=life.original,
            weights=life.words.get("weights") or "",
            num_rows=life.num_rows,
            num_forget=sum(one.num_rows for one in requests if one.id in own.requests),
            num_before=sum(one.num_rows for one in requests if one.id in before),
            in_use=max(adopted, default=0),
            data=frozenset(_data_of(directory / RUNS, own.number)),
        )

    def holds(self, folder: Path) -> bool:
        """Say whether a folder is the ledger's, or one of its runs'."""
        where = folder.resolve()
        return where == self.directory or (where.parent == self.directory / RUNS and where.name.isdecimal())

    def staying(self, folder: Path) -> Iterator[Path]:
        """Give the files of such a folder that are no copies.

        The networks of later runs were made after the rows had been forgotten, or to forget them. Of earlier runs, whose
        networks saw the rows, the masks, records and audits stay; and so does the network in use, whatever it saw.
        """
        where = folder.resolve()
        number = int(where.name) if where != self.directory else 0
        for path in where.iterdir():
            network = path.name in (MODEL, PATCH)
            whole = number >= self.number or number == self.in_use or not network
            known = network or path.name in PAPERS or path.name == "mask.safetensors" or RELEASED.fullmatch(path.name)
            if known and whole and not path.is_symlink():
                yield path


def _data_of(runs: Path, last: int) -> Iterator[str]:
    for number in range(1, last + 1):
        record = runs / f"{number:04d}" / store.RECORD
        found = store.read_sealed(record).get("request", {}).get(store.DATA) if record.is_file() else None
        if isinstance(found, str):
            yield found
