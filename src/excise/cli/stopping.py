"""Ctrl-C and SIGTERM: what is running is put away first, if it can be, and then stops.

A training that keeps checkpoints finishes its step, writes one, and stops there. If its step takes longer than
`GRACE_SECONDS`, or a second signal comes, it stops where it is: the last checkpoint is whole, and the same command goes on
from there. Whatever else runs stops at once.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

GRACE_SECONDS = 4.0


class Terminated(BaseException):
    """SIGTERM: stops whatever is running as Ctrl-C does, so that everything is put away."""


class Stoppable(Protocol):
    """What keeps checkpoints (`excise.train.Checkpoints`; torch is not imported here)."""

    @property
    def inside(self) -> bool:
        """Whether a training is at work that would write a checkpoint if it were asked to stop."""

    def stop(self, error: BaseException) -> None:
        """Have it finish the step, write a checkpoint, and raise `error`."""


_running: list[Stoppable] = []
_asked: list[BaseException] = []


@contextlib.contextmanager
def stoppable(checkpoints: Stoppable) -> Iterator[None]:
    """Have a signal in the block stop this training with a checkpoint."""
    _running.append(checkpoints)
    try:
        yield
    finally:
        _running.clear()
        _asked.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)


def listen() -> None:
    """Take the signals; for the main thread of a process that is the command line's own."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, _heard)


def _heard(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGALRM:
        if _asked:  # the time is up
            raise _asked[-1]
        return
    error: BaseException = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    if not _asked and _running and _running[-1].inside:
        _asked.append(error)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        _running[-1].stop(error)
        return
    raise error
