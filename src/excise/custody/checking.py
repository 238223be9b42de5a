"""What a directory of ours holds, file by file, and whether each is what its record says. Nothing is changed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from excise import errors, store, verify
from excise.ledger.book import Book
from excise.ledger.manifest import Manifest
from excise.oracles.bank import KINDS, UNFINISHED, Bank
from excise.store.generations import Generations
from excise.store.places import inside
from excise.store.runs import FORMAT, file_fault

State = Literal["sound", "damaged", "unfinished", "unchecked", "left over", "not ours"]
"""`damaged`: not what the record says, or gone. `unfinished`: the same command again goes on from it. `unchecked`: whole in
itself, and what it has to fit is gone. `left over`: of a write that was broken off; the next run there removes it. `not
ours`: no record names it."""

BOOK, RECEIPTS, MANIFEST, RUNS = "book.sqlite", "receipts.jsonl", "manifest.bin", "runs"
TUNING, RESULT, SETTINGS, ORACLES = "tuning.json", "result.json", "settings.toml", "oracles"
MODEL, NUMBERS = "model.safetensors", "audit.json"
AUDITED = {NUMBERS, "audit-plan.json", "report.html", "rows.json"}
"""What `excise audit` makes again where it is gone."""
_BEGINNING = ("SELECT COUNT(*) FROM sqlite_schema", "PRAGMA application_id")
_OF_THE_BOOK = ("-wal", "-shm", "-journal")
_OWN = {MODEL, "mask.safetensors", "patch.safetensors"}
_TRAINING = ".training-"
_WORST: tuple[State, ...] = ("damaged", "unfinished", "unchecked", "left over", "not ours", "sound")
_LEDGER_REMEDY = "put back a copy of the whole ledger directory"
_RUN_REMEDY = "take it from a copy of the ledger: no command makes it again"
_SPECIAL = "it is a pipe, a device or a socket, and was not opened"
_SEARCH_REMEDY = "remove the directory and search again"
_STRANGE = "no record names it; it is never read"
_UNFINISHED = "a run that was not completed: the same command again goes on, or begins anew"


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One file, or one directory as a whole.

    Attributes:
        path: which.
        state: how it is.
        what: a sentence about it, with both hashes where they differ and with what to do where it is damaged; empty where it
            is sound.
    """

    path: str
    state: State
    what: str = ""


def check(directory: Path) -> list[Checked]:
    """Look at every file of a run, a search, a bank or a ledger (its runs included), and say of each one thing.

    Raises:
        errors.BadRequest: no directory, or one that holds nothing of ours; or a ledger of a newer version.
        errors.DiskError: a ledger's book may not be read.
    """
    if not directory.is_dir():
        raise errors.BadRequest(f"expected a directory of excise's, found none at {directory}; give one")
    kinds = {store.RECORD: _run, TUNING: _search, BOOK: _ledger, RECEIPTS: _ledger, MANIFEST: _ledger}
    kinds |= {store.CHECKPOINTS: _begun}
    look = next((how for name, how in kinds.items() if (directory / name).exists()), None)
    if look is None and (Bank(directory).entries() or any(directory.glob(f"{_TRAINING}*"))):
        look = _bank
    found = list((look or _without_record)(directory))
    if look is None and not found:
        raise errors.BadRequest(
            f"expected a run, a search, a bank or a ledger of excise's, found none in {directory}; give its directory"
        )
    return _each_once([*found, *_left_over(directory), *_held(directory)])


def _each_once(found: list[Checked]) -> list[Checked]:
    """Give the worst that was said of each path, in the order in which the paths were come to."""
    worst: dict[str, Checked] = {}
    for one in found:
        before = worst.get(one.path, one)
        worst[one.path] = min(before, one, key=lambda said: _WORST.index(said.state))
    return list(worst.values())


def _fault(path: Path, fault: str | None, remedy: str) -> Checked:
    """Give what is said of a file: that it is sound, or what is wrong and what to do."""
    return Checked(path=str(path), state="damaged" if fault else "sound", what=f"{fault}; {remedy}" if fault else "")


def _explained(path: Path, error: errors.ExciseError, remedy: str = "") -> Checked:
    """Give what is said of a file whose reader has told what is wrong; and what to do, unless a remedy is given."""
    told, _, own = str(error).rpartition("; ")
    return Checked(path=str(path), state="damaged", what=f"{told or own}; {remedy}" if remedy else str(error))


def _is_special(path: Path) -> bool:
    """Say whether a pipe, a device or a socket lies somewhere; opening one may never end."""
    return path.exists() and not path.is_file() and not path.is_dir()


# ---- runs


def _without_record(directory: Path) -> Iterator[Checked]:
    """A directory in which a run may have been begun, or one whose record is gone."""
    names = {entry.name for entry in directory.iterdir()}
    if names & AUDITED and names & _OWN:  # an audit comes after the record
        fault = "the record of a run that was completed, and audited, is gone"
        yield _fault(directory / store.RECORD, fault, _remedy(directory) or "take it from a backup")
    elif names & {*_OWN, store.LAST_FINITE, store.LOCK, store.BEGUN} or (
        names and all(name.startswith("margins-") for name in names)
    ):
        yield Checked(path=str(directory), state="unfinished", what=_UNFINISHED)


def _run(directory: Path) -> Iterator[Checked]:
    remedy = _remedy(directory) or "take it from a backup, or remove the directory and run again"
    record, found = _read(directory / store.RECORD, remedy)
    fault = None if record is None else _form_fault(record)
    if fault is not None or record is None:
        yield found if record is None else _fault(directory / store.RECORD, fault, "update excise to read it")
        return
    yield found
    files, pending = record["files"], record.get("pending", {})
    for name in sorted({*files, *pending}):
        yield _file(directory, name, files.get(name), pending.get(name))
    known = {*files, *pending, store.RECORD, store.LOCK, store.CHECKPOINTS, store.LAST_FINITE, store.BEGUN}
    yield from _generations(directory / store.CHECKPOINTS, finished=True)
    yield from _strange(directory, known)


def _form_fault(record: dict[str, Any]) -> str | None:
    tables = (record.get("files"), record.get("pending", {}))
    known = all(isinstance(one, dict) and all(isinstance(held, str) for held in one.values()) for one in tables)
    return None if record.get("format") == FORMAT and known else f"expected a record of form {FORMAT}, found another"


def _file(directory: Path, name: str, entered: str | None, announced: str | None) -> Checked:
    try:
        path = inside(directory, name)
        fault = file_fault(directory, name, {digest for digest in (entered, announced) if digest is not None})
    except errors.Corrupt as error:
        return _explained(directory / store.RECORD, error)
    if announced is not None and (fault is None or entered is None):
        what = "an audit or a page that was being written: the same command again writes it"
        return Checked(path=str(path), state="unfinished", what=what)
    if _remedy(directory):
        return _fault(path, fault, _remedy(directory))
    if name in AUDITED:
        return _fault(path, fault, "remove it, and `excise audit` with the same words makes it again")
    return _fault(path, fault, "take it from a backup, or remove the directory and give the same command again")


def _remedy(directory: Path) -> str:
    """Give what is to be done about a run of a ledger that has its receipt; nothing for other runs."""
    of_ledger = directory.resolve().parent
    return _RUN_REMEDY if of_ledger.name == RUNS and (of_ledger.parent / RECEIPTS).exists() else ""


def _begun(directory: Path) -> Iterator[Checked]:
    yield Checked(path=str(directory), state="unfinished", what=_UNFINISHED)
    yield from _generations(directory / store.CHECKPOINTS, finished=False)


def _generations(kept: Path, *, finished: bool) -> Iterator[Checked]:
    if not kept.is_dir():
        return
    damaged = Generations(kept).damaged()
    if damaged:
        yield _fault(
            kept, "; ".join(damaged), "nothing is to be done: the same command goes on from an older one, or anew"
        )
    what = (
        "checkpoints, of a run that is complete by now"
        if finished
        else "checkpoints, what the same command goes on from"
    )
    yield Checked(path=str(kept), state="left over" if finished else "unfinished", what=what)
    yield from _left_over(kept)


# ---- searches and banks


def _search(directory: Path) -> Iterator[Checked]:
    record, found = _read(directory / TUNING, _SEARCH_REMEDY)
    yield found
    known = {TUNING, RESULT, SETTINGS, ORACLES, store.LOCK}
    for trial in [] if record is None else record.get("trials", []):
        if trial.get("file_digest") is not None:
            name = f"margins-{trial['number']:04}.safetensors"
            known.add(name)
            yield _fault(directory / name, file_fault(directory, name, {trial["file_digest"]}), _SEARCH_REMEDY)
    result, found = _read(directory / RESULT, "remove it, and the same `excise tune` makes it again")
    if (directory / RESULT).exists():
        yield found
    digest = None if result is None else result.get("files", {}).get(SETTINGS)
    if digest is not None:
        fault = file_fault(directory, SETTINGS, {digest})
        yield _fault(directory / SETTINGS, fault, "remove it, and the same `excise tune` makes it again")
    if (directory / ORACLES).is_dir():
        yield from _bank(directory / ORACLES)
        yield from _left_over(directory / ORACLES)
    trailing = {path.name for path in directory.glob("margins-*.safetensors")} - known
    for name in sorted(trailing):
        what = "of a trial that was not entered: the same command again writes it"
        yield Checked(path=str(directory / name), state="unfinished", what=what)
    yield from _strange(directory, known | trailing)


def _bank(directory: Path) -> Iterator[Checked]:
    bank = Bank(directory)
    for entry in bank.entries():
        path = directory / f"{entry.key}.safetensors"
        if entry.kind == UNFINISHED:
            continue  # a temporary file, told of as such
        try:
            if entry.kind in KINDS:
                bank.find(entry.key)
            fault = None if entry.kind in KINDS else f"{path} cannot be read"
        except errors.Corrupt as error:
            yield _explained(path, error)
        else:
            yield _fault(path, fault, "remove it to have the network trained again")
    for training in sorted(directory.glob(f"{_TRAINING}*")):
        yield from _generations(training, finished=False)
    left = set(store.left_over(directory))
    for strange in bank.foreign():
        if not (strange.name == store.LOCK or strange in left or strange.name.startswith(_TRAINING)):
            yield Checked(path=str(strange), state="not ours", what=_STRANGE)


# ---- ledgers


def _ledger(directory: Path) -> Iterator[Checked]:
    book, log = directory / BOOK, directory / RECEIPTS
    special = [path for path in (book, log, directory / MANIFEST) if _is_special(path)]
    if special:
        yield from (_fault(path, _SPECIAL, _LEDGER_REMEDY) for path in special)
        return
    if not log.exists() and _is_unbegun(book):
        yield Checked(path=str(directory), state="unfinished", what="a ledger that was being opened: open it again")
        return
    receipts: list[dict[str, Any]] = []
    if log.exists():
        content = log.read_bytes()
        faults = verify.log_faults(content) or _receipt_faults(content)
        broken_off = len(faults) == 1 and "broken off" in faults[0]
        if broken_off:
            yield Checked(path=str(log), state="unfinished", what=f"{faults[0]}; the same command again writes it")
        else:
            yield _fault(log, "; ".join(faults), _LEDGER_REMEDY)
        if broken_off or not faults:
            receipts = [verify.entry_faults(line)[0] for line in content.split(b"\n")[:-1]]
    yield from _book(directory, None if log.exists() and faults and not broken_off else receipts)
    entered = {f"{one['sequence']:04d}": one for one in receipts}
    below = directory / RUNS
    for run in sorted(below.iterdir()) if below.is_dir() else ():
        if run.is_dir() and any(run.iterdir()):
            yield from _run_of_a_ledger(run, entered.get(run.name))
    for name in sorted(entered):
        if not (below / name / store.RECORD).exists():
            yield _fault(below / name / store.RECORD, "a receipt speaks of this run, and it is gone", _LEDGER_REMEDY)
    yield from _strange(directory, {BOOK, RECEIPTS, RUNS, store.LOCK, MANIFEST, *(BOOK + one for one in _OF_THE_BOOK)})


def _receipt_faults(log: bytes) -> list[str]:
    """Say what is wrong with the first line of a log that is whole by its hash, and no receipt all the same."""
    for seq, line in enumerate(log.split(b"\n")[:-1], 1):
        if faults := verify.entry_faults(line)[1]:
            return [f"entry {seq}: {'; '.join(faults)}"]
    return []


def _is_unbegun(book: Path) -> bool:
    """Say whether a book is not there yet, or was left by a process that was killed before its first transaction."""
    if not book.exists() or book.stat().st_size == 0:
        return True
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(book)) as database:
        (tables,), (own,) = (database.execute(one).fetchone() for one in _BEGINNING)
        return bool(tables == own == 0)
    return False


def _book(directory: Path, receipts: list[dict[str, Any]] | None) -> Iterator[Checked]:
    """The book, the manifest that it names, and whether it knows of receipts that the log (None: damaged) has lost."""
    book, log = directory / BOOK, directory / RECEIPTS
    if not book.exists():
        yield _fault(book, "it is gone", _LEDGER_REMEDY)
        yield from _without_book(directory)
        return
    try:
        with Book(book) as opened:
            root, runs = opened.life().manifest_root, opened.runs()
    except errors.Corrupt as error:  # one that may not be read, or is a newer version's, is for its owner to see to
        yield _explained(book, error)
        yield from _without_book(directory)
        return
    yield _fault(book, None, _LEDGER_REMEDY)
    yield _manifest(directory / MANIFEST, root)
    known = {one.receipt for one in runs if one.receipt is not None}
    lost = set() if receipts is None else known - {one["hash"] for one in receipts}
    if lost:
        yield _fault(log, f"it lacks {len(lost)} receipts that {BOOK} knows", _LEDGER_REMEDY)


def _without_book(directory: Path) -> Iterator[Checked]:
    """The log and the manifest, where there is no book that says whether they are this ledger's, and all of it."""
    what = f"whole in itself; it could not be held against {BOOK}"
    if (directory / RECEIPTS).exists():
        yield Checked(path=str(directory / RECEIPTS), state="unchecked", what=what)
    manifest = _manifest(directory / MANIFEST, None)
    yield manifest if manifest.state == "damaged" else msgspec.structs.replace(manifest, state="unchecked", what=what)


def _manifest(path: Path, root: str | None) -> Checked:
    try:
        found = Manifest.load(path).root
    except errors.ExciseError as error:
        return _explained(path, error, _LEDGER_REMEDY)
    if root is None:
        return _fault(path, None, _LEDGER_REMEDY)
    fault = None if found == root else f"{path} is of another ledger: expected root {root}, found {found}"
    return _fault(path, fault, _LEDGER_REMEDY)


def _run_of_a_ledger(run: Path, receipt: dict[str, Any] | None) -> Iterator[Checked]:
    """A run, and whether it is the one that its receipt speaks of."""
    try:
        yield from check(run)
    except errors.BadRequest:
        yield Checked(path=str(run), state="not ours", what=_STRANGE)
    record = store.read_sealed(run / store.RECORD) if receipt is not None and _is_sealed(run / store.RECORD) else None
    if record is None or receipt is None:
        return
    for name, told in ((MODEL, receipt["model_file"]), (NUMBERS, receipt["audit"]["file"])):
        found = record.get("files", {}).get(name)
        if told is not None and f"sha256:{found}" != told:
            fault = f"{run / name} is not the one of receipt {receipt['seq']}: expected {told}, found sha256:{found}"
            yield _fault(run / name, fault, _LEDGER_REMEDY)


# ---- what may lie anywhere


def _is_sealed(path: Path) -> bool:
    return _read(path, "")[0] is not None


def _read(path: Path, remedy: str) -> tuple[dict[str, Any] | None, Checked]:
    try:
        return store.read_sealed(path), _fault(path, None, remedy)
    except errors.ExciseError as error:
        return None, _explained(path, error, remedy)


def _strange(directory: Path, known: set[str]) -> Iterator[Checked]:
    temporary = set(store.left_over(directory))
    for path in sorted(directory.iterdir()):
        if path.name not in known and path not in temporary:
            yield Checked(path=str(path), state="not ours", what=_STRANGE)


def _left_over(directory: Path) -> Iterator[Checked]:
    for path in store.left_over(directory):
        what = "of a write that was broken off: the next run here removes it"
        yield Checked(path=str(path), state="left over", what=what)


def _held(directory: Path) -> Iterator[Checked]:
    if _is_special(directory / store.LOCK):
        yield _fault(directory / store.LOCK, _SPECIAL, "remove it")
    elif (directory / store.LOCK).exists():
        held = store.holder(directory)
        who = f"process {held['pid']} on {held['host']} is at work here" if held else "of a run that was killed"
        yield Checked(path=str(directory / store.LOCK), state="unfinished" if held else "left over", what=who)
