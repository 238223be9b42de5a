"""`Bank`: trained networks on disk, found again by the hash of all they depend on, never by a file name or a count.

Each is one safetensors file whose metadata says how it came to be and is sealed together with its weights and its key, so
that a file that was changed, or renamed to another key, is refused. A network of kind `original` or `half` HAS seen rows
that a request may want forgotten: a copy of it is to be removed once the request is done. `Bank.entries` shows what there
is, `Bank.prune` removes it. (Removing a file takes its name away; what the disk keeps underneath is the disk's affair.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

import msgspec
import torch
from torch import Tensor

from excise import checks, errors, params, store
from excise.store.generations import Generations
from excise.version import __version__

Kind = Literal["oracle", "original", "half"]
"""What a network was trained on: never the forget rows; all rows; a random half of them."""
KINDS: tuple[Kind, ...] = get_args(Kind)
UNREADABLE, UNFINISHED = "unreadable", "unfinished"

_NAME = re.compile(r"([0-9a-f]{64})\.safetensors")
_BROKEN_OFF = re.compile(r"\.([0-9a-f]{64})\.safetensors\.[0-9a-f]{12}\.tmp")
_TRAINING = re.compile(r"\.training-([0-9a-f]{64})")
TRAINING = ".training-"
"""How the name of a folder begins in which a training is under way, or was broken off: its checkpoints."""
_KEY = re.compile(r"[0-9a-f]{64}")
_LONGEST_WRITE_SECONDS = 3600.0
_REMEDY = "remove it to have the network trained again"


@dataclass(frozen=True, eq=False)
class Trained:
    """A network trained from scratch.

    Attributes:
        seed: of its initial weights and its batches.
        state: its state dict, on the CPU.
        seconds: what the training took, also if it was found in a bank; of a network trained together with others, the
            time of all of them over their number.
        trained_rows: examples passed forward and backward; None if the user's own code trained it.
    """

    seed: int
    state: dict[str, Tensor]
    seconds: float
    trained_rows: int | None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a bank says of one of its files without reading the weights.

    Attributes:
        key: hash of all the network depends on.
        kind: `oracle`, `original` or `half`; `unreadable` for a file under a key that is damaged, or of another version's
            form; `unfinished` for what a broken-off write has left.
        num_bytes: size of the file.
        created: when it was written.
        architecture: class of the network; empty where it is not known, as the four below are 0.
        num_parameters: numbers in its parameters.
        num_rows: rows it was trained on.
        seconds: what the training took.
        seed: of its initial weights and its batches.
        rows: keyed digest of the ids of the rows it was trained on, see `store.commitment`, so that who holds the key and the
            ids can tell what it has seen and nobody else can; empty where it was not recorded.
        data: keyed digest of the rows that the network under audit was trained on; empty where it was not recorded.
    """

    key: str
    kind: str
    num_bytes: int
    created: datetime
    architecture: str = ""
    num_parameters: int = 0
    num_rows: int = 0
    seconds: float = 0.0
    seed: int = 0
    rows: str = ""
    data: str = ""


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a file, all of it under the seal."""

    kind: Kind
    seconds: float
    trained_rows: int
    seed: int
    architecture: str
    num_parameters: int
    num_rows: int
    created: datetime
    rows: str = ""
    data: str = ""


def default_bank() -> Path:
    """Give the directory of the bank that is used where none is named: `$XDG_CACHE_HOME/excise/bank`, or in `~/.cache`.

    Raises:
        errors.DiskError: there is neither that variable nor a home directory.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "excise" / "bank"
    except RuntimeError as error:
        raise errors.DiskError(f"no place for a bank of networks: {error}; set XDG_CACHE_HOME, or name one") from error


def require_kind(kind: str) -> None:
    """Refuse what is no kind of network.

    Raises:
        errors.BadRequest: it is not in `KINDS`.
    """
    if kind not in KINDS:
        raise errors.BadRequest(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")


class Bank:
    """A directory of trained networks. Several processes may use it at once.

    Args:
        directory: made when the first network is kept.
        data: `excise.data.content.content_commitment` of the rows that the network under audit was trained on; kept with each
            network, since `excise purge` leaves those of other or unknown data. No part of what is found.

    Raises:
        errors.BadRequest: a file stands there.
    """

    def __init__(self, directory: str | Path, *, data: str | None = None) -> None:
        self.directory, self.data = Path(directory), data
        self._used: set[str] = set()
        if self.directory.exists() and not self.directory.is_dir():
            raise errors.BadRequest(f"bank: expected a directory, found a file at {self.directory}; name another")

    @classmethod
    def of(cls, given: str | Path | Bank | None) -> Bank | None:
        """Give the bank that a user named: one itself, its directory, or None for none."""
        return given if given is None or isinstance(given, Bank) else cls(given)

    def __repr__(self) -> str:
        return f"Bank({str(self.directory)!r})"

    def find(self, key: str) -> Trained | None:
        """Give the network of a key, checked against its seal; None if there is none.

        Raises:
            errors.Corrupt: what lies there is damaged, or was not put there under this key.
        """
        path = self._path(key)
        if not path.exists():
            return None
        try:
            state, told = store.read_tensors(path)
        except errors.BadData as error:
            if not path.exists():  # removed by another process just now
                return None
            raise errors.Corrupt(f"{error}; {_REMEDY}") from error
        known = _read(told)
        if known is None or told.get("seal") != _seal(key, state, told):
            raise errors.Corrupt(f"{path} is not what was put there; {_REMEDY}")
        self._used.add(key)
        return Trained(known.seed, state, known.seconds, known.trained_rows)

    def keep(
        self,
        key: str,
        trained: Trained,
        *,
        kind: Kind,
        architecture: str,
        num_parameters: int,
        num_rows: int,
        rows: Tensor | None = None,
        created: datetime | None = None,
    ) -> None:
        """Write a network under its key, whole or not at all; of two processes that do so at once, the later one stays.

        Args:
            key: hash of all it depends on, 64 hexadecimal digits.
            trained: by a plan: `trained_rows` is known.
            kind: what it was trained on.
            architecture: class of the network, for people.
            num_parameters: for people.
            num_rows: rows it was trained on, for people.
            rows: int64 `[num_rows]`, their ids, of which a keyed digest is kept; without them nobody can tell later which
                requests' rows it has seen.
            created: now, if None; metadata only.

        Raises:
            errors.BadRequest: no such kind, or no key.
            errors.DiskError: the file, or the key that hides the ids, could not be written.
        """
        require_kind(kind)
        told = {
            "kind": kind,
            "seconds": f"{trained.seconds:.3f}",
            "trained_rows": str(trained.trained_rows),
            "seed": str(trained.seed),
            "architecture": architecture,
            "num_parameters": str(num_parameters),
            "num_rows": str(num_rows),
            "created": (created or datetime.now(UTC)).isoformat(),
            "excise": __version__,
            "torch": str(torch.__version__),
            **({} if rows is None else {"rows": store.commitment(rows)}),
            **({} if self.data is None else {"data": self.data}),
        }
        store.write_tensors(self._path(key), trained.state, {**told, "seal": _seal(key, trained.state, told)})
        self._used.add(key)

    def drop_used(self, kind: Kind) -> int:
        """Remove the networks of a kind that were found or kept through this very object; give how many.

        Also those that another left there on purpose: who wants them kept keeps them in a bank of their own.
        """
        gone = [entry for entry in self.entries() if entry.kind == kind and entry.key in self._used]
        for entry in gone:
            store.remove(self._path(entry.key))
        return len(gone)

    def require_writable(self) -> None:
        """Refuse a directory that networks cannot be kept in, before one is trained for it.

        Raises:
            errors.DiskError: this user may not write there.
        """
        place = next(place for place in (self.directory, *self.directory.absolute().parents) if place.exists())
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise errors.DiskError(f"bank: {place} may not be written by this user; choose another directory")

    def entries(self) -> list[Entry]:
        """Give what there is, oldest first. Reads the head of each file; weights are checked when they are used."""
        return sorted((entry for _, entry in self._own()), key=lambda entry: (entry.created, entry.key))

    def foreign(self) -> list[Path]:
        """Give the files that are not the bank's, by name. They are never read, used or removed."""
        return sorted(path for path in self._files() if _key_of(path) is None)

    @property
    def num_bytes(self) -> int:
        """What the bank's own files take."""
        return sum(entry.num_bytes for _, entry in self._own())

    def prune(
        self,
        *,
        keep_bytes: int | None = None,
        older_than_days: float | None = None,
        kinds: Collection[str] | None = None,
        everything: bool = False,
    ) -> list[Entry]:
        """Remove networks, oldest first, and give what was removed.

        `older_than_days` and `kinds` say what may go; with `keep_bytes`, of that, only as much as brings the whole bank down
        to so many bytes. Files that are unreadable or unfinished go only if `everything` does, or `kinds` names them;
        an unfinished one only if it is an hour old, since another process may be writing it. Foreign files stay.

        Raises:
            errors.BadRequest: nothing said that may go, no such kind, or `everything` and a limit at once.
            errors.DiskError: a file could not be removed.
        """
        limits = (keep_bytes, older_than_days, kinds)
        if everything == any(limit is not None for limit in limits):
            raise errors.BadRequest(
                "prune: expected what may go, by keep_bytes, older_than_days or kinds, or else everything=True alone"
            )
        for name, limit in (("keep_bytes", keep_bytes), ("older_than_days", older_than_days)):
            if limit is not None:
                checks.require_finite(name, limit)
        known = (*KINDS, UNREADABLE, UNFINISHED)
        for kind in kinds or ():
            if kind not in known:
                raise errors.BadRequest(f"kinds: expected some of {', '.join(known)}, found {kind!r}")
        wanted = set(known if everything else KINDS if kinds is None else kinds)
        own = sorted(self._own(), key=lambda pair: (pair[1].created, pair[1].key))
        now, left, gone = datetime.now(UTC), sum(entry.num_bytes for _, entry in own), []
        for path, entry in own:
            young = older_than_days is not None and now - entry.created <= timedelta(days=older_than_days)
            if (
                entry.kind not in wanted
                or young
                or (keep_bytes is not None and left <= keep_bytes)
                or _busy(path, entry)
            ):
                continue
            if path.is_dir():
                Generations(path).clear()
            else:
                store.remove(path)
            left -= entry.num_bytes
            gone.append(entry)
        return gone

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise errors.BadRequest(f"key: expected 64 hexadecimal digits, found {key!r}")
        return self.directory / f"{key}.safetensors"

    def _files(self) -> list[Path]:
        try:
            return list(self.directory.iterdir()) if self.directory.exists() else []
        except OSError as error:
            raise errors.DiskError(f"could not look into {self.directory}: {error.strerror or error}") from error

    def _own(self) -> Iterator[tuple[Path, Entry]]:
        for path in self._files():
            key = _key_of(path)
            if key is None:
                continue
            try:
                found = path.stat()
                num_bytes = _size(path) if stat.S_ISDIR(found.st_mode) else found.st_size
                told = store.read_metadata(path) if _NAME.fullmatch(path.name) else {}
            except FileNotFoundError:  # removed, or given its name, by another process just now
                continue
            except errors.BadData:
                told = {}
            yield path, _entry(path, key, num_bytes, found.st_mtime, told)


def entry_of(told: Mapping[str, str], key: str, num_bytes: int) -> Entry | None:
    """Give what the metadata of a bank's file says, wherever the file lies by now; None if it is no such metadata."""
    known = _read(told)
    if known is None:
        return None
    return Entry(
        key=key,
        kind=known.kind,
        num_bytes=num_bytes,
        created=known.created,
        architecture=known.architecture,
        num_parameters=known.num_parameters,
        num_rows=known.num_rows,
        seconds=known.seconds,
        seed=known.seed,
        rows=known.rows,
        data=known.data,
    )


def _entry(path: Path, key: str, num_bytes: int, written: float, told: Mapping[str, str]) -> Entry:
    known = entry_of(told, key, num_bytes)
    if known is not None:
        return known
    kind = UNREADABLE if _NAME.fullmatch(path.name) else UNFINISHED
    return Entry(key=key, kind=kind, num_bytes=num_bytes, created=datetime.fromtimestamp(written, UTC))


def _size(folder: Path) -> int:
    """Give the bytes of a training's checkpoints; those that it replaces meanwhile are left out."""
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _key_of(path: Path) -> str | None:
    """Give the key in the name of one of the bank's own files."""
    match = _NAME.fullmatch(path.name) or _BROKEN_OFF.fullmatch(path.name)
    training = _TRAINING.fullmatch(path.name)
    if training and path.is_dir() and not path.is_symlink():
        return training[1]
    return match[1] if match and path.is_file() else None


def _busy(path: Path, entry: Entry) -> bool:
    if path.is_dir():
        return store.holder(path) is not None
    return entry.kind == UNFINISHED and time.time() - entry.created.timestamp() < _LONGEST_WRITE_SECONDS


def _read(told: Mapping[str, str]) -> _Told | None:
    try:
        known = msgspec.convert(dict(told), _Told, strict=False)
    except msgspec.ValidationError:
        return None
    return known if known.created.tzinfo is not None else None


def _seal(key: str, state: Mapping[str, Tensor], told: Mapping[str, str]) -> str:
    sealed = {**told, "key": key, "state": params.digest(state)}
    sealed.pop("seal", None)
    return hashlib.sha256(msgspec.json.encode(sealed, order="deterministic")).hexdigest()
