"""Generations: states of something that goes on, each a file named by the SHA-256 of its bytes, of which two are kept.

A run that was killed reads the newest one back. Bytes that are not what the name says are never parsed: the generation
before takes their place.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor

from excise import errors
from excise.store.files import remove, sweep, write_bytes

_NAME = re.compile(r"checkpoint-(\d{4})-(\d{8})-([0-9a-f]{64})\.safetensors")
_FACTS = "facts"
KEPT = 2
"""Generations of a series that are kept: the newest, and the one before, should the newest be damaged."""


@dataclass(frozen=True, eq=False)
class Generation:
    """A state as it was read back.

    Attributes:
        path: its file.
        tensors: by name, on the CPU.
        facts: plain values.
    """

    path: Path
    tensors: dict[str, Tensor]
    facts: Any


class _Named(NamedTuple):
    """What a file's name says."""

    series: int
    number: int
    digest: str
    path: Path


class _Head(msgspec.Struct):
    """What matters of the head of a safetensors file."""

    metadata: dict[str, str] = msgspec.field(name="__metadata__")


class Generations:
    """The generations in a directory, in any number of series; for one process at a time.

    Files are `checkpoint-SERIES-NUMBER-SHA256.safetensors`, readable by their owner only; others are never touched.

    Args:
        directory: made, for its owner alone, when the first generation is kept.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._trusted: dict[int, list[Path]] = {}  # in order of age; written or verified by this very object

    def keep(self, tensors: Mapping[str, Tensor], facts: object, *, series: int = 0) -> Path:
        """Write the next generation of a series, then remove those before the previous one, and damaged ones.

        Args:
            tensors: by name, on any device; no two may be the same memory in part.
            facts: plain values, or msgspec structures.
            series: from 0 to 9999.

        Raises:
            errors.DiskError: it could not be written; those before it are untouched.
        """
        owned = {name: value.detach().to("cpu").contiguous().clone() for name, value in tensors.items()}
        content = safetensors.torch.save(owned, {_FACTS: msgspec.json.encode(facts).decode()})
        number = max((one.number for one in self._named(series)), default=0) + 1
        name = f"checkpoint-{series:04d}-{number:08d}-{hashlib.sha256(content).hexdigest()}.safetensors"
        path = self.directory / name
        write_bytes(path, content)
        kept = self._trusted[series] = [*self._trusted.get(series, []), path][-KEPT:]
        for one in self._named(series):
            if one.path not in kept:
                remove(one.path)
        return path

    def newest(self, series: int = 0) -> tuple[Generation | None, list[str]]:
        """Give the newest generation of a series that is whole, or None; and a sentence for each newer one that is not."""
        skipped: list[str] = []
        for one in sorted(self._named(series), reverse=True):
            found = _read(one)
            if isinstance(found, Generation):
                self._trusted[series] = [one.path]
                return found, skipped
            skipped.append(found)
        return None, skipped

    def damaged(self) -> list[str]:
        """Give a sentence for each generation that is not whole, in order of name."""
        every = ((one, _read(one)) for one in sorted(self._named()))
        return [found for _, found in every if isinstance(found, str)]

    def clear(self) -> None:
        """Remove every generation, what a broken-off write has left, and the directory if that leaves it empty.

        Raises:
            errors.DiskError: a file could not be removed.
        """
        self._trusted.clear()
        if not self.directory.is_dir():
            return
        for one in self._named():
            remove(one.path)
        sweep([self.directory])
        if not any(self.directory.iterdir()):
            try:
                self.directory.rmdir()
            except OSError as error:
                raise errors.DiskError(
                    f"could not remove {self.directory}: {error.strerror or error}; see who may write there"
                ) from error

    def _named(self, series: int | None = None) -> Iterator[_Named]:
        """Give what lies there under a name of its own, of one series or of all."""
        entries: list[Path] = []
        with contextlib.suppress(FileNotFoundError):
            entries = list(self.directory.iterdir())
        for path in entries:
            match = _NAME.fullmatch(path.name)
            if match and (series is None or int(match[1]) == series) and path.is_file():
                yield _Named(int(match[1]), int(match[2]), match[3], path)


def _read(one: _Named) -> Generation | str:
    """Give a generation, or a sentence that says why it is none; no byte is parsed unless all are what the name says."""
    try:
        content = one.path.read_bytes()
    except OSError as error:
        return f"{one.path} cannot be read ({error.strerror or error}) and is passed over"
    found = hashlib.sha256(content).hexdigest()
    if found != one.digest:
        return f"{one.path} is damaged and passed over: expected SHA-256 {one.digest}, found {found}"
    try:
        size = int.from_bytes(content[:8], "little")  # a safetensors file begins with a length and a JSON object
        told = msgspec.json.decode(content[8 : 8 + size], type=_Head).metadata[_FACTS]
        return Generation(one.path, safetensors.torch.load(content), msgspec.json.decode(told))
    except (safetensors.SafetensorError, msgspec.DecodeError, KeyError, ValueError, RecursionError) as error:
        return f"{one.path} is no checkpoint that this version of excise can read ({error}) and is passed over"
