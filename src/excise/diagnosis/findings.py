"""`Finding`: what stands in the way, where, and what to do about it; and how errors and lists are put into words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from excise import errors

Severity = Literal["error", "warning", "note"]
"""error: excise will refuse, or the result would be wrong; warning: the result is likely wrong; note: good to know."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
NUM_SHOWN = 5

_THEIRS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, OSError)


@dataclass(frozen=True)
class Finding:
    """One thing that stands in the way of forgetting, or that is good to know before it.

    Attributes:
        what: what was found, and why it matters.
        where: modules or parameters by name; rows by count and position, never by content.
        remedy: what to do.
        severity: how bad it is, see `Severity`.
    """

    what: str
    where: str
    remedy: str
    severity: Severity


def listed(names: Sequence[str]) -> str:
    """Give the first five of some names, and how many more there are.

    >>> listed(["a", "b"]), listed(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = len(names) - NUM_SHOWN
    return ", ".join(names[:NUM_SHOWN]) + (f" and {more} more" if more > 0 else "")


def placed(part: str, places: Iterable[int], total: int) -> str:
    """Say which rows of a part are meant: how many, and the first of their positions in order of id.

    >>> placed("forget", [4, 0], 7)
    '2 of 7 forget rows (positions 0, 4)'
    """
    found = sorted(places)
    return f"{len(found)} of {total} {part} rows (position{'s' * (len(found) > 1)} {listed([str(p) for p in found])})"


def counted(number: int, word: str) -> str:
    """Give a number with its word, in the plural where that is due.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {word}{'s' * (number != 1)}"


def examined(where: str, examine: Callable[[], list[Finding]]) -> list[Finding]:
    """Give what an examination finds; where it cannot be done, that is the finding.

    Only errors that excise raises on purpose become findings. Memory that ran out is no illness of the patient.
    """
    try:
        return examine()
    except errors.ExciseError as error:
        if is_out_of_memory(error.__cause__):
            raise
        what, _, remedy = str(error).rpartition("; ")
        return [Finding(what or remedy, where, remedy if what else "correct it and ask again", "error")]


@contextmanager
def theirs(what: str, remedy: str) -> Iterator[None]:
    """Tell what the user's own code raises in the block (data set, network, loss) as an error of the data.

    Raises:
        errors.BadData: that error, in one line.
    """
    try:
        yield
    except errors.ExciseError:
        raise
    except _THEIRS as error:
        if is_out_of_memory(error):
            raise
        why = (str(error).strip() or type(error).__name__).splitlines()[0].replace("; ", ", ")
        raise errors.BadData(f"{what}: {why}; {remedy}") from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Say whether an error tells of memory that ran out (torch has no one class for it)."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate" in str(error))
