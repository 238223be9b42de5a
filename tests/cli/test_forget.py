import importlib
import json
import re

import pytest
import torch

from excise import params, store
from tests.cli import mine
from tests.cli.project import tree

KEYS = {
    "out",
    "recipe",
    "mask_fraction",
    "frozen_digest_before",
    "frozen_digest_after",
    "seconds",
    "retraining_share",
}
ARTIFACTS = {"model.safetensors", "mask.safetensors", "patch.safetensors"}


def test_a_run_directory_holds_the_network_the_mask_the_patch_and_the_record(project, unlearn):
    done = unlearn("--set", "epochs=1", "--json", plan="plan.toml")
    assert done.code == 0 and "excise:" not in done.err
    assert done.json.keys() >= KEYS
    assert done.json["out"] == "run" and done.json["recipe"] == "DEL"
    assert done.json["frozen_digest_before"] == done.json["frozen_digest_after"]
    assert 0.2 < done.json["mask_fraction"] < 0.5
    assert done.json["retraining_share"] == pytest.approx((190 + 10) / (190 * 200))
    assert {path.name for path in (project / "run").iterdir()} == ARTIFACTS | {"run.json"}
    record = json.loads((project / "run" / "run.json").read_text())
    assert set(record["files"]) == ARTIFACTS
    assert record["request"]["set"] == ["epochs=1"] and record["request"]["seed"] == 0
    assert record["request"]["settings"]["method"]["methods"][1]["method"]["plan"]["epochs"] == 1
    assert record["request"]["plan_values"]["epochs"] == 200
    before, after = (store.read_weights(project / path) for path in ("w.safetensors", "run/model.safetensors"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    params.load_strictly_(mine.make(), after, "run")


def test_the_machine_is_part_of_the_request_where_it_is_not_the_default(project, unlearn):
    words = ("--set", "epochs=1", "--json")
    assert unlearn(*words).code == 0
    assert "machine" not in json.loads((project / "run" / "run.json").read_text())["request"]
    assert unlearn(*words, "--layout", "auto").code == 0  # the same run
    assert unlearn(*words, "--workers", "1").code == 2  # another request
    assert unlearn(*words, "--workers", "1", out="other").code == 0
    assert json.loads((project / "other" / "run.json").read_text())["request"]["machine"] == {"workers": 1}
    one, other = (store.read_weights(project / path / "model.safetensors") for path in ("run", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)  # arrays: nobody to read ahead
    assert "found 'half'" in unlearn(*words, "--precision", "half", out="third").json["error"]


def test_without_json_the_words_are_on_standard_output_and_progress_on_standard_error(unlearn):
    done = unlearn("--set", "epochs=1", plan="plan.toml")
    assert re.search(
        r"DEL: [\d.]+ % of the weights were allowed to change \([\d.]+ % chosen, the rest is trained besides\); all ",
        done.out,
    )
    assert "Wrote run\n" in done.out and "% of a retraining" in done.out
    assert "excise audit run --test pkg.mod:test" in done.out  # the plan is known, test rows are not
    assert re.search(r"\[ +[\d.]+ s\] Finetune \(2 steps\)", done.err)


def test_quiet_says_nothing(unlearn):
    assert unlearn("--set", "epochs=1", "--quiet") == (0, "", "")


def test_the_same_command_again_says_so_and_does_nothing(project, unlearn):
    first = unlearn("--set", "epochs=1", "--json")
    before = tree(project / "run")
    for _ in range(2):
        again = unlearn("--set", "epochs=1", "--json")
        assert again.code == 0 and again.json == first.json
        assert "run already holds this run, complete and unchanged; nothing was done." in again.err
        assert tree(project / "run") == before


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--set", "epochs=2"], r"set: \['epochs=1'\] there, \['epochs=2'\] here"),
        (["--set", "epochs=1", "--seed", "1"], "seed: 0 there, 1 here"),
        (["--set", "epochs=1", "--recipe", "Finetune"], "recipe: 'DEL' there, 'Finetune' here"),
        (["--set", "epochs=1", "--forget", "other.txt"], "forget: 'ids.txt' there, 'other.txt' here"),
        (["--set", "epochs=1", "--plan", "plan.toml"], "plan: None there, 'plan.toml' here"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_another_request_does_not_get_the_directory(project, unlearn, words, difference):
    (project / "other.txt").write_text("1\n2\n")
    assert unlearn("--set", "epochs=1").code == 0
    before = tree(project)
    done = unlearn(*words)
    assert done.code == 2
    assert re.search(rf"run holds the run of another request \({difference}\); choose another --out", done.err)
    assert tree(project) == before


def test_other_ids_or_weights_under_the_same_name_are_another_request(project, unlearn):
    assert unlearn("--set", "epochs=1").code == 0
    (project / "ids.txt").write_text("3\n")
    done = unlearn("--set", "epochs=1")
    assert done.code == 2 and "forget_commitment" in done.err


@pytest.mark.parametrize("name", sorted(ARTIFACTS))
def test_a_changed_artifact_is_told_with_both_hashes(project, unlearn, name):
    assert unlearn("--set", "epochs=1").code == 0
    path = project / "run" / name
    expected = store.file_digest(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = unlearn("--set", "epochs=1", "--json")
    assert done.code == done.json["exit_code"] == 6
    assert f"run/{name} is not what its record says" in done.err
    assert expected in done.err and store.file_digest(path) in done.err
    path.unlink()
    done = unlearn("--set", "epochs=1")
    assert done.code == 6 and f"run should hold {name}" in done.err


def test_the_seed_decides(project, unlearn):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert unlearn("--set", "epochs=1", "--quiet", out=out, seed=seed).code == 0
    one, same, other = (store.file_digest(project / out / "model.safetensors") for out in "abc")
    assert one == same != other


def test_a_mask_is_a_promise_for_any_recipe(project, unlearn, localize):
    found = localize("--json", out="cut", budget=0.2).json
    done = unlearn("--json", "--set", "epochs=2", recipe="Finetune", mask="cut/mask.safetensors")
    assert done.json["mask_fraction"] == found["mask_fraction"]
    assert done.json["mask_digest"] == found["mask_digest"]


@pytest.mark.parametrize("recipe", ["Finetune", "NegGrad", "Nothing"])
def test_every_recipe_runs(unlearn, recipe):
    assert unlearn("--json", recipe=recipe).json["recipe"] == recipe


def test_retrain_takes_a_plan_as_a_setting(unlearn):
    done = unlearn("--json", "--set", "plan=plan.toml", recipe="Retrain", plan="plan.toml")
    assert done.json["mask_fraction"] == 1 and done.json["retraining_share"] == 1


def test_values_to_reset_to_are_a_setting(unlearn):
    assert unlearn("--set", "initial=w.safetensors", "--set", "epochs=1").code == 0


@pytest.mark.parametrize("data", ["mine:train", "mine:Listed"])
def test_data_are_arrays_or_a_dataset(unlearn, data):
    assert unlearn("--set", "epochs=1", data=data, out=data[5:]).code == 0


def test_what_the_users_code_prints_does_not_mix_with_the_object(unlearn):
    done = unlearn("--set", "epochs=1", "--json", model="mine:chats")
    assert done.json["recipe"] == "DEL" and "hello from make" in done.err


def test_a_diverging_run_keeps_the_last_finite_state_and_no_result(project, unlearn):
    done = unlearn("--set", "lr=1e30", "--set", "epochs=5", "--json", recipe="Finetune")
    assert done.code == done.json["exit_code"] == 8
    assert re.search(r"excise: Finetune: (the loss became|a weight stopped being finite)", done.err)
    assert "run/last-finite.safetensors, and is no unlearned network" in done.err
    assert [path.name for path in (project / "run").iterdir()] == ["last-finite.safetensors"]
    params.load_strictly_(mine.make(), store.read_weights(project / "run" / "last-finite.safetensors"), "kept")
    again = unlearn("--set", "epochs=1", recipe="Finetune")  # the directory is free for a better try
    assert again.code == 0
    assert {path.name for path in (project / "run").iterdir()} == ARTIFACTS | {"run.json"}


def test_no_trace_of_which_rows_were_forgotten(project, unlearn, excise):
    ids = [10_007, 13_579, 17_771, 20_483, 24_691, 28_657]
    (project / "ids.txt").write_text(" ".join(map(str, ids)))
    (project / "plan.toml").write_text("epochs = 1\nlr = 0.1\nbatch_size = 2000\n")
    said = unlearn("--set", "epochs=1", "--set", "batch_size=2000", data="mine:many", plan="plan.toml")
    heard = excise("audit", "run", "--oracles", 2, "--test", "mine:test", "--json")
    assert said.code == heard.code == 0
    again = unlearn("--set", "epochs=2", "--debug", data="mine:many", plan="plan.toml")
    assert again.code == 2
    texts = [path.read_text() for path in (project / "run").iterdir() if path.suffix in (".json", ".html")]
    assert len(texts) == 4  # run.json, audit-plan.json, audit.json, report.html
    for text in [*texts, *(word for done in (said, heard, again) for word in done[1:])]:
        assert not re.search(rf"(?<![0-9a-f.])({'|'.join(map(str, ids))})(?![0-9a-f])", text)


def test_a_retraining_takes_the_plan_that_the_network_was_trained_by(unlearn):
    done = unlearn("--json", recipe="Retrain", plan="plan.toml", out="again")
    assert done.code == 0, done.err
    assert done.json["retraining_share"] == 1.0
    refused = unlearn(recipe="Retrain", out="other")
    assert refused.code == 2
    assert "Retrain needs plan; give it as --set plan=…; a plan is a .toml file with the fields" in refused.err


def test_a_recipe_that_needs_unseen_rows_takes_them(project, unlearn):
    (project / "seen.py").write_text(
        "import mine\n\n\ndef unseen():\n    inputs, labels = mine.train()\n    return inputs + 0.1, labels\n"
    )
    told = ("--json", "--set", "epochs=1", "--set", "max_epochs=1")
    refused = unlearn(*told, recipe="SCRUBPlusR", out="none")
    assert refused.code == 2 and "needs rows that were never trained on" in refused.err
    done = unlearn(*told, "--holdout", "seen:unseen", recipe="SCRUBPlusR", out="some")
    assert done.code == 0, done.err


def test_data_that_have_changed_since_are_told_and_no_checkpoint_of_the_old_is_used(project, unlearn, monkeypatch):
    assert unlearn("--set", "epochs=2", out="whole").code == 0
    mine = importlib.import_module("mine")
    inputs, labels = mine.train()
    other = inputs.clone()
    other[5] += 1
    with monkeypatch.context() as patched:
        patched.setattr(mine, "train", lambda: (other, labels))
        wanted = unlearn("--set", "epochs=2", "--json", out="other").json["model_digest"]
        done = unlearn("--set", "epochs=2", out="whole")
        assert done.code == 6 and "their content has changed since; give the same data" in done.err
    with monkeypatch.context() as patched:
        patched.setattr("excise.store.runs.RunDirectory.complete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert unlearn("--set", "epochs=2", "--checkpoint-seconds", "0", out="broken").code == 130
    assert list((project / "broken" / "checkpoints").iterdir())
    monkeypatch.setattr(mine, "train", lambda: (other, labels))
    done = unlearn("--set", "epochs=2", "--checkpoint-seconds", "0", "--json", out="broken")
    assert done.json["model_digest"] == wanted and "is not used" in done.err


def test_another_request_does_not_take_the_place_of_one_that_was_killed(project, unlearn, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("excise.store.runs.RunDirectory.complete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert unlearn("--set", "epochs=2").code == 130
    kept = sorted(path.name for path in (project / "run" / "checkpoints").iterdir())
    done = unlearn("--set", "epochs=1")
    assert done.code == 2 and "the unfinished run of another request (set: ['epochs=2'] there" in done.err
    assert kept == sorted(path.name for path in (project / "run" / "checkpoints").iterdir())
    done = unlearn("--set", "epochs=2")
    assert done.code == 0 and "goes on from its checkpoint" in done.err


def test_data_of_rows_to_forget_alone_are_told_by_a_word(project, unlearn, localize, excise):
    words = ("--set", "num_draws=2", "--set", "lr=0.001", "--json")
    done = unlearn(*words, forget="all", recipe="JiT", plan="plan.toml")
    assert done.code == 0 and done.json["retraining_share"] is None
    assert "An audit cannot say: it reads the rows that stay" in done.err
    request = json.loads((project / "run" / "run.json").read_text())["request"]
    assert (request["num_rows"], request["num_forget"]) == (200, 200)
    before = tree(project / "run")
    assert "nothing was done" in unlearn(*words, forget="all", recipe="JiT", plan="plan.toml").err
    found = localize("--json", forget="all", out="cut", budget=0.2)
    assert found.code == 0 and found.json["mask_fraction"] > 0.1
    again = unlearn(*words, forget="all", recipe="JiT", mask="cut/mask.safetensors", out="cut-run")
    assert again.code == 0 and again.json["mask_fraction"] == found.json["mask_fraction"]
    refused = unlearn("--json", forget="all", out="none")
    assert refused.code == 2 and "recipes that read no row that stays: NegGrad, " in refused.json["error"]
    refused = localize("--json", forget="all", out="none", criterion="fisher-ratio")
    assert refused.code == 2 and "reads rows that stay" in refused.json["error"]
    refused = excise("audit", "run", "--test", "mine:test", "--json")
    assert refused.code == 2 and "unlearn with all training rows as --data" in refused.json["error"]
    assert tree(project / "run") == before
