"""Stands between Python and the disk: counts the calls that change it, and has one fail."""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CALLS = ("open", "write", "fsync", "replace", "unlink", "mkdir", "link", "ftruncate", "rmdir")
CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)
_COUNTS = struct.Struct("qq")


class Failure(NamedTuple):
    """Which call fails and how.

    Attributes:
        number: counted from 1.
        code: the number of the error; None to end the process there, without a word.
        lasting: whether all later ones fail, too.
    """

    number: int
    code: int | None
    lasting: bool = False


NONE_FAILS = Failure(0, errno.EIO)


class Shim:
    """Counts the calls of a process that change the disk, and has one fail. Set up in the parent, installed in the child."""

    def __init__(self, failure: Failure) -> None:
        self._failure, self._shared = failure, mmap.mmap(-1, _COUNTS.size)

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return _COUNTS.unpack(self._shared[:])[0]

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return _COUNTS.unpack(self._shared[:])[1]

    def install(self) -> None:
        """Put it between Python and the disk, for the rest of this process."""
        for name in CALLS:
            setattr(os, name, self._between(getattr(os, name), name))

    def _between(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            if name == "open" and not given[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return real(*given, **options)
            calls, failed = self.calls + 1, self.failed
            fails = calls == self._failure.number or (self._failure.lasting and calls > self._failure.number)
            self._shared[:] = _COUNTS.pack(calls, failed + fails)
            if not fails:
                return real(*given, **options)
            if self._failure.code is None:
                os._exit(0)
            named = [one for one in given if isinstance(one, str | Path)]
            raise OSError(self._failure.code, os.strerror(self._failure.code), *(str(one) for one in named[:1]))

        return call
