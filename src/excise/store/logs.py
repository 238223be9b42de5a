"""Files that only grow, a line at a time: one writer at a time, and what was acknowledged is there after a power cut."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from excise import errors
from excise.store.files import make_directory

MAX_LINE_BYTES = 1 << 20

log = logging.getLogger(__name__)


class Appender:
    """A file held open by the one process that may add to it, as `appending` gives it.

    Attributes:
        last: the last line, without its end; None in an empty file.
    """

    def __init__(self, path: Path, descriptor: int, whole: Callable[[bytes], bool]) -> None:
        self._path, self._descriptor = path, descriptor
        self._end = os.fstat(descriptor).st_size
        self.last = self._repaired(whole)

    def append(self, line: bytes) -> None:
        """Add one line, in one write, and wait until the disk has it.

        Raises:
            errors.DiskError: it could not be written; the file is as it was before.
            ValueError: not one line, or one that is too long.
        """
        if b"\n" in line or not 0 < len(line) < MAX_LINE_BYTES:
            raise ValueError(f"expected one line of less than {MAX_LINE_BYTES} bytes, found {len(line)} bytes")
        try:
            self._write(line + b"\n")
        except OSError as error:
            with contextlib.suppress(OSError):  # what stays of it is cut off by the next one to write
                os.ftruncate(self._descriptor, self._end)
                os.fsync(self._descriptor)
            raise errors.DiskError(
                f"could not add {len(line) + 1} bytes to {self._path}: {error.strerror or error}; free some space; what was "
                "there before is untouched"
            ) from error
        self._end += len(line) + 1
        self.last = line

    def _write(self, content: bytes) -> None:
        written = os.write(self._descriptor, content)
        if written < len(content):
            raise OSError(None, f"only {written} of {len(content)} bytes were taken")
        os.fsync(self._descriptor)

    def _repaired(self, whole: Callable[[bytes], bool]) -> bytes | None:
        """Give the last line, after what a write that was broken off has left behind it is cut off."""
        start = max(0, self._end - 2 * MAX_LINE_BYTES)
        *lines, rest = os.pread(self._descriptor, self._end - start, start).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise errors.Corrupt(
                f"{self._path}: expected a last line of at most {MAX_LINE_BYTES} bytes, found none that ends; "
                "restore the file from a copy"
            )
        if rest and whole(rest):  # all but its end of line came to the disk
            self._write(b"\n")
            self._end += 1
            return rest
        if rest and whole(rest[:-1]):
            raise errors.Corrupt(
                f"{self._path}: the last line is whole, and a byte that is no end of line follows it: it was changed after it "
                "was written; restore the file from a copy"
            )
        if rest:
            log.warning("%s: cut off %d bytes of a last line whose writing was broken off", self._path, len(rest))
            self._end -= len(rest)
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)
        return lines[-1] if lines else None


@contextlib.contextmanager
def appending(path: Path, whole: Callable[[bytes], bool]) -> Iterator[Appender]:
    """Hold a file for adding lines to it; who comes meanwhile, in this process or another, waits.

    The file is made if there is none, readable by its owner only. A last line without its end, which nobody was told had
    been written, is cut off, or completed where it is whole.

    Args:
        path: of the file.
        whole: says whether bytes are one whole line.

    Raises:
        errors.DiskError: the file cannot be made, opened or locked.
        errors.Corrupt: the last line was changed after it was written.
    """
    with contextlib.ExitStack() as open_files:
        try:
            if path.exists() and not path.is_file():
                raise OSError(None, "it is a directory, a pipe or a device")
            make_directory(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            open_files.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not os.fstat(descriptor).st_size:  # it may have been made just now
                _keep_name(path)
            appender = Appender(path, descriptor, whole)
        except OSError as error:
            raise errors.DiskError(
                f"could not open {path} to add to it: {error.strerror or error}; see who may write there"
            ) from error
        yield appender


def _keep_name(path: Path) -> None:
    """Have the disk keep the entry of a new file in its directory, so that it is there after a power cut too."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> bytes:
    """Give the lines of a file as they stand while nobody adds to it; without a last one whose writing was broken off.

    Raises:
        errors.BadData: no such file, or it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(None, "it is a directory, a pipe or a device")
        with path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)
            content = file.read()
    except OSError as error:
        raise errors.BadData(f"{path} cannot be read: {error.strerror or error}") from error
    return content[: content.rfind(b"\n") + 1]
