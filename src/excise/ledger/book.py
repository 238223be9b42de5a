"""The book of a model's life: requests, their rows as keyed digests, runs, and which run answered which request.

SQLite, so that what was acknowledged survives a crash, and several processes may add requests at once. The log of receipts
is the truth about runs; the book is brought up to it at every start. No row id stands in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from excise import errors, store
from excise.ledger.entries import Life, Request, Run

VERSION = 1

_APPLICATION = 0x45584C42  # "EXLB", so that another program's database is not taken for a book
_PATIENCE_SECONDS = 30.0
_SCHEMA = (
    "CREATE TABLE life (one INTEGER PRIMARY KEY CHECK (one = 1), facts TEXT NOT NULL)",
    "CREATE TABLE requests (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, received TEXT NOT NULL, "
    "due TEXT NOT NULL, reason TEXT NOT NULL, state TEXT NOT NULL "
    "CHECK (state IN ('open', 'answered', 'failed', 'withdrawn')), num_rows INTEGER NOT NULL CHECK (num_rows > 0), "
    "root TEXT NOT NULL, key_id TEXT, CHECK (key_id IS NOT NULL OR state IN ('answered', 'withdrawn')))",
    "CREATE TABLE rows (digest BLOB PRIMARY KEY, request TEXT REFERENCES requests (id)) WITHOUT ROWID",
    "CREATE TABLE runs (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, begun TEXT NOT NULL, "
    "state TEXT NOT NULL CHECK (state IN ('begun', 'done', 'dropped')), asked TEXT NOT NULL, seq INTEGER UNIQUE, "
    "receipt TEXT, found TEXT, CHECK ((state = 'done') = (receipt IS NOT NULL AND found IS NOT NULL)))",
    "CREATE UNIQUE INDEX one_begun ON runs (state) WHERE state = 'begun'",
    "CREATE TABLE batches (run INTEGER NOT NULL REFERENCES runs, request TEXT NOT NULL REFERENCES requests (id), "
    "PRIMARY KEY (run, request)) WITHOUT ROWID",
    "CREATE TABLE seal (one INTEGER PRIMARY KEY CHECK (one = 1), digest TEXT NOT NULL)",
)
_SEALED = (  # what the seal covers
    "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name",
    "SELECT * FROM life ORDER BY one",
    "SELECT * FROM requests ORDER BY number",
    "SELECT * FROM rows ORDER BY digest",
    "SELECT * FROM runs ORDER BY number",
    "SELECT * FROM batches ORDER BY run, request",
)


class Book:
    """The book in a file. Every change is one transaction that has reached the disk when the call returns.

    Args:
        path: of a book that `Book.create` made.

    Raises:
        errors.BadData: there is no book.
        errors.BadRequest: made by a newer version.
        errors.Corrupt: not a book, or one that does not fit its seal.
        errors.DiskError: cannot be read or written.
        errors.InUse: another process has been writing for half a minute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise errors.BadData(f"expected a ledger's book at {path}, found none; begin one with `excise ledger open`")
        with self._explained():
            self._database = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None)
        try:
            with self._explained():
                self._require_kind()
                for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
                    self._database.execute(f"PRAGMA {setting}")
                self._require_sound()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, life: Life) -> Book:
        """Begin a book, readable by its owner only; one whose beginning was broken off is begun again.

        Raises:
            errors.BadRequest: there is one already.
        """
        if has_begun(path):
            raise errors.BadRequest(f"{path} holds a model's life already; choose another directory")
        if not path.exists():
            store.write_bytes(path, b"")  # an empty file is an empty database to SQLite, which keeps the file's mode
        made = object.__new__(cls)
        made.path = path
        with made._explained():
            made._database = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None)
            made._database.execute("PRAGMA synchronous = FULL")
            with made._writing() as database:
                for statement in _SCHEMA:
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {VERSION}")
                database.execute("INSERT INTO life VALUES (1, ?)", (_encoded(life),))
        made.close()
        return cls(path)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def life(self) -> Life:
        """Give what was fixed at the beginning."""
        with self._explained():
            return msgspec.json.decode(self._one("SELECT facts FROM life")[0], type=Life)

    # ---- requests

    def add(self, request: Request, digests: Collection[bytes]) -> None:
        """Take a request with the digests of its rows under the ledger's key.

        Raises:
            errors.BadSplit: no rows, some that an earlier request named, or all that no request has named.
        """
        own = sorted(set(digests))
        if not own:
            raise errors.BadSplit("expected at least one row to forget, found none; name the rows")
        with self._writing() as database:
            known = [one for one in own if self._row(one)]
            if known:
                raise errors.BadSplit(
                    f"{len(known)} of {len(own)} rows were named in earlier requests and are forgotten or waiting; "
                    "leave them out, see `excise ledger status`"
                )
            named = self._one("SELECT COALESCE(SUM(num_rows), 0) FROM requests WHERE state != 'withdrawn'")[0]
            if named + request.num_rows >= self.life().num_rows:
                raise errors.BadSplit(
                    f"forget: these {request.num_rows} rows are all that no request has named yet; a network trained on "
                    "nothing is an untrained one"
                )
            database.execute(
                "INSERT INTO requests (id, received, due, reason, state, num_rows, root, key_id) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    request.id,
                    request.received,
                    request.due,
                    request.reason,
                    request.state,
                    request.num_rows,
                    request.root,
                    request.key_id,
                ),
            )
            database.executemany("INSERT INTO rows VALUES (?, ?)", ((one, request.id) for one in own))

    def _row(self, digest: bytes) -> bool:
        return bool(self._all("SELECT 1 FROM rows WHERE digest = ?", digest))

    def requests(self) -> list[Request]:
        """Give every request in the order received."""
        with self._reading():
            runs = self._all("SELECT request, run FROM batches JOIN runs ON run = number WHERE state != 'dropped'")
            of: dict[str, list[int]] = {}
            for request, run in runs:
                of.setdefault(request, []).append(run)
            names = ("id", "received", "due", "reason", "state", "num_rows", "root", "key_id")
            found = self._all(
                "SELECT id, received, due, reason, state, num_rows, root, key_id FROM requests ORDER BY number"
            )
            return [
                Request(**dict(zip(names, one, strict=True)), runs=tuple(sorted(of.get(one[0], ())))) for one in found
            ]

    def rows(self) -> dict[bytes, str | None]:
        """Give the digest of every row ever named, with its request; None where the request's key was destroyed."""
        with self._explained():
            return dict(self._all("SELECT digest, request FROM rows"))

    def withdraw(self, request: str) -> None:
        """Note that a request is taken back, and take its rows out; its key is no more.

        Raises:
            errors.BadRequest: no such request, one that a run has taken up, or one that is answered or withdrawn.
        """
        with self._writing() as database:
            found = self._all("SELECT state FROM requests WHERE id = ?", request)
            runs = "SELECT 1 FROM batches JOIN runs ON run = number WHERE request = ? AND runs.state != 'dropped'"
            if not found or found[0][0] != "open" or self._all(runs, request):
                what = f"one that is {found[0][0]}, or that a run has taken up" if found else "none"
                raise errors.BadRequest(f"expected an open request under the id {request}, found {what}")
            database.execute("UPDATE requests SET state = 'withdrawn', key_id = NULL WHERE id = ?", (request,))
            database.execute("DELETE FROM rows WHERE request = ?", (request,))

    def forget_key(self, request: str) -> None:
        """Note that an answered request's key is no more, and take its name off its rows.

        Raises:
            errors.BadRequest: no such request, or one that was not answered yet.
            errors.InUse: it is noted, but another process reads the journal, which still holds the name; call again.
        """
        with self._writing() as database:
            found = self._all("SELECT state FROM requests WHERE id = ?", request)
            if not found or found[0][0] != "answered":
                what = f"one that is {found[0][0]}" if found else "none"
                raise errors.BadRequest(f"expected an answered request under the id {request}, found {what}")
            database.execute("UPDATE requests SET key_id = NULL WHERE id = ?", (request,))
            database.execute("UPDATE rows SET request = NULL WHERE request = ?", (request,))
        with self._explained():
            busy, *_ = self._one("PRAGMA wal_checkpoint(TRUNCATE)")  # the old pages lie in the journal otherwise
        if busy:
            raise errors.InUse(
                f"the key of request {request} is gone, but {self.path}-wal still connects the request with its rows, because "
                "another process is reading there; give the same command again when it is done"
            )

    # ---- runs

    def begin(self, run_id: str, begun: str, asked: Mapping[str, Any]) -> Run:
        """Fix a batch: every request that is open or failed.

        Raises:
            errors.BadRequest: there is none.
        """
        with self._writing() as database:
            batch = self._all("SELECT id FROM requests WHERE state IN ('open', 'failed')")
            if not batch:
                raise errors.BadRequest(
                    "expected open requests to answer, found none; add one with `excise ledger request`"
                )
            number = self._one("SELECT COALESCE(MAX(number), 0) + 1 FROM runs")[0]
            database.execute(
                "INSERT INTO runs (number, id, begun, state, asked) VALUES (?, ?, ?, 'begun', ?)",
                (number, run_id, begun, _encoded(dict(asked))),
            )
            database.executemany("INSERT INTO batches VALUES (?, ?)", ((number, one) for (one,) in batch))
        return next(run for run in self.runs() if run.number == number)

    def runs(self) -> list[Run]:
        """Give every run in order."""
        with self._reading():
            order = "SELECT run, request FROM batches JOIN requests ON request = id ORDER BY run, number"
            batches: dict[int, list[str]] = {}
            for run, request in self._all(order):
                batches.setdefault(run, []).append(request)
            return [
                Run(
                    number=number,
                    id=run_id,
                    begun=begun,
                    state=state,
                    asked=msgspec.json.decode(asked),
                    seq=seq,
                    receipt=receipt,
                    found=msgspec.json.decode(found) if found else {},
                    requests=tuple(batches.get(number, ())),
                )
                for number, run_id, begun, state, asked, seq, receipt, found in self._all(
                    "SELECT number, id, begun, state, asked, seq, receipt, found FROM runs ORDER BY number"
                )
            ]

    def finish(self, number: int, *, seq: int, receipt: str, found: Mapping[str, Any], answered: bool) -> None:
        """Note the receipt of a run and what it means for its requests. A run that is finished already stays as it is."""
        with self._writing() as database:
            done = database.execute(
                "UPDATE runs SET state = 'done', seq = ?, receipt = ?, found = ? WHERE number = ? AND state = 'begun'",
                (seq, receipt, _encoded(dict(found)), number),
            )
            if done.rowcount:
                database.execute(
                    "UPDATE requests SET state = ? WHERE id IN (SELECT request FROM batches WHERE run = ?)",
                    ("answered" if answered else "failed", number),
                )

    def drop(self, number: int) -> None:
        """Give up a run that has no receipt; its requests wait for the next."""
        with self._writing() as database:
            database.execute("UPDATE runs SET state = 'dropped' WHERE number = ? AND state = 'begun'", (number,))

    # ---- the file

    def _all(self, words: str, *values: object) -> list[Any]:
        return self._database.execute(words, values).fetchall()

    def _one(self, words: str) -> Any:
        return self._database.execute(words).fetchone()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, sealed; rolled back on whatever is raised."""
        with self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("INSERT OR REPLACE INTO seal VALUES (1, ?)", (self._digest(),))
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One state of the book for several questions."""
        with self._explained():
            self._database.execute("BEGIN")
            try:
                yield
            finally:
                self._database.execute("COMMIT")

    def _require_kind(self) -> None:
        own, version = (self._one(f"PRAGMA {name}")[0] for name in ("application_id", "user_version"))
        if not self._all("SELECT 1 FROM sqlite_schema"):
            raise errors.BadData(
                f"{self.path}: the beginning of this ledger was broken off; give `excise ledger open` again"
            )
        if own != _APPLICATION:
            raise errors.Corrupt(f"{self.path} is not a book that excise wrote; give the directory of a ledger")
        if version > VERSION:
            raise errors.BadRequest(
                f"{self.path} was written by a newer version of excise (book version {version}, this one knows {VERSION}); "
                "upgrade excise"
            )

    def _require_sound(self) -> None:
        with self._reading():
            said = self._one("PRAGMA integrity_check")[0]
            held = self._one("SELECT digest FROM seal")
            if said != "ok" or held != (self._digest(),):
                what = said if said != "ok" else "its content does not fit its seal"
                raise errors.Corrupt(f"{self.path} is damaged ({what}); put back a copy of the whole ledger directory")

    def _digest(self) -> str:
        """Give the SHA-256 of all that the book says. Finds what chance changes; whoever can write the book can seal it."""
        running = hashlib.sha256()
        for question in _SEALED:
            running.update(question.encode())
            for row in self._database.execute(question):
                running.update(repr(row).encode())
        return running.hexdigest()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (
            sqlite3.Error,
            UnicodeDecodeError,
        ) as error:  # the latter where SQLite's own message quotes damaged text
            raise _explanation(self.path, error) from error


def has_begun(path: Path) -> bool:
    """Say whether a book is there, and not one that was killed before its first transaction was done.

    Raises:
        errors.Corrupt: what is there is no database.
        errors.DiskError: it cannot be read.
    """
    if not path.exists() or not path.stat().st_size:
        return False
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE_SECONDS)) as database:
            return bool(database.execute("SELECT 1 FROM sqlite_schema").fetchall())
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _explanation(path, error) from error


_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DISK = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}


def _explanation(path: Path, error: Exception) -> errors.ExciseError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in _BUSY:
        return errors.InUse(
            f"another process has been writing to {path} for {_PATIENCE_SECONDS:g} s ({error}); try again later"
        )
    if code in _DISK:
        return errors.DiskError(
            f"{path} cannot be read or written: {error}; free some space, or see who may write there"
        )
    return errors.Corrupt(f"{path} is damaged ({error}); put back a copy of the whole ledger directory")


def _encoded(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
