import pytest

from excise.testing.checks_running import CHECKS
from tests.testing.stand_ins import Counts, Sound, broken, cases


def test_a_sound_method_passes():
    assert broken(Sound, CHECKS) == set()


@pytest.mark.parametrize(("make", "wanted"), cases(CHECKS))
def test_what_breaks_a_promise_is_named_and_nothing_else(make, wanted):
    assert broken(make, CHECKS) == wanted


def test_a_method_that_changes_itself_is_told():
    assert "the_object_is_not_changed_by_a_run" in broken(Counts, CHECKS)
