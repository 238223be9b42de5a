"""Every planted copy is found, nothing that is innocent is, and nothing is touched."""

import os
from pathlib import Path

import pytest
import torch

from excise import errors, store
from excise.custody import copies, find_copies
from excise.oracles import Bank, Trained
from tests.cli.project import tree
from tests.custody.removal import (
    DATA,
    FORGET,
    NUM_ROWS,
    RETAIN,
    plant_innocents,
    plant_networks,
    plant_rows,
    removal,
    saved,
)

CHECKPOINT = "checkpoint-0000-00000001-" + "a" * 64 + ".safetensors"


def by_name(found):
    return {Path(one.path).name: one for one in found}


def keep(bank, key, kind, num_rows, rows=None, data=DATA):
    """Keep a network; give its file."""
    trained = Trained(0, {"weight": torch.zeros(3)}, 1.0, 60)
    told = {"architecture": "A", "num_parameters": 3, "num_rows": num_rows, "rows": rows}
    Bank(bank.directory, data=data).keep(key * 64, trained, kind=kind, **told)
    return f"{key * 64}.safetensors"


def test_all_kinds_of_planted_copies_are_found_and_no_innocent_is(made, tmp_path):
    folder, innocent = tmp_path / "project", tmp_path / "innocent"
    folder.mkdir()
    innocent.mkdir()
    planted = plant_networks(made, folder) | plant_rows(folder)
    names = plant_innocents(made, innocent)
    assert len(planted) >= 50 and len(names) >= 15
    before = tree(tmp_path)
    found = find_copies(made.traced(), [folder, innocent])
    assert tree(tmp_path) == before
    assert {Path(one.path).name: one.certainty for one in found if Path(one.path).parent == folder} == planted
    assert [one for one in found if Path(one.path).parent == innocent] == []
    assert [one.path for one in found if Path(one.path).parent not in (folder, innocent)] == [str(made.weights)]
    for one in found:
        assert (one.sha256, one.num_bytes) == (store.file_digest(Path(one.path)), Path(one.path).stat().st_size)
        assert one.what and one.why and not one.own and not one.link


def test_without_ids_lists_are_still_told_by_the_key_and_on_another_machine_only_by_length(made, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    plant_rows(folder)
    lists = ["ids.npy", "ids.txt", "retained.npy", "flags.npy", "bits.npy"]
    found = by_name(find_copies(made.traced(None), [folder]))
    assert {found[name].certainty for name in lists} == {"sure"}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    found = by_name(find_copies(made.traced(None), [folder]))
    assert {name: found[name].certainty for name in lists if name in found} == dict.fromkeys(
        ["ids.npy", "ids.txt", "flags.npy"], "likely"
    )


def test_what_a_run_leaves_is_excises_own_and_what_others_put_there_is_not(made):
    own = {
        f"checkpoints/{CHECKPOINT}": b"x",
        "last-finite.safetensors": b"x",
        "rows.json": b"[]",
        ".model.safetensors.0123456789ab.tmp": b"x",
    }
    (made.run / "checkpoints").mkdir()
    for name, content in own.items():
        (made.run / name).write_bytes(content)
    (made.run / "mine.pkl").write_bytes(b"\x80\x04N.")
    (made.run / "notes.txt").write_text("a note")
    found = find_copies(made.traced())
    assert {str(Path(one.path).relative_to(made.run)): one.certainty for one in found if one.own} == dict.fromkeys(
        own, "sure"
    )
    assert {Path(one.path).name for one in found if not one.own} == {"w.safetensors", "mine.pkl"}
    assert [Path(one.path).name for one in found if one.lists_rows] == ["rows.json"]


def test_of_a_bank_all_that_saw_the_rows_or_may_have_is_found(made, tmp_path):
    bank = Bank(tmp_path / "bank")
    every = torch.arange(NUM_ROWS)
    wanted = {
        keep(bank, "1", "original", NUM_ROWS, every): "sure",
        keep(bank, "2", "original", NUM_ROWS): "likely",
        keep(bank, "3", "original", NUM_ROWS, every + 1): "likely",
        keep(bank, "4", "half", NUM_ROWS // 2, every[::2]): "likely",
        keep(bank, "5", "half", NUM_ROWS // 2, every[::2], "e" * 64): "unknown",  # half of other data
        keep(bank, "6", "original", NUM_ROWS, every, "e" * 64): "unknown",  # as many rows, under the same ids
        keep(bank, "0", "original", NUM_ROWS, every, None): "unknown",  # of data that were not recorded
        keep(bank, "7", "oracle", len(RETAIN)): "unknown",  # of rows that were not recorded
        keep(bank, "8", "oracle", len(RETAIN), RETAIN - 1): "likely",
        keep(bank, "f", "oracle", len(RETAIN) + 1): "likely",  # some of them were to be forgotten, whichever they are
        keep(bank, "9", "oracle", len(RETAIN), RETAIN - 1, "e" * 64): "unknown",
    }
    clean = keep(bank, "a", "oracle", len(RETAIN), RETAIN)
    (bank.directory / f"{'b' * 64}.safetensors").write_bytes(b"damaged")
    old, new = (bank.directory / f".{key * 64}.safetensors.0123456789ab.tmp" for key in "cd")
    for path in (old, new):
        path.write_bytes(b"half of a file")
    os.utime(old, (0, 0))
    training = bank.directory / f".training-{'e' * 64}"
    training.mkdir()
    (training / CHECKPOINT).write_bytes(b"x")
    (bank.directory / "notes.txt").write_text("mine")
    wanted |= {f"{'b' * 64}.safetensors": "unknown", old.name: "likely", new.name: "unknown", CHECKPOINT: "unknown"}

    found = by_name(find_copies(made.traced(), [], bank))
    assert found.pop("w.safetensors").own is False
    assert {name: one.certainty for name, one in found.items()} == wanted and all(one.own for one in found.values())
    assert by_name(find_copies(made.traced(None), [], bank))[clean].certainty == "unknown"

    again = find_copies(made.traced(), [tmp_path], bank)  # a bank that lies in a place is looked at as a bank
    assert sorted(one.path for one in again) == sorted([*(one.path for one in found.values()), str(made.weights)])
    elsewhere = by_name(find_copies(made.traced(), [tmp_path]))
    kept = {name: certainty for name, certainty in wanted.items() if name[0].isdigit() or name[0] in "bf"}
    assert {name: elsewhere[name].certainty for name in kept} == kept and clean not in elsewhere


def test_a_bank_at_a_url_is_refused_and_not_passed_over(made, tmp_path):
    url = f"file://{tmp_path}/far"
    with pytest.raises(
        errors.BadRequest, match=f"copies: expected a bank in a directory, found {url}; look and remove"
    ):
        find_copies(made.traced(), [], Bank(url))


def test_of_a_run_that_did_not_record_its_data_no_network_of_a_bank_is_told(tmp_path):
    old, bank = removal(tmp_path, data_commitment=None), Bank(tmp_path / "bank")
    keep(bank, "1", "original", NUM_ROWS, torch.arange(NUM_ROWS))
    keep(bank, "2", "half", NUM_ROWS // 2, data=None)
    keep(bank, "3", "oracle", len(RETAIN), RETAIN)
    found = find_copies(old.traced(), [], bank)
    assert [one.certainty for one in found if one.own] == ["unknown", "unknown"]
    assert all("was not recorded, in the bank or in the run" in one.why for one in found if one.own)


def test_a_training_under_way_may_not_be_taken_away(made, tmp_path):
    bank = Bank(tmp_path / "bank")
    training = bank.directory / f".training-{'e' * 64}"
    training.mkdir(parents=True)
    (training / CHECKPOINT).write_bytes(b"x")
    for _ in range(2):
        with store.lock(training):
            found = by_name(find_copies(made.traced(), [], bank))
            assert found[CHECKPOINT].certainty == "unknown" and found[CHECKPOINT].what == "a training under way"
        found = by_name(find_copies(made.traced(), [], bank))[CHECKPOINT]  # of which data cannot be told either
        assert found.certainty == "unknown" and found.what == "a training that was broken off"
        assert "--prune --kind unfinished" in found.why


def test_links_are_told_and_not_followed(made, tmp_path):
    folder, outside = tmp_path / "project", tmp_path / "outside"
    (folder / "inner").mkdir(parents=True)
    outside.mkdir()
    saved(outside / "best.pt", made.original.state_dict())
    (outside / "notes.txt").write_text("x")
    saved(folder / "inner" / "state.pt", made.original.state_dict())
    for name, target in {
        "latest": folder / "inner" / "state.pt",
        "original": made.weights,
        "best.pt": outside / "best.pt",
        "elsewhere": outside,
        "notes.txt": outside / "notes.txt",
        "inside": folder / "inner",
        "broken.pt": tmp_path / "gone.pt",
        "released.safetensors": made.run / "model.safetensors",
    }.items():
        (folder / name).symlink_to(target)
    found = {Path(one.path).name: (one.certainty, one.link) for one in find_copies(made.traced(), [folder])}
    assert found == {
        "w.safetensors": ("sure", False),
        "state.pt": ("sure", False),
        "latest": ("sure", True),
        "original": ("sure", True),
        "best.pt": ("unknown", True),
        "elsewhere": ("unknown", True),
    }


def test_a_pipe_is_unknown_and_never_opened_wherever_it_lies(made, tmp_path):
    for path in (tmp_path / "pipe.pt", made.run / "model.pt", made.run / "checkpoints" / "a"):
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)
        one = by_name(find_copies(made.traced(), [tmp_path]))[path.name]
        assert (one.certainty, one.what, one.own) == ("unknown", "a pipe, a device or a socket", False)


def test_the_keys_are_no_copies(made, tmp_path):
    key = next(path for path in (tmp_path / "state").rglob("*") if path.is_file())
    key.with_name("ids.npy").write_bytes(b"\x93NUMPY damaged")
    assert "ids.npy" not in by_name(find_copies(made.traced(), [tmp_path]))


def test_the_original_is_listed_once_wherever_it_lies(made, tmp_path):
    (one,) = find_copies(made.traced())
    assert one.path == str(made.weights) and one.certainty == "sure"
    (one,) = find_copies(made.traced(), [tmp_path])
    assert one.path == str(made.weights)
    made.weights.unlink()
    assert find_copies(made.traced(), [tmp_path]) == []


def test_the_surest_come_first_and_then_by_path(made, tmp_path):
    (tmp_path / "project").mkdir()
    plant_networks(made, tmp_path / "project")
    order = [("sure", "likely", "unknown").index(one.certainty) for one in find_copies(made.traced(), [tmp_path])]
    assert order == sorted(order) and len(set(order)) == 3


def test_a_file_that_may_not_be_read_is_unknown(made, tmp_path, monkeypatch):
    (tmp_path / "locked.pt").write_bytes(b"x")
    opened = Path.open

    def fail(self, *words, **more):
        if self.name == "locked.pt":
            raise PermissionError(13, "Permission denied")
        return opened(self, *words, **more)

    monkeypatch.setattr(Path, "open", fail)
    found = by_name(find_copies(made.traced(), [tmp_path]))["locked.pt"]
    assert (found.certainty, found.why, found.sha256) == ("unknown", "Permission denied", "")


def test_a_file_that_is_removed_while_it_is_looked_for_is_no_finding(made, tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    saved(path, made.original.state_dict())
    real = copies.readable

    def removed_first(one):
        if one == path:
            path.unlink()
        return real(one)

    assert "state.pt" in by_name(find_copies(made.traced(), [tmp_path]))
    monkeypatch.setattr(copies, "readable", removed_first)
    assert "state.pt" not in by_name(find_copies(made.traced(), [tmp_path]))


def test_what_is_apart_is_not_looked_into(made, tmp_path):
    (tmp_path / "project").mkdir()
    saved(tmp_path / "project" / "a.pt", made.original.state_dict())
    assert "a.pt" in by_name(find_copies(made.traced(), [tmp_path]))
    assert "a.pt" not in by_name(find_copies(made.traced(), [tmp_path], apart=[tmp_path / "project"]))


@pytest.mark.parametrize("forget", [FORGET, None])
def test_a_finished_removal_alone_has_only_its_original(made, forget):
    assert [one.path for one in find_copies(made.traced(forget))] == [str(made.weights)]


def test_another_run_of_the_same_request_released_no_copy_and_one_of_another_request_did(made, tmp_path):
    same, other = tmp_path / "same", tmp_path / "other"
    for folder, more in ((same, {}), (other, {"forget_commitment": store.commitment(FORGET + 1)})):
        for name in ("model.safetensors", "mask.safetensors", "patch.safetensors"):
            store.write_tensors(folder / name, *store.read_tensors(made.run / name))
        moved_again = {n: v + 0.01 if v.is_floating_point() else v for n, v in made.released.state_dict().items()}
        store.write_tensors(folder / "model.safetensors", moved_again)
        asked = {**store.read_record(made.run)["request"], **more}
        store.RunDirectory(folder, asked).complete(["model.safetensors", "mask.safetensors", "patch.safetensors"], {})
        saved(folder / "last.pt", made.original.state_dict())
    places = find_copies(made.traced(), [same, other])
    assert {str(Path(one.path).relative_to(tmp_path)) for one in places} == {
        "original/w.safetensors",
        "same/last.pt",
        "other/last.pt",
        "other/model.safetensors",
    }
