"""One bit, or the end, of one file is changed, or the file is another run's: it must be found before anything is made of it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from excise import errors, store
from excise.custody.checking import check
from excise.ledger.book import Book
from tests.crash.project import AUDIT, TUNE, UNLEARN, Stages
from tests.crash.server import Place, run, typed
from tests.crash.shim import Failure, Shim

KEPT_CALLS = 60
"""After so many calls that change the disk, an unlearning that keeps every step has kept some."""
CORRUPT = errors.Corrupt.exit_code


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        directory: of ours that it lies in, below the current one or the root.
        pattern: of its name there.
        used_by: words of a command that reads it; empty for one that only a person or a search reads.
    """

    directory: str
    pattern: str
    used_by: tuple[str, ...] = ()


AUDIT_AGAIN = (*AUDIT, "--tier", "T0")
KINDS = {
    "network": Kind("work/run", "model.safetensors", AUDIT_AGAIN),
    "mask": Kind("work/run", "mask.safetensors", AUDIT_AGAIN),
    "patch": Kind("work/run", "patch.safetensors", AUDIT_AGAIN),
    "record": Kind("work/run", "run.json", AUDIT_AGAIN),
    "plan of an audit": Kind("work/run", "audit-plan.json", AUDIT_AGAIN),
    "numbers": Kind("work/run", "audit.json", ("report", "run", "--quiet")),
    "page": Kind("work/run", "report.html", AUDIT_AGAIN),
    "oracle": Kind("cache/excise/bank", "*.safetensors", (*AUDIT, "--oracles", "4", "--effect", "0.4")),
    "trials": Kind("work/tuned", "tuning.json", (*TUNE, "--trials", "3", "--max-utility-loss", "0.9")),
    "margins": Kind("work/tuned", "margins-*.safetensors", (*TUNE, "--trials", "3", "--max-utility-loss", "0.9")),
    "result of a search": Kind("work/tuned", "result.json", (*AUDIT_AGAIN, "--search", "tuned")),
    "settings": Kind("work/tuned", "settings.toml"),
    "story": Kind("work/story", "demo.json", ("report", "story", "--quiet")),
    "manifest": Kind("work/life", "manifest.bin"),
    "receipts": Kind("work/life", "receipts.jsonl"),
    "book": Kind("work/life", "book.sqlite"),
    "network of a ledger": Kind("work/life", "runs/0001/model.safetensors"),
    "checkpoint": Kind("work/begun", "checkpoints/*.safetensors"),
}


def everything(stages: Stages, root: Path) -> Place:
    """Give a project in which every kind of file lies."""
    place = stages.after("audit").copied_to(root)
    shutil.copytree(stages.after("tune").work / "tuned", place.work / "tuned")
    shutil.copytree(stages.after("ledger").work / "life", place.work / "life")
    shutil.copytree(stages.after("ledger").root / "state", place.root / "state", dirs_exist_ok=True)
    _begin(place, "begun")
    numbers = store.read_json(place.work / "run" / "audit.json")
    told = store.RunDirectory(place.work / "story", {"command": "demo"})
    store.write_json(told.path / "demo.json", {"page": numbers["page"]})
    store.write_bytes(told.path / "report.html", (place.work / "run" / "report.html").read_bytes())
    told.complete(["demo.json", "report.html"], {})
    return place


def _begin(place: Place, out: str) -> None:
    """Begin an unlearning and end it in the middle, without a word."""
    words = [out if word == "run" else word for word in UNLEARN]
    shim = Shim(Failure(KEPT_CALLS, None))
    run(place, [typed(*words, "--checkpoint-seconds", "0")], before=shim.install)
    assert list((place.work / out / store.CHECKPOINTS).iterdir()) and not (place.work / out / store.RECORD).exists()


def files_of(place: Place, kind: Kind) -> list[Path]:
    """Give the files of a kind, by name; each lies there."""
    found = sorted((place.root / kind.directory).glob(kind.pattern))
    assert found, kind
    return found


Change = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, draws: random.Random) -> bytes:
    """Give bytes of which one bit is another."""
    place = draws.randrange(8 * len(content))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def cut(content: bytes, draws: random.Random) -> bytes:
    """Give bytes without some of the last ones."""
    return content[: draws.randrange(len(content))]


@contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    """Have a file hold something else for the block."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def is_found(place: Place, kind: Kind, path: Path, content: bytes) -> bool:
    """Say whether a search of its directory finds a changed file; one that says nothing else than before is no change.

    (SQLite leaves room in its pages, which nobody reads.)
    """
    book = place.work / "life" / "book.sqlite"
    if path == book:
        before = _said_by(book)
        kept = {one: one.read_bytes() for one in book.parent.glob("book.sqlite*")}
        try:
            with changed(path, content):
                found = any(one.state == "damaged" for one in check(place.root / kind.directory))
                return found or _said_by(book) == before
        finally:
            for one in set(book.parent.glob("book.sqlite*")) - set(kept):
                one.unlink()
    with changed(path, content):
        return any(one.state == "damaged" for one in check(place.root / kind.directory))


def _said_by(book: Path) -> object:
    with Book(book) as opened:
        return opened.life(), opened.requests(), opened.rows(), opened.runs()


def is_refused(place: Place, kind: Kind, path: Path, content: bytes) -> bool:
    """Say whether the command that reads a file stops at a changed one, and writes nothing."""
    names = place.files()
    with changed(path, content):
        ended = run(place, [typed(*kind.used_by)])
    left = {name for name in place.files() - names if "/." not in name}
    return ended.code == CORRUPT and not left and str(path.name)[:12] in ended.err


def is_passed_over(stages: Stages, place: Place, draws: random.Random) -> bool:
    """Say whether an unlearning goes on past a checkpoint that was changed, says so, and ends as it always does."""
    kept = files_of(place, KINDS["checkpoint"])
    newest = max(kept, key=lambda path: path.name)
    newest.write_bytes(flipped(newest.read_bytes(), draws))
    words = ["begun" if word == "run" else word for word in UNLEARN if word != "--quiet"]
    ended = run(place, [typed(*words, "--checkpoint-seconds", "0")])
    expected = store.file_digest(stages.after("unlearn").work / "run" / "model.safetensors")
    same = store.file_digest(place.work / "begun" / "model.safetensors") == expected
    return ended.code == 0 and same and "is damaged and passed over" in ended.err and newest.name in ended.err


def swapped(place: Place) -> dict[str, bool]:
    """Put files of another run in the place of a run's own, and say of each whether that is found."""
    words = ["other" if word == "run" else word for word in UNLEARN]
    assert run(place, [typed(*words, "--seed", "1")]).code == 0
    own, other, kept = place.work / "run", place.work / "other", place.work / "life" / "runs" / "0001"
    found = {
        path.name: is_found(place, KINDS["network"], path, (other / path.name).read_bytes())
        for path in sorted(own.iterdir())
        if (other / path.name).exists() and (other / path.name).read_bytes() != path.read_bytes()
    }
    aside = kept.rename(place.work / "aside")
    shutil.copytree(other, kept)
    found["a whole run of a ledger"] = any(one.state == "damaged" for one in check(place.work / "life"))
    shutil.rmtree(kept)
    aside.rename(kept)
    return found
