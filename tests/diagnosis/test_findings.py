"""How findings are worded, and what becomes one."""

import pytest

from excise import errors
from excise.diagnosis.findings import Finding, counted, examined, listed, placed, theirs


def fail_with(error):
    def fail():
        raise error

    return fail


def test_lists_are_cut_after_five():
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(list("abcdef")) == "a, b, c, d, e and 1 more"
    assert placed("forget", range(8), 9) == "8 of 9 forget rows (positions 0, 1, 2, 3, 4 and 3 more)"
    assert placed("retain", [3], 9) == "1 of 9 retain rows (position 3)"
    assert counted(1, "row") == "1 row" and counted(0, "row") == "0 rows"


def test_what_excise_raises_is_a_finding_with_its_own_remedy():
    found = examined("here", fail_with(errors.BadData("a; b is wrong; do this")))
    assert found == [Finding("a; b is wrong", "here", "do this", "error")]
    assert examined("here", fail_with(errors.BadData("wrong")))[0].what == "wrong"
    one = Finding("a", "b", "c", "note")
    assert examined("here", lambda: [one]) == [one]


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), KeyError("x"), RuntimeError("x"), MemoryError()])
def test_programming_errors_and_memory_are_not_swallowed(error):
    with pytest.raises(type(error)):
        examined("here", fail_with(error))


@pytest.mark.parametrize("error", [OSError("gone; away"), RuntimeError("gone; away"), IndexError("gone; away\nmore")])
def test_the_users_code_is_told_as_theirs(error):
    def examine():
        with theirs("rows could not be read", "correct them"):
            raise error

    (found,) = examined("here", examine)
    assert found == Finding("rows could not be read: gone, away", "here", "correct them", "error")


def test_the_users_code_may_run_out_of_memory_be_interrupted_or_refused():
    for error in (RuntimeError("cannot allocate memory"), MemoryError(), errors.BadSplit("no"), ZeroDivisionError()):
        with pytest.raises(type(error)), theirs("what", "remedy"):
            raise error
    inner = RuntimeError("cannot allocate memory")

    def refused():
        raise errors.BadData("not run; check") from inner  # as a task's own probe tells it

    with pytest.raises(errors.BadData, match="not run"):
        examined("here", refused)
