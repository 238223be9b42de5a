"""Merkle trees as in Certificate Transparency: one hash over many, and short paths that show one of them to be among them.

A leaf is hashed after a byte 0, an inner node after a byte 1, so that neither can be taken for the other. A node without a
neighbour goes up as it is, and never beside a copy of itself: lists that differ, in repeated leaves too, have different roots.

References:
    Laurie, Langley and Kasper, "Certificate Transparency", RFC 6962, 2013, section 2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


def root(leaves: Iterable[bytes]) -> bytes:
    """Give the root over leaves in their order, holding one hash for each level at a time; SHA-256 of nothing for none."""
    peaks: list[tuple[int, bytes]] = []  # of the full subtrees so far: how many leaves, and their root
    for leaf in leaves:
        size, found = 1, _leaf(leaf)
        while peaks and peaks[-1][0] == size:
            size, found = 2 * size, _node(peaks.pop()[1], found)
        peaks.append((size, found))
    if not peaks:
        return hashlib.sha256().digest()
    _, found = peaks.pop()
    while peaks:
        found = _node(peaks.pop()[1], found)
    return found


def path(leaves: Sequence[bytes], index: int) -> list[tuple[str, bytes]]:
    """Give the hashes beside which the leaf at `index` leads to the root, from the leaf upwards, each with its side."""
    level, at = [_leaf(leaf) for leaf in leaves], index
    found = []
    while len(level) > 1:
        if at ^ 1 < len(level):
            found.append(("left" if at & 1 else "right", level[at ^ 1]))
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level, at = paired + level[len(level) & ~1 :], at >> 1
    return found


def _leaf(content: bytes) -> bytes:
    return hashlib.sha256(b"\0" + content).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
