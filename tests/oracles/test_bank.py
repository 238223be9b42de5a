"""The bank gives back what was put there under that very key, to the bit, or refuses; and removes only what it is told to."""

import dataclasses
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import msgspec
import pytest
import torch

from excise import errors, store
from excise.oracles import Bank, Entry, Trained, default_bank
from excise.oracles.bank import KINDS, entry_of
from excise.store.generations import Generations
from tests.probes import same_bytes

NOW = datetime.now(UTC)
KEYS = [character * 64 for character in "abcdef"]


def network(seed=0, size=50):
    draws = torch.Generator().manual_seed(seed)
    state = {
        "weight": torch.randn(5, size, generator=draws, dtype=torch.float64),
        "norm.num_batches_tracked": torch.tensor(7 + seed),
        "half": torch.randn(3, generator=draws).to(torch.bfloat16),
    }
    return Trained(seed, state, 1.25 + seed, 90 + seed)


@pytest.fixture(autouse=True)
def _own_key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def keep(bank, key, seed=0, kind="oracle", days=0.0, size=50, rows=None):
    told = {"architecture": "Sequential", "num_parameters": 5 * size + 3, "num_rows": 30, "rows": rows}
    bank.keep(key, network(seed, size), kind=kind, created=NOW - timedelta(days=days), **told)
    return bank.directory / f"{key}.safetensors"


@pytest.fixture
def bank(tmp_path):
    return Bank(tmp_path / "some" / "where")


@pytest.fixture
def filled(bank):
    """Six networks, the oldest first; halves are large."""
    for place, (key, kind) in enumerate(zip(KEYS, [*KINDS, *KINDS], strict=True)):
        keep(bank, key, place, kind, days=60 - 10 * place, size=500 if kind == "half" else 50)
    return bank


def test_what_is_kept_is_found_to_the_bit_and_nothing_else_is(bank):
    assert bank.find(KEYS[0]) is None and not bank.directory.exists()
    keep(bank, KEYS[0], seed=3)
    found, wanted = bank.find(KEYS[0]), network(3)
    assert same_bytes(found.state, wanted.state)
    assert {name: value.dtype for name, value in found.state.items()} == {
        name: value.dtype for name, value in wanted.state.items()
    }
    assert (found.seed, found.seconds, found.trained_rows) == (3, 4.25, 93)
    assert bank.find(KEYS[1]) is None
    keep(bank, KEYS[0], seed=4)
    assert bank.find(KEYS[0]).seed == 4 and len(bank.entries()) == 1


def test_entries_say_what_was_kept_without_reading_weights(filled, monkeypatch):
    monkeypatch.setattr(store, "read_tensors", None)
    entries = filled.entries()
    assert [entry.key for entry in entries] == KEYS
    assert [entry.kind for entry in entries] == [*KINDS, *KINDS]
    assert [entry.created for entry in entries] == [NOW - timedelta(days=60 - 10 * place) for place in range(6)]
    first, size = entries[0], (filled.directory / f"{KEYS[0]}.safetensors").stat().st_size
    assert first == Entry(
        key=KEYS[0],
        kind="oracle",
        num_bytes=size,
        created=NOW - timedelta(days=60),
        architecture="Sequential",
        num_parameters=253,
        num_rows=30,
        seconds=1.25,
        seed=0,
    )
    assert filled.num_bytes == sum(path.stat().st_size for path in filled.directory.iterdir())


def test_a_network_is_as_old_as_its_keeping_unless_told(bank):
    before = datetime.now(UTC)
    bank.keep(KEYS[0], network(), kind="half", architecture="A", num_parameters=1, num_rows=2)
    assert before <= bank.entries()[0].created <= datetime.now(UTC)


def test_a_bank_that_is_not_there_is_empty_and_nothing_makes_it(bank):
    assert bank.entries() == bank.foreign() == bank.prune(everything=True) == []
    assert bank.num_bytes == 0 and not bank.directory.exists()


@pytest.mark.parametrize("other", [KEYS[1], "0123456789abcdef" * 4])
def test_a_file_renamed_to_another_key_is_refused(bank, other):
    path = keep(bank, KEYS[0])
    path.rename(path.with_name(f"{other}.safetensors"))
    assert bank.find(KEYS[0]) is None
    with pytest.raises(errors.Corrupt, match=rf"{other}.safetensors is not what was put there; remove it"):
        bank.find(other)


def test_rows_are_told_by_a_keyed_digest_to_who_has_the_key_and_the_ids(bank, tmp_path, monkeypatch):
    ids = torch.arange(0, 60, 2)
    path = keep(bank, KEYS[0], rows=ids)
    keep(bank, KEYS[1], days=1)
    (unknown, known) = bank.entries()
    assert known.rows == store.commitment(ids) != store.commitment(ids + 1) and unknown.rows == ""
    assert bank.find(KEYS[0]).seed == bank.find(KEYS[1]).seed == 0
    raw = path.read_bytes()
    assert ids.numpy().tobytes() not in raw and b"0, 2, 4" not in raw
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    assert bank.entries()[1].rows == known.rows != store.commitment(ids)
    assert bank.find(KEYS[0]).seed == 0  # without the key it serves as before


def test_of_which_data_a_network_is_stands_under_the_seal(bank):
    path = keep(Bank(bank.directory, data="d" * 64), KEYS[0])
    keep(bank, KEYS[1], days=1)
    assert [entry.data for entry in bank.entries()] == ["", "d" * 64]
    state, told = store.read_tensors(path)
    store.write_tensors(path, state, {**told, "data": "e" * 64})
    with pytest.raises(errors.Corrupt, match="is not what was put there"):
        bank.find(KEYS[0])


@pytest.mark.parametrize("gone", ["folder", "file"])
def test_a_training_that_ends_while_it_is_looked_at_is_no_trouble(filled, monkeypatch, gone):
    folder = filled.directory / f".training-{KEYS[0]}"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).write_bytes(b"12345")
    assert [entry.num_bytes for entry in filled.entries() if entry.kind == "unfinished"] == [10]
    listed = Path.iterdir

    def ends(path):
        if path == folder and gone == "folder":
            for one in (folder / "one", folder / "two"):
                one.unlink()
            folder.rmdir()
        found = list(listed(path))
        if path == folder:
            (folder / "one").unlink()
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", ends)
    sizes = [entry.num_bytes for entry in filled.entries() if entry.kind == "unfinished"]
    assert sizes == ([] if gone == "folder" else [5])


def test_metadata_tell_the_same_wherever_the_file_lies_and_damaged_ones_nothing(bank):
    path = keep(bank, KEYS[0], rows=torch.arange(30))
    told = store.read_metadata(path)
    (entry,) = bank.entries()
    assert entry_of(told, KEYS[0], path.stat().st_size) == entry
    assert entry_of({**told, "num_rows": "many"}, KEYS[0], 0) is None and entry_of({}, KEYS[0], 0) is None


def test_whatever_is_changed_in_a_file_breaks_its_seal(bank):
    path = keep(bank, KEYS[0], rows=torch.arange(30))
    state, told = store.read_tensors(path)
    assert len(told) == 12  # eleven facts and the seal
    changed = {"kind": "half", "created": "2001-01-01T00:00:00+00:00"}
    for name, value in told.items():
        other = changed.get(name, f"{value}1")
        store.write_tensors(path, state, {**told, name: other})
        with pytest.raises(errors.Corrupt, match="is not what was put there"):
            bank.find(KEYS[0])
        store.write_tensors(path, state, {key: one for key, one in told.items() if key != name})
        with pytest.raises(errors.Corrupt, match="is not what was put there"):
            bank.find(KEYS[0])
    for name, value in state.items():
        other = value.clone()
        other.view(-1)[0] += 1
        store.write_tensors(path, {**state, name: other}, told)
        with pytest.raises(errors.Corrupt, match="is not what was put there"):
            bank.find(KEYS[0])
    store.write_tensors(path, state, told)
    assert bank.find(KEYS[0]).seed == 0


def test_any_flipped_bit_or_cut_is_an_error_and_not_a_network(bank):
    path = keep(bank, KEYS[0])
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :])
        with pytest.raises(errors.Corrupt, match="remove it to have the network trained again"):
            bank.find(KEYS[0])
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(errors.Corrupt, match=r"not a readable safetensors file.*remove it"):
            bank.find(KEYS[0])


def broken_files(bank):
    """A damaged file, one of another form, a broken-off write that is old, one that is new, a stranger, a folder."""
    keep(bank, KEYS[0]).write_bytes(b"damaged")
    store.write_tensors(bank.directory / f"{KEYS[1]}.safetensors", network().state, {"seconds": "1.0"})
    old, new = (bank.directory / f".{KEYS[place]}.safetensors.0123456789ab.tmp" for place in (2, 3))
    old.write_bytes(b"half of a file")
    new.write_bytes(b"half")
    hours_ago = (NOW - timedelta(hours=2)).timestamp()
    os.utime(old, (hours_ago, hours_ago))
    (bank.directory / "notes.txt").write_text("mine")
    (bank.directory / f"{KEYS[4]}.safetensors").mkdir()
    return old, new


def test_damaged_and_foreign_files_are_named_and_stay_until_all_must_go(bank):
    old, new = broken_files(bank)
    keep(bank, KEYS[5])
    kinds = {entry.key: entry.kind for entry in bank.entries()}
    unreadable, unfinished = "unreadable", "unfinished"
    assert kinds == {
        KEYS[0]: unreadable,
        KEYS[1]: unreadable,
        KEYS[2]: unfinished,
        KEYS[3]: unfinished,
        KEYS[5]: "oracle",
    }
    foreign = [bank.directory / f"{KEYS[4]}.safetensors", bank.directory / "notes.txt"]
    assert bank.foreign() == foreign
    for limits in ({"keep_bytes": 0}, {"older_than_days": 0}, {"kinds": KINDS}):
        keep(bank, KEYS[5], days=1)
        assert [entry.key for entry in bank.prune(**limits)] == [KEYS[5]]
    assert [entry.key for entry in bank.prune(kinds=["unfinished"])] == [KEYS[2]]
    assert new.exists() and not old.exists()
    keep(bank, KEYS[5])
    assert {entry.key for entry in bank.prune(everything=True)} == {KEYS[0], KEYS[1], KEYS[5]}
    assert sorted(bank.directory.iterdir()) == sorted([new, *foreign])


def gone(bank, **limits):
    before = [entry.key for entry in bank.entries()]
    removed = [entry.key for entry in bank.prune(**limits)]
    assert [entry.key for entry in bank.entries()] == [key for key in before if key not in removed]
    return [KEYS.index(key) for key in removed]


@pytest.mark.parametrize(
    ("limits", "removed"),
    [
        ({"older_than_days": 35}, [0, 1, 2]),
        ({"older_than_days": 15.5}, [0, 1, 2, 3, 4]),
        ({"older_than_days": 61}, []),
        ({"kinds": ["half"]}, [2, 5]),
        ({"kinds": ["original", "half"]}, [1, 2, 4, 5]),
        ({"kinds": ["half"], "older_than_days": 35}, [2]),
        ({"kinds": []}, []),
        ({"keep_bytes": 0}, [0, 1, 2, 3, 4, 5]),
        ({"keep_bytes": 0, "kinds": ["oracle"]}, [0, 3]),
        ({"keep_bytes": 10**9}, []),
        ({"everything": True}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_what_is_named_goes_oldest_first_and_nothing_else_does(filled, limits, removed):
    assert gone(filled, **limits) == removed


def test_as_many_of_the_oldest_go_as_bring_the_bank_to_its_size(filled):
    sizes = [entry.num_bytes for entry in filled.entries()]
    assert gone(filled, keep_bytes=sum(sizes)) == []
    assert gone(filled, keep_bytes=sum(sizes) - 1) == [0]
    assert gone(filled, keep_bytes=sum(sizes[3:])) == [1, 2]
    assert filled.num_bytes == sum(sizes[3:])
    assert gone(filled, keep_bytes=sizes[5], kinds=["original"]) == [4]  # the oracle before it is not named


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "prune: expected what may go, by keep_bytes, older_than_days or kinds"),
        ({"everything": True, "keep_bytes": 5}, "everything=True alone"),
        ({"keep_bytes": -1}, "keep_bytes: expected a finite number of at least 0, found -1"),
        ({"older_than_days": float("nan")}, "older_than_days: expected a finite number"),
        (
            {"kinds": ["halves"]},
            "kinds: expected some of oracle, original, half, unreadable, unfinished, found 'halves'",
        ),
    ],
)
def test_a_wish_that_says_nothing_or_too_much_removes_nothing(filled, limits, message):
    with pytest.raises(errors.BadRequest, match=message):
        filled.prune(**limits)
    assert len(filled.entries()) == 6


@pytest.mark.parametrize("key", ["", "a" * 63, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
def test_what_is_no_key_is_no_path(bank, key):
    with pytest.raises(errors.BadRequest, match="key: expected 64 hexadecimal digits"):
        bank.find(key)
    with pytest.raises(errors.BadRequest, match="key: expected 64 hexadecimal digits"):
        keep(bank, key)
    assert not bank.directory.exists()


def test_an_unknown_kind_is_refused(bank):
    with pytest.raises(errors.BadRequest, match="kind: expected one of oracle, original, half, found 'retain'"):
        keep(bank, KEYS[0], kind="retain")


def test_a_file_is_no_bank(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(errors.BadRequest, match=r"bank: expected a directory, found a file at .*; name another"):
        Bank(tmp_path / "a")


def test_a_directory_that_cannot_be_looked_into_or_written_is_a_disk_error(filled, monkeypatch):
    def fail(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fail)
        with pytest.raises(errors.DiskError, match=r"could not remove .*Permission denied"):
            filled.prune(everything=True)
    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(errors.DiskError, match=r"could not look into .*Permission denied"):
        filled.entries()


def test_writers_of_one_key_and_readers_do_not_meet(bank):
    """Of several at once each write is whole: a reader finds one of the networks, sealed, at any moment."""
    networks, start, found, failed = {seed: network(seed, 3000) for seed in range(3)}, threading.Barrier(4), [], []

    def work(seed):
        start.wait()
        try:
            for _ in range(12):
                if seed in networks:
                    told = {"architecture": "A", "num_parameters": 1, "num_rows": 1}
                    bank.keep(KEYS[0], networks[seed], kind="oracle", **told)
                else:
                    found.append(bank.find(KEYS[0]))
                    bank.entries()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    last = bank.find(KEYS[0])
    assert all(same_bytes(one.state, networks[one.seed].state) for one in [*found, last] if one is not None)
    assert [path.name for path in bank.directory.iterdir()] == [f"{KEYS[0]}.safetensors"]


def test_a_network_removed_while_it_is_looked_for_is_not_there(filled, monkeypatch):
    path = filled.directory / f"{KEYS[0]}.safetensors"
    read, head = store.read_tensors, store.read_metadata

    def removed_first(how):
        def call(one):
            path.unlink(missing_ok=True)
            return how(one)

        return call

    monkeypatch.setattr(store, "read_tensors", removed_first(read))
    assert filled.find(KEYS[0]) is None
    keep(filled, KEYS[0])
    monkeypatch.setattr(store, "read_metadata", removed_first(head))
    assert KEYS[0] not in {entry.key for entry in filled.entries() if entry.kind in KINDS}


def test_only_what_was_used_here_and_is_of_that_kind_is_dropped(filled):
    """Used is what was found or kept through the very object, whoever else used it."""
    places = {
        kind: [key for key, entry in zip(KEYS, filled.entries(), strict=True) if entry.kind == kind] for kind in KINDS
    }
    other = Bank(filled.directory)
    assert other.drop_used("original") == 0 and len(other.entries()) == 6
    found, left = places["original"]
    assert same_bytes(other.find(found).state, filled.find(found).state)
    other.find(places["oracle"][0])
    added = "9" * 64
    keep(other, added, kind="original")
    assert other.find("8" * 64) is None
    assert other.drop_used("original") == 2
    assert {entry.key for entry in filled.entries()} == {*KEYS} - {found}
    assert other.drop_used("original") == 0 and other.find(added) is None and filled.find(left) is not None
    assert other.drop_used("oracle") == 1 and other.drop_used("half") == 0


def test_what_another_process_removed_first_is_no_trouble(filled):
    first = next(entry.key for entry in filled.entries() if entry.kind == "original")
    filled.find(first)
    (filled.directory / f"{first}.safetensors").unlink()
    filled.drop_used("original")
    assert filled.find(first) is None


def test_entries_are_plain_values(filled):
    told = msgspec.to_builtins(filled.entries()[0])
    assert told["kind"] == "oracle" and datetime.fromisoformat(told["created"]) == NOW - timedelta(days=60)


def test_the_default_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_bank() == tmp_path / "cache" / "excise" / "bank"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_bank() == tmp_path / ".cache" / "excise" / "bank"

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(errors.DiskError, match=r"no place for a bank of networks: .*set XDG_CACHE_HOME, or name one"):
        default_bank()


def test_a_bank_is_named_in_any_of_four_ways(tmp_path):
    one = Bank(tmp_path)
    assert Bank.of(one) is one and Bank.of(None) is None
    assert Bank.of(str(tmp_path)).directory == Bank.of(tmp_path).directory == tmp_path
    assert repr(one) == f"Bank('{tmp_path}')"


def test_trained_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        network().seed = 2


def test_a_training_that_was_broken_off_is_the_banks_own_and_is_pruned_unless_it_goes_on(tmp_path):
    bank, folder = Bank(tmp_path), tmp_path / f".training-{'a' * 64}"
    Generations(folder).keep({"w": torch.zeros(9)}, {})
    (tmp_path / ".training-notes").mkdir()
    (found,) = bank.entries()
    assert (found.key, found.kind) == ("a" * 64, "unfinished") and found.num_bytes == bank.num_bytes > 36
    assert bank.foreign() == [tmp_path / ".training-notes"]
    with store.lock(folder):
        assert bank.prune(everything=True) == [] and list(folder.glob("checkpoint-*"))
    assert bank.prune(kinds=["oracle"]) == []
    assert [one.key for one in bank.prune(kinds=["unfinished"])] == ["a" * 64] and not folder.exists()


# at a URL: a working copy here, and what others share


@pytest.fixture(params=["memory", "file"])
def shared(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield f"memory://{tmp_path.name}/bank" if request.param == "memory" else f"file://{tmp_path}/some/bank"
    fsspec.filesystem("memory").store.clear()


def elsewhere(url, tmp_path, monkeypatch):
    """Give the bank as another machine has it: with a working copy of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    return Bank(url)


def test_what_one_machine_keeps_at_a_url_another_finds_to_the_bit(shared, tmp_path, monkeypatch):
    bank = Bank(shared)
    assert bank.place == shared and repr(bank) == f"Bank({shared!r})" and bank.find(KEYS[0]) is None
    path = keep(bank, KEYS[0], seed=3)
    assert path.parent == tmp_path / "cache" / "excise" / "banks" / bank.directory.name
    other = elsewhere(shared, tmp_path, monkeypatch)
    assert other.directory != bank.directory and not other.directory.exists()
    found = other.find(KEYS[0])
    assert same_bytes(found.state, network(3).state) and (found.seed, found.seconds) == (network(3).seed, 4.25)
    assert (other.directory / path.name).read_bytes() == path.read_bytes()
    assert other.find(KEYS[1]) is None


def test_a_network_is_sent_once_and_what_was_not_sent_is_sent_when_it_is_found(shared):
    bank = Bank(shared)
    path = keep(bank, KEYS[0], seed=3)
    before = store.Remote(shared).get(path.name)
    keep(bank, KEYS[0], seed=3, days=5)  # trained once more elsewhere: another time in its metadata
    assert path.read_bytes() != before and store.Remote(shared).get(path.name) == before
    store.Remote(shared).remove(path.name)  # as after a kill between writing and sending
    bank.find(KEYS[0])
    assert store.Remote(shared).get(path.name) == path.read_bytes()


def test_entries_are_those_at_the_url_and_those_here(shared, tmp_path, monkeypatch):
    keep(Bank(shared), KEYS[0], seed=1, days=3)
    store.Remote(shared).put(f"{KEYS[2]}.safetensors", b"\xff" * 100)
    store.Remote(shared).put("notes.txt", b"foreign")
    other = elsewhere(shared, tmp_path, monkeypatch)
    keep(other, KEYS[1], seed=2, days=1)
    found = {entry.key: (entry.kind, entry.architecture, entry.num_rows) for entry in other.entries()}
    good = ("oracle", "Sequential", 30)
    assert found == {KEYS[0]: good, KEYS[1]: good, KEYS[2]: ("unreadable", "", 0)}
    assert [path.name for path in other.directory.iterdir()] == [f"{KEYS[1]}.safetensors"]  # heads alone were read
    sizes = {entry.key: entry.num_bytes for entry in other.entries()}
    assert sizes == {name.partition(".")[0]: size for name, size in store.Remote(shared).sizes().items() if size > 10}


def test_a_network_damaged_at_the_url_is_refused_and_is_no_network_here(shared, tmp_path, monkeypatch):
    path = keep(Bank(shared), KEYS[0])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    store.Remote(shared).remove(path.name)
    store.Remote(shared).put(path.name, bytes(content))
    other = elsewhere(shared, tmp_path, monkeypatch)
    for _ in range(2):
        with pytest.raises(
            errors.Corrupt, match=f"{shared}/{KEYS[0]}.* is not what was put there; the copy was removed: try again"
        ):
            other.find(KEYS[0])


def test_what_was_used_is_dropped_at_the_url_too(shared):
    bank = Bank(shared)
    keep(bank, KEYS[0], kind="original")
    keep(Bank(shared), KEYS[1], kind="original")
    keep(bank, KEYS[2], kind="oracle")
    assert bank.drop_used("original") == 1
    assert set(store.Remote(shared).sizes()) == {f"{key}.safetensors" for key in KEYS[1:3]}
    assert Bank(shared).find(KEYS[0]) is None


def test_a_worker_leaves_nothing_but_what_it_sent(shared, bank):
    there = Bank(shared)
    keep(there, KEYS[0], seed=3)
    there.release(KEYS[0])
    assert list(there.directory.iterdir()) == []
    assert same_bytes(there.find(KEYS[0]).state, network(3).state)
    keep(bank, KEYS[0])
    bank.release(KEYS[0])  # a directory is no copy of anything
    assert bank.find(KEYS[0]) is not None


def test_a_bank_at_a_url_is_not_pruned_and_says_who_may(shared):
    bank = Bank(shared)
    keep(bank, KEYS[0])
    with pytest.raises(
        errors.BadRequest, match=r"prune: expected a bank in a directory, found .*bank; look and remove there"
    ):
        bank.prune(everything=True)
    assert bank.find(KEYS[0]) is not None


def test_a_url_that_cannot_be_written_is_told_before_any_training(shared, monkeypatch):
    bank = Bank(shared)
    bank.require_writable()

    def forbidden(_):
        raise errors.DiskError("forbidden")

    monkeypatch.setattr(store.Remote, "require_writable", forbidden)
    with pytest.raises(errors.DiskError, match="forbidden"):
        bank.require_writable()
