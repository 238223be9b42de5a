"""`excise report`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from excise import errors, store
from excise.cli import show
from excise.pipeline.planning import require_planned
from excise.report import Page, render

PAGE = "report.html"


def run(*, run: Path, quiet: bool) -> tuple[dict[str, str], int]:
    """Draw the page again from the numbers in a run directory."""
    to = show.console(quiet=quiet)
    found = next((run / name for name in ("audit.json", "demo.json") if (run / name).is_file()), None)
    if found is None:
        raise errors.BadRequest(f"{run} holds neither audit.json nor demo.json; run `excise audit {run}` first")
    if (run / store.RECORD).is_file():
        store.read_record(run, but={PAGE})
    held = store.read_json(found)
    if found.name == "audit.json" and isinstance(held, dict) and "plan" in held:
        require_planned(held)
    try:
        page = msgspec.convert(held["page"], Page)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise errors.Corrupt(f"{found} holds no page that this version of excise can draw: {error}") from error
    target = run / PAGE
    drawn = render(page).encode()
    with store.lock(run):
        if (run / store.RECORD).is_file():
            store.amend_record(run, {target.name: drawn})
        else:
            store.write_bytes(target, drawn)
    show.say(to, f"Wrote {target}")
    return {"report": str(target)}, 0
