"""Files of the right form whose content means harm: what they say is checked before it is believed."""

import json

import msgspec
import numpy as np
import pytest
import torch

from excise import errors, params, store
from excise.masks import Mask
from excise.oracles.bank import Bank
from excise.patch import Patch
from tests.cli import mine

SHAPES = {
    "no JSON": "{",
    "no object": "[1]",
    "deep": "[" * 100_000,
    "negative sizes": '{"a": [[-1], [-8]]}',
    "two negative sizes": '{"a": [[8], [-1, -8]]}',
    "other axes": '{"a": [[2, 2], [1]]}',
    "more rows than bits": '{"a": [[1000000000000], [1000000000000]]}',
    "a thousand axes": json.dumps({"a": [[1] * 1000, [1] * 1000]}),
    "another name": '{"b": [[1], [1]]}',
    "words": '{"a": ["x", "y"]}',
    "fractions": '{"a": [[1.5], [1]]}',
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_a_mask_that_says_other_shapes_than_it_holds_is_refused(tmp_path, shapes):
    path = tmp_path / "mask.safetensors"
    packed = {"a": torch.tensor([128], dtype=torch.uint8)}
    store.write_tensors(path, packed, {"kind": "excise-mask-1", "shapes": '{"a": [[1], [1]]}'})
    assert Mask.load(path).num_selected == 1  # this one is well
    store.write_tensors(path, packed, {"kind": "excise-mask-1", "shapes": shapes})
    with pytest.raises(errors.BadData, match="the mask's header and its content disagree"):
        Mask.load(path)


@pytest.mark.parametrize("size", [2**40, 10**20])
def test_a_mask_of_an_immense_network_takes_no_memory_and_fits_none(tmp_path, size):
    path = tmp_path / "mask.safetensors"
    shapes = json.dumps({"0.weight": [[size, size], [1, 1]]})
    packed = {"0.weight": torch.tensor([128], dtype=torch.uint8)}
    store.write_tensors(path, packed, {"kind": "excise-mask-1", "shapes": shapes})
    mask = Mask.load(path)
    assert mask.fraction == 1 and "100.0%" in repr(mask) and mask.per_module() == {"0": 1.0}
    with pytest.raises(errors.MaskMismatch, match="does not fit"):
        mask.require_fit(mine.make())


def patch_of(path, network, places, values):
    tensors = {"place/0.bias": torch.tensor(places), "value/0.bias": values}
    store.write_tensors(path, tensors, {"kind": "excise-patch-1", "base_digest": params.model_digest(network)})
    return Patch.load(path)


def test_a_well_formed_patch_is_applied(tmp_path):
    network = mine.make()
    changed = patch_of(tmp_path / "p", network, [0, 31], torch.tensor([1.0, 2.0])).apply(network)
    assert changed[0].bias[[0, 31]].tolist() == [1, 2]


def test_a_patch_whose_parts_disagree_is_refused(tmp_path):
    network = mine.make()
    for places, values in (
        ([0], torch.ones(2)),
        ([[0]], torch.ones(1, 1)),
        ([0.0], torch.ones(1)),
        ([-1], torch.ones(1)),
        ([5, 5], torch.ones(2)),
        ([5, 4], torch.ones(2)),
    ):
        with pytest.raises(errors.BadData, match="its places and its values disagree"):
            patch_of(tmp_path / "p", network, places, values)


@pytest.mark.parametrize("place", [32, 10**15])
def test_a_patch_of_values_that_are_not_there_is_refused(tmp_path, place):
    network = mine.make()
    with pytest.raises(errors.MaskMismatch, match=r"changes values of '0\.bias' that the network does not have"):
        patch_of(tmp_path / "p", network, [0, place], torch.ones(2)).apply(network)
    tensors = {"place/9.bias": torch.tensor([0]), "value/9.bias": torch.ones(1)}
    store.write_tensors(
        tmp_path / "p", tensors, {"kind": "excise-patch-1", "base_digest": params.model_digest(network)}
    )
    with pytest.raises(errors.MaskMismatch, match=r"changes values of '9\.bias' that the network does not have"):
        Patch.load(tmp_path / "p").apply(network)


def test_a_network_put_under_the_key_of_another_is_refused(tmp_path):
    """A bank's seal has no secret: it binds a file to its key, and finds what was exchanged or changed."""
    bank = Bank(tmp_path)
    state = params.state_of(mine.make())
    store.write_tensors(tmp_path / f"{'1' * 64}.safetensors", state, {"kind": "oracle"})
    with pytest.raises(errors.Corrupt, match="is not what was put there"):
        bank.find("1" * 64)
    for key in ("../x", "0" * 63, "0" * 64 + "/..", "0" * 63 + "G", "\u0660" * 64):
        with pytest.raises(errors.BadRequest, match="expected 64 hexadecimal digits"):
            bank.find(key)


@pytest.mark.parametrize(
    "value", [[], "x", {"files": {"../../x": "0"}}, {"format": 1}, {"format": 1, "files": {"a": {}}}]
)
def test_a_record_of_another_shape_is_refused(tmp_path, value):
    store.write_sealed(tmp_path / "run.json", value) if isinstance(value, dict) else store.write_json(
        tmp_path / "run.json", value
    )
    with pytest.raises(errors.Corrupt):
        store.read_record(tmp_path)


def test_numbers_that_are_not_finite_are_no_weights(tmp_path):
    state = {name: torch.full_like(value, float("nan")) for name, value in mine.make().state_dict().items()}
    store.write_tensors(tmp_path / "w.safetensors", state)
    with pytest.raises(errors.ExciseError, match="finite"):
        params.load_strictly_(mine.make(), store.read_weights(tmp_path / "w.safetensors"), "w")


def test_the_same_values_are_the_same_bytes_whoever_wrote_them(tmp_path):
    """So that a digest of a record names one content."""
    store.write_json(tmp_path / "a", {"b": 1, "a": [np.pi]})
    assert msgspec.json.decode((tmp_path / "a").read_bytes()) == store.read_json(tmp_path / "a")
