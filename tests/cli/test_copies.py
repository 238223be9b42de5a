"""`excise copies` on a real run: what it says, and that it changes nothing."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from excise import errors, store
from excise.cli import copies as command
from excise.data import Rows
from excise.data.content import content_commitment
from excise.oracles import Bank, Trained
from tests.cli import mine
from tests.cli.project import tree

ORACLE, ORIGINAL = "a" * 64, "b" * 64


def banked(directory, num_rows=200, inputs=None):
    """One network trained on the retained rows, one on all of them."""
    bank = Bank(directory, data=content_commitment(Rows.all_of(mine.train() if inputs is None else inputs)))
    trained = Trained(0, {"weight": torch.zeros(3)}, 1.0, 60)
    told = {"architecture": "Sequential", "num_parameters": 3}
    retained = torch.tensor([row for row in range(num_rows) if row % 20])
    bank.keep(ORACLE, trained, kind="oracle", num_rows=len(retained), rows=retained, **told)
    bank.keep(ORIGINAL, trained, kind="original", num_rows=num_rows, rows=torch.arange(num_rows), **told)
    return bank


@pytest.fixture
def finished(project, unlearn):
    """A run of `excise unlearn`, a bank, and a checkpoint in a folder of the user's."""
    assert unlearn("--recipe", "Nothing", "--quiet").code == 0
    banked(project / "nets")
    (project / "old").mkdir()
    (project / "old" / "best.safetensors").write_bytes((project / "w.safetensors").read_bytes())
    return project


def listed(capsys, **options):
    capsys.readouterr()
    given = {"run": Path("run"), "places": None, "bank": Path("nets"), "forget": None, "quiet": False, **options}
    found, code = command.run(**given)
    return found, code, capsys.readouterr()


def paths(found):
    return {one["path"]: one["certainty"] for one in found["findings"]}


def test_copies_are_listed_with_reasons_and_nothing_is_touched(finished, capsys):
    before = tree(finished)
    found, code, said = listed(capsys, places=[Path("old")])
    assert code == 0 and tree(finished) == before
    assert found.keys() == {"run", "findings", "counts", "looked_into", "not_reached", "not_looked_for"}
    kept = f"nets/{ORIGINAL}.safetensors"
    assert paths(found) == {"old/best.safetensors": "sure", "w.safetensors": "sure", kept: "sure"}
    assert found["counts"] == {"sure": 3} and found["looked_into"] == ["run", "nets", "old"]
    for one in found["findings"]:
        assert one["sha256"] == f"sha256:{store.file_digest(Path(one['path']))}"
        assert f"{one['certainty']}: {one['path']} ({one['what']}, " in said.out and one["why"] in said.out
    assert "Backups, snapshots" in said.out and "Looked into run, nets, old, and nowhere else." in said.out
    assert said.out.endswith(f"{command.NOT_LOOKED_FOR}\n") and "Copies of the rows themselves" in said.out
    assert not re.search(r"proof|certif|guarant|compliant", said.out, re.IGNORECASE)
    assert listed(capsys, places=[Path("old")], quiet=True)[2] == ("", "")


def test_the_users_own_bank_is_looked_into_unless_one_is_named(finished, capsys, tmp_path):
    banked(tmp_path / "cache" / "excise" / "bank")
    found, _, _ = listed(capsys, bank=None)
    assert str(tmp_path / "cache" / "excise" / "bank" / f"{ORIGINAL}.safetensors") in paths(found)


def test_ids_that_moved_are_asked_for_and_given(finished, capsys):
    oracle = f"nets/{ORACLE}.safetensors"
    for change in ("move", "edit"):
        if change == "move":
            (finished / "ids.txt").rename(finished / "moved.txt")
        else:
            (finished / "ids.txt").write_text("1 2 3\n")
        found, _, said = listed(capsys)
        assert paths(found)[oracle] == "unknown" and "give them with --forget" in said.out
    found, _, said = listed(capsys, forget=Path("moved.txt"))
    assert oracle not in paths(found) and "--forget" not in said.out
    with pytest.raises(errors.BadRequest, match="the ids given are not those that run was made with"):
        listed(capsys, forget=Path("ids.txt"))
    with pytest.raises(errors.BadSplit, match="--forget: expected a file of row ids"):
        listed(capsys, forget=Path("gone.txt"))


def test_copies_of_the_rows_are_found_with_the_data_at_hand(finished, capsys):
    np.save("raw.npy", mine.train()[0][[0, 20, 40]].numpy())
    places = [Path("raw.npy")]
    found, _, said = listed(capsys, places=places)
    assert "raw.npy" not in paths(found) and found["not_looked_for"] == command.NOT_LOOKED_FOR
    found, _, said = listed(capsys, places=places, data="mine:train")
    assert paths(found)["raw.npy"] == "sure" and "3 of 3 lines hold just what a row to forget holds" in said.out
    assert said.out.endswith(f"{command.LOOKED_FOR}\n") and found["not_looked_for"] == command.LOOKED_FOR
    with pytest.raises(
        errors.BadRequest, match=r"--data: expected the training data of run, found 150 rows, and row 180 was"
    ):
        listed(capsys, data="mine:test")
    (finished / "ids.txt").unlink()
    with pytest.raises(
        errors.BadRequest, match="--data: which rows run was to forget is not known here; give their ids"
    ):
        listed(capsys, data="mine:train")


def test_what_is_no_run_is_refused(finished, capsys):
    for forget in (None, Path("ids.txt")):
        with pytest.raises(
            errors.BadRequest,
            match=r"expected the directory of an `excise unlearn` or `excise ledger` run, found no run.json",
        ):
            listed(capsys, run=Path("old"), forget=forget)
    with pytest.raises(errors.BadRequest, match="--in: expected a folder or a file, found nothing at gone"):
        listed(capsys, places=[Path("gone")])
    with pytest.raises(errors.BadRequest, match="bank: expected a directory, found a file"):
        listed(capsys, bank=Path("ids.txt"))


def test_it_is_typed_as_any_command(finished, excise, capsys):
    found, _, _ = listed(capsys, places=[Path("old")], forget=Path("ids.txt"))
    done = excise("copies", "run", "--in", "old", "--bank", "nets", "--forget", "ids.txt", "--json")
    assert done.code == 0 and done.json == found and len(found["findings"]) == 3
    assert excise("copies", "old").code == 2


def test_nothing_found_is_said(finished, capsys):
    (finished / "w.safetensors").unlink()
    found, code, said = listed(capsys, bank=Path("none"))
    assert code == 0 and found["findings"] == [] and "No copies found." in said.out
    assert "excise purge" not in said.out
    assert "The original weights are not at w.safetensors, or are others by now" in said.out
