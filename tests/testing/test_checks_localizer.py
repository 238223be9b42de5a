import pytest

from excise import localize
from excise.localize import Cut, Everything, Gradient, Head, Localizer, Magnitude, Modules, Region, WeightGradient
from excise.masks import Mask
from excise.testing import check_localizer
from tests.testing.stand_ins import PLACES, misplaced

BUILT_IN = {
    "Convolutions": localize.Convolutions,
    "Cut": Cut(WeightGradient(), 0.4),
    "Everything": Everything,
    "Gradient": Gradient(rows="train"),
    "Head": Head,
    "Magnitude": Magnitude,
    "Modules": Modules(("0",)),
    "WeightGradient": WeightGradient,
}


@pytest.mark.parametrize("where", BUILT_IN.values(), ids=BUILT_IN)
def test_our_own_pass(where):
    assert misplaced(where) == set()


@pytest.mark.parametrize(("make", "wanted"), PLACES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_breaks_a_promise_is_named_and_nothing_else(make, wanted):
    assert misplaced(make) == wanted


class Leaving(Magnitude):
    """Leaves something of each kind behind, and gives something else."""

    def score(self, model, split, engine):
        for value in model.parameters():
            value.data = value.data.clone()
            value.requires_grad_(False)
        model.register_forward_hook(lambda *_: None)
        return Mask.full(model)


def test_a_localizer_that_leaves_everything_behind_is_told_of_each():
    assert misplaced(Leaving) >= {
        "network_keeps_its_storages",
        "network_keeps_requires_grad",
        "network_keeps_its_hooks",
        "gives_scores_or_a_mask",
    }


class Small(Region):
    def __str__(self):
        return "small"

    def locate(self, model, split, engine):
        return Mask.from_tensors({name: value > 0 for name, value in list(model.named_parameters())[:1]})


def test_a_mask_of_something_else_does_not_fit():
    assert "fits_the_network" in misplaced(Small)


def test_what_does_not_apply_is_skipped_with_the_reason():
    skipped = {check.name: check.detail for check in check_localizer(Everything) if check.outcome == "skipped"}
    assert skipped["scores_are_finite_and_not_negative"] == "a region gives no scores"
    assert issubclass(Gradient, Localizer)
