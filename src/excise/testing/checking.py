"""The two calls that check somebody's own method, localizer or region, and the same checks one by one for pytest."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Callable, Iterable

from excise.testing import checks_caller, checks_localizer, checks_mask, checks_result, checks_rows, checks_running
from excise.testing.subject import as_region_or_localizer, as_subject
from excise.testing.verdicts import Check, by_name, chosen, run_all, sentence

METHOD_CHECKS = by_name(
    checks_mask.CHECKS, checks_caller.CHECKS, checks_rows.CHECKS, checks_result.CHECKS, checks_running.CHECKS
)
LOCALIZER_CHECKS = by_name(checks_localizer.CHECKS)


def check_method(method: object, *, exclude: Iterable[str] = ()) -> list[Check]:
    """Check that a method keeps all that the library promises of every method.

    It is run some hundred times on tiny networks (linear layers, convolutions with batch normalisation, a transformer,
    tied weights), through `excise.unlearn` and by itself; seconds for a cheap method. A network that it refuses with
    `errors.UnsupportedModel` or `errors.MaskMismatch` is left out. What the checks are is listed in docs/extending.md.

    Args:
        method: a method or its class, a recipe, a callable without arguments that gives one of these, or a plain function
            `unlearn(net, retain, forget, validation) -> net`.
        exclude: names of checks to leave out.

    Returns:
        One entry for each check: passed, or skipped with the reason.

    Raises:
        CheckFailed: lists every failed check by name, with what was expected and what was found.
        errors.BadRequest: nothing that can be checked, or a name of no check.

    >>> from excise.methods import Nothing
    >>> report = check_method(Nothing, exclude=set(METHOD_CHECKS) - {"repr_says_what_it_is"})
    >>> [(check.name, check.outcome) for check in report]
    [('repr_says_what_it_is', 'passed')]
    """
    subject = as_subject(method)
    return run_all(chosen(METHOD_CHECKS, exclude), subject, subject.name)


def method_checks(method: object) -> list[tuple[str, Callable[[], None]]]:
    """Give the checks of `check_method` one by one, as names and callables, for `pytest.mark.parametrize`.

    A callable raises as pytest expects of a failed test, and `unittest.SkipTest` with the reason where a check does not
    apply: pytest and unittest both show it as skipped.
    """
    subject = as_subject(method)
    return [
        (name, functools.partial(_run_alone, {name: check}, subject, subject.name))
        for name, check in METHOD_CHECKS.items()
    ]


def check_localizer(where: object, *, exclude: Iterable[str] = ()) -> list[Check]:
    """Check that a localizer or a region keeps all that the library promises of every one.

    Args:
        where: a localizer or region, the class of one, or a callable without arguments that gives one.
        exclude: names of checks to leave out.

    Returns:
        One entry for each check: passed, or skipped with the reason.

    Raises:
        CheckFailed: lists every failed check by name, with what was expected and what was found.
        errors.BadRequest: nothing that can be checked, or a name of no check.
    """
    place = checks_localizer.Place(as_region_or_localizer(where))
    return run_all(chosen(LOCALIZER_CHECKS, exclude), place, type(place.where).__name__)


def localizer_checks(where: object) -> list[tuple[str, Callable[[], None]]]:
    """Give the checks of `check_localizer` one by one; see `method_checks`."""
    place = checks_localizer.Place(as_region_or_localizer(where))
    return [
        (name, functools.partial(_run_alone, {name: check}, place, type(place.where).__name__))
        for name, check in LOCALIZER_CHECKS.items()
    ]


def _run_alone(*how: object) -> None:
    (check,) = run_all(*how)  # type: ignore[arg-type]
    if check.outcome == "skipped":
        raise unittest.SkipTest(check.detail)


def table() -> str:
    """Give every check with what is owed as a table in Markdown, methods first."""
    rows = []
    for what, checks in (("method", METHOD_CHECKS), ("localizer", LOCALIZER_CHECKS)):
        rows += ["", f"| check of a {what} | what is owed |", "|---|---|"]
        rows += [f"| `{name}` | {sentence(check)} |" for name, check in checks.items()]
    return "\n".join(rows[1:]) + "\n"
