import contextlib
import hashlib
import os
from pathlib import Path

import pytest

from excise import errors, store


def names(directory):
    return sorted(path.name for path in directory.iterdir())


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
    assert store.read_sealed(path / "run.json") == record
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
    store.write_sealed(path / "run.json", {**record, "request": None})
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
        lambda record: {**record, "format": 0},
        lambda record: {**record, "pending": {"a": 1}},
        lambda record: {k: v for k, v in record.items() if k != "format"},
        lambda record: {k: v for k, v in record.items() if k != "files"},
        lambda record: {**record, "files": ["model.safetensors"]},
    ],
)
def test_a_record_of_another_form_is_refused(finished, damage):
    path, record = finished
    store.write_sealed(path / "run.json", damage(record))
    with pytest.raises(errors.Corrupt, match=r"run\.json is not a record that this version of excise can read"):
        store.read_record(path)


def test_a_newer_form_is_told_as_one(finished):
    path, record = finished
    store.write_sealed(path / "run.json", {**record, "format": 2})
    with pytest.raises(errors.Corrupt, match=r"written by a newer excise \(form 2, this one reads 1\); update excise"):
        store.read_record(path)


def test_a_record_that_names_files_elsewhere_reads_none_of_them(finished, tmp_path):
    path, record = finished
    (tmp_path / "secret").write_bytes(b"")
    for name in ("../secret", str(tmp_path / "secret"), "a/../../secret"):
        store.write_sealed(path / "run.json", {**record, "files": {name: store.file_digest(tmp_path / "secret")}})
        with pytest.raises(errors.Corrupt, match="expected names of files in it"):
            store.read_record(path)


# ---------------------------------------------------------------- what is added later

CHANGES = {"audit.json": b"numbers", "report.html": b"page"}


def test_what_is_added_is_entered_and_what_was_there_stays(finished):
    path, record = finished
    amended = store.amend_record(path, CHANGES, audit={"verdict": "PASS"})
    assert amended == store.read_record(path)
    assert amended["audit"] == {"verdict": "PASS"} and amended["result"] == record["result"]
    assert amended["files"] == record["files"] | {k: hashlib.sha256(v).hexdigest() for k, v in CHANGES.items()}
    assert "audit" not in store.amend_record(path, audit=None)
    assert store.forget_files(path, ["report.html"], purged=["page"])["purged"] == ["page"]
    assert sorted(store.read_record(path)["files"]) == ["audit.json", "mask.safetensors", "model.safetensors"]
    assert not (path / "report.html").exists() and store.forget_files(path, ["report.html"])


class Killed(BaseException):
    pass


CALLS = ("open", "write", "fsync", "replace", "unlink")


def stopped_at(monkeypatch, number, error):
    """Have the n-th call that changes the disk fail, and, as after a kill, all that follow."""
    made = [0]

    def instead(real):
        def call(*given, **options):
            made[0] += 1
            if made[0] >= number:
                raise error
            return real(*given, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, instead(getattr(os, name)))
    return made


@pytest.mark.parametrize("error", [Killed(), OSError(28, "No space left on device")], ids=["killed", "full"])
def test_an_amendment_stopped_at_any_call_leaves_old_or_new_and_can_be_given_again(finished, monkeypatch, error):
    path, _ = finished
    store.amend_record(path, {"audit.json": b"earlier numbers"})
    before, number = (path / "audit.json").read_bytes(), 0
    while True:
        number += 1
        with monkeypatch.context() as patched:
            made = stopped_at(patched, number, error)
            with contextlib.suppress(Killed, errors.DiskError):
                store.amend_record(path, CHANGES, audit=number)
            calls = made[0]
        record = store.read_record(path)  # sound at every moment
        assert (path / "audit.json").read_bytes() in (before, CHANGES["audit.json"])
        assert record["files"]["model.safetensors"] and record["files"]["audit.json"]
        if calls < number:
            break
        store.amend_record(path, {"audit.json": before})
        with store.lock(path):
            pass
        assert not store.left_over(path)
    assert number > 15 and store.read_record(path)["audit"] == number


def test_a_file_that_is_neither_the_old_nor_the_announced_one_is_found(finished):
    path, record = finished
    pending = {"mask.safetensors": hashlib.sha256(b"new").hexdigest()}
    store.write_sealed(path / "run.json", {**record, "pending": pending})
    for content in (b"mask", b"new"):
        (path / "mask.safetensors").write_bytes(content)
        store.read_record(path)
    (path / "mask.safetensors").write_bytes(b"other")
    with pytest.raises(errors.Corrupt, match=r"mask\.safetensors is not what its record says"):
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


def test_a_directory_that_anybody_may_write_to_is_not_taken(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(errors.BadRequest, match="--out: every user of this machine may write to"):
        store.RunDirectory(tmp_path / "run", REQUEST).finished()


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


def test_a_requests_digest_depends_on_its_values_and_not_on_their_order(tmp_path):
    one, other = ({"a": 1, "b": [0.1]}, {"b": [0.1], "a": 1})
    digests = [store.RunDirectory(tmp_path, request).digest for request in (one, other, {"a": 1, "b": [0.2]})]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] == hashlib.sha256(b'{"a":1,"b":[0.1]}').hexdigest()


def test_a_directory_that_would_hold_the_key_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "run" / ".state"))
    with pytest.raises(
        errors.BadRequest, match=r"--out: .*run would hold .*key, the key that hides row ids in records"
    ):
        store.RunDirectory(tmp_path / "run", REQUEST).finished()


def test_a_run_that_was_begun_gives_way_to_no_other_request(tmp_path):
    run = store.RunDirectory(tmp_path / "run", {**REQUEST, store.DATA: "a"})
    other = store.RunDirectory(tmp_path / "run", {**REQUEST, store.DATA: "a", "seed": 4})
    run.begin()
    assert run.finished() is None and other.finished() is None  # nothing could be lost
    store.write_bytes(tmp_path / "run" / store.CHECKPOINTS / "checkpoint", b"")
    assert store.RunDirectory(tmp_path / "run", {**REQUEST, store.DATA: "b"}).finished() is None  # begins anew
    with pytest.raises(
        errors.BadRequest, match=r"unfinished run of another request \(seed: 3 there, 4 here\); give that"
    ):
        other.finished()
    run.complete([], {})
    assert names(tmp_path / "run") == ["checkpoints", "run.json"]
