import pytest

from excise import errors
from excise.testing import check_method
from excise.testing.checking import METHOD_CHECKS
from excise.testing.checks_rows import CHECKS
from tests.testing.stand_ins import Sound, broken, cases


def test_a_sound_method_passes():
    assert broken(Sound, CHECKS) == set()


@pytest.mark.parametrize(("make", "wanted"), cases(CHECKS))
def test_what_breaks_a_promise_is_named_and_nothing_else(make, wanted):
    assert broken(make, CHECKS) == wanted


class RefusesASingleRow(Sound):
    """Refuses before any work, where NeedsTwoRows has begun."""

    def unlearn_(self, model, split, mask, engine):
        if len(split.forget) < 2:
            raise errors.BadRequest("expected two rows or more, found one")
        super().unlearn_(model, split, mask, engine)


def test_a_refusal_of_a_single_row_before_any_work_is_told_as_skipped():
    (found,) = check_method(RefusesASingleRow, exclude=set(METHOD_CHECKS) - {"one_forget_row_will_do"})
    assert (found.outcome, found.detail) == ("skipped", "it refuses a single row: expected two rows or more, found one")
