"""What a bank says of its files: kinds of network, names of files, and the metadata that stand under the seal."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import msgspec

from excise import errors

Kind = Literal["oracle", "original", "half"]
"""What a network was trained on: never the forget rows; all rows; a random half of them."""
KINDS: tuple[Kind, ...] = get_args(Kind)
UNREADABLE, UNFINISHED = "unreadable", "unfinished"

NAME = re.compile(r"([0-9a-f]{64})\.safetensors")
_BROKEN_OFF = re.compile(r"\.([0-9a-f]{64})\.safetensors\.[0-9a-f]{12}\.tmp")
_TRAINING = re.compile(r"\.training-([0-9a-f]{64})")
TRAINING = ".training-"
"""How the name of a folder begins in which a training is under way, or was broken off: its checkpoints."""
KEY = re.compile(r"[0-9a-f]{64}")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a bank says of one of its files without reading the weights.

    Attributes:
        key: hash of all the network depends on.
        kind: `oracle`, `original` or `half`; `unreadable` for a file under a key that is damaged, or of another version's
            form; `unfinished` for what a broken-off write has left.
        num_bytes: size of the file.
        created: when it was written.
        architecture: class of the network; empty where it is not known, as the four below are 0.
        num_parameters: numbers in its parameters.
        num_rows: rows it was trained on.
        seconds: what the training took.
        seed: of its initial weights and its batches.
        rows: keyed digest of the ids of the rows it was trained on, see `store.commitment`, so that who holds the key and the
            ids can tell what it has seen and nobody else can; empty where it was not recorded.
        data: keyed digest of the rows that the network under audit was trained on; empty where it was not recorded.
    """

    key: str
    kind: str
    num_bytes: int
    created: datetime
    architecture: str = ""
    num_parameters: int = 0
    num_rows: int = 0
    seconds: float = 0.0
    seed: int = 0
    rows: str = ""
    data: str = ""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a file, all of it under the seal."""

    kind: Kind
    seconds: float
    trained_rows: int
    seed: int
    architecture: str
    num_parameters: int
    num_rows: int
    created: datetime
    rows: str = ""
    data: str = ""


def require_kind(kind: str) -> None:
    """Refuse what is no kind of network.

    Raises:
        errors.BadRequest: it is not in `KINDS`.
    """
    if kind not in KINDS:
        raise errors.BadRequest(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")


def entry_of(told: Mapping[str, str], key: str, num_bytes: int) -> Entry | None:
    """Give what the metadata of a bank's file says, wherever the file lies by now; None if it is no such metadata."""
    known = read_told(told)
    if known is None:
        return None
    return Entry(
        key=key,
        kind=known.kind,
        num_bytes=num_bytes,
        created=known.created,
        architecture=known.architecture,
        num_parameters=known.num_parameters,
        num_rows=known.num_rows,
        seconds=known.seconds,
        seed=known.seed,
        rows=known.rows,
        data=known.data,
    )


def read_entry(path: Path, key: str, num_bytes: int, written: float, told: Mapping[str, str]) -> Entry:
    """Give what a file of the bank says, or that it says nothing; `written` is when, in seconds."""
    known = entry_of(told, key, num_bytes)
    if known is not None:
        return known
    kind = UNREADABLE if NAME.fullmatch(path.name) else UNFINISHED
    return Entry(key=key, kind=kind, num_bytes=num_bytes, created=datetime.fromtimestamp(written, UTC))


def size_of(folder: Path) -> int:
    """Give the bytes of a training's checkpoints; those that it replaces meanwhile are left out."""
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def key_of(path: Path) -> str | None:
    """Give the key in the name of one of the bank's own files."""
    match = NAME.fullmatch(path.name) or _BROKEN_OFF.fullmatch(path.name)
    training = _TRAINING.fullmatch(path.name)
    if training and path.is_dir() and not path.is_symlink():
        return training[1]
    return match[1] if match and path.is_file() else None


def read_told(told: Mapping[str, str]) -> Told | None:
    """Give the metadata of a bank's file as values; None if they are none."""
    try:
        known = msgspec.convert(dict(told), Told, strict=False)
    except msgspec.ValidationError:
        return None
    return known if known.created.tzinfo is not None else None
