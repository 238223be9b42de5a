"""What is read is what was written; what needs code to be read is not read at all."""

import gzip
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from excise import store
from excise.custody import contents as looked
from excise.custody.contents import contents, holds_bytes, original_weights, readable
from tests.custody.removal import numbered, saved

MOST = 2**20


def test_nested_tensors_come_with_the_names_on_the_way_to_them(tmp_path):
    first, second = torch.arange(3.0), torch.ones(2, 2, dtype=torch.bfloat16)
    saved(tmp_path / "a.bin", {"epoch": 3, "model": {"w": first}, "states": [{0: {"exp_avg": second}}], "rows": [5, 7]})
    found = contents(tmp_path / "a.bin", MOST)
    assert found.opaque == "" and found.arrays.keys() == {"model.w", "states.0.0.exp_avg", "rows"}
    assert torch.equal(found.arrays["model.w"], first) and torch.equal(found.arrays["states.0.0.exp_avg"], second)
    assert found.arrays["rows"].tolist() == [5, 7]


@pytest.mark.parametrize("name", ["a.safetensors", "a.dat", "a"])
def test_the_form_is_read_from_the_bytes_and_not_from_the_name(tmp_path, name):
    store.write_tensors(tmp_path / name, {"w": torch.arange(3.0)}, {"kind": "mine"})
    found = contents(tmp_path / name, MOST)
    assert torch.equal(found.arrays["w"], torch.arange(3.0)) and found.metadata == {"kind": "mine"}


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i4", ">i8", "|u1", "|b1", "<u2", "<u4"])
def test_arrays_come_with_their_numbers_whatever_their_order_of_bytes(tmp_path, dtype):
    value = np.arange(6).reshape(2, 3).astype(dtype)
    np.save(tmp_path / "a.npy", value)
    numbered(tmp_path / "b.npz", inner=value)
    for name, key in (("a.npy", "a"), ("b.npz", "inner")):
        found = contents(tmp_path / name, MOST).arrays[key]
        assert np.array_equal(found.to(torch.float64).numpy(), value.astype(np.float64))


def test_a_list_of_words_has_a_length_and_no_numbers(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["x", "y", "z"]))
    found = contents(tmp_path / "a.npy", MOST)
    assert not found.arrays and found.tables == {"a": 3}


@pytest.mark.parametrize(
    ("words", "arrays", "tables"),
    [
        ("3\n1 # one\n\n2\n", {"a": [3, 1, 2]}, {}),
        ("3, 1\n2\n", {"a": [3, 1, 2]}, {}),
        ("id;loss\n3;0.5\n4;1\n", {"a.0": [3, 4], "a.1": [0.5, 1.0]}, {}),
        ("\ufeff7 8\n", {"a": [7, 8]}, {}),
        ("1e300\nnan\n", {"a": [1e300, float("nan")]}, {}),
        ("one\ntwo\n", {}, {}),
        ("", {}, {}),
        ("# nothing\n", {}, {}),
        ('{"a": [1, 2], "b": {"3": "x", "4": "y"}, "c": "d"}', {"a.a": [1, 2]}, {"a.b": 2}),
        ('[{"x": 1}, {"x": 2}]', {}, {"a": 2}),
        ('{"x": 1}\n{"x": 2}\n', {}, {"a": 2}),
        ("[section]\nkey = 1\n", {}, {}),
    ],
)
def test_texts_give_their_numbers_and_their_lengths(tmp_path, words, arrays, tables):
    (tmp_path / "a.txt").write_text(words, encoding="utf-8")
    found = contents(tmp_path / "a.txt", MOST)
    assert {name: [str(one) for one in value.tolist()] for name, value in found.arrays.items()} == {
        name: [str(one) for one in value] for name, value in arrays.items()
    }
    assert (dict(found.tables), found.opaque) == (tables, "")


def test_a_table_of_words_counts_its_records_without_the_heading(tmp_path):
    (tmp_path / "a.csv").write_text('name,note\na.png,"two\nlines"\nb.png,x\n')
    assert contents(tmp_path / "a.csv", MOST).tables == {"a": 2}
    (tmp_path / "a.md").write_text("name,note\na.png,b\n")
    assert contents(tmp_path / "a.md", MOST).tables == {}


class _Marks:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_no_code_from_a_file_runs(tmp_path):
    marker = tmp_path / "opened"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(_Marks(marker)))
    np.save(tmp_path / "b.npy", np.array([_Marks(marker)], dtype=object), allow_pickle=True)
    saved(tmp_path / "c.pt", {"w": torch.ones(2), "x": _Marks(marker)})
    saved(tmp_path / "d.pt", {"x": _Marks(marker)}, _use_new_zipfile_serialization=False)
    numbered(tmp_path / "e.npz", x=np.array([_Marks(marker)], dtype=object))
    for path in sorted(tmp_path.iterdir()):
        found = contents(path, MOST)
        assert found.opaque and not found.arrays, path
    assert not marker.exists()
    pickle.loads((tmp_path / "a.pkl").read_bytes()).close()
    marker.unlink()  # it does run where it is let


def test_what_is_larger_than_may_be_read_is_not_read(tmp_path):
    store.write_tensors(tmp_path / "a.safetensors", {"w": torch.zeros(300)})
    assert "larger than the 1,000 bytes" in contents(tmp_path / "a.safetensors", 1000).opaque
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        packed = io.BytesIO()
        np.save(packed, np.zeros(10**6))
        archive.writestr("x.npy", packed.getvalue())
    assert (tmp_path / "b.npz").stat().st_size < 10**5
    assert "an archive of more than the 100,000 bytes" in contents(tmp_path / "b.npz", 10**5).opaque
    saved(tmp_path / "c.pt", {"w": torch.zeros(1).expand(10**12)})
    assert "its tensors would take 4000000000000 bytes, at most 1048576" in contents(tmp_path / "c.pt", MOST).opaque
    np.save(tmp_path / "d.npy", np.zeros(300))
    assert len(contents(tmp_path / "d.npy", 1000).arrays["d"]) == 300  # mapped, not read


@pytest.mark.parametrize(
    ("name", "content", "opaque"),
    [
        ("a.h5", b"\x89HDF\r\n\x1a\n\0", "HDF5"),
        ("a", b"GGUF\3\0\0\0", "GGUF"),
        ("a.pt", gzip.compress(b"weights", mtime=0), "compressed (gzip)"),
        ("a.tar", b"x" * 257 + b"ustar\0", "an archive (tar)"),
        ("a", b"\x80\x04N.", "a pickle, which runs code when it is read"),
        ("a.onnx", b"\x08\x07\x12", "in no form that is read here"),
        ("a.safetensors", b"\xff\0\0\0\0\0\0\0{", "in no form that is read here"),
        ("a.npy", b"\x93NUMPY\x01\0", "cannot be read without running code from it, or is damaged"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0", ""),
        ("a.pt", b"", ""),
        ("key", bytes(range(128, 160)), ""),
        ("a.pt", bytes(range(128, 160)), "in no form that is read here"),
    ],
)
def test_what_cannot_be_looked_into_says_why(tmp_path, name, content, opaque):
    (tmp_path / name).write_bytes(content)
    found = contents(tmp_path / name, MOST)
    assert found.opaque.startswith(opaque) and bool(found.opaque) == bool(opaque) and not found.arrays


def test_other_archives_and_sparse_tensors_are_opaque(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("w.safetensors", b"x")
    assert contents(tmp_path / "a.zip", MOST).opaque == "an archive (zip)"
    saved(tmp_path / "b.pt", {"w": torch.eye(3).to_sparse()})
    assert contents(tmp_path / "b.pt", MOST).opaque


def test_lists_that_hold_one_another_many_times_end(tmp_path):
    """Ten lists of ten of the same lists, twelve deep: a few bytes that stand for a million million parts."""
    nest = [torch.ones(1)]
    for _ in range(12):
        nest = [nest] * 10
    saved(tmp_path / "a.pt", nest)
    assert "a nest of more than 500000 parts" in contents(tmp_path / "a.pt", MOST).opaque


def test_a_long_text_is_opaque_and_not_silent(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("1,2\n")
    assert not contents(tmp_path / "a.csv", MOST).opaque
    monkeypatch.setattr(looked, "LARGEST_TEXT", 3)
    assert contents(tmp_path / "a.csv", MOST).opaque == "a text of more than 3 bytes"


def test_torch_unpickles_nothing_here(tmp_path, monkeypatch):
    """Neither a state, nor a nest, nor a module, nor the form of old: torch's own reader is not asked."""
    kinds = {
        "state.pt": ({"w": torch.ones(2)}, True),
        "nest.pt": ({"model": {"w": torch.ones(2)}, "lr": 0.1, "name": "a", "none": None, "on": True}, True),
        "tensor.pt": (torch.ones(2), True),
        "module.pt": (torch.nn.Linear(2, 2), False),
        "set.pt": ({"w": torch.ones(2), "ids": {1, 2}}, False),
    }
    for name, (value, _) in kinds.items():
        saved(tmp_path / name, value)
    saved(tmp_path / "legacy.pt", {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)

    def fail(*_, **__):
        raise AssertionError("unpickled")

    for reader in ("torch.load", "torch.serialization._legacy_load", "pickle.load", "pickle.loads", "pickle.Unpickler"):
        monkeypatch.setattr(reader, fail)
    for name, (_, plain) in kinds.items():
        found = contents(tmp_path / name, MOST)
        assert bool(found.arrays) is plain and bool(found.opaque) is not plain, name
        assert "AssertionError" not in found.opaque
    assert contents(tmp_path / "legacy.pt", MOST).opaque


@pytest.mark.parametrize("place", [0, 1, 2**22 - 3, 2**22, 2**22 + 1])
def test_bytes_are_found_wherever_they_lie_also_across_two_readings(tmp_path, place):
    (tmp_path / "a").write_bytes(bytes(place) + b"needle" + bytes(100))
    assert holds_bytes(tmp_path / "a", [b"straw", b"needle"])
    assert not holds_bytes(tmp_path / "a", [b"needles"]) and not holds_bytes(tmp_path / "a", [])


def test_a_file_that_may_not_be_read_says_so(tmp_path):
    assert readable(tmp_path / "gone") == "No such file or directory"
    (tmp_path / "a").write_text("x")
    assert readable(tmp_path / "a") == ""


def test_weights_that_are_gone_are_none(tmp_path):
    store.write_tensors(tmp_path / "a.safetensors", {"w": torch.ones(2)})
    assert original_weights(tmp_path / "a.safetensors").keys() == {"w"}
    assert original_weights(tmp_path / "b.safetensors") is None
    (tmp_path / "c.safetensors").write_bytes(b"damaged")
    assert original_weights(tmp_path / "c.safetensors") is None


def test_names_that_are_no_utf8_come_by_their_escapes(tmp_path):
    path = tmp_path / os.fsdecode(b"bad" + bytes([255]))
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    assert contents(path, MOST).arrays.keys() == {"bad\\udcff"}
    path.write_text("[[1, 2], []]")
    assert contents(path, MOST).tables == {"bad\\udcff": 2, "bad\\udcff.1": 0}
