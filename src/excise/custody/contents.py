"""What is in a file, read without running any code from it: arrays by name, tables by length, or that it cannot be read."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from excise import errors, store
from excise.store.archives import UnreadableError, read_parts

LARGEST_TEXT = 2**24
"""Bytes; a longer text is not read as numbers."""
NETWORKS = (
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".onnx",
    ".h5",
    ".hdf5",
    ".keras",
    ".gguf",
    ".ggml",
    ".tflite",
    ".pb",
    ".mlmodel",
)
PICKLES = (
    ".pkl",
    ".pickle",
    ".p",
    ".joblib",
    ".dill",
    ".mar",
    ".engine",
    ".torchscript",
    ".ptl",
    ".pte",
    ".safetensors",
)
TABLES = (
    ".npy",
    ".npz",
    ".parquet",
    ".arrow",
    ".feather",
    ".mdb",
    ".lmdb",
    ".faiss",
    ".index",
    ".ann",
    ".msgpack",
    ".mat",
)
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".xz", ".zst", ".bz2", ".rar")
TEXTS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")
OPAQUE = frozenset((*NETWORKS, *PICKLES, *TABLES, *ARCHIVES))
"""Suffixes of files that may hold networks or arrays."""
_HEADS = {
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"GGUF": "GGUF",
    b"\x1f\x8b": "compressed (gzip)",
    b"\xfd7zXZ": "compressed (xz)",
    b"BZh": "compressed (bzip2)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"7z\xbc\xaf": "compressed (7z)",
    b"Rar!": "compressed (rar)",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"SQLite format 3\0": "an SQLite data base",
}
_UNREAD = "cannot be read without running code from it, or is damaged ({})"


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds.

    Attributes:
        arrays: by name; what is nested has the names on the way to it with dots between.
        metadata: of a safetensors file.
        tables: lengths of what has one line or entry a row and is no array, by name.
        opaque: why it could not be looked into; empty if it was, or if nothing says that it holds numbers.
    """

    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)
    opaque: str = ""


def contents(path: Path, most_bytes: int) -> Contents:
    """Look into a file, whatever its name says it is.

    Args:
        path: a regular file.
        most_bytes: what may be read into memory; a larger file is opaque, but for a `.npy`, which is mapped.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(265)
    if head.startswith(b"\x93NUMPY"):
        return _read(path, _arrays)
    if size > most_bytes and (path.suffix.lower() in OPAQUE or not _is_text(head)):
        return Contents(opaque=f"larger than the {most_bytes:,} bytes that are read into memory here")
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return _read(path, _safetensors)
    if head.startswith(b"PK\x03\x04"):
        return _read(path, lambda one: _zipped(one, most_bytes))
    form = next((form for magic, form in _HEADS.items() if head.startswith(magic)), "")
    if form or head[257:262] == b"ustar":
        return Contents(opaque=form or "an archive (tar)")
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return Contents(opaque="a pickle, which runs code when it is read")
    if size > LARGEST_TEXT and _is_text(head) and path.suffix.lower() in TEXTS:
        return Contents(opaque=f"a text of more than {LARGEST_TEXT:,} bytes")
    if 0 < size <= LARGEST_TEXT and _is_text(head):
        found = _read(path, _text)
        if found.arrays or found.tables or found.opaque:
            return found
    return Contents(opaque="in no form that is read here" if size and path.suffix.lower() in OPAQUE else "")


def _read(path: Path, how: Any) -> Contents:
    try:
        found: Contents = how(path)
    except UnreadableError as error:
        return Contents(opaque=_UNREAD.format(error))
    except Exception as error:  # whatever a damaged or hostile file makes a reader raise, it is opaque
        return Contents(opaque=_UNREAD.format(type(error).__name__))
    arrays = {_named(name): value for name, value in found.arrays.items()}
    return replace(found, arrays=arrays, tables={_named(name): count for name, count in found.tables.items()})


def _named(name: str) -> str:
    """Give a name that can be written: what is no UTF-8 in it, as in that of its file, by its escapes."""
    return name.encode(errors="backslashreplace").decode()


def _safetensors(path: Path) -> Contents:
    arrays, metadata = store.read_tensors(path)
    return Contents(arrays, metadata)


def _arrays(path: Path) -> Contents:
    return _of_numpy({path.stem: np.load(path, mmap_mode="c", allow_pickle=False)})


def _zipped(path: Path, most_bytes: int) -> Contents:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > most_bytes:
        return Contents(opaque=f"an archive of more than the {most_bytes:,} bytes that are read into memory here")
    if any(member.filename.endswith("data.pkl") for member in members):
        return Contents(read_parts(path, most_bytes))
    if members and all(member.filename.endswith(".npy") for member in members):
        with np.load(path, allow_pickle=False) as archive:
            return _of_numpy({name: archive[name] for name in archive.files})
    return Contents(opaque="an archive (zip)")


def _of_numpy(arrays: Mapping[str, np.ndarray]) -> Contents:
    numbers = {
        name: value for name, value in arrays.items() if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8
    }
    tables = {name: len(value) for name, value in arrays.items() if name not in numbers and value.ndim}
    return Contents({name: _tensor(value) for name, value in numbers.items()}, tables=tables)


def _tensor(value: np.ndarray) -> Tensor:
    native = value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.ndim == 0 or all(step >= 0 for step in native.strides) else native.copy())


def _is_text(head: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


def _text(path: Path) -> Contents:
    try:
        words = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:  # no text after all
        return Contents()
    if words.lstrip()[:1] in ("[", "{"):
        try:
            return _json(path.stem, msgspec.json.decode(words))
        except msgspec.DecodeError:
            lines = [line for line in words.splitlines() if line.strip()]
            return Contents(tables={path.stem: len(lines)}) if all(line[0] in "[{" for line in lines) else Contents()
    lines = [line.partition("#")[0].strip() for line in words.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        return Contents()
    table = [_numbers(line) for line in lines]
    body = table if table[0] else table[1:]  # the first line may name the columns
    if body and all(body):
        return _table(path.stem, [line for line in body if line])
    if path.suffix.lower() in (".csv", ".tsv"):
        return Contents(tables={path.stem: sum(1 for _ in csv.reader(io.StringIO(words))) - (not table[0])})
    return Contents()


def _numbers(line: str) -> list[float] | None:
    try:
        return [float(word) for word in line.replace(",", " ").replace(";", " ").split()]
    except ValueError:
        return None


def _table(name: str, body: list[list[float]]) -> Contents:
    """Give a column as one list, a table as its columns, lines of different lengths as one list of all numbers."""
    if len({len(line) for line in body}) == 1 and len(body) > 1:
        columns = np.array(body).T
        return Contents(
            {name if len(columns) == 1 else f"{name}.{place}": _whole(one) for place, one in enumerate(columns)}
        )
    return Contents({name: _whole(np.array([number for line in body for number in line]))})


def _whole(numbers: np.ndarray) -> Tensor:
    """Give integers as such."""
    exact = bool(np.isfinite(numbers).all()) and bool((numbers == np.rint(numbers)).all())
    exact = exact and bool((np.abs(numbers) < 2**53).all())
    return torch.from_numpy(numbers.astype(np.int64) if exact else np.ascontiguousarray(numbers))


def _json(name: str, value: object) -> Contents:
    arrays: dict[str, Tensor] = {}
    tables: dict[str, int] = {}
    waiting: list[tuple[str, object]] = [(name, value)]
    while waiting:
        here, one = waiting.pop()
        if isinstance(one, list) and one and all(isinstance(number, int | float) for number in one):
            arrays[here] = _whole(np.array(one, dtype=np.float64))
        elif isinstance(one, dict | list):
            if isinstance(one, list) or all(key.isdecimal() for key in one):
                tables[here] = len(one)
            inner = one.items() if isinstance(one, dict) else enumerate(one)
            waiting += [(f"{here}.{key}", deeper) for key, deeper in inner if isinstance(deeper, dict | list)]
    return Contents(arrays, tables=tables)


def holds_bytes(path: Path, needles: list[bytes]) -> bool:
    """Say whether a file holds any of some runs of bytes, reading it piece by piece."""
    longest = max(map(len, needles), default=0)
    if not longest:
        return False
    with path.open("rb") as file:
        before = b""
        while piece := file.read(2**22):
            window = before + piece
            if any(needle in window for needle in needles):
                return True
            before = window[-longest + 1 :]
    return False


def readable(path: Path) -> str:
    """Say why a file's bytes cannot be read; nothing if they can."""
    try:
        with path.open("rb"):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


def original_weights(path: Path) -> Mapping[str, Tensor] | None:
    """Give the weights that a run was made from; None where they are gone or cannot be read."""
    try:
        return store.read_weights(path)
    except errors.ExciseError:
        return None
