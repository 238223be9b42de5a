"""Plain values in files: JSON, TOML and arrays, each read with a limit, so that a file can cost no more than it should."""

from __future__ import annotations

import json
import math
import stat
import tokenize
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from excise import errors
from excise.store.files import write_bytes

MAX_JSON_BYTES = 32 << 20
MAX_JSON_LISTS = 2_000_000
"""Lists and objects; an empty one takes 2 bytes in a file and 60 in memory."""
MAX_JSON_COMMAS = 4_000_000
"""A number takes 2 bytes in a file and 40 in memory."""
MAX_JSON_DEPTH = 100
MAX_TOML_BYTES = 16 << 10
"""A key of many dots takes the square of its length to read."""
MAX_TEXT_BYTES = 64 << 20
_ARRAY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def require_regular(path: Path) -> None:
    """Refuse a pipe or a device: reading it may never end, and it cannot be read a second time.

    Raises:
        errors.BadData: one of these lies there.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # told by whoever opens it
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise errors.BadData(f"{path} is not a readable file: it is a pipe or a device; write its content to a file")


def read_content(path: Path, most_bytes: int) -> bytes:
    """Read a file of at most so many bytes.

    Raises:
        errors.BadData: no such file, one that cannot be read, a pipe or a device, or a larger file.
    """
    require_regular(path)
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except FileNotFoundError as error:
        raise errors.BadData(f"expected a file at {path}, found none") from error
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        raise errors.BadData(f"{path} is not a readable file: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > most_bytes:
        raise errors.BadData(
            f"{path}: expected at most {most_bytes} bytes, found more; see whether it is the right file"
        )
    return content


def json_bytes(value: object) -> bytes:
    """Give plain values (or msgspec structures) as they are written: indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def write_json(path: Path, value: object) -> None:
    """Write plain values (or msgspec structures) as indented JSON with a final newline."""
    write_bytes(path, json_bytes(value))


def read_json(path: Path) -> Any:
    """Read JSON back as plain values.

    Raises:
        errors.BadData: no such file, or one that cannot be read, or is too large.
        errors.Corrupt: not JSON, or not such as this library writes: nested deeply, too many lists, a key given twice.
    """
    return json_of(read_content(path, MAX_JSON_BYTES), path)


def json_of(content: bytes, path: Path) -> Any:
    """Give the plain values in the bytes of a file, as `read_json` does."""
    if content.count(b"[") + content.count(b"{") > MAX_JSON_LISTS or content.count(b",") > MAX_JSON_COMMAS:
        raise errors.Corrupt(
            f"{path} is not JSON as excise writes it: more than {MAX_JSON_LISTS} lists and objects, or {MAX_JSON_COMMAS} values"
        )
    try:
        value = msgspec.json.decode(content)
    except RecursionError as error:
        raise errors.Corrupt(
            f"{path} is not JSON as excise writes it: nested more than {MAX_JSON_DEPTH} deep"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.Corrupt(f"{path} is not JSON: {error}") from error
    if _deeper(value, MAX_JSON_DEPTH):
        raise errors.Corrupt(f"{path} is not JSON as excise writes it: nested more than {MAX_JSON_DEPTH} deep")
    try:
        json.loads(content, object_pairs_hook=_each_once)
    except _TwiceError as error:
        raise errors.Corrupt(
            f"{path} is not JSON as excise writes it: the key {str(error)[:60]!r} is given twice"
        ) from error
    return value


class _TwiceError(Exception):
    """A key that is given twice: one reader takes the first, another the last."""


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _TwiceError(next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at])))


def _deeper(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        errors.BadData: no such file, one that cannot be read or is too large, or no TOML.
    """
    content = read_content(path, MAX_TOML_BYTES)
    try:
        return tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise errors.BadData(f"{path} cannot be read as TOML: {error}") from error
    except RecursionError as error:
        raise errors.BadData(f"{path} cannot be read as TOML: nested too deeply") from error


def read_array(path: Path) -> np.ndarray:
    """Read a `.npy` array of numbers, booleans or texts; nothing is unpickled.

    Raises:
        errors.BadData: no such file, no `.npy` file, one of objects, or one whose values are not all there.
    """
    require_regular(path)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in _ARRAY_HEADERS:
                raise ValueError(f"its form is {version}")
            shape, by_columns, dtype = _ARRAY_HEADERS[version](file)
            if dtype.hasobject or dtype.names is not None:
                raise ValueError("it holds objects, which only a pickle could give back (allow_pickle=False)")
            expected, there = math.prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
            if any(size < 0 for size in shape) or expected > there:
                raise ValueError(f"its values should take {expected} bytes, of which {there} are there")
            content = bytearray(expected)
            file.readinto(content)
            values = np.frombuffer(content, dtype)
        return values.reshape(shape, order="F" if by_columns else "C")
    except FileNotFoundError as error:
        raise errors.BadData(f"expected an array at {path}, found no such file") from error
    except (OSError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError) as error:
        raise errors.BadData(f"{path} cannot be read as a .npy array: {error}") from error
