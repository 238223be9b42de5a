"""What a project holds, put so that two that should be the same to the bit can be compared: all but times and lots."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from excise import params, store
from excise.custody.checking import Checked, check
from excise.ledger.book import Book
from excise.ledger.manifest import Manifest
from excise.oracles import Bank
from excise.report import Page, render
from tests.crash.server import Place

TIMES = re.compile(
    r".*seconds|audit_retrainings|requests_until_paid|peak_bytes|when|time|begun|received|due|opened|created"
)
DRAWN = re.compile(
    r"seal|hash|prev|id|run|key_id|commit_key_id|forget_commit|requests|data_manifest|manifest_root|retain_root"
    r"|test_root|holdout_root|file"
)
"""What is drawn by lot, or is a digest of something with a time in it."""
TIMED_FILES = re.compile(r"audit(-[0-9a-f]{12})?\.json|report\.html|demo\.json")
BROKEN_OFF = "what a broken-off write has left"
"""What a purge takes away of the purge before it."""
SECRET = re.compile(r"state/excise/keys/.*")


def picture(place: Place) -> dict[str, Any]:
    """Give what every file says, by its path; folders too, and the names of all that should not be there."""
    return {name: _said(place.root / name) for name in sorted(place.files()) if not SECRET.fullmatch(name)}


def _said(path: Path) -> Any:
    if path.is_dir():
        return "a folder"
    if path.parent.name == "bank" and path.suffix == ".safetensors":
        kept = Bank(path.parent).find(path.stem)
        return None if kept is None else [kept.seed, kept.trained_rows, params.digest(kept.state)]
    if path.name == "report.html":
        numbers = store.read_json(path.with_name("audit.json"))
        drawn = render(msgspec.convert(numbers["page"], Page)).encode() == path.read_bytes()
        return "the page of its numbers" if drawn else "another page"
    if path.name == "receipts.jsonl":
        return [_plain(json.loads(line)) for line in path.read_bytes().splitlines()]
    if path.name == "book.sqlite":
        return _entered(path)
    if path.name == "manifest.bin":
        return Manifest.load(path).ids.tolist()
    if path.suffix == ".json":
        value = store.read_json(path)
        if path.name == "audit.json":  # what a process has spent itself, which is less where networks were found
            del value["cost"], value["page"]["costs"]
        return _plain(value)
    return store.file_digest(path)


def _entered(path: Path) -> list[Any]:
    """Give what a book says."""
    with Book(path) as book:
        runs = [[one.number, one.state, one.seq, _plain(one.found), len(one.requests)] for one in book.runs()]
        requests = sorted((one.state, one.num_rows, one.runs, one.key_id is None) for one in book.requests())
        return [_plain(msgspec.to_builtins(book.life())), runs, requests, len(book.rows())]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "a digest" if TIMED_FILES.fullmatch(key) else _plain(held)
            for key, held in value.items()
            if not TIMES.fullmatch(key)
            and not (DRAWN.fullmatch(key) and not (key == "requests" and isinstance(held, list)))
        }
    if isinstance(value, list):
        return [_plain(one) for one in value if not (isinstance(one, dict) and one.get("what") == BROKEN_OFF)]
    return value


def checked(place: Place) -> list[Checked]:
    """Look at every directory of ours in a project."""
    found = []
    for name in ("work/run", "work/tuned", "work/life", "cache/excise/bank"):
        if (place.root / name).is_dir() and any((place.root / name).iterdir()):
            found += check(place.root / name)
    return found


def damaged(place: Place) -> list[Checked]:
    """Give those files that are not what their record says."""
    return [one for one in checked(place) if one.state == "damaged"]
