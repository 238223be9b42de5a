"""A run directory: artifacts, and the record `run.json` that names the request and the SHA-256 of each.

The record is written last, so a directory with a complete record is a complete run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from excise import errors
from excise.store.files import file_digest
from excise.store.values import read_json, write_json

RECORD = "run.json"
LAST_FINITE = "last-finite.safetensors"
"""What a run that diverged leaves instead of a result."""


class RunDirectory:
    """A directory that one request fills, and whose record says which request that was.

    Args:
        path: the directory; made when the first file is written.
        request: plain values that name everything the result depends on.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path = path
        self.request = msgspec.json.decode(msgspec.json.encode(dict(request)))

    def finished(self) -> dict[str, Any] | None:
        """Give the record if this very request was completed here and every file is what the record says.

        Raises:
            errors.BadRequest: the directory holds another request's run or a stranger's files, or is a file.
            errors.Corrupt: a file of the run was changed or is gone.
        """
        place = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
        if not place.is_dir():
            raise errors.BadRequest(f"expected a directory for --out, found a file at {place}; choose another")
        if not (self.path / RECORD).exists():
            if not os.access(place, os.W_OK | os.X_OK):
                raise errors.DiskError(f"--out: {place} may not be written by this user; choose another directory")
            if place == self.path:
                self._refuse_foreign()
            return None
        record = read_record(self.path)
        if record.get("request") != self.request:
            raise errors.BadRequest(
                f"{self.path} holds the run of another request ({_difference(record.get('request'), self.request)}); "
                "choose another --out, or remove that directory"
            )
        return record

    def _refuse_foreign(self) -> None:
        known = {"model.safetensors", "mask.safetensors", "patch.safetensors", "report.html", "demo.json", LAST_FINITE}
        foreign = [entry.name for entry in self.path.iterdir() if not (entry.name in known or entry.name[0] == ".")]
        if foreign:
            raise errors.BadRequest(
                f"expected an empty or new directory for --out, found {self.path} with {foreign[0]!r} in it; "
                "choose another directory"
            )

    def complete(self, files: list[str], result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the record: the request, what came of it, and the SHA-256 of each of `files`."""
        record = {
            "format": 1,
            "request": self.request,
            "result": dict(result),
            "files": {name: file_digest(self.path / name) for name in sorted(files)},
        }
        write_json(self.path / RECORD, record)
        (self.path / LAST_FINITE).unlink(missing_ok=True)  # of an attempt that diverged before
        return msgspec.json.decode(msgspec.json.encode(record))  # type: ignore[no-any-return]


def read_record(directory: Path) -> dict[str, Any]:
    """Read a run directory's record and check every file against it.

    Raises:
        errors.BadData: no record there.
        errors.Corrupt: a file is missing or differs from the record, with both hashes.
    """
    record: dict[str, Any] = read_json(directory / RECORD)
    if not isinstance(record, dict) or record.get("format") != 1 or not isinstance(record.get("files"), dict):
        raise errors.Corrupt(f"{directory / RECORD} is not a record that this version of excise can read")
    for name, expected in record["files"].items():
        path = directory / name
        if not path.is_file():
            raise errors.Corrupt(f"{directory} should hold {name} (SHA-256 {expected[:12]}…), and does not")
        found = file_digest(path)
        if found != expected:
            raise errors.Corrupt(f"{path} is not what its record says: expected SHA-256 {expected}, found {found}")
    return record


def _difference(before: object, now: object) -> str:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return "no readable request"
    key = next(key for key in sorted({*before, *now}) if before.get(key, _difference) != now.get(key, _difference))
    if isinstance(before.get(key), dict) and isinstance(now.get(key), dict):
        return f"{key}, {_difference(before[key], now[key])}"
    there, here = (repr(side[key]) if key in side else "nothing" for side in (before, now))
    return f"{key}: {there} there, {here} here"
