"""What a released version wrote is read by every later one; what a later one wrote is refused with a message."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from excise import errors, params, store
from excise.cli import options, report, tables
from excise.masks import Mask
from excise.oracles.bank import Bank
from excise.patch import Patch
from excise.pipeline.tuning_journal import Journal
from excise.store.generations import Generations
from tests.cli import mine

HERE = Path(__file__).parent / "artifacts"
VERSIONS = sorted(path.name for path in HERE.iterdir() if path.is_dir() and path.name[0].isdigit())


@pytest.fixture(params=VERSIONS)
def kept(request, tmp_path):
    """A copy, since some readers write beside what they read."""
    return shutil.copytree(HERE / request.param, tmp_path / "kept")


@pytest.fixture
def expected(kept):
    return json.loads((kept / "expected.json").read_text())


def test_there_is_a_version():
    assert "0.1" in VERSIONS


def test_networks_masks_and_patches_open(kept, expected):
    assert params.digest(store.read_weights(kept / "w.pt")) == expected["weights"]
    state, metadata = store.read_tensors(kept / "run" / "model.safetensors")
    assert params.digest(state) == expected["model"] and metadata == {"kind": "excise-model-1"}
    network = mine.make()
    params.load_strictly_(network, state, "model")
    mask = Mask.load(kept / "run" / "mask.safetensors")
    mask.require_fit(network)
    assert mask.digest == expected["mask"]
    assert tables.read_mask(kept / "place").digest == expected["place"]
    patch = Patch.load(kept / "run" / "patch.safetensors")
    assert [patch.base_digest, patch.num_changed] == expected["patch"]


def test_a_patch_still_turns_the_original_into_the_result(kept, expected):
    network = mine.make()
    params.load_strictly_(network, store.read_weights(kept / "w.pt"), "w.pt")
    changed = Patch.load(kept / "run" / "patch.safetensors").apply(network)
    assert params.digest(params.state_of(changed)) == expected["model"]


def test_records_open_and_pages_are_drawn_again(kept, expected):
    assert store.read_record(kept / "place")["request"]["command"] == "localize"
    assert store.read_record(kept / "run")["request"]["recipe"] == "Finetune"
    assert store.read_json(kept / "run" / "audit.json")["verdict"] == expected["verdict"]
    for name in ("run", "shown"):
        found, code = report.run(run=kept / name, quiet=True)
        assert code == 0 and Path(found["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_banks_searches_and_checkpoints_open(kept, expected):
    bank = Bank(kept / "bank")
    assert [(entry.kind, entry.num_rows) for entry in bank.entries()] == [("oracle", 190)]
    found = bank.find("0" * 64)
    assert params.digest(found.state) == expected["bank"] and (found.seed, found.trained_rows) == (7, 300)
    journal = Journal(kept / "search", {"recipe": "DEL"})
    assert journal.trials[0].settings == {"lr": 0.1} and journal.margins[0]["twins"].tolist() == [1, 2, 3]
    newest, skipped = Generations(kept / "checkpoints").newest(1)
    assert newest.facts == {"epoch": 2} and torch.equal(newest.tensors["a"], torch.arange(4.0)) and skipped == []


def test_what_people_wrote_is_read(kept):
    assert tables.read_ids(kept / "ids.npy", 10).tolist() == [3, 5]
    assert tables.read_plan(str(kept / "plan.toml")).epochs == 3
    assert options._toml(kept / "settings.toml")["recipe"] == "DEL"


def later(path):
    """Rewrite a file of tensors as a form that is not known yet."""
    tensors, metadata = store.read_tensors(path)
    store.write_tensors(path, tensors, {**metadata, "kind": metadata["kind"].replace("-1", "-2")})


def test_a_later_form_is_refused_with_a_message(kept):
    for read, name in ((Mask.load, "mask"), (Patch.load, "patch")):
        path = kept / "run" / f"{name}.safetensors"
        later(path)
        message = rf"newer excise \(excise-{name}-2, this one reads excise-{name}-1\); update excise to read it"
        with pytest.raises(errors.BadData, match=message):
            read(path)
    store.write_sealed(kept / "place" / "run.json", {**store.read_sealed(kept / "place" / "run.json"), "format": 99})
    with pytest.raises(errors.Corrupt, match=r"run\.json was written by a newer excise .*update excise to read it"):
        store.read_record(kept / "place")
    search = json.loads((kept / "search" / "tuning.json").read_text())
    (kept / "search" / "tuning.json").write_text(json.dumps({**search, "format": 99}))
    with pytest.raises(errors.Corrupt):
        Journal(kept / "search", {"recipe": "DEL"})
    page = json.loads((kept / "shown" / "demo.json").read_text())
    (kept / "shown" / "demo.json").write_text(json.dumps({"page": {**page["page"], "holograms": []}}))
    with pytest.raises(errors.Corrupt, match="holds no page that this version of excise can draw"):
        report.run(run=kept / "shown", quiet=True)
