"""How a model's life stands: requests with their dates, runs with their verdicts, drift, and what to do about it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from excise import errors, store
from excise.ledger.entries import Request, Run
from excise.lifecycle.drift import Drift, advice
from excise.lifecycle.papers import Papers, opened
from excise.pipeline.unlearned import MODEL
from excise.verify import canonical


def status(directory: str | Path, *, today: date | None = None) -> dict[str, Any]:
    """Give how a ledger stands, as plain values; needs neither network nor data.

    Args:
        directory: of the ledger.
        today: for the days left; this day, UTC, if None.

    Raises:
        errors.BadData: there is no ledger.
        errors.Corrupt: as `opened`.
    """
    day = today or datetime.now(UTC).date()
    with opened(directory) as papers:
        life, runs, requests = papers.book.life(), papers.book.runs(), papers.book.requests()
        newest = papers.newest()
        drift = _drift(runs, newest)
        waiting = [one for one in requests if one.state != "answered"]
        told = [_request(one, runs, day) for one in requests]
        return {
            "directory": str(papers.directory),
            "opened": life.opened,
            "num_rows": life.num_rows,
            "waiting": len(waiting),
            "overdue": sum(one["overdue"] for one in told),
            "requests": told,
            "runs": [_run(one) for one in runs],
            "original": life.original,
            "model": None if newest is None else str(papers.run_directory(newest.number) / MODEL),
            "model_digest": life.original if newest is None else newest.found["model_after"].removeprefix("sha256:"),
            "test_accuracy": life.test_accuracy,
            "max_drop": life.max_drop,
            "drift": msgspec.to_builtins(drift),
            "advice": advice(
                drift, max_drop=life.max_drop, failures=max((len(_failures(one, runs)) for one in waiting), default=0)
            ),
            "head": papers.log.head(),
        }


def words(directory: str | Path) -> dict[str, str | None]:
    """Give what was typed to name network and data when a ledger was opened; empty for one opened from Python.

    Raises:
        errors.BadData: there is no ledger.
        errors.Corrupt: as `opened`.
    """
    with opened(directory) as papers:
        return papers.book.life().words


def _drift(runs: list[Run], newest: Run | None) -> Drift:
    """Give the drift that the newest adopted run recorded, with what all runs cost since."""
    done = [one for one in runs if one.state == "done"]
    if newest is None:
        held = {"distance": 0.0, "forgotten_fraction": 0.0, "test_accuracy_change": 0.0}
    else:
        held = newest.found["drift"]
    retrainings = done[-1].found["drift"]["retrainings"] if done else 0.0
    return msgspec.convert({**held, "retrainings": retrainings}, Drift)


def _failures(request: Request, runs: list[Run]) -> list[int]:
    return [
        one.number for one in runs if one.state == "done" and request.id in one.requests and not one.found["adopted"]
    ]


def _request(one: Request, runs: list[Run], day: date) -> dict[str, Any]:
    left = (date.fromisoformat(one.due) - day).days
    waits = one.state != "answered"
    done = [run for run in runs if run.number in one.runs and run.state == "done"]
    running = any(run.number in one.runs and run.state == "begun" for run in runs)
    return {
        "id": one.id,
        "received": one.received,
        "due": one.due,
        "days_left": left if waits else None,
        "overdue": waits and left < 0,
        "reason": one.reason,
        "state": one.state,
        "running": running,
        "num_rows": one.num_rows,
        "runs": list(one.runs),
        "verdict": done[-1].found["verdict"] if done else None,
        "receipt": done[-1].seq if done else None,
        "key": "destroyed" if one.key_id is None else one.key_id,
    }


def _run(one: Run) -> dict[str, Any]:
    return {
        "number": one.number,
        "state": one.state,
        "begun": one.begun,
        "recipe": one.asked["recipe"],
        "num_requests": len(one.requests),
        "verdict": one.found.get("verdict"),
        "adopted": bool(one.found.get("adopted")),
        "receipt": one.seq,
        "retraining_share": one.found.get("retraining_share"),
    }


def head(directory: str | Path) -> dict[str, Any]:
    """Give `{"seq", "hash"}` of the last receipt, to be kept where the ledger's owner cannot write.

    Raises:
        errors.BadData: there is no ledger.
        errors.Corrupt: as `opened`.
    """
    with opened(directory) as papers:
        return papers.log.head()


def receipt(directory: str | Path, which: str | int) -> dict[str, Any]:
    """Give a receipt: by its number, or the last one of a request by the request's id.

    Raises:
        errors.BadRequest: no such receipt.
        errors.BadData: there is no ledger.
        errors.Corrupt: as `opened`.
    """
    with opened(directory) as papers:
        return _receipt(papers, str(which))


def _receipt(papers: Papers, which: str) -> dict[str, Any]:
    receipts = papers.log.receipts()
    if which.isdecimal() and len(which) < 32:
        found = [one for one in receipts if str(one["seq"]) == which]
        wanted = f"a receipt with the number {which} (there are {len(receipts)})"
    else:
        found = [one for one in receipts if any(request["id"] == which for request in one["requests"])]
        wanted = f"a receipt for the request {which}"
    if not found:
        raise errors.BadRequest(f"expected {wanted}, found none; see `excise ledger status {papers.directory}`")
    return found[-1]


def export_receipt(directory: str | Path, which: str | int, out: str | Path) -> dict[str, Any]:
    """Write a receipt to a file of its own, byte for byte as it stands in the log, and give it.

    Raises:
        errors.BadRequest: no such receipt.
        errors.DiskError: it could not be written.
    """
    found = receipt(directory, which)
    store.write_bytes(Path(out), canonical(found) + b"\n")
    return found
