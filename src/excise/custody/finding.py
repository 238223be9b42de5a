"""`Finding`: one file that saw rows which are to be forgotten, or may have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

Certainty = Literal["sure", "likely", "unknown"]
"""Compared to the bit or by the key; by form, names and sizes; could not be looked into, or tells nothing by itself."""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """What a file seems to be, and by which rule.

    Attributes:
        what: a few words, such as `the original network`.
        why: what was compared with what.
        certainty: how much that says.
        lists_rows: its content can be guessed row by row, so that a plain hash of it would tell who guesses right.
    """

    what: str
    why: str
    certainty: Certainty
    lists_rows: bool = False


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A file that saw the rows, or may have.

    Attributes:
        path: where it lies.
        what: a few words, such as `the original network`.
        why: by which rule it was found.
        certainty: `sure`, `likely` or `unknown`.
        sha256: of its bytes; empty for a link, and for what could not be read.
        num_bytes: its size.
        own: excise made it for its own use and can do without it, so that `purge` takes it away unasked.
        link: a name that leads to another file; only the name would be removed.
        lists_rows: see `Reason`.
        released_by: directory of another run whose sealed record names this very file; empty if there is none.
        needed_by: runs and ledgers that began with this file, so that another audit or a replay of them reads it.
    """

    path: str
    what: str
    why: str
    certainty: Certainty
    sha256: str
    num_bytes: int
    own: bool = False
    link: bool = False
    lists_rows: bool = False
    released_by: str = ""
    needed_by: str = ""

    @classmethod
    def of(
        cls, path: Path, reason: Reason, sha256: str, num_bytes: int, *, own: bool = False, link: bool = False
    ) -> Finding:
        """Give the finding that a reason makes of a file; names in it that are no UTF-8 stand there by their escapes."""
        return cls(
            path=str(path),
            what=reason.what,
            why=reason.why.encode(errors="backslashreplace").decode(),
            certainty=reason.certainty,
            sha256=sha256,
            num_bytes=num_bytes,
            own=own,
            link=link,
            lists_rows=reason.lists_rows,
        )


ORDER: dict[Certainty, int] = {"sure": 0, "likely": 1, "unknown": 2}


def weightiest(reasons: list[Reason]) -> Reason | None:
    """Give one reason for a file that has several: the surest, the others' words after its own; None for none."""
    if not reasons:
        return None
    first, *others = sorted(reasons, key=lambda reason: ORDER[reason.certainty])
    besides = "".join(f"; besides, {other.what}: {other.why}" for other in others[:3])
    lists = any(reason.lists_rows for reason in reasons)
    return Reason(what=first.what, why=first.why + besides, certainty=first.certainty, lists_rows=lists)
