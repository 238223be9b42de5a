"""Take copies away, or put them aside, so that what was done can be told later; killed anywhere and given again, it finishes.

Removing takes a file's name away. Backups, snapshots, the blocks of the disk and swap are not reached.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import torch

from excise import errors, store
from excise.custody.finding import Finding
from excise.custody.places import lies_in
from excise.custody.traced import Traced
from excise.oracles.bank import TRAINING, Bank
from excise.store.generations import Generations
from excise.store.hidden import hide, reveal

PURGED, KEPT, UNDER_WAY = "purged", "kept", "purging"
"""Sections of a run's record: what was taken away, what was left and why, what was about to be taken away."""
LIST = "quarantined.json"
How = Literal["removed", "quarantined"]
RELEASED_ELSEWHERE = "released by another run; --also-released takes it, too"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What may be done with copies that are not excise's own.

    Attributes:
        places: folders and files in which something may be changed, besides the run directory and the bank.
        remove: take away what is found there.
        quarantine: put it there instead; a folder for its owner alone.
        keep: folders and files that stay, all of which are there.
        also_released: take away networks, masks and patches that other runs have released, too.
    """

    places: Sequence[Path] = ()
    remove: bool = False
    quarantine: Path | None = None
    keep: Sequence[Path] = ()
    also_released: bool = False

    def __post_init__(self) -> None:
        if self.remove and self.quarantine is not None:
            raise errors.BadRequest("expected one of --remove and --quarantine DIR, found both; choose")
        for path in self.keep:
            if not os.path.lexists(path):
                raise errors.BadRequest(
                    f"--keep: expected a folder or a file, found nothing at {path}; name what is there, or leave it out"
                )


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with one finding: `how`, or None and the reason to leave it."""

    finding: Finding
    how: How | None
    why: str = ""


class Trouble(NamedTuple):
    """What could not be taken away and why, in a sentence; and the exit code of the reason."""

    told: str
    exit_code: int


def decide(findings: Sequence[Finding], traced: Traced, wish: Wish) -> list[Decided]:
    """Say what is to be done with each finding. What is `unknown` stays, whatever the wish: it may be anything."""
    return [_decided(one, traced, wish) for one in findings]


def _decided(one: Finding, traced: Traced, wish: Wish) -> Decided:
    path = Path(one.path)
    if not one.link and path.resolve() in traced.released:
        return Decided(finding=one, how=None, why="part of what the run released")
    if any(_is_or_is_in(path, kept) for kept in wish.keep):
        return Decided(finding=one, how=None, why="kept as asked")
    if one.certainty == "unknown":
        return Decided(finding=one, how=None, why="cannot be told by itself; look, and remove it yourself")
    if one.own:
        return Decided(finding=one, how="removed")
    if one.released_by and not wish.also_released:
        return Decided(finding=one, how=None, why=RELEASED_ELSEWHERE)
    if not lies_in(path.parent, [traced.run, *wish.places]) and not any(_is_or_is_in(path, one) for one in wish.places):
        return Decided(finding=one, how=None, why="outside of the places named; name its folder with --in")
    if wish.remove or (one.link and wish.quarantine is not None):
        return Decided(finding=one, how="removed")
    if wish.quarantine is not None:
        return Decided(finding=one, how="quarantined")
    return Decided(finding=one, how=None, why="not excise's own; give --remove or --quarantine DIR")


def _is_or_is_in(path: Path, place: Path) -> bool:
    """The same for the name itself, which may be a link."""
    where, whole = path.parent.resolve() / path.name, place.parent.resolve() / place.name
    return where == whole or place.resolve() in (where, *where.parents)


def purge(
    decided: Sequence[Decided], traced: Traced, wish: Wish, bank: Bank | None = None
) -> tuple[list[Decided], list[Trouble]]:
    """Do what was decided and enter it in the run's record.

    The record says first what is about to be done, then what was done; so a purge that is killed between two files and
    given again counts those that it had taken away. Nothing is written if there is nothing to do.

    Args:
        decided: from `decide`.
        traced: the removal.
        wish: as given to `decide`.
        bank: the one that was looked into; its folders of broken-off trainings go when they are empty.

    Returns:
        What was done; and for each file that could not be taken away why.

    Raises:
        errors.BadRequest: the quarantine is no folder, lies in the run or in the bank, holds one of the places, or others
            may look into it.
        errors.Corrupt: what the run's record says of what was purged is of no form that was written.
        errors.InUse: the run directory, or the ledger that the run is of, is held by another process.
        errors.DiskError: the record could not be written.
    """
    chosen = [one for one in decided if one.how is not None]
    if any(one.how == "quarantined" for one in chosen):
        assert wish.quarantine is not None
        require_quarantine(wish.quarantine, traced.run, wish.places, bank)
    with _held(traced):
        if wish.quarantine is not None:
            store.sweep([wish.quarantine])
        record = store.read_record(traced.run)
        _require_sections(record, traced.run)
        if not chosen and not record.get(UNDER_WAY) and _entries(decided, record) == _kept(record):
            _clear_folders(traced.run, bank)
            return [], []
        done = _finished_before(record) + list(record.get(PURGED, []))
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        plan = [
            {**_entry(one.finding), "when": now, "how": one.how, "path": hide(str(Path(one.finding.path).absolute()))}
            for one in chosen
        ]
        store.amend_record(traced.run, purged=done, purging=plan or None)
        gone, troubles = _done(chosen, lambda one: _act(one, traced, wish, now))
        _clear_folders(traced.run, bank)
        done += [_without_path(entry) for entry, one in zip(plan, chosen, strict=True) if one in gone]
        store.amend_record(traced.run, purged=done, purging=None, kept=_entries(decided, record))
    return gone, troubles


@contextmanager
def _held(traced: Traced) -> Iterator[None]:
    """Hold the run, and before it the ledger that it is of, where a run may be under way that starts from this one."""
    if traced.ledger is None:
        with store.lock(traced.run):
            yield
        return
    with store.lock(traced.ledger.directory), store.lock(traced.run):
        yield


def _done(chosen: Sequence[Decided], act: Callable[[Decided], None]) -> tuple[list[Decided], list[Trouble]]:
    gone, troubles = [], []
    for one in chosen:
        try:
            act(one)
        except (errors.ExciseError, OSError) as error:
            code = errors.DiskError.exit_code if isinstance(error, OSError) else error.exit_code
            troubles.append(Trouble(f"{one.finding.path}: {error}", code))
        else:
            gone.append(one)
    return gone, troubles


def _act(one: Decided, traced: Traced, wish: Wish, now: str) -> None:
    path = Path(one.finding.path)
    if not one.finding.link:
        if not path.exists():
            return
        if path.is_symlink() or not path.is_file() or store.file_digest(path) != one.finding.sha256:
            raise errors.Refused("it was changed since it was looked at; give the command again")
    if one.how == "quarantined":
        assert wish.quarantine is not None
        _put_aside(path, one.finding, wish.quarantine, now)
    if one.finding.released_by and not one.finding.link:
        with store.lock(path.parent):
            store.read_record(path.parent)  # nothing is taken from a run that is damaged
            store.forget_files(path.parent, [path.name])
    elif _in_record(path, traced):
        store.forget_files(path.parent, [path.name])
    else:
        store.remove(path)


def _in_record(path: Path, traced: Traced) -> bool:
    """Say whether a file stands in the record of the run, or of another run of the same ledger."""
    of_ledger = traced.ledger is not None and traced.ledger.holds(path.parent)
    if not (of_ledger or path.parent == traced.run) or not (path.parent / store.RECORD).is_file():
        return False
    return path.name in store.read_record(path.parent)["files"]


def _clear_folders(run: Path, bank: Bank | None) -> None:
    """Remove excise's own folders of checkpoints, those that are empty by now."""
    trainings = [] if bank is None else sorted(bank.directory.glob(f"{TRAINING}*"))
    for folder in (run / store.CHECKPOINTS, *trainings):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            Generations(folder).clear()


def require_quarantine(directory: Path, run: Path, places: Collection[Path] = (), bank: Bank | None = None) -> None:
    """Refuse a folder for copies that lies in the run or in the bank, holds them or a place, or that others may look into.

    Raises:
        errors.BadRequest: so it is, or a file stands there.
    """
    if lies_in(directory, [run]):
        raise errors.BadRequest(f"--quarantine: {directory} lies in the run directory {run}; choose a folder elsewhere")
    if bank is not None and lies_in(directory, [bank.directory]):
        raise errors.BadRequest(
            f"--quarantine: {directory} lies in the bank {bank.directory}; choose a folder elsewhere"
        )
    inner = [run, *places] if bank is None else [run, *places, bank.directory]
    held = next((one for one in inner if lies_in(one, [directory]) and one.resolve() != directory.resolve()), None)
    if held is not None:
        raise errors.BadRequest(
            f"--quarantine: {directory} holds {held}, and what is put aside is not looked into; choose a folder of its own"
        )
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise errors.BadRequest(f"--quarantine: expected a folder, found something else at {directory}; name another")
    if os.name == "posix" and directory.exists() and stat.S_IMODE(directory.stat().st_mode) & 0o077:
        raise errors.BadRequest(
            f"--quarantine: others may look into {directory}; choose a new folder, or `chmod 700 {directory}`"
        )


def _put_aside(path: Path, finding: Finding, quarantine: Path, now: str) -> None:
    """Copy a file under its hash, check the copy, and enter it in the list."""
    copy = quarantine / finding.sha256
    if not copy.is_file() or store.file_digest(copy) != finding.sha256:
        _copy(path, copy)
        if store.file_digest(copy) != finding.sha256:
            raise errors.Refused(f"its copy {copy} is not what it was; the file was left where it is")
    listed = store.read_json(quarantine / LIST) if (quarantine / LIST).is_file() else []
    told = {
        "sha256": finding.sha256,
        "from": hide(str(path.absolute())),
        "what": finding.what,
        "why": hide(finding.why),  # it may name the file
        "when": now,
    }
    if not any(one.get("sha256") == told["sha256"] and one.get("from") == told["from"] for one in listed):
        store.write_json(quarantine / LIST, [*listed, told])


def origin(entry: dict[str, Any]) -> Path:
    """Give where a file in quarantine came from, by its entry in `LIST`; only where it was put aside, by who did so.

    Raises:
        errors.BadRequest: under another key than that of this machine and user.
    """
    return Path(reveal(entry["from"]))


def _copy(path: Path, copy: Path) -> None:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            store.write_bytes(copy, b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole, memoryview(whole) as view:
            store.write_bytes(copy, view)


def _require_sections(record: dict[str, Any], run: Path) -> None:
    for name in (PURGED, KEPT, UNDER_WAY):
        try:
            entries = msgspec.convert(record.get(name, []), list[dict[str, str]])
        except msgspec.ValidationError as error:
            raise errors.Corrupt(
                f"{run / store.RECORD} is not a record that this version can read: {name!r}: {error}; take it from a backup"
            ) from error
        if name == UNDER_WAY and any("path" not in one for one in entries):
            raise errors.Corrupt(
                f"{run / store.RECORD} is not a record that this version can read: {name!r} names no file; take it from a "
                "backup"
            )


def _finished_before(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Give what a purge that was broken off had announced and taken away by then."""
    announced = record.get(UNDER_WAY, [])
    return [_without_path(one) for one in announced if not os.path.lexists(reveal(one["path"]))]


def _without_path(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "path"}


def _entries(decided: Collection[Decided], record: dict[str, Any]) -> list[dict[str, Any]]:
    """Give what stays, with the reason and since when."""
    before = {(one.get("sha256"), one.get("why")): one for one in _kept(record)}
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    entries = []
    for one in decided:
        if one.how is None:
            entry = {**_entry(one.finding), "why": one.why}
            entries.append(before.get((entry["sha256"], entry["why"]), {**entry, "when": now}))
    return entries


def _kept(record: dict[str, Any]) -> list[dict[str, Any]]:
    return list(record.get(KEPT, []))


def _entry(finding: Finding) -> dict[str, Any]:
    return {"sha256": recorded_digest(finding), "what": finding.what, "certainty": finding.certainty}


def recorded_digest(finding: Finding) -> str:
    """Give a file's hash for a record; a keyed one of a list of rows, which could be guessed and the guess confirmed."""
    if not finding.sha256:
        return ""
    if not finding.lists_rows:
        return f"sha256:{finding.sha256}"
    raw = torch.frombuffer(bytearray(bytes.fromhex(finding.sha256)), dtype=torch.uint8)
    return f"hmac-sha256:{store.commitment(raw)}"
