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
from excise.custody.originals import Originals
from excise.custody.purging import recorded_digest
from excise.custody.traced import read_asked
from excise.data.rows import Rows, as_source
from excise.oracles import Bank, default_bank
from excise.store.hidden import reveal

NOT_REACHED = (
    "Removing takes a file's name away. Backups, snapshots, copies on other machines, the blocks of the disk and swap are not "
    "reached."
)

NOT_LOOKED_FOR = (
    "Copies of the rows themselves (pictures, texts, records) are not told by what they hold, and may be left: look after "
    "those yourself."
)

LOOKED_FOR = (
    "Copies of the rows themselves were looked for in arrays of numbers; in pictures, texts and records they are not told by "
    "what these hold, and may be left: look after those yourself."
)

UNTOLD = "it cannot be told of a network that was trained without some rows whether they were these"


def run(
    *,
    run: Path,
    places: list[Path] | None,
    bank: Path | None,
    forget: Path | None,
    data: str | None = None,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    """List networks and what was computed with the rows of a run, and lists of the rows; change nothing."""
    to = show.console(quiet=quiet)
    traced = read_run(run, forget, to, data)
    kept = Bank(bank or default_bank())
    found = find_copies(traced, places or [], kept)
    tell(to, found)
    where = [run, kept.directory, *(places or [])]
    show.say(to, f"Looked into {', '.join(str(place) for place in where)}, and nowhere else. {NOT_REACHED}")
    if found:
        named = "".join(f" --in {place}" for place in places or ())
        show.say(to, f"To take them away: excise purge {run}{named} --dry-run")
    show.say(to, left_out(traced))
    return {
        "run": str(run),
        "findings": [{**msgspec.to_builtins(one), "sha256": recorded_digest(one)} for one in found],
        "counts": dict(Counter(one.certainty for one in found)),
        "looked_into": [str(place) for place in where],
        "not_reached": NOT_REACHED,
        "not_looked_for": left_out(traced),
    }, 0


def left_out(traced: Traced) -> str:
    """Say which copies of the rows themselves are not found."""
    return NOT_LOOKED_FOR if traced.originals is None else LOOKED_FOR


def read_run(run: Path, forget: Path | None, to: Console, data: str | None = None) -> Traced:
    """Read a run whose copies are looked for, and say what of it is no longer where it was."""
    traced = _traced(run, forget, to, data)
    if traced.network.before is None:
        where = traced.asked.weights or "hand (the ledger was opened from Python)"
        show.say(
            to,
            f"The original weights are not at {where}, or are others by now: whole copies of them are told by their hash, "
            "parts of them less surely.",
        )
    return traced


def _traced(run: Path, forget: Path | None, to: Console, data: str | None) -> Traced:
    if forget is not None or not (run / store.RECORD).is_file():
        ids = None if forget is None or not (run / store.RECORD).is_file() else _ids(forget, run)
        return Traced.of(run, ids, _originals(data, ids, run))
    asked = read_asked(run, store.read_record(run))
    if asked.command == LEDGER:
        show.say(
            to,
            f"A ledger holds no ids, so that {UNTOLD}, and lists of the rows are told by their length alone; give them with "
            "--forget.",
        )
        return Traced.of(run, None, _originals(data, None, run))
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
    return Traced.of(run, ids, _originals(data, ids, run))


def _originals(data: str | None, ids: Tensor | None, run: Path) -> Originals | None:
    """Read the rows to forget from the training data, whose code is run; None where no data are named."""
    if data is None:
        return None
    if ids is None:
        raise errors.BadRequest(
            f"--data: which rows {run} was to forget is not known here; give their ids with --forget"
        )
    source = as_source(tables.read_data(data, None, None)[0])
    if int(ids.max()) >= len(source):
        raise errors.BadRequest(
            f"--data: expected the training data of {run}, found {len(source):,} rows, and row {int(ids.max()):,} was to be "
            "forgotten; name those data"
        )
    return Originals.of(Rows(source, ids))


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
        if one.released_by:
            show.say(to, f"    Released by {one.released_by}: purge leaves it without --also-released.")
        tell_need(to, one)


def tell_need(to: Console, one: Finding) -> None:
    """Warn of a file without which another audit, or a replay, cannot be made."""
    if one.needed_by:
        show.say(
            to, f"    Another audit, or a replay, of {one.needed_by} reads this file, and cannot be made without it."
        )
