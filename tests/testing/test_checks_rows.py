import pytest

from excise.testing.checks_rows import CHECKS
from tests.testing.stand_ins import Sound, broken, cases


def test_a_sound_method_passes():
    assert broken(Sound, CHECKS) == set()


@pytest.mark.parametrize(("make", "wanted"), cases(CHECKS))
def test_what_breaks_a_promise_is_named_and_nothing_else(make, wanted):
    assert broken(make, CHECKS) == wanted
