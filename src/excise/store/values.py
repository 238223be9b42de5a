"""Plain values as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from excise import errors
from excise.store.files import write_bytes


def write_json(path: Path, value: object) -> None:
    """Write plain values (or msgspec structures) as indented JSON with a final newline."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def read_json(path: Path) -> Any:
    """Read JSON back as plain values.

    Raises:
        errors.BadData: no such file, or one that cannot be read.
        errors.Corrupt: not JSON.
    """
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise errors.BadData(f"expected a file at {path}, found none") from error
    except OSError as error:
        raise errors.BadData(f"{path} is not a readable file: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.Corrupt(f"{path} is not JSON: {error}") from error
