"""Several processes at once: on one directory one of them runs, and a log loses no line of any."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from excise.errors import InUse
from excise.ledger.log import Log
from tests.crash.project import UNLEARN, Stages
from tests.crash.server import Ended, Place, Process, typed
from tests.ledger.samples import build


class Raced(NamedTuple):
    """How processes that wanted the same directory ended: the one that ran, and those that were refused."""

    ran: Ended
    refused: list[Ended]


def race(stages: Stages, root: Path, num_processes: int = 8) -> Raced:
    """Give the same command in several processes at once; the one that holds the directory waits for the others' end.

    Raises:
        AssertionError: not exactly one holds it.
    """
    place = stages.before("unlearn").copied_to(root)
    hold = place.work / "hold"
    hold.touch()
    words = ["mine:waits" if word == "mine:make" else word for word in UNLEARN]
    processes = [Process(place, [typed(*words)], said=f"said.{number}") for number in range(num_processes)]
    until = time.monotonic() + 60
    while sum(one.is_over() for one in processes) < num_processes - 1:
        assert time.monotonic() < until, [one.is_over() for one in processes]
        time.sleep(0.005)
    left = [one for one in processes if not one.is_over()]
    refused = [one.end() for one in processes if one not in left]
    assert len(left) == 1 and {one.code for one in refused} == {InUse.exit_code}, refused
    hold.unlink()
    return Raced(left[0].end(), refused)


def append_all(place: Place, num_processes: int, num_entries: int) -> list[dict[str, object]]:
    """Let processes add so many receipts each to one log, and give what it holds, checked."""
    path = place.work / "receipts.jsonl"

    def step() -> int:
        for _ in range(num_entries):
            Log(path).append(build)
        return 0

    processes = [Process(place, [step], said=f"said.{number}") for number in range(num_processes)]
    ended = [one.end() for one in processes]
    assert {one.code for one in ended} == {0}, ended
    return Log(path).receipts()
