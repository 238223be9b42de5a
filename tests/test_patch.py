import copy
import hashlib

import pytest
import torch
from torch import nn

from excise import errors, params, store
from excise.patch import Patch
from tests.cases import CASES
from tests.wrapping import WRAPPERS, alone

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def changed_from(model, share=0.3):
    """A copy of which some elements of every parameter and buffer are other than before."""
    draws = torch.Generator().manual_seed(5)
    result = copy.deepcopy(model)
    with torch.no_grad():
        for value in [*result.parameters(), *result.buffers()]:
            chosen = torch.rand(value.shape, generator=draws) < share
            if not value.is_floating_point():
                value.add_(chosen.to(value.dtype))
            else:
                value[chosen] = torch.randn(value.shape, generator=draws, dtype=value.dtype)[chosen]
    return result


def naive_places(first, second):
    """One element at a time, by its bytes."""
    found = {}
    for name, value in second.state_dict().items():
        pairs = zip(first.state_dict()[name].reshape(-1), value.reshape(-1), strict=True)
        places = [i for i, pair in enumerate(pairs) if len({x.numpy().tobytes() for x in pair}) > 1]
        if places:
            found[name] = places
    return found


@each_case
def test_a_patch_holds_just_what_differs(case):
    original = case.make()
    changed = changed_from(original)
    patch = Patch.between(original, changed)
    wanted = naive_places(original, changed)
    assert {name: places.tolist() for name, places in patch.places.items()} == wanted
    assert patch.num_changed == {name: len(places) for name, places in wanted.items()}
    for name, places in wanted.items():
        assert torch.equal(patch.before[name], original.state_dict()[name].reshape(-1)[places])
        assert torch.equal(patch.after[name], changed.state_dict()[name].reshape(-1)[places])
    assert 0 < sum(patch.num_changed.values()) < sum(value.numel() for value in original.state_dict().values())


@each_case
def test_applying_and_reverting_are_exact_and_leave_their_argument(case):
    original = case.make()
    changed = changed_from(original)
    patch = Patch.between(original, changed)
    digests = params.model_digest(original), params.model_digest(changed)
    assert digests[0] != digests[1]
    assert params.model_digest(patch.apply(original)) == digests[1]
    assert params.model_digest(patch.revert(changed)) == digests[0]
    assert params.model_digest(patch.revert(patch.apply(original))) == digests[0]
    assert (params.model_digest(original), params.model_digest(changed)) == digests


@each_case
def test_a_patch_read_from_disk_applies_to_the_bit(case, tmp_path):
    original = case.make()
    changed = changed_from(original)
    patch = Patch.between(original, changed)
    patch.save(tmp_path / "patch.safetensors")
    found = Patch.load(tmp_path / "patch.safetensors")
    assert params.digest(found.places) == params.digest(patch.places)
    assert params.digest(found.after) == params.digest(patch.after)
    assert found.base_digest == patch.base_digest == params.model_digest(original)
    assert params.model_digest(found.apply(original)) == params.model_digest(changed)
    assert found.before is None
    with pytest.raises(errors.BadRequest, match="a patch read from disk does not hold the forgotten values"):
        found.revert(changed)


@each_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_old_value_of_a_changed_weight_is_in_the_file(case, dtype, tmp_path):
    original = case.make().to(dtype)
    with torch.no_grad():  # no zeros and no ones, whose bytes may be anywhere
        draws = torch.Generator().manual_seed(6)
        for value in original.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=draws, dtype=value.dtype))
    patch = Patch.between(original, changed_from(original))
    patch.save(tmp_path / "patch.safetensors")
    content = (tmp_path / "patch.safetensors").read_bytes()
    old = [v for n, v in patch.before.items() if v.is_floating_point()]
    new = [v for n, v in patch.after.items() if v.is_floating_point()]
    assert sum(map(len, old)) > 20
    assert all(value.numpy().tobytes() in content for values in new for value in values)
    assert not any(value.numpy().tobytes() in content for values in old for value in values)
    assert not any(f"{float(value)!r}".encode() in content for values in old for value in values)


def test_a_patch_says_how_much_it_holds_and_not_what():
    patch = Patch.between(linear([1.0, 2.0]), linear([1.0, 3.0]))
    assert repr(patch) == "Patch(1 values in 1 tensors)"


def test_nothing_changed_is_an_empty_patch(tmp_path):
    original = CASES["mlp"].make()
    patch = Patch.between(original, copy.deepcopy(original))
    assert patch.num_changed == {}
    patch.save(tmp_path / "p.safetensors")
    for found in (patch, Patch.load(tmp_path / "p.safetensors")):
        assert params.model_digest(found.apply(original)) == params.model_digest(original)


def linear(values, dtype=torch.float64):
    model = nn.Linear(len(values), 1, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values], dtype=dtype))
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_zeros_of_different_sign_differ_and_equal_nans_do_not(dtype):
    first = linear([0.0, -0.0, float("nan"), 1.0, 0.0], dtype)
    second = linear([-0.0, -0.0, float("nan"), 1.0, 0.0], dtype)
    patch = Patch.between(first, second)
    assert {name: places.tolist() for name, places in patch.places.items()} == {"weight": [0]}
    assert params.model_digest(patch.apply(first)) == params.model_digest(second)
    assert params.model_digest(patch.revert(second)) == params.model_digest(first)


def test_memory_layout_is_no_difference_and_does_not_mix_up_places():
    first = nn.Conv2d(3, 4, 2).double()
    other = copy.deepcopy(first).to(memory_format=torch.channels_last)
    assert not other.weight.is_contiguous()
    assert Patch.between(first, other).num_changed == {}
    with torch.no_grad():
        other.weight[2, 1, 0, 1] += 1
    patch = Patch.between(first, other)
    assert patch.places["weight"].tolist() == [((2 * 3 + 1) * 2 + 0) * 2 + 1]
    assert params.model_digest(patch.apply(first)) == params.model_digest(other)
    assert params.model_digest(patch.revert(other)) == params.model_digest(first)
    spread = copy.deepcopy(first).to(memory_format=torch.channels_last)
    assert params.model_digest(patch.apply(spread)) == params.model_digest(other)


def test_a_buffer_that_is_a_strided_view_is_compared_and_written_by_value():
    def build(values):
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        model.register_buffer("every_other", torch.tensor(values).repeat_interleave(2)[::2])
        assert not model.every_other.is_contiguous()
        return model

    first, second = build([1.0, 2.0, 3.0]), build([1.0, 5.0, 3.0])
    patch = Patch.between(first, second)
    assert {name: places.tolist() for name, places in patch.places.items()} == {"every_other": [1]}
    assert params.model_digest(patch.apply(first)) == params.model_digest(second)


def test_tied_weights_stay_tied():
    original = CASES["tied"].make()
    result = Patch.between(original, changed_from(original)).apply(original)
    assert result.head.weight is result.embed.weight


def test_buffers_integers_flags_and_empty_tensors_are_covered():
    def build(flag, count):
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        model.register_buffer("flags", torch.tensor([True, flag]))
        model.register_buffer("count", torch.tensor(count))
        model.register_buffer("none", torch.zeros(0, 3))
        return model

    first, second = build(True, 1), build(False, 2)
    patch = Patch.between(first, second)
    assert {name: places.tolist() for name, places in patch.places.items()} == {"flags": [1], "count": [0]}
    assert params.model_digest(patch.apply(first)) == params.model_digest(second)


@each_case
def test_a_patch_is_for_the_original_only(case):
    original = case.make()
    patch = Patch.between(original, changed_from(original))
    other = copy.deepcopy(original)
    list(other.state_dict().values())[-1].reshape(-1)[-1:].view(torch.uint8)[0] ^= 1
    for wrong in (other, patch.apply(original)):
        with pytest.raises(errors.MaskMismatch, match="made for other weights than these; apply it to the original"):
            patch.apply(wrong)
    with pytest.raises(
        errors.MaskMismatch, match=r"does not hold the patch's values; revert the network that was unlearned"
    ):
        patch.revert(original)


def test_a_patch_between_networks_of_two_kinds_is_refused():
    first = nn.Linear(2, 3)
    for second in (
        nn.Linear(2, 3, bias=False),
        nn.Linear(2, 4),
        nn.Linear(2, 3).double(),
        nn.Sequential(nn.Linear(2, 3)),
    ):
        with pytest.raises(errors.MaskMismatch, match="expected two networks of one architecture"):
            Patch.between(first, second)


def test_a_patch_is_out_of_reach_of_later_changes():
    original = CASES["batchnorm"].make()
    changed = changed_from(original)
    patch = Patch.between(original, changed)
    kept = copy.deepcopy(original), copy.deepcopy(changed)
    with torch.no_grad():
        for value in [*original.state_dict().values(), *changed.state_dict().values()]:
            value.zero_()
    assert params.model_digest(patch.apply(kept[0])) == params.model_digest(kept[1])


PLACES, VALUES = torch.tensor([0, 2]), torch.zeros(2)
DIGEST = hashlib.sha256().hexdigest()


def test_what_is_not_a_patch_file_is_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    store.write_tensors(path, {"place/w": PLACES, "value/w": VALUES}, {"kind": "excise-mask-1"})
    with pytest.raises(errors.BadData, match=r"p\.safetensors is not a patch written by excise"):
        Patch.load(path)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"place/w": PLACES, "value/w": VALUES}, {}),
        ({"place/w": PLACES}, {"base_digest": DIGEST}),
        ({"value/w": VALUES}, {"base_digest": DIGEST}),
        ({"place/w": PLACES, "value/v": VALUES}, {"base_digest": DIGEST}),
        ({"place/w": PLACES, "value/w": VALUES[:1]}, {"base_digest": DIGEST}),
        ({"place/w": PLACES.double(), "value/w": VALUES}, {"base_digest": DIGEST}),
        ({"place/w": PLACES.reshape(1, 2), "value/w": VALUES.reshape(1, 2)}, {"base_digest": DIGEST}),
    ],
)
def test_a_patch_file_whose_parts_disagree_is_refused(tmp_path, tensors, metadata):
    path = tmp_path / "p.safetensors"
    store.write_tensors(path, tensors, {"kind": "excise-patch-1", **metadata})
    with pytest.raises(errors.BadData, match=r"p\.safetensors: its places and its values disagree"):
        Patch.load(path)


# --- wrappers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _processes(tmp_path_factory):
    with alone(tmp_path_factory.mktemp("group")):
        yield


@pytest.mark.usefixtures("_processes")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@each_case
def test_a_patch_fits_a_network_wrapped_or_not(case, wrap):
    original = case.make()
    changed = changed_from(original)
    wrapped, other = wrap(case.make()), wrap(changed_from(original))
    plain = Patch.between(original, changed)
    digests = params.model_digest(original), params.model_digest(changed)
    for patch in (
        plain,
        Patch.between(wrapped, other),
        Patch.between(wrapped, changed),
        Patch.between(original, other),
    ):
        assert patch.base_digest == plain.base_digest
        assert params.digest(patch.places) == params.digest(plain.places)
        assert params.digest(patch.after) == params.digest(plain.after)
        applied, reverted = patch.apply(wrapped), patch.revert(other)
        assert type(applied) is type(reverted) is type(wrapped)
        assert (params.model_digest(reverted), params.model_digest(applied)) == digests
        assert type(patch.apply(original)) is type(original)
    assert (params.model_digest(wrapped), params.model_digest(other)) == digests  # arguments are left alone
