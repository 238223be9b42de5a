"""A run directory: artifacts, and the record `run.json` that names the request and the SHA-256 of each.

The record is written last, so a directory with a complete record is a complete run. What is added later (an audit, its
page) is announced in the record first, under `pending`, then written, then entered: whenever the process is killed, each
file is either the old one or the new one, and the record knows both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from excise import errors
from excise.store.files import file_digest, remove, write_bytes
from excise.store.hidden import PREFIX, reveal
from excise.store.keys import keys_home
from excise.store.places import inside, require_apart, require_private
from excise.store.sealed import read_sealed, write_sealed

RECORD = "run.json"
FORMAT = 1
LAST_FINITE = "last-finite.safetensors"
"""What a run that diverged leaves instead of a result."""
DATA = "data_commitment"
"""Where a request holds a keyed digest of the content of its rows."""
BEGUN = "begun.json"
"""Which request a run that is not done yet was begun with."""
CHECKPOINTS = "checkpoints"
"""Where a run that goes on keeps what it would go on from."""


class RunDirectory:
    """A directory that one request fills, and whose record says which request that was.

    Args:
        path: the directory; made when the first file is written.
        request: plain values that name everything the result depends on.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path = path
        self.request = msgspec.json.decode(msgspec.json.encode(dict(request)))

    @property
    def digest(self) -> str:
        """The SHA-256 of the request."""
        return hashlib.sha256(msgspec.json.encode(self.request, order="deterministic")).hexdigest()

    def finished(self) -> dict[str, Any] | None:
        """Give the record if this very request was completed here and every file is what the record says.

        Raises:
            errors.BadRequest: the directory holds another request's run or a stranger's files, is a file, would hold the
                key that hides row ids, or anybody may write there.
            errors.Corrupt: a file of the run was changed or is gone.
        """
        place = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
        if not place.is_dir():
            raise errors.BadRequest(f"expected a directory for --out, found a file at {place}; choose another")
        if not (self.path / RECORD).exists():
            if not os.access(place, os.W_OK | os.X_OK):
                raise errors.DiskError(f"--out: {place} may not be written by this user; choose another directory")
            require_apart(keys_home() / "key", self.path, "--out")
            if place == self.path:
                require_private(place, "--out")
                self._refuse_foreign()
                self._refuse_other()
            return None
        record = read_record(self.path)
        before = record.get("request")
        if before != self.request:
            if isinstance(before, dict) and {**before, DATA: None} == {**self.request, DATA: None}:
                raise errors.Corrupt(
                    f"the training data are not those that {self.path} was made from: their content has changed since; give "
                    "the same data, or choose another --out"
                )
            raise errors.BadRequest(
                f"{self.path} holds the run of another request ({_difference(before, self.request)}); "
                "choose another --out, or remove that directory"
            )
        return record

    def begin(self) -> None:
        """Write down which request is begun here, so that another one does not take its place by mistake."""
        write_sealed(self.path / BEGUN, {"format": FORMAT, "request": self.request})

    def _refuse_other(self) -> None:
        kept = self.path / CHECKPOINTS
        if not (self.path / BEGUN).exists() or not kept.is_dir() or not any(kept.iterdir()):
            return  # nothing that could be lost
        before = read_sealed(self.path / BEGUN).get("request")
        if isinstance(before, dict) and {**before, DATA: None} != {**self.request, DATA: None}:
            raise errors.BadRequest(
                f"{self.path} holds the unfinished run of another request ({_difference(before, self.request)}); give that "
                "command again to finish it, choose another --out, or remove that directory"
            )

    def _refuse_foreign(self) -> None:
        known = {"model.safetensors", "mask.safetensors", "patch.safetensors", "report.html", "demo.json"}
        known |= {LAST_FINITE, CHECKPOINTS, BEGUN}
        foreign = [entry.name for entry in self.path.iterdir() if not (entry.name in known or entry.name[0] == ".")]
        if foreign:
            raise errors.BadRequest(
                f"expected an empty or new directory for --out, found {self.path} with {foreign[0]!r} in it; "
                "choose another directory"
            )

    def complete(self, files: list[str], result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the record: the request, what came of it, and the SHA-256 of each of `files`."""
        record = {
            "format": FORMAT,
            "request": self.request,
            "result": dict(result),
            "files": {name: file_digest(self.path / name) for name in sorted(files)},
        }
        remove(self.path / LAST_FINITE)  # of an attempt that diverged before
        write_sealed(self.path / RECORD, record)
        remove(self.path / BEGUN)
        return msgspec.json.decode(msgspec.json.encode(record))  # type: ignore[no-any-return]


def read_record(directory: Path, *, but: Collection[str] = ()) -> dict[str, Any]:
    """Read a run directory's record and check every file against it, those named in `but` left out.

    Raises:
        errors.BadData: no record there.
        errors.Corrupt: the record was changed or is of a newer form; a file is missing or differs from the record, with
            both hashes.
    """
    record = _record(directory)
    pending = record.get("pending", {})
    for name, expected in record["files"].items():
        fault = file_fault(directory, name, {expected, pending.get(name, expected)})
        if fault is not None and name not in but:
            raise errors.Corrupt(fault)
    return record


def amend_record(directory: Path, contents: Mapping[str, bytes] | None = None, **sections: Any) -> dict[str, Any]:
    """Write files into a finished run and enter them, and other facts, in its record; killed anywhere, nothing is mixed up.

    Args:
        directory: of the run.
        contents: bytes of each file, by name.
        sections: other parts of the record that are set, such as `audit=` or `purged=`; None takes one out.

    Returns:
        The record as it is now.

    Raises:
        errors.DiskError: a file could not be written; the record says which ones were meant.
        errors.Corrupt: the record is not what was written.
    """
    record = _record(directory)
    before = msgspec.json.encode(record)
    record["files"].update(_arrived(directory, record.pop("pending", {})))
    new = {name: hashlib.sha256(content).hexdigest() for name, content in (contents or {}).items()}
    if any(record["files"].get(name) != digest for name, digest in new.items()):
        write_sealed(directory / RECORD, {**record, "pending": new})
    for name, content in (contents or {}).items():
        write_bytes(inside(directory, name), content)
    record["files"] = dict(sorted({**record["files"], **new}.items()))
    for name, value in sections.items():
        record.pop(name, None)
        if value is not None:
            record[name] = value
    if msgspec.json.encode(record) != before:
        write_sealed(directory / RECORD, record)
    return msgspec.json.decode(msgspec.json.encode(record))  # type: ignore[no-any-return]


def forget_files(directory: Path, names: list[str], **sections: Any) -> dict[str, Any]:
    """Remove files of a finished run and their entries in its record; given again after a kill, it finishes.

    Raises:
        errors.DiskError: a file could not be removed; its entry is gone by then, so it counts as a leftover.
    """
    record = _record(directory)
    record["files"] = {name: digest for name, digest in record["files"].items() if name not in names}
    write_sealed(directory / RECORD, {**record, **sections})
    for name in names:
        remove(inside(directory, name))
    return read_record(directory)


def file_fault(directory: Path, name: str, expected: set[str]) -> str | None:
    """Say how a file of a run differs from its record; None if it does not."""
    path, wanted = inside(directory, name), min(expected)
    if not path.is_file():
        return f"{directory} should hold {name} (SHA-256 {wanted[:12]}…), and does not"
    found = file_digest(path)
    if found in expected:
        return None
    return f"{path} is not what its record says: expected SHA-256 {wanted}, found {found}"


def _record(directory: Path) -> dict[str, Any]:
    path = directory / RECORD
    record = read_sealed(path)
    number = record.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise errors.Corrupt(
            f"{path} was written by a newer excise (form {number}, this one reads {FORMAT}); update excise to read it"
        )
    tables = [record.get("files"), record.get("pending", {})]
    known = all(isinstance(one, dict) and all(isinstance(value, str) for value in one.values()) for one in tables)
    if number != FORMAT or not known:
        raise errors.Corrupt(f"{path} is not a record that this version of excise can read")
    return record


def _arrived(directory: Path, pending: Mapping[str, str]) -> dict[str, str]:
    """Give those announced files of an amendment that was broken off that were written before it was."""
    return {name: digest for name, digest in pending.items() if file_fault(directory, name, {digest}) is None}


def _difference(before: object, now: object) -> str:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return "no readable request"
    key = next(key for key in sorted({*before, *now}) if before.get(key, _difference) != now.get(key, _difference))
    if isinstance(before.get(key), dict) and isinstance(now.get(key), dict):
        return f"{key}, {_difference(before[key], now[key])}"
    there, here = (_shown(side[key]) if key in side else "nothing" for side in (before, now))
    return f"{key}: {there} there, {here} here"


def _shown(value: object) -> str:
    """Give a value of a request to whoever asks, who may read what was hidden if the key is theirs."""
    if not isinstance(value, str) or not value.startswith(PREFIX):
        return repr(value)
    try:
        return repr(reveal(value))
    except errors.BadRequest:
        return "another"
