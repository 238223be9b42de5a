"""One trial: a command is broken off at some moment, looked at, given again, and its end compared with the undisturbed one."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import NamedTuple

from excise.ledger.book import Book
from excise.ledger.log import Log
from tests.crash.pictures import damaged, picture
from tests.crash.project import COMMANDS, Stages
from tests.crash.server import Ended, Place, run

LONGEST_LATE_SECONDS = 5.0
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


class Broken(NamedTuple):
    """What came of a trial.

    Attributes:
        hit: whether the command was still at work when the signal came.
        late: seconds from the signal to the end of the process.
    """

    hit: bool
    late: float


def break_off(
    stages: Stages, name: str, root: Path, draws: random.Random, *, number: int = signal.SIGKILL, times: int = 1
) -> Broken:
    """Break a command off at a moment drawn evenly over the time it takes, so often in a row, and give it once more.

    Nothing may be damaged after each signal; in the end every file must be there and hold what it holds where nobody
    disturbed the command, and no other file.

    Raises:
        AssertionError: something else was found.
    """
    expected = stages.after(name)
    place, hit, late = stages.before(name).copied_to(root), False, 0.0
    for _ in range(times):
        after = draws.uniform(0.0, stages.seconds[name])
        ended = run(place, COMMANDS[name].steps(place), number=number, after=after)
        where = f"{name} after {after:.4f} s by signal {number}: {ended}"
        assert ended.code in (CODES[signal.Signals(number)], 0), where
        assert number == signal.SIGKILL or ended.late <= LONGEST_LATE_SECONDS, where
        assert "Traceback" not in ended.err, where
        assert damaged(place) == [], f"{where}: {damaged(place)}"
        _require_acknowledged(place, name, ended, where)
        hit, late = hit or ended.code != 0, max(late, ended.late)
        if ended.code == 0:  # over before the signal came: the machine has become faster
            stages.seconds[name] = min(stages.seconds[name], ended.seconds)
    again = run(place, COMMANDS[name].steps(place))
    assert again.code == 0, f"{where}; then {again}"
    differences = differing(picture(expected), picture(place))
    assert not differences, f"{where}; then {differences}"
    return Broken(hit, late)


def _require_acknowledged(place: Place, name: str, ended: Ended, where: str) -> None:
    """Refuse a ledger that has lost a request or a receipt whose step had come back."""
    if name != "ledger":
        return
    with Book(place.work / "life" / "book.sqlite") as book:
        requests = book.requests()
    receipts = Log(place.work / "life" / "receipts.jsonl").receipts()
    assert len(requests) >= min(ended.done, 2) and len(receipts) >= (ended.done > 2), f"{where}: {requests}, {receipts}"
    assert all(_has_key(place, one.key_id) for one in requests if one.key_id), where


def _has_key(place: Place, id: str) -> bool:
    """Say whether a request's key is kept."""
    return (place.root / "state" / "excise" / "keys" / id).stat().st_size == 64


def differing(expected: object, found: object, where: str = "") -> list[str]:
    """Name the places in which two pictures differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted({*expected, *found})
        return [one for key in keys for one in differing(expected.get(key), found.get(key), f"{where}, {key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [one for place, pair in pairs for one in differing(*pair, f"{where}, {place}")]
    return [] if expected == found else [f"{where[2:]}: expected {str(expected)[:200]}, found {str(found)[:200]}"]
