import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from excise import errors, params, store
from tests.cases import CASES
from tests.hostile import corpus


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_tensors_come_back_to_the_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    tensors = {
        "plain": base,
        "transposed": base.T,
        "view": base[1:3, ::2],
        "shared": base.view(-1)[:5],
        "scalar": torch.tensor(-0.0),
        "none": torch.zeros(0, 3),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "half": base.to(torch.bfloat16),
        "flags": base > 0,
        "grad": nn.Parameter(base),
        "bytes": torch.arange(255, dtype=torch.uint8),
    }
    store.write_tensors(path, tensors, {"kind": "test", "text": "ä\n"})
    found, metadata = store.read_tensors(path)
    assert params.digest(found) == params.digest(tensors)
    assert metadata == {"kind": "test", "text": "ä\n"}
    assert params.digest(store.read_weights(path)) == params.digest(tensors)
    store.write_tensors(path, {"a": base})
    assert store.read_tensors(path)[1] == {}


def test_metadata_is_read_without_the_tensors(tmp_path):
    path = tmp_path / "a.safetensors"
    store.write_tensors(path, {"a": torch.ones(1000)}, {"seed": "3"})
    assert store.read_metadata(path) == store.read_tensors(path)[1] == {"seed": "3"}
    store.write_tensors(path, {"a": torch.ones(1)})
    assert store.read_metadata(path) == {}
    path.write_bytes(b"junk")
    with pytest.raises(errors.BadData, match="not a readable safetensors file"):
        store.read_metadata(path)
    with pytest.raises(errors.BadData, match="found no such file"):
        store.read_metadata(tmp_path / "b.safetensors")


def test_equal_tensors_give_equal_bytes(tmp_path):
    tensors = {"b": torch.arange(5.0), "a": torch.eye(2)}
    store.write_tensors(tmp_path / "one", tensors, {"kind": "test"})
    store.write_tensors(tmp_path / "two", {name: value.clone() for name, value in tensors.items()}, {"kind": "test"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("read", [store.read_tensors, store.read_weights])
def test_safetensors_that_are_missing_or_damaged_are_told(tmp_path, read):
    path = tmp_path / "a.safetensors"
    with pytest.raises(errors.BadData, match=r"expected weights at .*a\.safetensors, found no such file"):
        read(path)
    store.write_tensors(path, {"a": torch.arange(50.0)})
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[:-1], whole[:20], b"\xff" * 8 + whole[8:]):
        path.write_bytes(damaged)
        with pytest.raises(errors.BadData, match=r"a\.safetensors is not a readable safetensors file"):
            read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(errors.BadData, match=r"a\.safetensors is not a readable safetensors file"):
        read(path)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_come_back_from_every_format_that_holds_no_code(tmp_path, case, suffix):
    model, path = case.make(), tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        store.write_tensors(path, model.state_dict())
    else:
        torch.save(model.state_dict(), path)
    found = store.read_weights(path)
    assert params.digest(found) == params.model_digest(model)
    target = case.make()
    params.load_strictly_(target, found, str(path))
    assert params.model_digest(target) == params.model_digest(model)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_is_refused_before_its_code_runs(tmp_path):
    marker = tmp_path / "ran"
    state = {"weight": torch.zeros(2), "bomb": Bomb(marker)}
    pickle.loads(pickle.dumps(state))  # the bomb works
    assert marker.exists()
    marker.unlink()
    for legacy in (True, False):
        path = tmp_path / f"w{legacy}.pt"
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(errors.BadData, match="cannot be read without running code from it, or is damaged") as found:
            store.read_weights(path)
        assert "torch.save(model.state_dict(), path)" in str(found.value)
        assert found.value.exit_code == 2
    for suffix in ("pt", "pth", "safetensors"):
        path = tmp_path / f"raw.{suffix}"
        path.write_bytes(pickle.dumps(state))
        with pytest.raises(errors.BadData, match=r"cannot be read without running code|not a readable safetensors"):
            store.read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["w.pkl", "w.pickle", "w.bin", "w.ckpt", "w.npz", "w", "w.pt.gz", "pt"])
def test_other_formats_are_refused_unopened(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"bomb": Bomb(tmp_path / "ran")}))
    message = rf"expected weights as \.safetensors, or \.pt/\.pth holding only tensors; found '{re.escape(name)}'"
    with pytest.raises(errors.BadData, match=message):
        store.read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_a_pt_file_that_is_missing_damaged_or_no_state_dict_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    for _ in range(2):
        with pytest.raises(errors.BadData, match=r"expected weights at .*w\.pt, found no such file"):
            store.read_weights(path)
        path.mkdir(exist_ok=True)
    path.rmdir()
    torch.save(torch.zeros(2), path)
    with pytest.raises(errors.BadData, match=r"w\.pt holds a Tensor, expected a state dict of tensors"):
        store.read_weights(path)
    torch.save({"model": {"weight": torch.zeros(2)}, "epoch": 3}, path)
    with pytest.raises(errors.BadData, match=r"w\.pt holds a dict, expected a state dict of tensors; save model"):
        store.read_weights(path)
    torch.save({0: torch.zeros(2)}, path)
    with pytest.raises(errors.BadData, match=r"w\.pt holds a dict, expected a state dict of tensors"):
        store.read_weights(path)
    torch.save({"weight": torch.arange(1000.0)}, path)
    whole = path.read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(errors.BadData, match="or is damaged"):
            store.read_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "x")
    with pytest.raises(errors.BadData, match="or is damaged"):
        store.read_weights(path)


def test_a_whole_module_is_no_state_dict(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(errors.BadData, match="cannot be read without running code"):
        store.read_weights(tmp_path / "w.pt")


def test_safetensors_written_by_others_are_read(tmp_path):
    state = CASES["mlp"].make().state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert params.digest(store.read_weights(tmp_path / "w.safetensors")) == params.digest(state)


@pytest.mark.parametrize(
    ("version", "taken"), [("2.9.1", False), ("1.13.0+cpu", False), ("2.10.0", True), ("3.0.0a0", True)]
)
def test_pickled_weights_are_taken_with_a_torch_that_has_no_known_hole(tmp_path, monkeypatch, version, taken):
    state = {"weight": torch.arange(3.0)}
    torch.save(state, tmp_path / "w.pt")
    monkeypatch.setattr(torch, "__version__", version)
    if taken:
        assert params.digest(store.read_weights(tmp_path / "w.pt")) == params.digest(state)
        return
    for name in ("w.pt", "w.pth"):
        with pytest.raises(
            errors.BadData, match=rf"with torch 2\.10 or later, found {re.escape(version)}; update torch, or"
        ):
            store.read_weights(tmp_path / name)


def test_pickled_weights_are_read_without_an_unpickler(tmp_path, monkeypatch):
    torch.save({"weight": torch.arange(3.0)}, tmp_path / "w.pt")
    for module, name in ((pickle, "Unpickler"), (pickle, "_Unpickler"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, None)
    assert store.read_weights(tmp_path / "w.pt")["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
def test_a_pipe_is_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"w.{suffix}")
    with pytest.raises(errors.BadData, match="it is a pipe or a device; write its content to a file"):
        store.read_weights(tmp_path / f"w.{suffix}")


def test_weights_that_may_not_be_read_are_told(tmp_path, monkeypatch):
    torch.save({"weight": torch.arange(3.0)}, tmp_path / "w.pt")

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(errors.BadData, match=r"w\.pt is not a readable file: Permission denied"):
        store.read_weights(tmp_path / "w.pt")


HEADERS = {
    "a header of 17 million bytes": "a header of 17000025 bytes, at most 16777216",
    "a header of 100,001 tensors": "more than 100000 tensors",
    "a header of a million notes": "more than 100000 tensors",
    "a shape of 100,000 axes": "a tensor of more than 64 axes, or of an impossible size",
    "a shape past 64 bits": "a tensor of more than 64 axes, or of an impossible size",
    "a name twice": "a name that is given twice in its header",
    "a deep header": "no header",
    "two tensors in one place": "is not a readable safetensors file",
    "a tensor past the end": "is not a readable safetensors file",
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("read", [store.read_tensors, store.read_metadata])
def test_a_header_that_costs_or_says_too_much_is_refused(tmp_path, name, read):
    corpus.make(name, tmp_path / "w.safetensors", tmp_path / "marker")
    with pytest.raises(errors.BadData, match=HEADERS[name]):
        read(tmp_path / "w.safetensors")


def test_as_many_tensors_as_a_large_network_has_are_read(tmp_path):
    state = {f"layers.{index}.weight": torch.full((1,), float(index)) for index in range(3000)}
    metadata = {"names": " ".join(state)}
    store.write_tensors(tmp_path / "w.safetensors", state, metadata)
    found, told = store.read_tensors(tmp_path / "w.safetensors")
    assert params.digest(found) == params.digest(state) and told == metadata


@pytest.mark.parametrize("found", ["", "excise-mask", "excise-patch-2", "excise-mask-0", "excise-mask-x", "mask-2"])
def test_a_file_of_another_kind_is_told_from_one_of_a_later_form(tmp_path, found):
    store.require_form(tmp_path / "m", {"kind": "excise-mask-1"}, "excise-mask-1", "make one")
    with pytest.raises(errors.BadData, match="m is not a mask written by excise; make one"):
        store.require_form(tmp_path / "m", {"kind": found}, "excise-mask-1", "make one")
    with pytest.raises(
        errors.BadData, match=r"written by a newer excise \(excise-mask-12, this one reads excise-mask-1\)"
    ):
        store.require_form(tmp_path / "m", {"kind": "excise-mask-12"}, "excise-mask-1", "make one")


def test_the_same_tensors_and_metadata_give_the_same_bytes_in_every_order_of_the_names(tmp_path):
    state, told = CASES["mlp"].make().state_dict(), {f"key {number}": "ü" * number for number in range(9)}
    found = set()
    for turn in (1, -1, 1, -1):
        store.write_tensors(tmp_path / "w.safetensors", state, dict(list(told.items())[::turn]))
        found.add((tmp_path / "w.safetensors").read_bytes())
        tensors, metadata = store.read_tensors(tmp_path / "w.safetensors")
        assert params.digest(tensors) == params.digest(state) and metadata == told
    assert len(found) == 1
    size = int.from_bytes(next(iter(found))[:8], "little")
    assert size % 8 == 0  # tensors stay aligned


def test_metadata_of_a_file_elsewhere_are_read_from_its_head_alone(tmp_path):
    path = tmp_path / "a.safetensors"
    store.write_tensors(path, {"weight": torch.zeros(1000)}, {"kind": "oracle", "seed": "3"})
    content, asked = path.read_bytes(), []

    def read(start, end):
        asked.append(end)
        return content[start:end]

    assert store.metadata_of(read, "a") == store.read_metadata(path) == {"kind": "oracle", "seed": "3"}
    assert max(asked) <= len(content) - 4000
    store.write_tensors(path, {"weight": torch.zeros(2)})
    content = path.read_bytes()
    assert store.metadata_of(read, "a") == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 100]
    + [
        len(head).to_bytes(8, "little") + head
        for head in (b"no head", b"[]", b'{"__metadata__": {"a": 1}}', b'{"__metadata__": 3}', b'{"a": 1, "a": 2}')
    ],
)
def test_what_has_no_head_elsewhere_is_refused(content):
    with pytest.raises(errors.BadData, match="here is not a readable safetensors file"):
        store.metadata_of(lambda start, end: content[start:end], "here")
