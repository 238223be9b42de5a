import pytest
import torch

from excise.testing.checks_caller import CHECKS
from tests.testing.stand_ins import SetsDtype, Sound, broken, cases


def test_a_sound_method_passes():
    assert broken(Sound, CHECKS) == set()


@pytest.mark.parametrize(("make", "wanted"), cases(CHECKS))
def test_what_breaks_a_promise_is_named_and_nothing_else(make, wanted):
    assert broken(make, CHECKS) == wanted


def test_a_default_dtype_that_changed_is_told_and_put_back():
    before = torch.get_default_dtype()
    assert "default_dtype_is_left_alone" in broken(SetsDtype, CHECKS)
    assert torch.get_default_dtype() == before
