"""How a model's life stands: requests with their dates, runs with their verdicts, drift, and what to do about it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from excise import errors, store
from excise.ledger.commitments import load_key
from excise.ledger.entries import Life, Request, Run
from excise.lifecycle.beginning import REFUSED
from excise.lifecycle.drift import Drift, advice
from excise.lifecycle.papers import Papers, opened
from excise.store.keys import keys_home
from excise.verify import canonical

WAITING = ("open", "failed")
"""States of requests that the next run answers."""


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
        waiting = [one for one in requests if one.state in WAITING]
        waits = _waits(papers, runs)
        told = [_request(one, runs, day, waits) for one in requests]
        model = papers.model()
        return {
            "directory": str(papers.directory),
            "opened": life.opened,
            "num_rows": life.num_rows,
            "waiting": len(waiting),
            "overdue": sum(one["overdue"] for one in told),
            "requests": told,
            "runs": [{**_run(one), "waits": waits if one.state == "begun" else None} for one in runs],
            "original": life.original,
            "model": None if model is None else str(model),
            "model_digest": life.original if newest is None else newest.found["model_after"].removeprefix("sha256:"),
            "test_accuracy": life.test_accuracy,
            "max_drop": life.max_drop,
            "drift": msgspec.to_builtins(drift),
            "advice": advice(
                drift, max_drop=life.max_drop, failures=max((len(_failures(one, runs)) for one in waiting), default=0)
            ),
            "head": papers.log.head(),
            "notes": _lost_keys(life, requests),
        }


def _waits(papers: Papers, runs: list[Run]) -> str | None:
    """Say what a run that was begun waits for; None while a process is at work, or where none was begun."""
    run = next((one for one in runs if one.state == "begun"), None)
    if run is None or store.holder(papers.directory) is not None:
        return None
    record = papers.run_directory(run.number) / store.RECORD
    if record.is_file() and REFUSED in store.read_sealed(record):
        return "--accept-drop or --anew: its network lost too much accuracy"
    return "the same command again, or --anew: it was broken off"


def _lost_keys(life: Life, requests: list[Request]) -> list[str]:
    """Say what can no longer be done because a key is not on this machine."""
    found = []
    if _lost(life.key_id):
        found.append(
            f"The ledger's key {life.key_id} is not in {keys_home() / 'keys'}, or is not what it was: no row is found, and no "
            "request is taken or answered, until it is put back."
        )
    lost = [one.id for one in requests if one.key_id is not None and _lost(one.key_id)]
    if lost:
        found.append(
            f"Keys of requests are not in {keys_home() / 'keys'}, or are not what they were: no record is shown to be among "
            f"their rows until they are put back: {', '.join(lost)}."
        )
    return found


def _lost(key_id: str) -> bool:
    try:
        load_key(key_id)
    except (errors.BadRequest, errors.Corrupt, errors.DiskError):
        return True
    return False


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


def _request(one: Request, runs: list[Run], day: date, broken_off: str | None) -> dict[str, Any]:
    left = (date.fromisoformat(one.due) - day).days
    waits = one.state in WAITING
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
        "running": running and broken_off is None,
        "waits": broken_off if running else None,
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
        errors.BadRequest: no such receipt; or `out` is no file's name, a directory, a pipe, or lies in the ledger.
        errors.DiskError: it could not be written.
    """
    where = outside(directory, out)
    found = receipt(directory, which)
    store.write_bytes(where, canonical(found) + b"\n")
    return found


def export_head(directory: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the head to a file, as JSON, and give it.

    Raises:
        errors.BadRequest: as `export_receipt`.
        errors.DiskError: it could not be written.
    """
    where, found = outside(directory, out), head(directory)
    store.write_json(where, found)
    return found


def outside(directory: str | Path, out: str | Path) -> Path:
    """Give the path of a file to be written, if it takes the place of nothing but a file outside the ledger.

    Raises:
        errors.BadRequest: it does not.
    """
    path = Path(out)
    if not path.name or path.is_dir() or (path.exists() and not path.is_file()):
        raise errors.BadRequest(
            f"--out: expected the name of a file, found {str(out)!r}, a directory, a pipe or a device"
        )
    if Path(directory).resolve() in path.resolve().parents:
        raise errors.BadRequest(
            f"--out: {path} lies in the ledger itself, whose files nobody else writes; name a file elsewhere"
        )
    return path
