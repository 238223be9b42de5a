"""`excise bank`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from excise import errors
from excise.cli import show
from excise.oracles import Bank, Entry, default_bank
from excise.oracles.bank import UNFINISHED, UNREADABLE

UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
SEEN = ("original", "half")
"""Kinds of network that have seen rows which a request may want forgotten."""


def run(
    *,
    directory: str | None,
    prune: bool,
    keep_bytes: str | None,
    older_than: float | None,
    kind: list[str] | None,
    everything: bool,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    """List the networks of a bank; with `prune`, remove those that the other options name first."""
    to = show.console(quiet=quiet)
    limit = None if keep_bytes is None else read_bytes(keep_bytes)
    limits = {"--keep-bytes": limit, "--older-than": older_than, "--kind": kind or None, "--everything": everything}
    _require_both(prune, [option for option, value in limits.items() if value is not None and value is not False])
    bank = Bank(directory or default_bank())
    pruned: Sequence[Entry] = ()
    if prune:
        pruned = bank.prune(keep_bytes=limit, older_than_days=older_than, kinds=kind or None, everything=everything)
    entries = bank.entries()
    _tell(to, bank, entries, pruned)
    return {
        "directory": bank.place,
        "entries": msgspec.to_builtins(entries),
        "num_bytes": sum(entry.num_bytes for entry in entries),
        "pruned": msgspec.to_builtins(list(pruned)),
        "foreign": [str(path) for path in bank.foreign()],
    }, 0


def _require_both(prune: bool, named: Sequence[str]) -> None:
    """Refuse half a wish: to prune without saying what, or to name what and not to prune."""
    if prune and not named:
        raise errors.BadRequest(
            "--prune: expected what may go: --keep-bytes SIZE, --older-than DAYS, --kind KIND, or --everything"
        )
    if named and not prune:
        raise errors.BadRequest(f"{named[0]}: says what may go, and nothing goes without --prune; add it")
    if "--everything" in named and len(named) > 1:
        raise errors.BadRequest(f"--everything: leaves nothing for {named[0]} to spare; give one or the other")


def read_bytes(words: str) -> int:
    """Read a size such as `2GB`, `1.5 GiB` or `300000` as bytes.

    Raises:
        errors.BadRequest: no such size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", words.strip(), re.IGNORECASE)
    unit = UNITS.get((match[2] or "B").upper()) if match else None
    if match is None or unit is None:
        raise errors.BadRequest(
            f"--keep-bytes: expected a size such as 500MB, 2GB or 1.5GiB, found {words!r}; units: B, {_units()}"
        )
    return int(float(match[1]) * unit)


def _units() -> str:
    return ", ".join(name.replace("IB", "iB") for name in UNITS if name != "B")


def size(num_bytes: float) -> str:
    """Give bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" or num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def _age(then: datetime, now: datetime) -> str:
    hours = max(0.0, (now - then).total_seconds() / 3600)
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"


def _tell(to: Console, bank: Bank, entries: Sequence[Entry], pruned: Sequence[Entry]) -> None:
    if pruned:
        show.say(to, f"Removed {_counted(pruned)}, {size(sum(entry.num_bytes for entry in pruned))}.")
    if entries:
        to.print(_table(entries))
        total, seconds = size(sum(entry.num_bytes for entry in entries)), sum(entry.seconds for entry in entries)
        show.say(to, f"{_counted(entries)} in {bank.place}: {total}; {seconds:.0f} s of training.")
    else:
        show.say(to, f"No networks in {bank.place}.")
    seen = [entry for entry in entries if entry.kind in SEEN]
    if seen:
        show.say(
            to,
            f"{_counted(seen)} of kind {' or '.join(SEEN)} may have seen rows to forget: remove what a finished request has "
            "left with --prune " + " ".join(f"--kind {kind}" for kind in SEEN) + ".",
        )
    named = {kind: [entry.key for entry in entries if entry.kind == kind] for kind in (UNREADABLE, UNFINISHED)}
    for what, names in (
        ("Unreadable, and never used", [f"{key}.safetensors" for key in named[UNREADABLE]]),
        ("Being written, or broken off; to go by --prune --everything when an hour old", named[UNFINISHED]),
        ("Not the bank's, and left alone", [path.name for path in bank.foreign()]),
    ):
        if names:
            show.say(to, f"{what}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}.")


def _table(entries: Sequence[Entry]) -> Table:
    table, now = show.plain_table("kind", "architecture", "rows", "size", "age", "seconds"), datetime.now(UTC)
    for entry in entries:
        known = bool(entry.architecture)
        rows, seconds = (f"{entry.num_rows:,}", f"{entry.seconds:.1f}") if known else ("–", "–")
        many = (show.cell(entry.architecture or "–"), rows, size(entry.num_bytes), _age(entry.created, now), seconds)
        table.add_row(entry.kind, *many)
    return table


def _counted(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} file{'' if len(entries) == 1 else 's'}"
