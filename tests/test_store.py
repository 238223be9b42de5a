import hashlib
import json
import os
import pickle
import re
import stat
import zipfile
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from excise import errors, params, store
from tests.cases import CASES


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "a.bin"
    store.write_bytes(path, b"old")
    return path


def fail(*_args, **_options):
    raise OSError(28, "No space left on device")


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "er" / "a.bin"
    for content in (b"first", b"", bytes(range(256)) * 5000):
        store.write_bytes(path, content)
        assert path.read_bytes() == content
        assert names(path.parent) == ["a.bin"]


def test_a_file_is_for_its_owner_only(tmp_path):
    before = os.umask(0)
    try:
        store.write_bytes(tmp_path / "a.bin", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o600


@pytest.mark.parametrize("broken", ["os.fsync", "os.open", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(target, monkeypatch, broken):
    with monkeypatch.context() as patched:
        patched.setattr(broken, fail)
        with pytest.raises(
            errors.DiskError, match=r"could not write .*a\.bin \(3 bytes\): No space left on device"
        ) as found:
            store.write_bytes(target, b"new")
    assert found.value.exit_code == 5 and isinstance(found.value, OSError)
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["a.bin"]


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace"])
def test_an_interrupt_leaves_the_old_file_and_nothing_else(target, monkeypatch, broken):
    def interrupt(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(broken, interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["a.bin"]


def test_the_content_is_on_disk_before_it_has_its_name_and_the_name_before_it_returns(target, monkeypatch):
    seen = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor):
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        seen.append((f"sync {kind}", os.fstat(descriptor).st_size if kind == "file" else None, target.read_bytes()))
        real_sync(descriptor)

    def replace(path, other):
        assert path.parent == other.parent  # a rename across file systems is no rename
        seen.append(("rename", path.stat().st_size, other.read_bytes()))
        return real_replace(path, other)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    store.write_bytes(target, b"newer")
    assert seen == [("sync file", 5, b"old"), ("rename", 5, b"old"), ("sync directory", None, b"newer")]


def test_a_directory_that_cannot_be_synced_is_told_though_the_file_is_whole(target, monkeypatch):
    monkeypatch.setattr(store, "_sync_directory", fail)
    with pytest.raises(errors.DiskError, match="No space left"):
        store.write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["a.bin"]


@pytest.mark.parametrize(
    ("place", "word"),
    [("a.bin/below", "Not a directory|File exists"), ("x" * 300, "name too long")],
    ids=["below", "long"],
)
def test_a_path_that_cannot_be_is_a_disk_error(target, place, word):
    with pytest.raises(errors.DiskError, match=rf"could not write .*({word}).*free some space or choose another"):
        store.write_bytes(target.parent / place, b"new")
    assert names(target.parent) == ["a.bin"]


def test_a_directory_is_not_overwritten(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(errors.DiskError, match="could not write"):
        store.write_bytes(tmp_path / "d", b"new")
    assert names(tmp_path) == ["d"]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@given(value=plain)
def test_json_comes_back_and_is_what_the_standard_library_reads(shared, value):
    path = shared / "a.json"
    store.write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert store.read_json(path) == value == json.loads(text)
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_structures_are_written_as_their_fields(tmp_path):
    class Point(msgspec.Struct):
        x: int
        y: list[float]

    store.write_json(tmp_path / "a.json", {"at": Point(1, [0.1])})
    assert store.read_json(tmp_path / "a.json") == {"at": {"x": 1, "y": [0.1]}}
    assert (tmp_path / "a.json").read_bytes() == b'{\n "at": {\n  "x": 1,\n  "y": [\n   0.1\n  ]\n }\n}\n'


def test_json_that_is_missing_or_damaged_is_told_apart(tmp_path):
    with pytest.raises(errors.BadData, match=r"expected a file at .*a\.json, found none"):
        store.read_json(tmp_path / "a.json")
    with pytest.raises(errors.BadData, match=r"is not a readable file: Is a directory"):
        store.read_json(tmp_path)
    for damaged in (b"{", b"", b"\xff\xfe", b'{"a": "\xff"}', b"nan"):
        (tmp_path / "a.json").write_bytes(damaged)
        with pytest.raises(errors.Corrupt, match=r"a\.json is not JSON") as found:
            store.read_json(tmp_path / "a.json")
        assert found.value.exit_code == 6


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


def test_what_is_removed_is_gone_and_the_rest_is_there(target, monkeypatch):
    store.write_bytes(target.with_name("b.bin"), b"other")
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    store.remove(target)
    assert names(target.parent) == ["b.bin"] and synced == [True]
    monkeypatch.setattr(os, "fsync", sync)
    store.remove(target)  # gone already
    assert names(target.parent) == ["b.bin"]
    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(errors.DiskError, match=r"could not remove .*b\.bin: No space left on device"):
        store.remove(target.with_name("b.bin"))


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
    for damaged in (b"", b"PK", whole[: len(whole) // 2]):
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


def test_a_files_digest_is_the_hash_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(content)
    assert store.file_digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()


REQUEST = {"recipe": "DEL", "seed": 3, "ids": (1, 2), "budget": 0.3, "nested": {"a": None}}


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "run"
    run = store.RunDirectory(path, REQUEST)
    assert run.finished() is None and not path.exists()
    store.write_bytes(path / "model.safetensors", b"weights")
    store.write_bytes(path / "mask.safetensors", b"mask")
    assert run.finished() is None  # the record comes last
    record = run.complete(["model.safetensors", "mask.safetensors"], {"seconds": 1.5, "shape": (1, 2)})
    return path, record


def test_a_record_says_what_was_asked_what_came_of_it_and_what_each_file_is(finished):
    path, record = finished
    assert json.loads((path / "run.json").read_text()) == record
    assert record["request"] == {**REQUEST, "ids": [1, 2]}
    assert record["result"] == {"seconds": 1.5, "shape": [1, 2]}
    assert record["files"] == {
        "mask.safetensors": hashlib.sha256(b"mask").hexdigest(),
        "model.safetensors": hashlib.sha256(b"weights").hexdigest(),
    }


def test_the_same_request_again_finds_it_done(finished):
    path, record = finished
    before = {entry: entry.stat().st_mtime_ns for entry in path.iterdir()}
    assert store.RunDirectory(path, REQUEST).finished() == record == store.read_record(path)
    assert {entry: entry.stat().st_mtime_ns for entry in path.iterdir()} == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({**REQUEST, "seed": 4}, "seed: 3 there, 4 here"),
        ({**REQUEST, "device": "cpu"}, "device: nothing there, 'cpu' here"),
        ({**REQUEST, "device": None}, "device: nothing there, None here"),
        ({"recipe": "DEL"}, r"budget: 0\.3 there, nothing here"),
        ({**REQUEST, "nested": {"a": None, "b": [1]}}, r"nested, b: nothing there, \[1\] here"),
    ],
)
def test_another_request_does_not_get_the_directory(finished, other, message):
    path, _ = finished
    with pytest.raises(
        errors.BadRequest, match=rf"run holds the run of another request \({message}\); choose another --out"
    ):
        store.RunDirectory(path, other).finished()


def test_a_record_of_nothing_readable_is_another_request(finished):
    path, record = finished
    store.write_json(path / "run.json", {**record, "request": None})
    with pytest.raises(errors.BadRequest, match="no readable request"):
        store.RunDirectory(path, REQUEST).finished()


def test_a_changed_or_missing_file_is_told_with_both_hashes(finished):
    path, record = finished
    (path / "mask.safetensors").write_bytes(b"mosk")
    expected, found = record["files"]["mask.safetensors"], hashlib.sha256(b"mosk").hexdigest()
    for look in (store.RunDirectory(path, REQUEST).finished, lambda: store.read_record(path)):
        with pytest.raises(errors.Corrupt, match=f"expected SHA-256 {expected}, found {found}") as caught:
            look()
        assert caught.value.exit_code == 6
    (path / "mask.safetensors").unlink()
    with pytest.raises(
        errors.Corrupt, match=rf"should hold mask\.safetensors \(SHA-256 {expected[:12]}…\), and does not"
    ):
        store.read_record(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: [],
        lambda record: {**record, "format": 2},
        lambda record: {k: v for k, v in record.items() if k != "format"},
        lambda record: {k: v for k, v in record.items() if k != "files"},
        lambda record: {**record, "files": ["model.safetensors"]},
    ],
)
def test_a_record_of_another_form_is_refused(finished, damage):
    path, record = finished
    store.write_json(path / "run.json", damage(record))
    with pytest.raises(errors.Corrupt, match=r"run\.json is not a record that this version of excise can read"):
        store.read_record(path)


def test_no_record_is_bad_data(tmp_path):
    with pytest.raises(errors.BadData, match=r"expected a file at .*run\.json, found none"):
        store.read_record(tmp_path)


def test_a_directory_with_a_strangers_files_is_not_taken(tmp_path):
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "model.safetensors").write_bytes(b"")  # left by a run that was interrupted
    assert store.RunDirectory(tmp_path, REQUEST).finished() is None
    (tmp_path / "thesis.tex").write_bytes(b"")
    with pytest.raises(
        errors.BadRequest, match=r"expected an empty or new directory for --out, found .* with 'thesis\.tex'"
    ):
        store.RunDirectory(tmp_path, REQUEST).finished()


@pytest.mark.parametrize("below", [".", "a", "a/b"])
def test_a_file_is_no_run_directory_and_holds_none(tmp_path, below):
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(
        errors.BadRequest, match=r"expected a directory for --out, found a file at .*/run; choose another"
    ):
        store.RunDirectory(tmp_path / "run" / below, REQUEST).finished()


@pytest.mark.parametrize("below", [".", "a/b"])
def test_a_directory_that_may_not_be_written_is_told_before_any_work(tmp_path, monkeypatch, below):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((Path(path), mode)))
    with pytest.raises(
        errors.DiskError, match=r"--out: .* may not be written by this user; choose another directory"
    ) as found:
        store.RunDirectory(tmp_path / below, REQUEST).finished()
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]
    assert found.value.exit_code == 5


def test_a_finished_run_is_found_where_nothing_may_be_written(finished, monkeypatch):
    path, record = finished
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert store.RunDirectory(path, REQUEST).finished() == record


def test_a_run_that_diverged_may_be_tried_again_and_leaves_nothing_of_it(tmp_path):
    run = store.RunDirectory(tmp_path, REQUEST)
    store.write_bytes(tmp_path / store.LAST_FINITE, b"x")
    assert run.finished() is None
    store.write_bytes(tmp_path / "model.safetensors", b"x")
    assert run.complete(["model.safetensors"], {}) == run.finished()
    assert names(tmp_path) == ["model.safetensors", "run.json"]


def test_a_request_is_kept_as_it_was_when_given(tmp_path):
    mine = {"ids": [1]}
    run = store.RunDirectory(tmp_path, mine)
    mine["ids"].append(2)
    assert run.request == {"ids": [1]}


@given(st.lists(st.integers(0, 99), unique=True), st.lists(st.integers(0, 99), unique=True))
def test_a_commitment_tells_ids_apart_and_repeats(shared, one, other):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(shared))
        found = [store.commitment(torch.tensor(ids, dtype=torch.int64)) for ids in (one, other, one)]
    assert (found[0] == found[1]) == (one == other)
    assert found[0] == found[2]


def test_a_commitment_is_not_to_be_guessed_without_the_key(tmp_path, monkeypatch):
    ids, found = torch.tensor([3]), set()
    for home in ("a", "b"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / home))
        found.add(store.commitment(ids))
        key = tmp_path / home / "excise" / "key"
        assert len(key.read_bytes()) == 32
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(found) == 2
    assert hashlib.sha256(bytes(params.raw_bytes(ids))).hexdigest() not in found


def test_a_commitments_key_is_kept_in_the_home_directory_without_a_state_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    store.commitment(torch.tensor([3]))
    assert (tmp_path / ".local" / "state" / "excise" / "key").is_file()


def test_safetensors_written_by_others_are_read(tmp_path):
    state = CASES["mlp"].make().state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert params.digest(store.read_weights(tmp_path / "w.safetensors")) == params.digest(state)
