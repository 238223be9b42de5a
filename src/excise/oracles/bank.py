"""`Bank`: trained networks on disk, found again by the hash of all they depend on, never by a file name or a count.

Each is one safetensors file whose metadata says how it came to be and is sealed together with its weights and its key, so
that a file that was changed, or renamed to another key, is refused. A network of kind `original` or `half` HAS seen rows
that a request may want forgotten: a copy of it is to be removed once the request is done. `Bank.entries` shows what there
is, `Bank.prune` removes it. (Removing a file takes its name away; what the disk keeps underneath is the disk's affair.)
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from excise import checks, errors, params, store
from excise.oracles.entries import (
    KEY,
    KINDS,
    NAME,
    TRAINING,
    UNFINISHED,
    UNREADABLE,
    Entry,
    Kind,
    entry_of,
    key_of,
    read_entry,
    read_told,
    require_kind,
    size_of,
)
from excise.store.generations import Generations
from excise.version import __version__

__all__ = [
    "KINDS",
    "TRAINING",
    "UNFINISHED",
    "UNREADABLE",
    "Bank",
    "Entry",
    "Kind",
    "Trained",
    "default_bank",
    "entry_of",
    "require_kind",
]

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


def default_bank() -> Path:
    """Give the directory of the bank that is used where none is named: `$XDG_CACHE_HOME/excise/bank`, or in `~/.cache`.

    Raises:
        errors.DiskError: there is neither that variable nor a home directory.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "excise" / "bank"
    except RuntimeError as error:
        raise errors.DiskError(f"no place for a bank of networks: {error}; set XDG_CACHE_HOME, or name one") from error


def working_copy(url: str) -> Path:
    """Give the directory on this machine where the networks of a bank at a URL are written and read."""
    return default_bank().parent / "banks" / hashlib.sha256(url.encode()).hexdigest()[:16]


class Bank:
    """A directory of trained networks, or a folder at a URL. Several processes may use it at once, on several machines.

    Of a bank at a URL this machine has a working copy, in the user's cache: a network is fetched there when it is found, its
    seal checked like any other's, and written there before it is sent. Checkpoints of trainings lie in the copy alone.

    Args:
        directory: made when the first network is kept; or a URL that fsspec knows, such as `s3://bucket/folder`.
        data: `excise.data.content.content_commitment` of the rows that the network under audit was trained on; kept with each
            network, since `excise purge` leaves those of other or unknown data. No part of what is found.

    Attributes:
        directory: where its files lie on this machine.
        place: the directory as it was given, or the URL.

    Raises:
        errors.BadRequest: a file stands there, or a URL of no kind that is known.
        errors.MissingExtra: a URL without the package that it needs.
        errors.DiskError: a URL that cannot be reached.
    """

    def __init__(self, directory: str | Path, *, data: str | None = None) -> None:
        self._remote = store.Remote(str(directory)) if store.is_url(directory) else None
        self.directory = Path(directory) if self._remote is None else working_copy(self._remote.url)
        self.place = str(self.directory) if self._remote is None else self._remote.url
        self.data = data
        self._used: set[str] = set()
        if self.directory.exists() and not self.directory.is_dir():
            raise errors.BadRequest(f"bank: expected a directory, found a file at {self.directory}; name another")

    @classmethod
    def of(cls, given: str | Path | Bank | None) -> Bank | None:
        """Give the bank that a user named: one itself, its directory, or None for none."""
        return given if given is None or isinstance(given, Bank) else cls(given)

    def __repr__(self) -> str:
        return f"Bank({self.place!r})"

    @property
    def address(self) -> str:
        """What another process finds it by, on this machine or another: the absolute path, or the URL."""
        return str(self.directory.absolute()) if self._remote is None else self.place

    def find(self, key: str) -> Trained | None:
        """Give the network of a key, checked against its seal; None if there is none.

        Raises:
            errors.Corrupt: what lies there is damaged, or was not put there under this key.
            errors.DiskError: the place at a URL cannot be read.
        """
        path = self._path(key)
        if not path.exists() and not self._fetched(path):
            return None
        try:
            state, told = store.read_tensors(path)
        except errors.BadData as error:
            if not path.exists():  # removed by another process just now
                return None
            raise self._spoiled(path, str(error)) from error
        known = read_told(told)
        if known is None or told.get("seal") != _seal(key, state, told):
            raise self._spoiled(path, f"{path} is not what was put there")
        self._send(path)  # what a killed process had written here and not sent
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
        rows: Tensor | str | None = None,
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
            rows: int64 `[num_rows]`, their ids, of which a keyed digest is kept, or that digest itself; without them nobody
                can tell later which requests' rows it has seen.
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
            **({} if rows is None else {"rows": rows if isinstance(rows, str) else store.commitment(rows)}),
            **({} if self.data is None else {"data": self.data}),
        }
        store.write_tensors(self._path(key), trained.state, {**told, "seal": _seal(key, trained.state, told)})
        self._send(self._path(key))
        self._used.add(key)

    def drop_used(self, kind: Kind) -> int:
        """Remove the networks of a kind that were found or kept through this very object; give how many.

        Also those that another left there on purpose: who wants them kept keeps them in a bank of their own.
        """
        gone = [entry for entry in self.entries() if entry.kind == kind and entry.key in self._used]
        for entry in gone:
            store.remove(self._path(entry.key))
            if self._remote is not None:
                self._remote.remove(self._path(entry.key).name)
        return len(gone)

    def release(self, key: str) -> None:
        """Take a network out of this machine's working copy, when it lies at the URL; of a directory, leave it."""
        if self._remote is not None:
            self._send(self._path(key))
            store.remove(self._path(key))

    def require_writable(self) -> None:
        """Refuse a directory that networks cannot be kept in, before one is trained for it.

        Raises:
            errors.DiskError: this user may not write there.
        """
        if self._remote is not None:
            self._remote.require_writable()
        place = next(place for place in (self.directory, *self.directory.absolute().parents) if place.exists())
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise errors.DiskError(f"bank: {place} may not be written by this user; choose another directory")

    def require_here(self, what: str) -> None:
        """Refuse a bank at a URL, for work that can only be done on a directory.

        Raises:
            errors.BadRequest: it is one.
        """
        if self._remote is not None:
            raise errors.BadRequest(
                f"{what}: expected a bank in a directory, found {self.place}; look and remove there by that place's tools, "
                f"and name this machine's copy of it, {self.directory}"
            )

    def entries(self) -> list[Entry]:
        """Give what there is, oldest first. Reads the head of each file; weights are checked when they are used."""
        return sorted(
            [*(entry for _, entry in self._own()), *self._elsewhere()], key=lambda entry: (entry.created, entry.key)
        )

    def foreign(self) -> list[Path]:
        """Give the files that are not the bank's, by name. They are never read, used or removed."""
        return sorted(path for path in self._files() if key_of(path) is None)

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
            errors.BadRequest: nothing said that may go, no such kind, or `everything` and a limit at once; or a bank at a URL,
                which others use whom this process does not see.
            errors.DiskError: a file could not be removed.
        """
        self.require_here("prune")
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

    def _fetched(self, path: Path) -> bool:
        """Copy a file from the URL to this machine, and say whether there was one."""
        content = None if self._remote is None else self._remote.get(path.name)
        if content is not None:
            store.write_bytes(path, content)
        return content is not None

    def _spoiled(self, path: Path, what: str) -> errors.Corrupt:
        """Give the error for a file that is not what it was; a copy goes, so that what lies at the URL is read again."""
        if self._remote is None:
            return errors.Corrupt(f"{what}; {_REMEDY}")
        store.remove(path)
        return errors.Corrupt(
            f"{self.place}/{path.name}, or this machine's copy, is not what was put there; the copy was removed: try again; "
            "if it is refused again, remove it there to have the network trained again"
        )

    def _send(self, path: Path) -> None:
        """Copy a file to the URL, if it is not there."""
        if self._remote is not None and not self._remote.exists(path.name):
            self._remote.put(path.name, path.read_bytes())

    def _elsewhere(self) -> Iterator[Entry]:
        """Give what lies at the URL and not on this machine."""
        if self._remote is None:
            return
        for name, num_bytes in self._remote.sizes().items():
            path = self.directory / name
            if not NAME.fullmatch(name) or path.exists():
                continue
            try:
                told = store.metadata_of(partial(self._remote.part, name), f"{self.place}/{name}")
            except errors.BadData:
                told = {}
            yield read_entry(path, name.partition(".")[0], num_bytes, 0.0, told)

    def _path(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise errors.BadRequest(f"key: expected 64 hexadecimal digits, found {key!r}")
        return self.directory / f"{key}.safetensors"

    def _files(self) -> list[Path]:
        try:
            return list(self.directory.iterdir()) if self.directory.exists() else []
        except OSError as error:
            raise errors.DiskError(f"could not look into {self.directory}: {error.strerror or error}") from error

    def _own(self) -> Iterator[tuple[Path, Entry]]:
        for path in self._files():
            key = key_of(path)
            if key is None:
                continue
            try:
                found = path.stat()
                num_bytes = size_of(path) if stat.S_ISDIR(found.st_mode) else found.st_size
                told = store.read_metadata(path) if NAME.fullmatch(path.name) else {}
            except FileNotFoundError:  # removed, or given its name, by another process just now
                continue
            except errors.BadData:
                told = {}
            yield path, read_entry(path, key, num_bytes, found.st_mtime, told)


def _busy(path: Path, entry: Entry) -> bool:
    if path.is_dir():
        return store.holder(path) is not None
    return entry.kind == UNFINISHED and time.time() - entry.created.timestamp() < _LONGEST_WRITE_SECONDS


def _seal(key: str, state: Mapping[str, Tensor], told: Mapping[str, str]) -> str:
    sealed = {**told, "key": key, "state": params.digest(state)}
    sealed.pop("seal", None)
    return hashlib.sha256(msgspec.json.encode(sealed, order="deterministic")).hexdigest()
