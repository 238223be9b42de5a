import pytest

from excise.testing.checks_result import CHECKS
from tests.testing.stand_ins import GivesNaN, Sound, broken, cases


def test_a_sound_method_passes():
    assert broken(Sound, CHECKS) == set()


@pytest.mark.parametrize(("make", "wanted"), cases(CHECKS))
def test_what_breaks_a_promise_is_named_and_nothing_else(make, wanted):
    assert broken(make, CHECKS) == wanted


def test_a_result_that_is_not_finite_is_told():
    """The front door refuses it, so that every check of a result fails."""
    wanted = {check.__name__ for check in CHECKS} - {"unlearn_in_place_gives_nothing_and_restores"}
    assert broken(GivesNaN, CHECKS) == wanted
