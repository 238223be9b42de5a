"""What a check comes to, and how checks are run: each by itself, with the process put back afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from excise import errors, seeds

_Subject = TypeVar("_Subject")
_Seen = TypeVar("_Seen")
Outcome = Literal["passed", "skipped", "failed"]


@dataclass(frozen=True)
class Check:
    """What one check came to.

    Attributes:
        name: of the check.
        outcome: passed, skipped or failed.
        detail: what was expected and found, or why it was skipped.
    """

    name: str
    outcome: Outcome
    detail: str = ""


class CheckFailed(AssertionError):
    """Something that is owed was not kept.

    Attributes:
        report: every check that was run, in order.
    """

    def __init__(self, message: str, report: Iterable[Check]) -> None:
        super().__init__(message)
        self.report = list(report)

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [check.name for check in self.report if check.outcome == "failed"]


class Failed(AssertionError):
    """One check found something else than it expected."""


class Skipped(Exception):
    """A check does not apply."""


class Once:
    """Runs once what several checks judge, each another side of it; one that raised is run again."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def __call__(self, what: str, look: Callable[[], _Seen]) -> _Seen:
        """Give what `look` gave when it was first called under this name."""
        if what not in self._seen:
            self._seen[what] = look()
        found: _Seen = self._seen[what]
        return found


def require(holds: bool, expected: str, found: object) -> None:  # noqa: FBT001 - reads as a sentence
    """Let a check fail unless something holds."""
    if not holds:
        raise Failed(f"expected {expected}; found {found}")


def fail(expected: str, found: object) -> None:
    """Let a check fail."""
    raise Failed(f"expected {expected}; found {found}")


def skip_unless(holds: bool, reason: str) -> None:  # noqa: FBT001 - as above
    """Let a check be skipped unless it applies."""
    if not holds:
        raise Skipped(reason)


def sentence(check: Callable[..., None]) -> str:
    """Give what a check says is owed, from its docstring, in one line."""
    return " ".join(inspect.getdoc(check).split()) if inspect.getdoc(check) else check.__name__  # type: ignore[union-attr]


def by_name(*groups: Iterable[Callable[[_Subject], None]]) -> dict[str, Callable[[_Subject], None]]:
    """Give checks by their names."""
    found = [check for group in groups for check in group]
    assert len({check.__name__ for check in found}) == len(found)
    return {check.__name__: check for check in found}


def chosen(
    checks: Mapping[str, Callable[[_Subject], None]], exclude: Iterable[str]
) -> dict[str, Callable[[_Subject], None]]:
    """Leave out checks by name.

    Raises:
        errors.BadRequest: a name that no check has.
    """
    left_out = {exclude} if isinstance(exclude, str) else set(exclude)
    unknown = sorted(left_out - set(checks))
    if unknown:
        raise errors.BadRequest(
            f"exclude: expected names of checks, found {unknown[0]!r}; there are {', '.join(checks)}"
        )
    return {name: check for name, check in checks.items() if name not in left_out}


@contextmanager
def process_restored() -> Iterator[None]:
    """Put back what a bad method may have changed for the whole process, so that it is found once and not again."""
    dtype, threads, gradients = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    with seeds.isolated(0, "check"):
        try:
            yield
        finally:
            if torch.get_default_dtype() != dtype:
                torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            torch.set_grad_enabled(gradients)


def run_one(check: Callable[[_Subject], None], subject: _Subject) -> Check:
    """Run one check; whatever it raises, except what ends the process, is a failure."""
    try:
        with process_restored():
            check(subject)
    except Skipped as reason:
        return Check(check.__name__, "skipped", str(reason))
    except Failed as failure:
        return Check(check.__name__, "failed", str(failure))
    except Exception as error:
        return Check(check.__name__, "failed", f"expected a run without error; found {type(error).__name__}: {error}")
    return Check(check.__name__, "passed")


def run_all(checks: Mapping[str, Callable[[_Subject], None]], subject: _Subject, what: str) -> list[Check]:
    """Run checks and give the report.

    Raises:
        CheckFailed: some failed; all of them are named.
    """
    report = [run_one(check, subject) for check in checks.values()]
    failed = [check for check in report if check.outcome == "failed"]
    if failed:
        lines = [f"  {check.name}: {sentence(checks[check.name])}\n    {check.detail}" for check in failed]
        raise CheckFailed(f"{what}: {len(failed)} of {len(report)} checks failed\n" + "\n".join(lines), report)
    return report
