"""A directory for one run at a time.

The lock is the kernel's (`flock`), so it ends with its process, however that ends: there is no stale lock to break. The
file says who holds it, for people. On network file systems that do not carry `flock` between machines, two machines are
not kept apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from excise import errors
from excise.store.files import left_over, make_directory, sweep

LOCK = ".lock"
_ATTEMPTS = 100


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold a directory for the block; who else asks for it meanwhile is refused at once.

    The directory is made if it is missing, for its owner alone, and taken away again if the block leaves nothing in it.
    What broken-off writes have left in it is removed, since nobody else writes there now.

    Raises:
        errors.BadRequest: a file stands there.
        errors.InUse: another process holds it, with its number and machine.
        errors.DiskError: the directory or the lock in it cannot be made.
    """
    if not directory.is_dir() and (directory.exists() or directory.is_symlink()):
        what = "a link that leads nowhere" if directory.is_symlink() else "a file"
        raise errors.BadRequest(f"expected a directory, found {what} at {directory}; choose another")
    made = not directory.exists()
    try:
        descriptor = _acquired(directory / LOCK, directory)
    except OSError as error:
        raise errors.DiskError(
            f"{directory} cannot be held for this run: {error.strerror or error}; choose another directory"
        ) from error
    try:
        sweep([directory])
        yield
    finally:
        with contextlib.suppress(OSError):  # a disk that has failed says so elsewhere
            (directory / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with contextlib.suppress(OSError):  # not empty: a run is in it
                directory.rmdir()


def tidy(directory: Path) -> None:
    """Remove what a killed run has left in a directory, its lock too, unless another process is at work there."""
    if (directory / LOCK).exists() or left_over(directory):
        with contextlib.suppress(errors.InUse), lock(directory):
            pass


def holder(directory: Path) -> dict[str, Any] | None:
    """Give who holds a directory now, as plain values; None if nobody does."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        return _told(descriptor)
    finally:
        os.close(descriptor)


def _acquired(path: Path, directory: Path) -> int:
    for attempt in range(_ATTEMPTS):
        make_directory(directory)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # the last holder took away the directory that it had made
            if attempt == _ATTEMPTS - 1:  # or a link on the way leads nowhere
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            told = _told(descriptor)
            os.close(descriptor)
            who = f"process {told['pid']} on {told['host']}, since {told['since']}" if told else "another process"
            raise errors.InUse(
                f"{directory} is in use by {who}; wait until it is done, or choose another directory"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        if _still_there(path, descriptor):
            with contextlib.suppress(OSError):  # a disk that is full says so where it matters
                _tell(descriptor)
            return descriptor
        os.close(descriptor)  # the last holder removed it in between
    raise errors.InUse(f"{directory} changes hands too fast; try again, or choose another directory")


def _still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _tell(descriptor: int) -> None:
    since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    told = {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "since": since}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, msgspec.json.encode(told), 0)


def _told(descriptor: int) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(os.pread(descriptor, 4096, 0))
    except (OSError, msgspec.DecodeError):
        return None
    return found if isinstance(found, dict) and {"pid", "host", "since"} <= found.keys() else None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
