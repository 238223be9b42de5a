import os
import re
from pathlib import Path

import pytest

from excise import errors, store
from excise.store.places import inside, require_apart, require_private
from tests.hostile.names import PATHS

OURS = [
    "run.json",
    "model.safetensors",
    "a",
    "_a",
    "last-finite.safetensors",
    "audit-2.json",
    "checkpoints/a-0001.safetensors",
    "0" * 64 + ".safetensors",
    "x" * 200,
    "console.txt",
]


@pytest.mark.parametrize("name", OURS)
def test_our_own_names_are_paths_below_the_directory(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name
    store.write_bytes(inside(tmp_path, name), b"x")
    assert inside(tmp_path, name).read_bytes() == b"x"


def test_there_are_enough_hostile_names():
    assert len(set(PATHS)) == len(PATHS) >= 60


@pytest.mark.parametrize("name", PATHS, ids=range(len(PATHS)))
def test_no_hostile_name_becomes_a_path(tmp_path, name):
    with pytest.raises(
        errors.Corrupt, match=r"expected names of files in it .*, found .*; take the directory from where"
    ):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", [*PATHS, "link/x", "way/x", "out"], ids=range(len(PATHS) + 3))
def test_no_hostile_name_in_a_record_is_written_or_read(tmp_path, name):
    """The naive way, `root / name`, reaches the canary by several of these names; ours by none."""
    root, canary = tmp_path / "home" / "run", tmp_path / "x"
    canary.write_bytes(b"canary")
    store.write_bytes(root / "model.safetensors", b"x")
    (root / "link").symlink_to(tmp_path)
    (root / "way").symlink_to("../..")
    (root / "out").symlink_to(canary)
    record = {"format": 1, "request": {}, "result": {}, "files": {name: store.file_digest(canary)}}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    if "\udc80" not in name:  # JSON has no such letter
        store.write_sealed(root / "run.json", record)
        before[root / "run.json"] = (root / "run.json").read_bytes()
        with pytest.raises(errors.Corrupt, match=r"expected names of files in it|leads to .*, out of its directory"):
            store.read_record(root)
    with pytest.raises(errors.Corrupt, match=r"expected names of files in it|leads to .*, out of its directory"):
        store.write_bytes(inside(root, name), b"changed")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_naive_way_does_reach_the_canary(tmp_path):
    (tmp_path / "home" / "run").mkdir(parents=True)
    (tmp_path / "x").write_bytes(b"canary")
    reached = [name for name in PATHS if "\0" not in name and len(name) < 200]
    reached = [name for name in reached if (tmp_path / "home" / "run" / name).resolve() == tmp_path / "x"]
    reached += [name for name in PATHS if name == "/etc/passwd" and tmp_path / name == Path(name)]
    assert {"a/../../x", "/etc/passwd"} & set(reached)


def test_links_are_followed_before_they_are_judged(tmp_path):
    root = tmp_path / "run"
    (root / "deep").mkdir(parents=True)
    (root / "here").symlink_to("deep")
    (root / "self").symlink_to(".")
    (root / "round").symlink_to("round")
    (tmp_path / "run-evil").mkdir()
    (root / "evil").symlink_to("../run-evil")
    assert inside(root, "here/a") == root / "here" / "a"
    assert inside(root, "self/a") == root / "self" / "a"
    for name, message in (
        ("self", "leads to .*, out of its directory; remove that link"),
        ("evil/a", "leads to .*run-evil/a, out of its directory"),
        ("round/a", "leads nowhere|leads to"),
    ):
        with pytest.raises(errors.Corrupt, match=message):
            inside(root, name)
    (tmp_path / "alias").symlink_to(root)
    assert inside(tmp_path / "alias", "a") == tmp_path / "alias" / "a"


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_a_directory_that_everybody_may_write_to_is_refused(tmp_path):
    for mode, open_to_all in ((0o777, True), (0o1777, True), (0o702, True), (0o775, False), (0o700, False)):
        tmp_path.chmod(mode)
        if not open_to_all:
            require_private(tmp_path, "--out")
            continue
        with pytest.raises(
            errors.BadRequest,
            match=rf"--out: every user of this machine may write to {re.escape(str(tmp_path))}, .*chmod o-w",
        ):
            require_private(tmp_path, "--out")
    require_private(tmp_path / "not there yet", "--out")


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o177])
def test_what_is_written_is_its_owner_s_alone_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        if mask != 0o177:
            store.write_json(tmp_path / "a" / "b" / "c.json", {})
        store.write_bytes(tmp_path / "d", b"")
    finally:
        os.umask(before)
    made = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    expected = {"a": 0o700, "a/b": 0o700, "a/b/c.json": 0o600} if mask != 0o177 else {}
    assert made == {**expected, "d": 0o600}


def test_the_key_never_lies_where_records_are(tmp_path):
    key = tmp_path / "state" / "excise" / "key"
    require_apart(key, tmp_path / "run", "--out")
    require_apart(key, tmp_path / "state" / "excise" / "key-of-another", "--out")
    (tmp_path / "link").symlink_to(tmp_path / "state")
    for directory in (tmp_path, tmp_path / "state", tmp_path / "state" / "x" / ".." / "excise", tmp_path / "link"):
        with pytest.raises(
            errors.BadRequest, match=r"--out: .* would hold .*key, the key that hides row ids in records"
        ):
            require_apart(key, directory, "--out")
