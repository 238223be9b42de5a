"""Before a batch is fixed, and when a run is given up: nothing of anybody else's is used or removed."""

import shutil

import pytest

from excise import errors
from excise.recipes import Finetune
from excise.train import Hooks
from tests.lifecycle.conftest import COLLAPSE

SHORT = {"tier": "T0"}


class Notes(Hooks):
    def __init__(self):
        self.said = []

    def on_note(self, text):
        self.said.append(text)


def refused(ledger):
    with pytest.raises(errors.Refused):
        ledger.run(COLLAPSE, **SHORT)


def test_a_directory_in_which_somebody_else_has_put_something_is_not_used_for_a_run(ledger):
    ledger.request([3])
    strange = ledger.directory / "runs" / "0001" / "notes.txt"
    strange.parent.mkdir(parents=True)
    strange.write_text("mine")
    for anew in (False, True):
        with pytest.raises(errors.BadRequest, match=r"next run would be kept in .*0001, .*\(notes\.txt\); move it"):
            ledger.run(Finetune(epochs=1), anew=anew, **SHORT)
    assert ledger.status()["runs"] == [] and strange.read_text() == "mine"
    strange.unlink()
    assert ledger.run(Finetune(epochs=1), **SHORT)["run"] == 1
    (ledger.directory / "runs" / "0002").write_text("mine")
    ledger.request([11])
    with pytest.raises(errors.BadRequest, match=r"0002, .*\(a file\)"):
        ledger.run(Finetune(epochs=1), **SHORT)


def test_giving_up_removes_what_the_run_has_made_and_leaves_a_strangers_file(opened):
    ledger = opened(max_drop=0.02)
    ledger.request([3])
    refused(ledger)
    home = ledger.directory / "runs" / "0001"
    assert (home / "model.safetensors").is_file()
    (home / "notes.txt").write_text("mine")
    for row in (11, 19):  # also by every later run
        assert ledger.run(Finetune(epochs=1, lr=0.001), anew=True, **SHORT)["adopted"]
        assert [path.name for path in home.iterdir()] == ["notes.txt"]
        ledger.request([row])


def test_a_run_that_somebody_has_put_in_its_place_is_left_alone_when_a_run_is_given_up(opened):
    other = opened("other")
    other.request([19])
    other.run(Finetune(epochs=1), **SHORT)
    ledger = opened(max_drop=0.02)
    ledger.request([3])
    refused(ledger)
    home = ledger.directory / "runs" / "0001"
    shutil.rmtree(home)
    shutil.copytree(other.directory / "runs" / "0001", home)
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    assert ledger.run(Finetune(epochs=1, lr=0.001), anew=True, **SHORT)["run"] == 2
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_who_repeats_what_has_failed_is_told_so_before_the_work(opened):
    ledger, notes = opened(max_drop=1.0), Notes()
    ledger.request([3])
    said = []
    for seed in (0, 0, 1):
        ledger.run(COLLAPSE, seed=seed, hooks=notes, **SHORT)
        said.append([one for one in notes.said if "came to FAIL: the same network" in one])
        notes.said.clear()
    assert [len(one) for one in said] == [0, 1, 0] and said[1][0].startswith("run 1 unlearned the same requests")
