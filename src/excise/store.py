"""The one place that writes to disk: whole files or nothing, tensors without code in them, a record of what was written.

A run directory holds artifacts and `run.json`, which names the request that made them and the SHA-256 of each. The
record is written last, so a directory with a complete record is a complete run.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from excise import errors, params


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename, fsync of the directory; mode 0600.

    Raises:
        errors.DiskError: the file could not be written; whatever stood under `path` before is untouched. (If only the
            last step fails, the sync of the directory, the new file is there, whole, but might not survive a power cut.)
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise errors.DiskError(
            f"could not write {path} ({len(content)} bytes): {error.strerror or error}; "
            "free some space or choose another directory"
        ) from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, so that it is gone after a power cut too; one that is gone already is no error.

    Raises:
        errors.DiskError: the file could not be removed.
    """
    try:
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except OSError as error:
        raise errors.DiskError(
            f"could not remove {path}: {error.strerror or error}; see who may write there"
        ) from error


def write_json(path: Path, value: object) -> None:
    """Write plain values (or msgspec structures) as indented JSON with a final newline."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def read_json(path: Path) -> Any:
    """Read JSON back as plain values.

    Raises:
        errors.BadData: no such file, or one that cannot be read.
        errors.Corrupt: not JSON.
    """
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise errors.BadData(f"expected a file at {path}, found none") from error
    except OSError as error:
        raise errors.BadData(f"{path} is not a readable file: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.Corrupt(f"{path} is not JSON: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors; tensors that share memory are written once under each of their names."""
    owned = {name: value.detach().to("cpu").contiguous().clone() for name, value in tensors.items()}
    write_bytes(path, safetensors.torch.save(owned, dict(metadata) if metadata else None))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata.

    Raises:
        errors.BadData: no such file, or not a safetensors file.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file and none of its tensors.

    Raises:
        errors.BadData: no such file, or not a safetensors file.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise errors.BadData(f"expected weights at {path}, found no such file") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise errors.BadData(f"{path} is not a readable safetensors file: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, or from `.pt`/`.pth` with `weights_only=True`; anything else is refused.

    Raises:
        errors.BadData: another suffix, no such file, a file that needs code to be read, or not a dict of tensors.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if path.suffix not in (".pt", ".pth"):
        raise errors.BadData(
            f"expected weights as .safetensors, or .pt/.pth holding only tensors; found {path.name!r}; "
            "convert with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        )
    if not path.is_file():
        raise errors.BadData(f"expected weights at {path}, found no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own words tell how to run the code after all
        raise errors.BadData(
            f"{path} cannot be read without running code from it, or is damaged ({type(error).__name__}); "
            "save the state dict alone: torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise errors.BadData(
            f"{path} holds a {type(state).__name__}, expected a state dict of tensors; save model.state_dict() alone"
        )
    return state


def file_digest(path: Path) -> str:
    """Give the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def commitment(ids: Tensor) -> str:
    """Give a keyed digest of row ids: the same ids give the same digest here, and nobody without the key can guess them.

    A plain hash of a few row numbers is undone by trying them all. The key is 32 random bytes in a file readable by its
    owner only, outside any run directory (`$XDG_STATE_HOME/excise/key`, usually `~/.local/state/excise/key`).

    Raises:
        errors.DiskError: the key can neither be read nor written.
    """
    return hmac.new(_commitment_key(), params.raw_bytes(ids), hashlib.sha256).hexdigest()


def _commitment_key() -> bytes:
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        path = home / "excise" / "key"
        if not path.exists():  # a link is made whole or not at all: of two first runs, both take the first's key
            own = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
            write_bytes(own, secrets.token_bytes(32))
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(own)
            own.unlink()
        return path.read_bytes()
    except (OSError, RuntimeError) as error:  # no home directory is a RuntimeError
        raise errors.DiskError(
            f"the key that hides row ids in records cannot be kept: {error}; set XDG_STATE_HOME to a directory that may be "
            "written"
        ) from error
