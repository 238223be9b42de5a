"""What is kept of a run, in memory and on disk."""

import dataclasses

import msgspec
import pytest
import safetensors.torch

import excise
from excise import errors, params, recipes
from excise.masks import Mask
from excise.patch import Patch
from excise.pipeline import unlearned
from tests.cases import CASES
from tests.probes import same_bytes, snapshot

CASE = CASES["batchnorm"]


@pytest.fixture(scope="module")
def made():
    model = CASE.make()
    split = excise.Split(CASE.data(60), forget=[3, 8])
    plan = excise.TrainPlan(epochs=4, lr=0.1)
    recipe = recipes.DEL(epochs=2, lr=0.05, batch_size=16, budget_fraction=0.4)
    return model, excise.unlearn(model, split, recipe, seed=5, plan=plan)


def test_saved_files_say_the_same_as_the_value(made, tmp_path):
    model, found = made
    names = found.save(tmp_path / "a" / "run")
    assert names == ["model.safetensors", "mask.safetensors", "patch.safetensors"]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "a" / "run").iterdir())
    weights, mask, patch = (tmp_path / "a" / "run" / name for name in names)
    again = CASE.make()
    again.load_state_dict(safetensors.torch.load_file(weights))
    assert same_bytes(snapshot(again), snapshot(found.model))
    assert Mask.load(mask) == found.mask
    assert same_bytes(snapshot(Patch.load(patch).apply(model)), snapshot(found.model))


def test_no_file_holds_the_values_that_were_to_be_forgotten(made, tmp_path):
    _, found = made
    found.save(tmp_path)
    read = safetensors.torch.load_file(tmp_path / "patch.safetensors")
    kept = {name.removeprefix("value/"): value for name, value in read.items() if name.startswith("value/")}
    assert kept.keys() == found.patch.before.keys() != set()
    for name, old in found.patch.before.items():
        assert len(old) == len(kept[name]) > 0
        assert not set(old.flatten().tolist()) & set(kept[name].flatten().tolist())


def test_a_directory_that_cannot_be_written_is_an_error(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DiskError, match="could not write"):
        made[1].save(tmp_path / "file")


def test_a_summary_holds_the_plain_facts(made):
    _, found = made
    summary = found.summary()
    assert summary == {
        "recipe": "DEL",
        "mask_fraction": found.mask.num_selected / found.mask.num_parameters,
        "localized_fraction": found.localized.num_selected / found.mask.num_parameters,
        "mask_digest": found.mask.digest,
        "frozen_digest_before": found.frozen_digest,
        "frozen_digest_after": found.frozen_digest,
        "seconds": found.cost.seconds,
        "trained_rows": 2 + 2 * 58,
        "forward_rows": 58,
        "peak_bytes": found.cost.peak_bytes,
        "retraining_share": (2 + 2 * 58) / (4 * 58),
        "parts": {name: dataclasses.asdict(spent) for name, spent in found.cost.parts.items()},
        "model_digest": params.model_digest(found.model),
        "seed": 5,
        "recomputed": True,
        "notes": [],
    }
    assert 0 < summary["localized_fraction"] <= 0.4
    parts = summary["parts"]
    assert [(name, parts[name]["trained_rows"], parts[name]["forward_rows"]) for name in parts] == [
        ("localize", 2, 0),
        ("unlearn", 2 * 58, 58),
    ]
    assert sum(part["seconds"] for part in parts.values()) <= summary["seconds"]


def test_the_value_is_frozen(made):
    with pytest.raises(dataclasses.FrozenInstanceError):
        made[1].seed = 6
    assert isinstance(made[1].trace, tuple)


def test_what_was_saved_is_read_back_as_it_was(made, tmp_path):
    model, found = made
    found.save(tmp_path)
    told = msgspec.convert(found.summary(), unlearned.Made)
    for by_hand in (False, True):
        again = unlearned.read_unlearned(tmp_path, told, model, None, by_hand=by_hand)
        assert same_bytes(snapshot(again.model), snapshot(found.model))
        assert again.mask == found.mask
        assert again.summary() == found.summary()
        assert again.by_hand == (found.mask if by_hand else None)
