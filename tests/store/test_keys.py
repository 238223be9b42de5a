import hashlib
import stat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise import params, store


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


def test_a_commitments_key_is_kept_in_the_home_directory_without_a_state_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    store.commitment(torch.tensor([3]))
    assert (tmp_path / ".local" / "state" / "excise" / "key").is_file()
