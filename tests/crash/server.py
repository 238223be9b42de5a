"""A fork server: command lines in processes of their own, which can be killed, without importing torch anew each time."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from excise.cli import main, stopping
from tests.planted import hurried

Step = Callable[[], int]
"""Something that a process does, as the shell would see it: an exit code comes back."""
LONGEST_SECONDS = 120.0
_ACKNOWLEDGE = os.write
"""As it is before anybody puts something in its place."""


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        code: its exit code; the negative number of the signal that killed it.
        done: how many of its steps it had acknowledged by then.
        out: what it said on standard output.
        err: and on standard error.
        seconds: from its readiness to its end.
        late: seconds from the signal that it was sent to its end; 0 if none was sent in time.
    """

    code: int
    done: int
    out: str
    err: str
    seconds: float
    late: float


@dataclass(frozen=True)
class Place:
    """Where a trial lies: a user's project, and every directory that a command could write to beside it."""

    root: Path

    @property
    def work(self) -> Path:
        """The current directory of the commands."""
        return self.root / "work"

    def surroundings(self) -> dict[str, str]:
        """Give the environment of its processes."""
        names = {"HOME": "home", "TMPDIR": "tmp", "XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache"}
        names |= {"XDG_DATA_HOME": "data", "XDG_CONFIG_HOME": "config"}
        return {key: str(self.root / name) for key, name in names.items()}

    def copied_to(self, root: Path) -> Place:
        """Give the same state elsewhere; what stood there is gone."""
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.root, root)
        return Place(root)

    def files(self) -> set[str]:
        """Give every file and every folder in it by its path; what the last process said is not of it."""
        found = {str(path.relative_to(self.root)) for path in self.root.rglob("*")}
        return {name for name in found if not name.startswith("said") and "__pycache__" not in name}


def typed(*words: object) -> Step:
    """Give a command line as a step."""
    return lambda: main.call([str(word) for word in words])


class Process:
    """A process that takes steps, one after the other as long as each gives 0.

    Args:
        place: where.
        steps: what to do.
        before: called in the process before the steps.
        said: where it says what it says; other words for each of several at once.
    """

    def __init__(
        self, place: Place, steps: Sequence[Step], *, before: Callable[[], None] | None = None, said: str = "said"
    ) -> None:
        self._said = [place.root / f"{said}.{name}" for name in ("out", "err")]
        self._pipe, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which only wait
            self._pid = os.fork()
        if self._pid == 0:
            os.close(self._pipe)
            _be(place, steps, writing, before, self._said)
        os.close(writing)
        self._ear = _Ear(self._pipe)
        self._ear.listen(LONGEST_SECONDS, most=1)  # it is ready
        self._started, self._sent = time.monotonic(), None

    def signal(self, number: int, after: float = 0.0) -> None:
        """Send a signal in so many seconds, unless the process has ended by then."""
        self._ear.listen(after)
        if not self._ear.ended:
            self._sent = self._sent or time.monotonic()
            os.kill(self._pid, number)

    def is_over(self) -> bool:
        """Say whether it has ended."""
        self._ear.listen(0.0)
        return self._ear.ended

    def end(self) -> Ended:
        """Wait for its end."""
        self._ear.listen(LONGEST_SECONDS)
        ended = time.monotonic()
        if not self._ear.ended:
            os.kill(self._pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        os.close(self._pipe)
        out, err = (path.read_text(encoding="utf-8") for path in self._said)
        late = 0.0 if self._sent is None else ended - self._sent
        return Ended(code, self._ear.heard - 1, out, err, ended - self._started, late)


def run(
    place: Place,
    steps: Sequence[Step],
    *,
    number: int | None = None,
    after: float = 0.0,
    before: Callable[[], None] | None = None,
) -> Ended:
    """Take steps in a process of their own, to which a signal is sent after so many seconds if one is given."""
    process = Process(place, steps, before=before)
    if number is not None:
        process.signal(number, after)
    return process.end()


class _Ear:
    """Counts the bytes that come through a pipe whose other end one process holds."""

    def __init__(self, pipe: int) -> None:
        self.pipe, self.heard, self.ended = pipe, 0, False

    def listen(self, seconds: float, most: int | None = None) -> None:
        """Listen for so long, until so many bytes have come, or until the process is gone."""
        until = time.monotonic() + seconds
        while not self.ended and (most is None or self.heard < most):
            if not select.select([self.pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                return
            piece = os.read(self.pipe, 4096 if most is None else most - self.heard)
            self.heard += len(piece)
            self.ended = not piece


def _be(
    place: Place, steps: Sequence[Step], writing: int, before: Callable[[], None] | None, said: Sequence[Path]
) -> None:
    """Be the process; never comes back."""
    try:
        code = _code_of(place, steps, writing, before, said)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # nothing of the parent's may run here
        code = 99
    finally:
        os._exit(code)


def _code_of(
    place: Place, steps: Sequence[Step], writing: int, before: Callable[[], None] | None, said: Sequence[Path]
) -> int:
    """Take the steps; give the exit code of the last one that was taken."""
    code = 99
    try:
        for number, path in enumerate(said, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8") for number in (1, 2))
        os.environ.update(place.surroundings())
        os.chdir(place.work)
        sys.path.insert(0, str(place.work))
        sys.dont_write_bytecode = True
        stopping.listen()
        with hurried():
            if before is not None:
                before()
            _ACKNOWLEDGE(writing, b"r")
            for step in steps:
                code = step()
                if code:
                    break
                _ACKNOWLEDGE(writing, b".")
    except BaseException as error:
        traceback.print_exc()
        return 143 if isinstance(error, stopping.Terminated) else 130 if isinstance(error, KeyboardInterrupt) else 99
    return code
