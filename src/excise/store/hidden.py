"""Text in a record that only the holder of the local key can read: a path that may name a person."""

from __future__ import annotations

import torch

from excise import errors
from excise.store.keys import commitment

PREFIX = "hidden:"
"""How a hidden text begins."""
_BLOCK = 32
_PAD = 64
"""A word tells how many stretches of so many bytes the text fills, and no more of its length."""


def hide(text: str) -> str:
    """Give a text as one word that says nothing without the key of `commitment`; the same text gives the same word here.

    So records that hold it can still be compared. The first half of a keyed digest of the text is the nonce of a keyed
    stream, and shows when the word is read back under another key (a synthetic nonce, as in SIV).

    Raises:
        errors.DiskError: the key can neither be read nor written.

    References:
        Rogaway and Shrimpton, "A Provable-Security Treatment of the Key-Wrap Problem", EUROCRYPT 2006.
    """
    plain = text.encode("utf-8", "surrogateescape")
    padded = plain + b"\0" * (_PAD - len(plain) % _PAD)
    nonce = _nonce(padded)
    return f"{PREFIX}{nonce.hex()}{_crossed(padded, nonce).hex()}"


def reveal(word: str) -> str:
    """Give the text that `hide` made a word of.

    Raises:
        errors.BadRequest: no such word, a changed one, or another key than it was hidden under.
        errors.DiskError: the key can neither be read nor written.
    """
    try:
        held = bytes.fromhex(word.removeprefix(PREFIX))
    except ValueError:
        held = b""
    nonce, crossed = held[: _BLOCK // 2], held[_BLOCK // 2 :]
    padded = _crossed(crossed, nonce)
    if not word.startswith(PREFIX) or not crossed or _nonce(padded) != nonce:
        raise errors.BadRequest(
            "expected a path that was hidden in the record under the key of this machine and user, found one that cannot be "
            "read with it; name the file again"
        )
    return padded.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _nonce(padded: bytes) -> bytes:
    return _keyed(b"excise hidden text", padded)[: _BLOCK // 2]


def _crossed(data: bytes, nonce: bytes) -> bytes:
    """Give data and stream, exclusive or; doing it twice gives the data."""
    blocks = range(-(-len(data) // _BLOCK))
    stream = b"".join(_keyed(b"excise hidden stream", nonce + place.to_bytes(4, "big")) for place in blocks)
    return bytes(one ^ other for one, other in zip(data, stream, strict=False))


def _keyed(purpose: bytes, data: bytes) -> bytes:
    return bytes.fromhex(commitment(torch.tensor(list(purpose + b"\0" + data), dtype=torch.uint8)))
