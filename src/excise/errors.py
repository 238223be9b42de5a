"""The taxonomy of what can go wrong, each class with the exit code the command line gives it.

Every message says what was expected, what was found, where, and what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ExciseError(Exception):
    """Anything this library raises on purpose."""

    exit_code: ClassVar[int] = 1


class BadRequest(ExciseError, ValueError):
    """An argument that cannot be acted on."""

    exit_code = 2


class BadSplit(BadRequest):
    """Forget, retain and test rows that do not make a usable split."""


class BadData(BadRequest):
    """A data set that is missing, unreadable, or not of the shape it should have."""


class MaskMismatch(BadRequest):
    """A mask, scores or weights that do not fit the network."""


class UnsupportedModel(BadRequest):
    """A network that cannot be worked on, with the module or parameter that is in the way."""


class MissingExtra(BadRequest, ImportError):
    """An optional package is needed and not installed."""


class Refused(ExciseError):
    """A check said no."""

    exit_code = 3


class AuditInvalid(ExciseError):
    """The audit's own controls failed, so that its verdict means nothing."""

    exit_code = 4


class DiskError(ExciseError, OSError):
    """A file could not be written."""

    exit_code = 5


class Corrupt(ExciseError):
    """A file is not what its record says."""

    exit_code = 6


class InUse(ExciseError):
    """Another run holds the directory."""

    exit_code = 7


class Diverged(ExciseError):
    """A loss or a weight stopped being finite.

    Attributes:
        last_finite: the state dict at the end of the last epoch in which everything was finite, or None.
    """

    exit_code = 8

    def __init__(self, message: str, last_finite: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.last_finite = last_finite


class OutOfMemory(ExciseError, MemoryError):
    """The machine's memory did not suffice."""

    exit_code = 9


class ClusterError(ExciseError):
    """A cluster cannot do what it is asked: it is not there, has no room or other workers, or these died again and again."""

    exit_code = 10
