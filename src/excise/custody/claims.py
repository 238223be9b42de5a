"""What other records say of copies: which run released a file, and which runs and ledgers began with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from excise import errors, store
from excise.custody.finding import Finding
from excise.custody.lives import BOOK, PAPERS
from excise.custody.traced import ROWS, Traced, holds, read_asked
from excise.ledger.book import Book


class _Reader(NamedTuple):
    """A run or a ledger, and the weights that it began with: by their path, the file's hash, the network's digest."""

    where: Path
    weights: Path
    sha256: str
    digest: str


def claimed(found: Sequence[Finding], traced: Traced, files: Collection[Path]) -> list[Finding]:
    """Give findings with what the records among some files, and those beside each, say of them.

    Args:
        found: what was found.
        traced: the removal; what its own run released, or its own ledger, is told by `Traced.released_in`.
        files: in the places that were looked into.
    """
    readers = list(_readers(traced, files))
    return [
        msgspec.structs.replace(
            one,
            released_by=_released_by(one, traced),
            needed_by=", ".join(str(reader.where) for reader in readers if _began_with(reader, one)),
        )
        for one in found
    ]


def is_paper(path: Path) -> bool:
    """Say whether a file is a ledger's book (or SQLite's beside it), its log or its manifest, none of which is a copy."""
    name = path.name.removesuffix("-wal").removesuffix("-shm").removesuffix("-journal")
    return name in PAPERS and any((path.parent / other).is_file() for other in PAPERS if other != name)


def _released_by(one: Finding, traced: Traced) -> str:
    """Give the run whose sealed record, in the same folder, names a file with just these bytes; or nothing."""
    path = Path(one.path)
    own = traced.ledger is not None and traced.ledger.holds(path.parent)
    if one.own or one.link or own or path.name == ROWS or path.parent.resolve() == traced.run.resolve():
        return ""
    files = (_sealed(path.parent / store.RECORD) or {}).get("files")
    named = isinstance(files, dict) and files.get(path.name) == one.sha256 != ""
    return str(path.parent) if named else ""


def _began_with(reader: _Reader, one: Finding) -> bool:
    """Say whether a file is what a run began with: by its place, or by its name and content where that is empty by now."""
    path = Path(one.path)
    if one.link or path.name != reader.weights.name:
        return False
    if reader.weights.exists():
        return path.resolve() == reader.weights.resolve()
    return (bool(reader.digest) and holds(path, reader.digest)) or one.sha256 == reader.sha256 != ""


def _readers(traced: Traced, files: Collection[Path]) -> Iterator[_Reader]:
    own = traced.run if traced.ledger is None else traced.ledger.directory
    digest = "" if traced.ledger is None else traced.ledger.original
    if traced.asked.weights:
        yield _Reader(own, Path(traced.asked.weights), traced.asked.weights_sha256, digest)
    for path in files:
        if path.name not in (store.RECORD, BOOK) or path.parent.resolve() == own.resolve():
            continue
        reader = _of_ledger(path) if path.name == BOOK else _of_run(path)
        if reader is not None and reader.weights.name:
            yield reader


def _of_run(path: Path) -> _Reader | None:
    record = _sealed(path)
    try:
        asked = None if record is None else read_asked(path.parent, record)
    except errors.ExciseError:
        return None
    return None if asked is None else _Reader(path.parent, Path(asked.weights), asked.weights_sha256, "")


def _of_ledger(path: Path) -> _Reader | None:
    try:
        with Book(path) as book:
            life = book.life()
    except errors.ExciseError:
        return None
    return _Reader(path.parent, Path(life.words.get("weights") or ""), "", life.original)


def _sealed(path: Path) -> dict[str, Any] | None:
    try:
        return store.read_sealed(path)
    except errors.ExciseError:
        return None
