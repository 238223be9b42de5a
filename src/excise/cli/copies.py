"""`excise copies`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from torch import Tensor

from excise import errors, store
from excise.cli import show, tables
from excise.cli.bank import size
from excise.custody import Finding, Traced, find_copies
from excise.custody.lives import LEDGER, LedgerRun
from excise.custody.purging import recorded_digest
from excise.custody.traced import read_asked
from excise.oracles import Bank, default_bank
from excise.store.hidden import reveal

NOT_REACHED = (
    "Removing takes a file's name away. Backups, snapshots, copies on other machines, the blocks of the disk and swap are not "
    "reached."
)

UNTOLD = "it cannot be told of a network that was trained without some rows whether they were these"


def run(
    *, run: Path, places: list[Path] | None, bank: Path | None, forget: Path | None, quiet: bool
) -> tuple[dict[str, Any], int]:
    """List every file that saw the rows of a run; change nothing."""
    to = show.console(quiet=quiet)
    traced = read_run(run, forget, to)
    kept = Bank(bank or default_bank())
    found = find_copies(traced, places or [], kept)
    tell(to, found)
    where = [run, kept.directory, *(places or [])]
    show.say(to, f"Looked into {', '.join(str(place) for place in where)}, and nowhere else. {NOT_REACHED}")
    if found:
        show.say(to, f"To take them away: excise purge {run} --dry-run")
    return {
        "run": str(run),
        "findings": [{**msgspec.to_builtins(one), "sha256": recorded_digest(one)} for one in found],
        "counts": dict(Counter(one.certainty for one in found)),
        "looked_into": [str(place) for place in where],
        "not_reached": NOT_REACHED,
    }, 0


def read_run(run: Path, forget: Path | None, to: Console) -> Traced:
    """Read a run whose copies are looked for, and say what of it is no longer where it was."""
    traced = _traced(run, forget, to)
    if traced.network.before is None:
        where = traced.asked.weights or "hand (the ledger was opened from Python)"
        show.say(
            to,
            f"The original weights are not at {where}, or are others by now: whole copies of them are told by their hash, "
            "parts of them less surely.",
        )
    return traced


def _traced(run: Path, forget: Path | None, to: Console) -> Traced:
    if forget is not None or not (run / store.RECORD).is_file():
        ids = None if forget is None or not (run / store.RECORD).is_file() else _ids(forget, run)
        return Traced.of(run, ids)
    asked = read_asked(run, store.read_record(run))
    if asked.command == LEDGER:
        show.say(
            to,
            f"A ledger holds no ids, so that {UNTOLD}, and lists of the rows are told by their length alone; give them with "
            "--forget.",
        )
        return Traced.of(run)
    try:
        ids = tables.read_ids(Path(reveal(asked.forget)), asked.num_rows)
    except errors.BadSplit:
        ids = None
    if ids is None or store.commitment(ids) != asked.forget_commitment:
        show.say(
            to,
            f"The ids of this run are not where they were, so that {UNTOLD}; give them with --forget.",
        )
        ids = None
    return Traced.of(run, ids)


def _ids(path: Path, run: Path) -> Tensor:
    record = store.read_record(run)
    asked = read_asked(run, record)
    return tables.read_ids(path, LedgerRun.of(run, record).num_rows if asked.command == LEDGER else asked.num_rows)


def tell(to: Console, found: Sequence[Finding]) -> None:
    """Show what was found, the surest first."""
    if not found:
        show.say(to, "No copies found.")
        return
    for one in found:
        show.say(to, f"{one.certainty}: {one.path} ({one.what}, {'link' if one.link else size(one.num_bytes)})")
        show.say(to, f"    {one.why}")
