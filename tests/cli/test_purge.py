"""`excise purge` on a real run: the released network and what speaks of it stay; the exit code tells what is left."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from excise import errors, store
from excise.cli import copies
from excise.cli import purge as command
from tests.cli import mine
from tests.cli.project import tree, typed
from tests.cli.test_copies import ORACLE, ORIGINAL, banked


@pytest.fixture
def finished(project, unlearn):
    """A run of `excise unlearn` with leftovers, a bank, and a folder of the user's."""
    assert unlearn("--recipe", "Nothing", "--quiet").code == 0
    banked(project / "nets")
    (project / "run" / "rows.json").write_text("[]")
    (project / "old").mkdir()
    (project / "old" / "best.safetensors").write_bytes((project / "w.safetensors").read_bytes())
    (project / "old" / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (project / "old" / "README.md").write_text("# Notes\n")
    return project


def called(capsys, **options):
    capsys.readouterr()
    given = {
        "run": Path("run"),
        "places": [Path("old")],
        "bank": Path("nets"),
        "forget": None,
        "quarantine": None,
        "remove": False,
        "keep": None,
        "dry_run": False,
        "strict": False,
        "also_released": False,
        "quiet": False,
    }
    found, code = command.run(**{**given, **options})
    return found, code, capsys.readouterr().out


OWN = {"run/rows.json", f"nets/{ORIGINAL}.safetensors"}


def purged(found):
    return {one["path"] for one in found["purged"]}


def test_unasked_what_is_excises_own_goes_and_the_rest_is_told(finished, capsys):
    found, code, said = called(capsys)
    assert code == 0 and purged(found) == OWN and found["troubles"] == []
    assert not any((finished / path).exists() for path in OWN)
    assert (finished / "nets" / f"{ORACLE}.safetensors").is_file() and (finished / "w.safetensors").is_file()
    kept = {one["path"]: one["why"] for one in found["kept"]}
    assert kept == {
        "old/best.safetensors": "not excise's own; give --remove or --quarantine DIR",
        "old/net.h5": "cannot be told by itself; look, and remove it yourself",
        "w.safetensors": "outside of the places named; name its folder with --in",
    }
    assert "Removed: run/rows.json (results of single rows)" in said
    assert "Stays: old/net.h5 (unknown, a file that could not be looked into)" in said and "Backups, snapshots" in said
    assert not re.search(r"proof|certif|guarant|compliant", said, re.IGNORECASE)
    names = {path.name for path in (finished / "run").iterdir()}
    assert names == {"run.json", "model.safetensors", "mask.safetensors", "patch.safetensors"}
    assert len(store.read_record(finished / "run")["purged"]) == 2


def test_a_dry_run_says_the_same_and_changes_nothing(finished, capsys):
    before = tree(finished)
    found, code, said = called(capsys, dry_run=True, remove=True)
    assert code == 0 and found["dry_run"] and tree(finished) == before
    assert "Would be removed: old/best.safetensors" in said and "Nothing was changed." in said
    really, _, _ = called(capsys, remove=True)
    assert purged(really) == purged(found) == OWN | {"old/best.safetensors"} and really["kept"] == found["kept"]


def test_all_that_is_sure_goes_in_the_end_and_copies_finds_no_more(finished, capsys):
    places = [Path("old"), Path("w.safetensors"), Path("ids.txt")]
    found, code, _ = called(capsys, places=places, remove=True)
    assert code == 0 and {"w.safetensors", "ids.txt"} <= purged(found)
    found, code, said = called(capsys, places=[Path("old")], remove=True)
    assert (found["purged"], code) == ([], 0) and "Nothing to take away." in said
    left, _ = copies.run(run=Path("run"), places=[Path("old")], bank=Path("nets"), forget=None, quiet=True)
    assert {one["path"]: one["certainty"] for one in left["findings"]} == {
        "old/net.h5": "unknown",
        f"nets/{ORACLE}.safetensors": "unknown",  # the ids are gone too
    }


def test_strict_tells_by_the_exit_code_what_was_left_but_for_what_was_to_be_kept(finished, capsys):
    assert called(capsys, remove=True)[1] == 0
    assert called(capsys, remove=True, strict=True)[1] == 3
    keep = [Path("old/net.h5"), Path("w.safetensors")]
    assert called(capsys, remove=True, strict=True, keep=keep)[1] == 0


def test_what_could_not_be_removed_is_told_with_the_exit_code_of_disks(finished, capsys, monkeypatch):
    remove = store.remove

    def fail(path):
        if path.suffix == ".json":
            raise errors.DiskError("could not remove it: Permission denied")
        remove(path)

    monkeypatch.setattr(store, "remove", fail)
    found, code, said = called(capsys)
    assert code == 5 and purged(found) == OWN - {"run/rows.json"}
    assert "Not done: run/rows.json: could not remove it: Permission denied" in said


def test_of_an_audits_networks_those_of_other_data_stay(finished, capsys):
    other = banked(finished / "shared", inputs=mine.test())
    found, _, _ = called(capsys, bank=Path("shared"))
    assert purged(found) == {"run/rows.json"} and len(other.entries()) == 2
    assert [one["certainty"] for one in found["kept"] if one["path"].startswith("shared")] == ["unknown"]


def test_a_quarantine_takes_copies_and_is_not_looked_into_again(finished, capsys):
    digest = store.file_digest(finished / "old" / "best.safetensors")
    options = {"places": [Path("old"), Path("put-aside")], "quarantine": Path("put-aside")}
    (finished / "put-aside").mkdir(mode=0o700)
    _, code, said = called(capsys, **options)
    assert code == 0 and "Quarantined: old/best.safetensors (the original network)" in said
    assert store.file_digest(finished / "put-aside" / digest) == digest
    again, code, _ = called(capsys, **options)
    assert (again["purged"], code) == ([], 0) and (finished / "put-aside" / digest).is_file()
    left, _ = copies.run(run=Path("run"), places=[Path("put-aside")], bank=Path("nets"), forget=None, quiet=True)
    assert f"put-aside/{digest}" in {one["path"] for one in left["findings"]}


def test_a_file_that_was_changed_meanwhile_is_told_with_the_exit_code_of_checks(finished, capsys, monkeypatch):
    find = command.find_copies

    def changed(*words, **more):
        found = find(*words, **more)
        (finished / "run" / "rows.json").write_text("[1]")
        return found

    monkeypatch.setattr(command, "find_copies", changed)
    found, code, _ = called(capsys)
    assert code == 3 and "it was changed since it was looked at" in found["troubles"][0]


def test_what_is_printed_confirms_no_guess_of_a_list(finished, capsys):
    plain = store.file_digest(finished / "ids.txt")
    listed, _ = copies.run(run=Path("run"), places=[Path("ids.txt")], bank=Path("nets"), forget=None, quiet=True)
    done, _, _ = called(capsys, places=[Path("ids.txt")], remove=True)
    for found in (listed["findings"], done["purged"]):
        (one,) = (one for one in found if one["path"] == "ids.txt")
        assert one["sha256"].startswith("hmac-sha256:") and plain not in str(found)
        assert any(one["sha256"].startswith("sha256:") for one in found)


def test_an_audit_can_still_be_made_from_what_stays(finished, capsys, excise):
    called(capsys)
    words = ["audit", "run", "--tier", "T0", "--test", "mine:test", "--plan", "plan.toml", "--bank", "nets", "--quiet"]
    assert excise(*words).code == 0


def test_it_is_typed_as_any_command(finished, excise, capsys):
    words = ["purge", "run", "--in", "old", "--bank", "nets", "--keep", "old/net.h5", "--json"]
    done = excise(*words, "--dry-run", "--remove")
    assert done.code == 0 and purged(done.json) == OWN | {"old/best.safetensors"}
    assert excise(*words, "--quarantine", "aside", "--remove").code == 2
    done = excise(*words, "--quarantine", "aside", "--strict")
    assert done.code == 3 and purged(done.json) == OWN | {"old/best.safetensors"}  # the original stays
    assert (finished / "aside" / "quarantined.json").is_file()


def test_wishes_that_contradict_one_another_change_nothing(finished, capsys):
    before = tree(finished)
    with pytest.raises(errors.BadRequest, match="expected one of --remove and --quarantine DIR, found both"):
        called(capsys, remove=True, quarantine=Path("put-aside"))
    with pytest.raises(errors.BadRequest, match="--quarantine: run/hidden lies in the run directory"):
        called(capsys, quarantine=Path("run/hidden"), dry_run=True)
    assert tree(finished) == before


def test_copies_of_the_rows_go_with_the_data_at_hand(finished, excise):
    np.save("old/raw.npy", mine.train()[0][[0, 20, 40]].numpy())
    words = ["purge", "run", "--in", "old/raw.npy", "--bank", "nets", "--remove", "--json"]
    assert "old/raw.npy" not in purged(excise(*words).json) and (finished / "old" / "raw.npy").is_file()
    done = excise(*words, "--data", "mine:train")
    assert done.code == 0 and purged(done.json) == {"old/raw.npy"} and not (finished / "old" / "raw.npy").exists()


def test_a_name_that_is_no_utf8_is_listed_and_put_aside(finished, excise):
    name = "old/" + os.fsdecode(b"bad" + bytes([255]))
    (finished / name).write_bytes((finished / "ids.txt").read_bytes())
    assert "sure: old/bad\\udcff (a list of the forgotten rows" in excise("copies", "run", "--in", name).out
    done = excise("purge", "run", "--in", name, "--bank", "nets", "--quarantine", "aside", "--json")
    assert done.code == 0 and name in purged(done.json) and not (finished / name).exists()


def test_what_is_not_there_to_be_kept_or_holds_the_run_is_2_and_changes_nothing(finished, excise):
    before = tree(finished)
    done = excise("purge", "run", "--in", "old", "--remove", "--bank", "nets", "--keep", "old/bset.safetensors")
    assert done.code == 2 and "--keep: expected a folder or a file, found nothing at old/bset.safetensors" in done.err
    for name in (".", "..", "", "nets/aside"):
        assert excise("purge", "run", "--in", "old", "--bank", "nets", "--quarantine", name).code == 2
    assert tree(finished) == before


def test_the_network_in_use_of_a_ledger_and_other_runs_stay_unless_they_are_named(life, excise, unlearn):
    assert unlearn("--recipe", "Nothing", "--quiet").code == 0
    words = ["purge", "run", "--in", ".", "--bank", "nets", "--remove", "--json"]
    in_use = "life/runs/0002/model.safetensors"
    planned = excise(*words, "--dry-run")
    kept = {one["path"]: one["why"] for one in planned.json["kept"]}
    assert kept[in_use] == "released by life/runs/0002; --also-released takes it, too"
    assert {one["path"]: one["needed_by"] for one in planned.json["purged"]}["w.safetensors"] == "run, life"
    assert in_use in purged(excise(*words, "--dry-run", "--also-released").json)
    done = excise(*words, "--keep", "w.safetensors")
    assert done.code == 0 and "old/best.safetensors" in purged(done.json)
    assert excise("ledger", "status", "life").code == 0 and excise("fsck", "life").code == 0
    said = excise("copies", "run", "--in", "life", "--bank", "nets").out
    assert "Released by life/runs/0002: purge leaves it without --also-released." in said
    assert "Another audit, or a replay, of" in excise("copies", "run", "--in", ".", "--bank", "nets").out


LIFE = {"--model": "mine:make", "--weights": "w.safetensors", "--data": "mine:train", "--test": "mine:test"}


@pytest.fixture
def life(project, excise):
    """A ledger with two runs, and a copy of the original in a folder of the user's."""
    assert excise("ledger", "open", "life", *typed(LIFE), "--max-drop", "0.5").code == 0
    for number, ids in enumerate((range(0, 200, 20), range(5, 200, 20)), 1):
        (project / f"ids{number}.txt").write_text(" ".join(map(str, ids)))
        answer(excise, f"ids{number}.txt")
    (project / "old").mkdir()
    (project / "old" / "best.safetensors").write_bytes((project / "w.safetensors").read_bytes())
    return project


def answer(excise, ids, tier="T0"):
    """Ask to forget, and run."""
    assert excise("ledger", "request", "life", "--forget", ids).code == 0
    how = ["--recipe", "Finetune", "--set", "epochs=1", "--bank", "nets"]
    assert excise("ledger", "run", "life", *how, "--tier", tier, *(["--oracles", "1"] * (tier == "T1"))).code == 0


def receipt(project, number):
    return json.loads((project / "life" / "receipts.jsonl").read_text().splitlines()[number - 1])


def test_what_is_purged_of_a_ledgers_run_stands_in_the_next_receipt(life, excise, capsys):
    original, first = store.file_digest(life / "w.safetensors"), life / "life" / "runs" / "0001" / "model.safetensors"
    earlier = store.file_digest(first)
    options = {"places": [Path("old"), Path("life"), Path("ids2.txt")], "remove": True}
    before = tree(life / "life")
    found, code, said = called(capsys, run=Path("life/runs/0002"), dry_run=True, **options)
    assert code == 0 and "A ledger holds no ids" in said and tree(life / "life") == before
    found, code, said = called(capsys, run=Path("life/runs/0002"), forget=Path("ids2.txt"), **options)
    gone = {"life/runs/0001/model.safetensors", "life/runs/0001/patch.safetensors", "old/best.safetensors", "ids2.txt"}
    assert code == 0 and purged(found) == gone and found["troubles"] == [] and "holds no ids" not in said
    assert (life / "life" / "runs" / "0002" / "model.safetensors").is_file() and (life / "w.safetensors").is_file()
    for number in ("0001", "0002"):
        store.read_record(life / "life" / "runs" / number)  # each file is what its record says
    (life / "ids3.txt").write_text("7 8 9")
    answer(excise, "ids3.txt")
    told = receipt(life, 3)["copies"]["purged"]
    assert {f"sha256:{original}", f"sha256:{earlier}"} <= set(told) and receipt(life, 2)["copies"]["purged"] == []
    assert excise("ledger", "replay", "life").code == 0
    again, code, _ = called(capsys, run=Path("life/runs/0002"), places=[Path("life")], remove=True)
    assert (again["purged"], code) == ([], 0)


def test_oracles_of_earlier_runs_saw_the_rows_of_later_ones_and_go(project, excise, capsys):
    assert excise("ledger", "open", "life", *typed(LIFE), "--plan", "plan.toml", "--max-drop", "0.5").code == 0
    (project / "ids1.txt").write_text(" ".join(map(str, range(0, 200, 20))))
    (project / "ids2.txt").write_text("1 2 3 4")
    answer(excise, "ids1.txt", "T1")
    (first,) = (project / "nets").glob("*.safetensors")
    answer(excise, "ids2.txt", "T1")
    (second,) = set((project / "nets").glob("*.safetensors")) - {first}
    banked(project / "nets", inputs=mine.test())
    options = {"places": None, "remove": False}
    found, _, _ = called(capsys, run=Path("life/runs/0001"), forget=Path("ids1.txt"), **options)
    assert purged(found) == set() and first.is_file()
    found, _, _ = called(capsys, run=Path("life/runs/0002"), forget=Path("ids2.txt"), **options)
    assert purged(found) == {f"nets/{first.name}"} and second.is_file()
