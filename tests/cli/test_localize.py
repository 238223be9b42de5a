from pathlib import Path

import pytest

from excise import errors
from excise.cli.choices import CRITERIA
from excise.cli.localize import run
from excise.distributed import Processes
from excise.masks import Mask
from tests.cli.project import tree

KEYS = {"out", "mask_fraction", "mask_digest", "per_module"}


def test_the_mask_is_written_and_described(project, localize):
    done = localize("--json")
    assert done.code == 0 and done.json.keys() == KEYS and done.json["out"] == "run"
    mask = Mask.load(project / "run" / "mask.safetensors")
    assert done.json["mask_fraction"] == mask.fraction and 0.2 < mask.fraction <= 0.3
    assert done.json["mask_digest"] == mask.digest
    assert done.json["per_module"] == mask.per_module() and list(done.json["per_module"]) == ["0", "2"]
    assert {path.name for path in (project / "run").iterdir()} == {"mask.safetensors", "run.json"}


def test_people_see_a_bar_a_module(localize):
    done = localize()
    assert done.out.startswith("module  chosen %") and "█" in done.out
    assert "% of the weights" in done.out and done.out.endswith("Wrote run/mask.safetensors\n")
    assert localize("--quiet", out="other") == (0, "", "")


def test_modules_with_a_chosen_weight_are_counted_and_drawn(localize):
    first = localize(budget=0.003, granularity="weight", criterion="magnitude").out
    both = localize(budget=1, out="other").out
    assert "of the weights, in 1 of 2 modules." in first and first.count("\n") == 4
    assert "100.0 % of the weights, in 2 of 2 modules." in both and both.count("\n") == 5


def test_the_same_command_again_says_so_and_does_nothing(project, localize):
    first, before = localize("--json"), tree(project / "run")
    again = localize("--json")
    assert again.code == 0 and again.json == first.json
    assert "run already holds this run, complete and unchanged; nothing was done." in again.err
    assert tree(project / "run") == before


def test_another_request_does_not_get_the_directory(project, localize, unlearn):
    assert localize().code == 0
    before = tree(project)
    done = localize(budget=0.4)
    assert done.code == 2 and "holds the run of another request (budget: 0.3 there, 0.4 here)" in done.err
    assert "holds the run of another request" in unlearn().err
    assert tree(project) == before


def test_a_changed_mask_is_corrupt(project, localize):
    assert localize().code == 0
    (project / "run" / "mask.safetensors").write_bytes(b"x")
    assert localize("--json").json["exit_code"] == 6


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("granularity", ["channel", "weight"])
def test_every_criterion_and_granularity(localize, criterion, granularity):
    done = localize("--json", criterion=criterion, granularity=granularity, reduction="mean", budget=0.25)
    assert 0.15 < done.json["mask_fraction"] <= 0.25


@pytest.mark.parametrize(("differs", "kind"), [("weights", errors.BadRequest), ("mask", errors.Refused)])
@pytest.mark.usefixtures("project")
def test_processes_that_differ_write_no_mask(differs, kind, monkeypatch):
    def require_same(self, facts, remedy, refusal):
        if differs in facts:
            raise refusal(f"rank 1 has other {differs}")

    monkeypatch.setattr(Processes, "require_same", require_same)
    monkeypatch.setattr(Processes, "anywhere", lambda self, *, fact: fact)
    left_out = ("budget", "granularity", "count", "scope", "reduction", "data_root")
    words = {"model": "mine:make", "weights": Path("w.safetensors"), "data": "mine:train", "forget": Path("ids.txt")}
    how = {"precision": "auto", "layout": "auto", "compiled": "auto", "workers": 0, "device": "cpu", "quiet": True}
    cut = {**dict.fromkeys(left_out), "lowest": False, "partial": False, "criterion": "magnitude", "seed": 0}
    with pytest.raises(kind, match=f"rank 1 has other {differs}"):
        run(**words, **how, **cut, out=Path("run"), processes=Processes(0, 2))
    assert not Path("run", "mask.safetensors").exists()
