import re

import pytest
import torch
from torch import nn

from excise import errors
from excise.data import Split
from excise.localize import Convolutions, Everything, Modules
from excise.masks import Mask
from excise.train.masked import effective
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, touched

every_case = pytest.mark.parametrize("name", CASES)


def located(region, model, forbidden=range(12)):
    """Locate, any read of a row being an error."""
    watched = Watched(torch.zeros(12, 1), torch.zeros(12, dtype=torch.int64), forbidden=forbidden)
    mask = region.locate(model, Split(watched, forget=[1]), engine_for(model))
    mask.require_fit(model)
    return mask


def chosen(mask):
    """Name the parameters chosen; each is wholly in or out."""
    assert all(mask.entry(key).numel() == 1 for key in mask.names)
    return {key for key in mask.names if mask.count(key)}


@every_case
def test_everything_is_all_parameters_and_reads_no_row(name):
    model = touched(CASES[name].make())
    alone = LeftAlone(model)
    assert located(Everything(), model) == Mask.full(model)
    alone.check()
    assert not Everything().reads_forget and not Everything().reads_retain


def test_what_the_user_froze_is_no_part_of_everything():
    model = CASES["mlp"].make()
    model[0].requires_grad_(False)
    assert chosen(located(Everything(), model)) == {"2.weight", "2.bias", "4.weight", "4.bias"}


def test_what_the_user_froze_is_in_the_mask_of_a_named_module_and_taken_out_at_use():
    model = CASES["mlp"].make()
    model[0].requires_grad_(False)
    assert chosen(located(Modules(("",)), model)) == {name for name, _ in model.named_parameters()}
    assert chosen(effective(located(Modules(("",)), model), model)) == {"2.weight", "2.bias", "4.weight", "4.bias"}


def test_named_modules_with_all_inside_and_single_parameters():
    model = CASES["transformer"].make()
    region = Modules(("layers.1.self_attn", "position", "head.bias"))
    inside = {key for key, _ in model.named_parameters() if key.startswith("layers.1.self_attn.")}
    assert len(inside) == 4
    assert chosen(located(region, model)) == inside | {"position", "head.bias"}
    assert chosen(located(Modules(("head",)), CASES["tied"].make())) == {"embed.weight"}
    assert not region.reads_forget and not region.reads_retain


class Kinds(nn.Module):
    """Every kind of convolution, and layers that are none."""

    def __init__(self):
        super().__init__()
        for dim in (1, 2, 3):
            plain, turned = getattr(nn, f"Conv{dim}d"), getattr(nn, f"ConvTranspose{dim}d")
            setattr(self, f"plain{dim}", plain(2, 4, 3, groups=2))
            setattr(self, f"turned{dim}", turned(2, 4, 3))
        self.norm, self.linear, self.embed = nn.BatchNorm2d(4), nn.Linear(4, 4), nn.Embedding(3, 4)


def test_convolutions_are_the_kernels_of_every_kind_and_nothing_else():
    wanted = {f"{kind}{dim}.weight" for kind in ("plain", "turned") for dim in (1, 2, 3)}
    assert chosen(located(Convolutions(), Kinds())) == wanted
    assert chosen(located(Convolutions(), CASES["batchnorm"].make())) == {"0.weight", "3.weight"}
    assert chosen(located(Convolutions(), CASES["mlp"].make())) == set()
    assert not Convolutions().reads_forget and not Convolutions().reads_retain


def test_each_says_what_it_is():
    found = [str(region) for region in (Everything(), Modules(("a", "b.c")), Convolutions())]
    assert found == ["everywhere", "in a, b.c", "the convolutions"]


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(errors.MaskMismatch, match="Sequential has no module or parameter named '9'; it has"):
        located(Modules(("0", "9")), CASES["mlp"].make())


@pytest.mark.parametrize("names", [(), [], "head", (0,), ["0", 1]])
def test_names_that_are_none_are_refused(names):
    said = f"names: expected at least one module's name in a tuple, found {names!r}"
    with pytest.raises(errors.BadRequest, match=f"^{re.escape(said)}$"):
        Modules(names)


def test_a_list_of_names_will_do():
    assert Modules(["0", "2"]) == Modules(("0", "2"))
