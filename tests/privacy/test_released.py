"""The released file holds the network and nothing else: its header read byte by byte, without any library."""

import json
import struct

import pytest
import torch

import excise
from excise import params, recipes, store
from excise.pipeline.unlearned import MASK, MODEL, PATCH
from tests.privacy import photos

ALLOWED = {"kind"}
"""Every key that a released file's metadata may have."""

BESIDE = {MASK: ["kind", "shapes"], PATCH: ["base_digest", "kind"]}


@pytest.fixture(scope="module")
def done(network):
    split = excise.Split(photos.train(), forget=photos.FORGET)
    return excise.unlearn(network, split, recipes.Finetune(epochs=1), fresh=photos.make)


def header(path):
    """Give the header and the length of what follows."""
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    return json.loads(whole[8 : 8 + length]), len(whole) - 8 - length, whole[8 : 8 + length]


def test_parameters_buffers_and_one_word_of_metadata_and_no_byte_more(done, tmp_path):
    done.save(tmp_path)
    told, rest, _ = header(tmp_path / MODEL)
    metadata = told.pop("__metadata__")
    assert metadata.keys() <= ALLOWED and metadata == {"kind": "excise-model-1"}
    own = {**dict(done.model.named_parameters()), **dict(done.model.named_buffers())}
    assert told.keys() == own.keys() and len(own) == 9
    assert {name: one["shape"] for name, one in told.items()} == {name: list(own[name].shape) for name in own}
    ends = sorted(one["data_offsets"] for one in told.values())
    assert [end for _, end in ends] == [*(start for start, _ in ends[1:]), rest]  # no gap, nothing behind
    assert rest == sum(value.numel() * value.element_size() for value in own.values())


def test_neither_place_nor_time_nor_user_change_a_byte(done, tmp_path, monkeypatch):
    one, other = tmp_path / "a", tmp_path / "somewhere else entirely" / "b"
    done.save(one)
    monkeypatch.setenv("USER", "jane"), monkeypatch.setenv("LOGNAME", "jane"), monkeypatch.setenv("HOME", str(other))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setattr("time.time", lambda: 4e9)
    done.save(other)
    assert (one / MODEL).read_bytes() == (other / MODEL).read_bytes()


def test_what_lies_beside_it_names_only_what_it_is_and_what_it_fits(done, tmp_path):
    done.save(tmp_path)
    kept = {name: header(tmp_path / name)[0]["__metadata__"] for name in (MASK, PATCH)}
    assert {name: sorted(told) for name, told in kept.items()} == BESIDE


def test_a_network_without_anything_but_weights_says_the_same(tmp_path):
    model = torch.nn.Linear(2, 2)
    store.write_tensors(tmp_path / "w.safetensors", params.state_of(model), {"kind": "excise-model-1"})
    assert set(header(tmp_path / "w.safetensors")[0]) == {"__metadata__", "weight", "bias"}
