"""Whole files or nothing: the one writer, and what it leaves behind when it is killed.

Everything that changes the disk ends in one of seven calls (`os.open`, `os.write`, `os.fsync`, `os.replace`, `os.unlink`,
`os.mkdir`, `os.rmdir`), so that a test can make the n-th of them fail.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from excise import errors

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp")


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename, fsync of the directory; mode 0600.

    Directories that are missing are made for their owner alone (mode 0700).

    Raises:
        errors.DiskError: the file could not be written; whatever stood under `path` before is untouched. (If only the
            last step fails, the sync of the directory, the new file is there, whole, but might not survive a power cut.)
    """
    try:
        make_directory(path.parent)
        if path.is_char_device() or path.is_block_device() or path.is_fifo() or path.is_socket():
            raise OSError("it is a device, a pipe or a socket, which a file would replace")
        temporary, descriptor = _begun(path)
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # swept by the next run
                temporary.unlink()
            raise
        finally:
            os.close(descriptor)
        _sync_directory(path.parent)
    except OSError as error:
        raise errors.DiskError(
            f"could not write {path} ({len(content)} bytes): {error.strerror or error}; "
            "free some space or choose another directory"
        ) from error


def _begun(path: Path) -> tuple[Path, int]:
    """Make the temporary file of a write, and hold it as long as its descriptor is open, so that no sweep takes it away."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # swept before it was held


def _write_all(descriptor: int, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def make_directory(directory: Path) -> None:
    """Make a directory and those above it that are missing, for their owner alone (mode 0700)."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            one.mkdir(0o700)
        _sync_directory(one.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, so that it is gone after a power cut too; one that is gone already is no error.

    Raises:
        errors.DiskError: the file could not be removed.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        if path.parent.is_dir():
            _sync_directory(path.parent)
    except OSError as error:
        raise errors.DiskError(
            f"could not remove {path}: {error.strerror or error}; see who may write there"
        ) from error


def remove_empty(directory: Path) -> None:
    """Remove a directory if nothing is in it."""
    with contextlib.suppress(OSError):
        directory.rmdir()


def left_over(directory: Path) -> list[Path]:
    """Give the temporary files that writes broken off in a directory (not below it) have left, by name."""
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted(path for path in found if _TEMPORARY.fullmatch(path.name) and path.is_file())


def sweep(directories: Iterable[Path]) -> list[Path]:
    """Remove what broken-off writes have left in directories, others may be writing there; give what was removed.

    Raises:
        errors.DiskError: a file could not be removed.
    """
    return [path for directory in directories for path in left_over(directory) if _swept(path)]


def _swept(path: Path) -> bool:
    """Remove a temporary file, unless a process is writing it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:  # it has got its name in between
        return False
    except OSError:  # not to be read: of nobody's write
        remove(path)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def file_digest(path: Path) -> str:
    """Give the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
