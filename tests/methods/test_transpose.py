import pytest
import torch
from torch import nn

import excise
from excise.data import Split
from excise.masks import Mask
from excise.methods import Transpose
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, moved, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
SPLIT = Split((torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)), forget=[0])
KERNELS = {"separable": {"0.weight", "2.weight"}, "batchnorm": {"0.weight", "3.weight"}}


def run(model, mask=None):
    Transpose().unlearn_(model, SPLIT, mask or Mask.full(model), engine_for(model))
    return snapshot(model)


@every_case
def test_every_square_kernel_is_mirrored_and_all_else_is_as_before(name):
    model = CASES[name].make()
    before, after = snapshot(model), run(model)
    for key, value in before.items():
        if key not in KERNELS.get(name, set()):
            assert torch.equal(raw(after[key]), raw(value)), key
            continue
        for y in range(3):
            for x in range(3):
                assert torch.equal(after[key][:, :, y, x], value[:, :, x, y])
        assert not torch.equal(after[key], value)


@pytest.mark.parametrize("name", KERNELS)
def test_twice_is_the_identity_and_the_norm_is_kept(name):
    model = CASES[name].make()
    before = snapshot(model)
    rows = spelled_out(model, "rows")
    for mask in (Mask.full(model), Mask.from_tensors(rows)):
        once = run(model, mask)
        for key, value in before.items():
            assert sorted(once[key].flatten().tolist()) == sorted(value.flatten().tolist())  # the same numbers
        assert not same_bytes(once, before)
        assert same_bytes(run(model, mask), before)


def test_under_a_mask_of_single_weights_each_takes_its_mirror_images_value():
    model = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    entry = torch.tensor([[[[True, True], [False, True]]]])
    assert run(model, Mask.from_tensors({"0.weight": entry}))["0.weight"].flatten().tolist() == [1, 3, 3, 4]


class Bare(nn.Module):
    """A parameter of the shape of a kernel that is none."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 2, 3, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(2, 3, (3, 1)),
        lambda: nn.Conv2d(2, 3, (2, 3)),
        lambda: nn.Conv2d(2, 3, 1),
        lambda: nn.Conv1d(2, 3, 3),
        lambda: nn.Conv3d(2, 3, 3),
        lambda: nn.ConvTranspose2d(2, 3, 3),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)),
        lambda: nn.Linear(3, 3),
        Bare,
    ],
)
def test_other_layers_are_left_alone(make):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(make(), nn.Conv2d(1, 1, 2)).double()
    before, after = snapshot(model), run(model)
    assert {key for key in before if not torch.equal(raw(after[key]), raw(before[key]))} == {"1.weight"}


def test_a_kernel_that_two_layers_share_is_mirrored_once():
    one, two = nn.Conv2d(1, 1, 2), nn.Conv2d(1, 1, 2)
    two.weight = one.weight
    model = nn.Sequential(one, two).double()
    before = model[0].weight.detach().clone()
    run(model)
    assert model[1].weight is model[0].weight
    assert torch.equal(model[0].weight, before.mT)


def test_memory_layout_does_not_matter():
    plain = CASES["batchnorm"].make()
    turned = CASES["batchnorm"].make().to(memory_format=torch.channels_last)
    for kind in KINDS:
        mask = Mask.from_tensors(spelled_out(plain, kind))
        assert same_bytes(run(turned, mask), run(plain, mask))


def test_it_reads_nothing():
    watched = Watched(*CASES["batchnorm"].data(12), forbidden=range(12))
    model = CASES["batchnorm"].make()
    engine = engine_for(model)
    Transpose().unlearn_(model, Split(watched, forget=[1]), Mask.full(model), engine)
    assert Transpose().needs == frozenset()
    assert (watched.read, engine.cost.trained_rows, engine.cost.forward_rows) == ([], 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(20), forget=[0, 3])
    unlearned = excise.unlearn(model, split, Transpose(), mask=Mask.from_tensors(tensors))
    before, after = snapshot(model), snapshot(unlearned.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert moved(before, after) == {key for key in KERNELS.get(name, ()) if tensors[key].any()}
    empty = excise.unlearn(model, split, Transpose(), mask=Mask.empty(model))
    assert same_bytes(snapshot(empty.model), before)
    alone.check()
