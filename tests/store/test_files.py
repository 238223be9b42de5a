import hashlib
import os
import stat
from pathlib import Path

import pytest

from excise import errors, store
from excise.store import files


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
    monkeypatch.setattr(files, "_sync_directory", fail)
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


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "p")
    with pytest.raises(errors.DiskError, match="a device, a pipe or a socket, which a file would replace"):
        store.write_bytes(tmp_path / "p", b"new")
    assert (tmp_path / "p").is_fifo() and names(tmp_path) == ["p"]


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


def test_a_files_digest_is_the_hash_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(content)
    assert store.file_digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_sweep_takes_what_broken_off_writes_have_left_and_lets_a_write_that_is_under_way_be(target, monkeypatch):
    stale = target.with_name(".a.bin.0123456789ab.tmp")
    stale.write_bytes(b"half")
    seen = []

    def swept(descriptor, *, real=os.fsync):
        if not seen:
            seen.append(names(target.parent))
            assert store.sweep([target.parent]) == [stale]
        real(descriptor)

    monkeypatch.setattr("os.fsync", swept)
    store.write_bytes(target, b"new")
    assert len(seen[0]) == 3  # the old file, what was left, what was being written
    assert names(target.parent) == ["a.bin"] and target.read_bytes() == b"new"
    assert store.sweep([target.parent]) == []


def test_a_write_whose_file_was_swept_before_it_was_held_begins_anew(target, monkeypatch):
    made = []

    def first_gone(path, *given, real=os.open):
        descriptor = real(path, *given)
        if str(path).endswith(".tmp"):
            made.append(path)
            if len(made) == 1:
                path.unlink()
        return descriptor

    monkeypatch.setattr("os.open", first_gone)
    store.write_bytes(target, b"new")
    assert len(made) == 2 and target.read_bytes() == b"new" and names(target.parent) == ["a.bin"]


def test_a_temporary_name_that_is_a_link_goes_and_what_it_leads_to_stays(target):
    link = target.with_name(".b.bin.0123456789ab.tmp")
    link.symlink_to(target)
    assert store.sweep([target.parent]) == [link]
    assert names(target.parent) == ["a.bin"] and target.read_bytes() == b"old"
