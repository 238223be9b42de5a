"""One run at a time: who comes second is told at once, and nothing that a killed run leaves keeps the next one out."""

import json
import multiprocessing
import os
import signal
import socket
import time

import pytest

from excise import errors, store
from excise.store import locks

FORK = multiprocessing.get_context("fork")


def hold(directory, ready, seconds):
    with store.lock(directory):
        ready.put(os.getpid())
        time.sleep(seconds)


@pytest.fixture
def held(tmp_path):
    """A directory that another process holds."""
    directory, ready = tmp_path / "run", FORK.Queue()
    process = FORK.Process(target=hold, args=(directory, ready, 60))
    process.start()
    assert ready.get(timeout=20) == process.pid
    yield directory, process
    process.kill()
    process.join()


def test_a_second_run_is_refused_with_the_name_of_the_first(held):
    directory, process = held
    message = rf"run is in use by process {process.pid} on {socket.gethostname()}, since 2\d\d\d-.*; wait"
    with pytest.raises(errors.InUse, match=message) as found, store.lock(directory):
        pass
    assert found.value.exit_code == 7
    assert store.holder(directory)["pid"] == process.pid


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_killed_run_leaves_keeps_nobody_out_and_a_stopped_one_still_does(held, how):
    directory, process = held
    os.kill(process.pid, how)
    if how == signal.SIGSTOP:
        with pytest.raises(errors.InUse), store.lock(directory):
            pass
        return
    process.join()
    assert (directory / store.LOCK).exists() and store.holder(directory) is None
    (directory / "model.safetensors").write_bytes(b"whole")
    (directory / ".model.safetensors.0123456789ab.tmp").write_bytes(b"broken off")
    (directory / ".bashrc").write_bytes(b"somebody's own")
    with store.lock(directory):
        assert sorted(path.name for path in directory.iterdir()) == [".bashrc", ".lock", "model.safetensors"]
    assert sorted(path.name for path in directory.iterdir()) == [".bashrc", "model.safetensors"]


def test_only_what_was_made_for_the_run_is_taken_away_again(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new"):
        with store.lock(tmp_path / name):
            assert json.loads((tmp_path / name / ".lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "mine").is_dir() and not (tmp_path / "new").exists()


def test_a_failure_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), store.lock(tmp_path):
        raise ZeroDivisionError
    with store.lock(tmp_path):
        assert store.holder(tmp_path)["pid"] == os.getpid()
    assert store.holder(tmp_path) is None


def test_a_lock_within_ones_own_lock_is_refused_too(tmp_path):
    with store.lock(tmp_path), pytest.raises(errors.InUse), store.lock(tmp_path):
        pass


def test_a_file_or_a_place_that_may_not_be_written_cannot_be_held(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(errors.BadRequest, match="expected a directory, found a file at"), store.lock(tmp_path / "a"):
        pass

    def refuse(*_given, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(errors.DiskError, match="cannot be held for this run: Permission denied; choose"):
        store.lock(tmp_path).__enter__()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / store.LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.DiskError, match="cannot be held"), store.lock(tmp_path / "run"):
        pass
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def race(directory, start, done):
    start.wait()
    began = time.monotonic()
    try:
        with store.lock(directory):
            inside = directory / "inside"
            inside.mkdir()  # fails if another is inside
            time.sleep(1.0)
            inside.rmdir()
            done.put(("ran", 0.0))
    except errors.InUse:
        done.put(("refused", time.monotonic() - began))


def test_of_eight_processes_one_runs_and_seven_are_refused_at_once(tmp_path):
    start, done = FORK.Event(), FORK.Queue()
    processes = [FORK.Process(target=race, args=(tmp_path / "run", start, done)) for _ in range(8)]
    for process in processes:
        process.start()
    start.set()
    outcomes = [done.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(what for what, _ in outcomes) == ["ran"] + ["refused"] * 7
    assert max(seconds for _, seconds in outcomes) <= 1.0


def test_a_lock_that_another_removed_in_between_is_not_ours(tmp_path, monkeypatch):
    seen = []

    def first_gone(path, descriptor):
        seen.append(path)
        if len(seen) == 1:
            path.unlink()
        return real(path, descriptor)

    real = locks._still_there
    monkeypatch.setattr(locks, "_still_there", first_gone)
    with store.lock(tmp_path):
        assert len(seen) == 2 and store.holder(tmp_path)["pid"] == os.getpid()


def test_what_a_killed_run_has_left_is_put_away_and_a_running_one_is_let_be(held):
    directory, process = held
    (directory / "model.safetensors").write_bytes(b"whole")
    (directory / ".model.safetensors.0123456789ab.tmp").write_bytes(b"broken off")
    store.tidy(directory)
    assert len(list(directory.iterdir())) == 3 and store.holder(directory)["pid"] == process.pid
    process.kill()
    process.join()
    store.tidy(directory)
    assert [path.name for path in directory.iterdir()] == ["model.safetensors"]
    before = directory.stat().st_mtime_ns
    store.tidy(directory)
    assert directory.stat().st_mtime_ns == before


def test_a_link_that_leads_nowhere_is_told_and_not_tried_for_ever(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "gone")
    with pytest.raises(errors.BadRequest, match="found a link that leads nowhere at"), store.lock(tmp_path / "run"):
        pass
    with pytest.raises(errors.DiskError, match="cannot be held"), store.lock(tmp_path / "run" / "deeper"):
        pass


def test_a_full_disk_does_not_keep_the_lock(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with (
            store.lock(tmp_path),
            pytest.raises(errors.InUse, match="in use by another process"),
            store.lock(tmp_path),
        ):
            pass
    with store.lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
