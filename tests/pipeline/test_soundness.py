"""Each fault on a network made to have it and no other; and networks that have none."""

import copy

import pytest
import torch
from torch.nn.parallel import DataParallel

from excise.masks import Mask
from excise.pipeline.soundness import faults, unchanged, warnings
from tests.cases import CASES
from tests.planted import evidence, made_of, network, split_of, trained
from tests.wrapping import compiled

SPLIT = split_of()


@pytest.fixture(scope="module")
def before():
    return network(trained(1, 0)[0])


def changed(model, **names):
    """Give a copy with some tensors changed by a function."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, change in names.items():
            value = copied.state_dict()[name.replace("_", ".")]
            value.copy_(change(value))
    return copied


def found(before, after, **options):
    own, original = (evidence([one], SPLIT)[0] for one in (after, before))
    return faults(made_of(before, after, SPLIT, **options), before, own, original)


def test_a_network_that_was_changed_within_its_mask_has_none(before):
    after = changed(before, **{"2.weight": lambda value: value * 0.9})
    assert found(before, after) == []
    assert found(before, after, mask=Mask.of_modules(before, ["2"])) == []


@pytest.mark.parametrize("wrap", [lambda model: model, DataParallel, compiled], ids=["bare", "parallel", "compiled"])
def test_the_original_bit_for_bit_is_found_and_is_no_fault_by_itself(before, wrap):
    own, same = evidence([before], SPLIT)[0], made_of(before, wrap(copy.deepcopy(before)), SPLIT)
    assert unchanged(same, before) == ["the network is the original, bit for bit: nothing was done"]
    assert faults(same, before, own, own) == []


def test_one_bit_of_difference_is_something(before):
    def nudge(value):
        value = value.clone()
        value.view(torch.int32)[0] ^= 1
        return value

    after = changed(before, **{"2.bias": nudge})
    assert unchanged(made_of(before, after, SPLIT), before) == []
    assert found(before, after) == []


def test_a_weight_moved_outside_the_mask_is_named(before):
    after = changed(before, **{"0.bias": lambda value: value + 1e-7, "2.weight": lambda value: value * 0.9})
    (told,) = found(before, after, mask=Mask.of_modules(before, ["2"]))
    assert told == "0.bias differs from the original outside the mask of its run, which says that it cannot"


def test_a_single_coordinate_outside_is_enough(before):
    allowed = {name: torch.ones_like(value, dtype=torch.bool) for name, value in before.named_parameters()}
    allowed["2.weight"][1, 5] = False
    after = changed(before, **{"2.weight": lambda value: value * 0.9})
    (told,) = found(before, after, mask=Mask.from_tensors(allowed))
    assert told.startswith("2.weight differs from the original outside the mask")
    kept = changed(before, **{"2.weight": lambda value: torch.where(allowed["2.weight"], value * 0.9, value)})
    assert found(before, kept, mask=Mask.from_tensors(allowed)) == []


def test_logits_that_are_not_finite_are_found(before):
    after = changed(before, **{"2.bias": lambda value: torch.full_like(value, torch.nan)})
    assert found(before, after) == ["the network gives logits that are not finite"]


def test_one_class_for_every_row_is_found(before):
    after = changed(before, **{"2.weight": lambda value: 0 * value, "2.bias": lambda value: 0 * value + 1.0})
    assert found(before, after) == [
        "the network's output no longer depends on its input: every row gets the same class"
    ]


def test_two_classes_are_no_collapse(before):
    after = changed(before, **{"2.bias": lambda value: value - torch.tensor([1e4, 0.0, 0.0])})
    assert found(before, after) == []


def test_an_original_that_names_one_class_itself_accuses_nobody(before):
    flat = changed(before, **{"2.weight": lambda value: 0 * value})
    assert found(flat, changed(flat, **{"2.bias": lambda value: value + 1})) == []


def test_faults_add_up(before):
    after = changed(before, **{"0.bias": lambda value: torch.full_like(value, torch.nan)})
    assert len(found(before, after, mask=Mask.of_modules(before, ["2"]))) == 2


# ---------------------------------------------------------------- warnings


def test_statistics_of_the_original_are_told_of_and_others_are_not():
    case = CASES["batchnorm"]
    before, after = case.make(), case.make()
    split = split_of()
    with torch.no_grad():
        after[0].weight.mul_(0.9)
    told = warnings(made_of(before, after, split), before)
    assert len(told) == 1
    assert "6 running statistics of normalisation (1.running_mean among them) are the original's" in told[0]
    for module in (after[1], after[4]):
        module.running_mean.add_(0.1)
        module.running_var.mul_(1.1)
        module.num_batches_tracked.add_(1)
    assert warnings(made_of(before, after, split), before) == []
    after[4].running_mean.copy_(before[4].running_mean)
    assert "1 running statistics of normalisation (4.running_mean" in warnings(made_of(before, after, split), before)[0]


def test_a_network_without_statistics_is_not_warned_of(before):
    assert warnings(made_of(before, network(trained(1, 1)[0]), SPLIT), before) == []
