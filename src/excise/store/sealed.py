"""JSON that notices when a byte of it was changed.

A sealed file ends with the SHA-256 of the rest, and its bytes are the only ones that its values are ever written as, so
that no changed bit goes unseen, not even one in a space. The seal has no key: it finds accidents, not forgers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from excise import errors
from excise.store.files import write_bytes
from excise.store.values import MAX_JSON_BYTES, json_bytes, json_of, read_content

_SEAL = "seal"


def sealed_bytes(value: Mapping[str, Any]) -> bytes:
    """Give plain values (or msgspec structures) as a sealed file holds them."""
    plain = msgspec.json.decode(msgspec.json.encode({key: part for key, part in value.items() if key != _SEAL}))
    seal = hashlib.sha256(msgspec.json.encode(plain)).hexdigest()
    return json_bytes({**plain, _SEAL: seal})


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write plain values as one sealed JSON object, whole or not at all."""
    write_bytes(path, sealed_bytes(value))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a sealed JSON object back, without its seal.

    Raises:
        errors.BadData: no such file, or one that cannot be read.
        errors.Corrupt: not what was written.
    """
    content = read_content(path, MAX_JSON_BYTES)
    found = json_of(content, path)
    if not isinstance(found, dict) or _SEAL not in found or sealed_bytes(found) != content:
        raise errors.Corrupt(
            f"{path} is not what was written there: it does not bear the SHA-256 of its own content; take it from a backup, "
            "or make it again"
        )
    del found[_SEAL]
    return found
