import sys

import pytest
import torch

from excise.methods import Finetune
from excise.params import state_of
from excise.testing.checks_mask import CHECKS
from excise.testing.problems import PROBLEMS
from excise.train import TrainPlan
from excise.train.statistics import recompute_statistics_
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


def only_the_first_layer(model, rows, engine):
    """Make statistics anew, and put those of the second layer back."""
    before = {name: value.clone() for name, value in state_of(model).items() if name.startswith("4.running")}
    recompute_statistics_(model, rows, engine)
    model.load_state_dict(before, strict=False)


def only_where_kernels_moved(model, rows, engine):
    """Leave the old statistics behind a kernel that the mask held."""
    if not torch.equal(model.get_parameter("3.weight"), PROBLEMS["batchnorm"]().make().get_parameter("3.weight")):
        recompute_statistics_(model, rows, engine)


@pytest.mark.parametrize("half_hearted", [only_the_first_layer, only_where_kernels_moved])
def test_statistics_that_are_made_anew_in_part_are_told(half_hearted, monkeypatch):
    method = Finetune(plan=TrainPlan(epochs=1, lr=0.02, batch_size=12))
    wanted = [check for check in CHECKS if check.__name__ == "statistics_are_made_anew_by_default"]
    assert broken(lambda: method, wanted) == set()
    monkeypatch.setattr(sys.modules["excise.pipeline.forget"], "recompute_statistics_", half_hearted)
    assert broken(lambda: method, wanted) == {"statistics_are_made_anew_by_default"}
