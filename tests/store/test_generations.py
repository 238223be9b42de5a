import hashlib
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from excise import errors
from excise.store.generations import Generations
from tests.probes import raw

TENSORS = {
    "a": torch.tensor([[1.5, -0.0], [float("inf"), float("nan")]], dtype=torch.float64),
    "b": torch.arange(3),
    "deep/name": torch.tensor(True),
    "c": torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).bfloat16().T,
    "d": torch.zeros(0, 2, dtype=torch.uint8),
}
FACTS = {"epoch": 3, "loss": 0.1 + 0.2, "words": ["ä", None, True]}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def numbered(directory, *values):
    kept = Generations(directory)
    return kept, [kept.keep({"x": torch.tensor(float(value))}, {"value": value}) for value in values]


def flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_what_is_kept_is_read_back_to_the_bit(tmp_path):
    Generations(tmp_path).keep(TENSORS, FACTS)
    found, skipped = Generations(tmp_path).newest()
    assert skipped == [] and found.facts == FACTS
    assert set(found.tensors) == set(TENSORS)
    for name, value in TENSORS.items():
        assert found.tensors[name].dtype == value.dtype and found.tensors[name].shape == value.shape
        assert torch.equal(raw(found.tensors[name]), raw(value))


def test_tensors_that_share_memory_are_kept_each(tmp_path):
    whole = torch.arange(6.0)
    Generations(tmp_path).keep({"one": whole, "other": whole, "part": whole[2:4]}, None)
    tensors = Generations(tmp_path).newest()[0].tensors
    assert [tensors[name].tolist() for name in ("one", "other", "part")] == [whole.tolist()] * 2 + [[2.0, 3.0]]


def test_a_file_is_named_by_its_bytes_and_is_for_its_owner_only(tmp_path):
    path = Generations(tmp_path / "a" / "b").keep(TENSORS, FACTS, series=2)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"checkpoint-0002-00000001-{digest}.safetensors"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(place.stat().st_mode) for place in (path.parent, path.parent.parent)] == [0o700] * 2


def test_the_newest_and_the_one_before_stay(tmp_path):
    kept, paths = numbered(tmp_path, 1, 2, 3, 4)
    assert names(tmp_path) == sorted(path.name for path in paths[-2:])
    assert kept.newest()[0].facts == {"value": 4}
    after = Generations(tmp_path)  # another process goes on
    assert after.newest()[0].path == paths[-1]
    last = after.keep({}, {"value": 5})
    assert names(tmp_path) == sorted(path.name for path in (paths[-1], last))


def test_series_are_kept_apart(tmp_path):
    kept = Generations(tmp_path)
    for series in (1, 2, 12):
        for value in range(3):
            kept.keep({}, [series, value], series=series)
    assert [kept.newest(series)[0].facts for series in (1, 2, 12)] == [[1, 2], [2, 2], [12, 2]]
    assert len(names(tmp_path)) == 6
    assert kept.newest(3) == (None, [])


def test_every_changed_byte_is_found_and_the_generation_before_takes_over(tmp_path, monkeypatch):
    kept, (before, newest) = numbered(tmp_path, 1, 2)
    parsed = []
    load = safetensors.torch.load
    monkeypatch.setattr(safetensors.torch, "load", lambda content: parsed.append(content) or load(content))
    for place in range(newest.stat().st_size):
        flip(newest, place, place % 8)
        found, skipped = kept.newest()
        assert found.path == before and found.tensors["x"] == 1 and len(skipped) == 1
        flip(newest, place, place % 8)
    assert set(parsed) == {before.read_bytes()}  # damaged bytes are never parsed
    expected = newest.name.split("-")[3].removesuffix(".safetensors")
    flip(newest, 100)
    found = hashlib.sha256(newest.read_bytes()).hexdigest()
    assert kept.newest()[1] == [f"{newest} is damaged and passed over: expected SHA-256 {expected}, found {found}"]


@pytest.mark.parametrize("length", [0, 7, 8, 60, -1])
def test_a_file_cut_short_is_found(tmp_path, length):
    kept, (before, newest) = numbered(tmp_path, 1, 2)
    newest.write_bytes(newest.read_bytes()[:length])
    found, skipped = kept.newest()
    assert found.path == before
    assert [sentence.split(" is ")[0] for sentence in skipped] == [str(newest)]


def test_two_damaged_ones_leave_none(tmp_path):
    kept, paths = numbered(tmp_path, 1, 2)
    for path in paths:
        flip(path, 3)
    found, skipped = kept.newest()
    assert found is None
    assert [sentence.split(" is ")[0] for sentence in skipped] == [str(path) for path in reversed(paths)]
    assert kept.damaged() == skipped[::-1]


def test_bytes_under_another_generations_name_are_found(tmp_path):
    _, (before, newest) = numbered(tmp_path, 1, 2)
    newest.write_bytes(before.read_bytes())
    assert Generations(tmp_path).newest()[0].path == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        b"\xff" * 8 + b"{}",
        safetensors.torch.save({"x": torch.ones(1)}),
        safetensors.torch.save({"x": torch.ones(1)}, {"facts": "{"}),
        b"\x02\0\0\0\0\0\0\0[]",
    ],
)
def test_what_bears_its_own_hash_and_is_no_checkpoint_is_passed_over(tmp_path, content):
    kept, (path,) = numbered(tmp_path, 1)
    forged = tmp_path / f"checkpoint-0000-00000009-{hashlib.sha256(content).hexdigest()}.safetensors"
    forged.write_bytes(content)
    found, (sentence,) = kept.newest()
    assert found.path == path
    assert f"{forged} is no checkpoint that this version of excise can read (" in sentence


def test_a_file_that_cannot_be_read_is_passed_over(tmp_path, monkeypatch):
    kept, (before, newest) = numbered(tmp_path, 1, 2)
    read = Path.read_bytes

    def refuse(path):
        if path == newest:
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    found, skipped = kept.newest()
    assert found.path == before
    assert skipped == [f"{newest} cannot be read (Input/output error) and is passed over"]


def test_a_damaged_one_never_takes_the_place_of_a_whole_one(tmp_path):
    _, (before, newest) = numbered(tmp_path, 1, 2)
    flip(newest, 50)
    after = Generations(tmp_path)
    assert after.newest()[0].path == before
    third = after.keep({}, {"value": 3})
    assert names(tmp_path) == sorted(path.name for path in (before, third))
    flip(third, 50)
    assert Generations(tmp_path).newest()[0].facts == {"value": 1}


@pytest.mark.parametrize("broken", ["os.fsync", "os.open", "os.write"])
def test_a_full_disk_leaves_those_before(tmp_path, monkeypatch, broken):
    kept, paths = numbered(tmp_path, 1, 2)

    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(broken, fail)
        with pytest.raises(errors.DiskError, match=r"could not write .*checkpoint-0000-00000003-"):
            kept.keep({}, {"value": 3})
    assert names(tmp_path) == sorted(path.name for path in paths)
    assert kept.newest()[0].facts == {"value": 2}
    kept.keep({}, {"value": 3})
    assert Generations(tmp_path).newest()[0].facts == {"value": 3}


def test_clearing_removes_every_series_what_is_left_over_and_the_directory(tmp_path):
    place = tmp_path / "kept"
    kept = Generations(place)
    for series in range(3):
        kept.keep({}, series, series=series)
    (place / f".checkpoint-0000-00000002-{'a' * 64}.safetensors.0123456789ab.tmp").write_bytes(b"half")
    Generations(place).clear()
    assert names(tmp_path) == []
    Generations(place).clear()  # once more is no error
    kept.keep({}, "again")
    assert kept.newest()[0].facts == "again"


def test_clearing_leaves_what_is_not_its_own(tmp_path):
    kept, _ = numbered(tmp_path, 1)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / f"checkpoint-0000-00000001-{'b' * 64}.safetensors").mkdir()
    kept.clear()
    assert names(tmp_path) == [f"checkpoint-0000-00000001-{'b' * 64}.safetensors", "notes.txt"]


def test_a_directory_that_cannot_be_removed_is_told(tmp_path, monkeypatch):
    kept, _ = numbered(tmp_path / "kept", 1)

    def fail(*_args, **_options):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "rmdir", fail)
    monkeypatch.setattr(Path, "rmdir", fail)
    with pytest.raises(errors.DiskError, match=r"could not remove .*kept: Operation not permitted; see who may write"):
        kept.clear()
