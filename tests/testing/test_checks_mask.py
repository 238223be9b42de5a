import pytest

from excise.testing.checks_mask import CHECKS
from tests.testing.stand_ins import Sound, Unties, broken, cases, leaks_from_its_own_place


def test_a_sound_method_passes():
    assert broken(Sound, CHECKS) == set()


@pytest.mark.parametrize(("make", "wanted"), cases(CHECKS))
def test_what_breaks_a_promise_is_named_and_nothing_else(make, wanted):
    assert broken(make, CHECKS) == wanted


def test_a_method_that_unties_weights_is_told():
    assert "tied_weights_stay_tied" in broken(Unties, CHECKS)


def test_a_recipe_that_leaks_from_its_own_place_is_told():
    assert "keeps_outside_its_own_place" in broken(leaks_from_its_own_place, CHECKS)
