"""`excise purge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from excise import errors
from excise.cli import show
from excise.cli.copies import NOT_REACHED, left_out, read_run, tell_need
from excise.custody import Decided, Wish, decide, find_copies, purge
from excise.custody.purging import RELEASED_ELSEWHERE, Trouble, recorded_digest, require_quarantine
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
    also_released: bool,
    data: str | None = None,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    """Take away, or put aside, what saw the rows of a run; the released network, the record and the audit stay."""
    to = show.console(quiet=quiet)
    wish = Wish(places=places or [], remove=remove, quarantine=quarantine, keep=keep or [], also_released=also_released)
    traced = read_run(run, forget, to, data)
    kept = Bank(bank or default_bank())
    if quarantine is not None:
        require_quarantine(quarantine, run, wish.places, kept)
    found = find_copies(traced, wish.places, kept, apart=[] if quarantine is None else [quarantine])
    decided = decide(found, traced, wish)
    chosen, left = [one for one in decided if one.how is not None], [one for one in decided if one.how is None]
    done, troubles = (chosen, []) if dry_run else purge(decided, traced, wish, kept)
    _tell(to, done, left, troubles, dry_run=dry_run)
    show.say(to, left_out(traced))
    undone = strict and any(one.why != KEPT_AS_ASKED for one in left)
    codes = [one.exit_code for one in troubles] + [errors.Refused.exit_code] * undone
    return {
        "run": str(run),
        "dry_run": dry_run,
        "purged": [_told(one, how=one.how) for one in done],
        "kept": [_told(one, why=_why(one)) for one in left],
        "troubles": [one.told for one in troubles],
        "not_reached": NOT_REACHED,
        "not_looked_for": left_out(traced),
    }, max(codes, default=0)


def _told(one: Decided, **more: str | None) -> dict[str, Any]:
    found = one.finding
    return {
        "path": found.path,
        "what": found.what,
        "certainty": found.certainty,
        "sha256": recorded_digest(found),
        "num_bytes": found.num_bytes,
        "needed_by": found.needed_by,
        **more,
    }


def _why(one: Decided) -> str:
    """Say why a file stays; the run that released it is named here, and not in the record."""
    return one.why.replace("another run", one.finding.released_by) if one.why == RELEASED_ELSEWHERE else one.why


def _tell(
    to: Console, done: Sequence[Decided], left: Sequence[Decided], troubles: Sequence[Trouble], *, dry_run: bool
) -> None:
    would = "Would be " if dry_run else ""
    for one in done:
        how = f"{would}{one.how}"
        show.say(to, f"{how[0].upper()}{how[1:]}: {one.finding.path} ({one.finding.what})")
        tell_need(to, one.finding)
    for one in left:
        show.say(to, f"Stays: {one.finding.path} ({one.finding.certainty}, {one.finding.what}): {_why(one)}")
    for trouble in troubles:
        show.say(to, f"Not done: {trouble.told}")
    if not done and not troubles:
        show.say(to, "Nothing to take away.")
    show.say(to, NOT_REACHED if not dry_run else f"Nothing was changed. {NOT_REACHED}")
