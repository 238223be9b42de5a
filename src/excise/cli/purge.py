"""`excise purge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from excise import errors
from excise.cli import show
from excise.cli.copies import NOT_REACHED, read_run
from excise.custody import Decided, Wish, decide, find_copies, purge
from excise.custody.purging import Trouble, recorded_digest, require_quarantine
from excise.oracles import Bank, default_bank

KEPT_AS_ASKED = "kept as asked"


def run(
    *,
    run: Path,
    places: list[Path] | None,
    bank: Path | None,
    forget: Path | None,
    quarantine: Path | None,
    remove: bool,
    keep: list[Path] | None,
    dry_run: bool,
    strict: bool,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    """Take away, or put aside, what saw the rows of a run; the released network, the record and the audit stay."""
    to = show.console(quiet=quiet)
    wish = Wish(places=places or [], remove=remove, quarantine=quarantine, keep=keep or [])
    traced = read_run(run, forget, to)
    if quarantine is not None:
        require_quarantine(quarantine, run)
    kept = Bank(bank or default_bank())
    found = find_copies(traced, wish.places, kept, apart=[] if quarantine is None else [quarantine])
    decided = decide(found, traced, wish)
    chosen, left = [one for one in decided if one.how is not None], [one for one in decided if one.how is None]
    done, troubles = (chosen, []) if dry_run else purge(decided, traced, wish, kept)
    _tell(to, done, left, troubles, dry_run=dry_run)
    undone = strict and any(one.why != KEPT_AS_ASKED for one in left)
    codes = [one.exit_code for one in troubles] + [errors.Refused.exit_code] * undone
    return {
        "run": str(run),
        "dry_run": dry_run,
        "purged": [_told(one, how=one.how) for one in done],
        "kept": [_told(one, why=one.why) for one in left],
        "troubles": [one.told for one in troubles],
        "not_reached": NOT_REACHED,
    }, max(codes, default=0)


def _told(one: Decided, **more: str | None) -> dict[str, Any]:
    found = one.finding
    return {
        "path": found.path,
        "what": found.what,
        "certainty": found.certainty,
        "sha256": recorded_digest(found),
        "num_bytes": found.num_bytes,
        **more,
    }


def _tell(
    to: Console, done: Sequence[Decided], left: Sequence[Decided], troubles: Sequence[Trouble], *, dry_run: bool
) -> None:
    would = "Would be " if dry_run else ""
    for one in done:
        how = f"{would}{one.how}"
        show.say(to, f"{how[0].upper()}{how[1:]}: {one.finding.path} ({one.finding.what})")
    for one in left:
        show.say(to, f"Stays: {one.finding.path} ({one.finding.certainty}, {one.finding.what}): {one.why}")
    for trouble in troubles:
        show.say(to, f"Not done: {trouble.told}")
    if not done and not troubles:
        show.say(to, "Nothing to take away.")
    show.say(to, NOT_REACHED if not dry_run else f"Nothing was changed. {NOT_REACHED}")
