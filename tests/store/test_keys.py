import hashlib
import os
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise import errors, params, store
from excise.store import keys


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


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


@pytest.mark.parametrize("content", [b"", b"\0", b"x" * 31, b"x" * 33, b"x" * 100_000])
def test_what_is_no_key_hides_nothing(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "excise").mkdir()
    (tmp_path / "excise" / "key").write_bytes(content)
    found = "more" if len(content) > 32 else len(content)
    with pytest.raises(errors.Corrupt, match=f"key: expected a key of 32 bytes, found {found}; restore it, or remove"):
        store.commitment(torch.tensor([3]))
    assert (tmp_path / "excise" / "key").read_bytes() == content


def _calls(monkeypatch):
    """The calls that change the disk or bring it up to date, in order, with the names of what they change."""
    seen = []
    real = {name: getattr(os, name) for name in ("fsync", "link", "unlink")}

    def synced(descriptor):
        seen.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        real["fsync"](descriptor)

    def linked(source, target, **options):
        seen.append(("link", Path(target).name))
        real["link"](source, target, **options)

    def unlinked(path, **options):
        seen.append(("unlink", Path(path).name))
        real["unlink"](path, **options)

    for name, call in (("fsync", synced), ("link", linked), ("unlink", unlinked)):
        monkeypatch.setattr(os, name, call)
    return seen


def test_a_key_is_on_the_disk_with_its_name_before_anything_is_hidden_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    seen = _calls(monkeypatch)
    store.commitment(torch.tensor([3]))
    at = seen.index(("link", "key"))
    assert seen[at - 1] == ("fsync", "excise")  # what the link leads to is whole
    assert seen[at + 1][0] == "unlink" and seen[at + 2 :] == [("fsync", "excise")]
    assert [path.name for path in (tmp_path / "excise").iterdir()] == ["key"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["link", "unlink"])
def test_a_copy_of_the_key_that_a_kill_has_left_is_swept_by_the_next_run(tmp_path, monkeypatch, where):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    home = tmp_path / "excise"

    def dies(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", dies)
        if where == "link":
            patch.setattr(os, "link", dies)
        with pytest.raises(Killed):
            store.commitment(torch.tensor([3]))
    (left,) = [path for path in home.iterdir() if path.name != "key"]
    assert store.left_over(home) == [left]  # a sweep knows it
    assert (home / "key").exists() == (where == "unlink")
    found = store.commitment(torch.tensor([3]))
    assert [path.name for path in home.iterdir()] == ["key"]
    assert store.commitment(torch.tensor([3])) == found


def test_a_copy_that_another_first_run_has_swept_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    real, left = os.link, [1]

    def swept(source, target, **options):
        if left:
            left.pop()
            Path(source).unlink()
        real(source, target, **options)

    monkeypatch.setattr(os, "link", swept)
    assert store.commitment(torch.tensor([3])) == store.commitment(torch.tensor([3]))
    assert not left and [path.name for path in (tmp_path / "excise").iterdir()] == ["key"]


def test_a_link_that_leads_nowhere_is_no_place_for_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "excise").mkdir()
    (tmp_path / "excise" / "key").symlink_to(tmp_path / "nowhere")
    with pytest.raises(errors.DiskError, match="the key that hides row ids in records cannot be kept"):
        store.commitment(torch.tensor([3]))


def test_a_commitments_key_is_kept_in_the_home_directory_without_a_state_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    store.commitment(torch.tensor([3]))
    assert (tmp_path / ".local" / "state" / "excise" / "key").is_file()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "excise" / "keys"


def test_a_key_is_kept_for_its_owner_only_and_found_by_its_id(home):
    several = [keys.new_key() for _ in range(20)]
    assert len({key.id for key in several}) == len({key.secret for key in several}) == 20
    for key in several:
        assert keys.load_key(key.id) == key
        assert stat.S_IMODE((home / key.id).stat().st_mode) == 0o600
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert key.secret.hex() not in repr(key)
        assert repr(key.secret)[2:-1] not in repr(key)
        assert key.secret[:4].hex() not in key.id


def test_a_secret_that_a_killed_write_has_left_is_swept_by_the_next_key(home):
    keys.new_key()
    left = home / f".k-{'0' * 32}.{'a' * 12}.tmp"
    left.write_bytes(b"a secret")
    keys.new_key()
    assert not left.exists() and len(list(home.iterdir())) == 2


def test_a_seed_does_not_decide_a_key(home):
    found = set()
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found.add(keys.new_key().secret)
    assert len(found) == 2


def test_a_destroyed_key_is_gone_from_the_disk_and_says_so(home):
    key, other = keys.new_key(), keys.new_key()
    for _ in range(2):
        keys.destroy_key(key.id)
        assert (home / key.id).read_bytes() == bytes(64)
        with pytest.raises(errors.BadRequest, match=f"the key {key.id} was destroyed"):
            keys.load_key(key.id)
    assert keys.load_key(other.id) == other


def test_a_damaged_key_is_refused(home):
    key = keys.new_key()
    whole = (home / key.id).read_bytes()
    for place in range(64):
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << place % 8
        (home / key.id).write_bytes(spoiled)
        with pytest.raises(errors.Corrupt, match="is not the key it was"):
            keys.load_key(key.id)
    for content in (whole[:-1], whole[:32], b"", whole + b"x"):
        (home / key.id).write_bytes(content)
        with pytest.raises(errors.Corrupt, match="is not the key it was"):
            keys.load_key(key.id)


@pytest.mark.parametrize(
    "id", ["", "../key", "k-..", "k-" + "A" * 32, "/etc/passwd", "k-" + "0" * 33, "k-" + "0" * 32 + "\n"]
)
def test_what_is_no_id_reaches_no_file(home, id):
    for ask in (keys.load_key, keys.destroy_key):
        with pytest.raises(errors.BadRequest, match="expected the id of a key"):
            ask(id)


def test_a_key_that_is_not_there_is_named(home):
    for ask in (keys.load_key, keys.destroy_key):
        with pytest.raises(errors.BadRequest, match=r"expected the key k-0{32} in .*, found none; set XDG_STATE_HOME"):
            ask("k-" + "0" * 32)


def test_a_key_that_cannot_be_read_or_destroyed_is_an_error_of_the_disk(home, monkeypatch):
    key = keys.new_key()

    def fail(*_args, **_options):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail)
        with pytest.raises(errors.DiskError, match=r"could not destroy the key .*Input/output error"):
            keys.destroy_key(key.id)
    (home / key.id).unlink()
    (home / key.id).mkdir()
    with pytest.raises(errors.DiskError, match="cannot be read"):
        keys.load_key(key.id)


def test_without_a_home_there_is_no_place_for_keys(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(keys.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(errors.DiskError, match="there is no place for keys: no home"):
        keys.new_key()
    with pytest.raises(errors.DiskError, match="the key that hides row ids in records cannot be kept"):
        store.commitment(torch.tensor([1]))


def test_a_pipe_in_place_of_a_key_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    key = keys.new_key()
    for path in (tmp_path / "excise" / "keys" / key.id, tmp_path / "excise" / "key"):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    for use in (
        lambda: keys.load_key(key.id),
        lambda: keys.destroy_key(key.id),
        lambda: store.commitment(torch.arange(3)),
    ):
        with pytest.raises(errors.DiskError, match="is a directory, a pipe or a device"):
            use()
