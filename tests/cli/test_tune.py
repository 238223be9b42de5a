import json
import re

import pytest

from excise import recipes, store
from excise.cli import tune
from tests.cli.project import UNLEARN, tree, typed
from tests.cluster.fleets import Elsewhere

TUNE = {**UNLEARN, "--out": "tuned", "--recipe": "Finetune", "--test": "mine:test", "--trials": 3}
SPACE = ("--space", "lr=0.01:0.5:log", "--space", "epochs=2,20")


@pytest.fixture
def tuned(excise):
    def call(*words, **changes):
        return excise("tune", *typed(TUNE, **changes), *words)

    return call


def test_what_was_chosen_is_what_unlearn_takes(project, excise, tuned):
    done = tuned(*SPACE, "--set", "momentum=0.5", "--json", plan="plan.toml", seed=7)
    assert done.code == 0, done.err
    found = done.json
    assert set(found) >= {
        *("out", "recipe", "settings", "value", "utility_loss", "alarms", "trials", "seconds", "retraining_share"),
    }
    assert found["out"] == "tuned" and found["recipe"] == "Finetune" and len(found["trials"]) == 3
    best = min((one for one in found["trials"] if one["state"] == "ok"), key=lambda one: one["value"])
    assert found["settings"] == best["settings"] and found["value"] == best["value"]
    assert found["retraining_share"] == sum(one["settings"]["epochs"] for one in found["trials"]) / 200
    assert found["set"] == ["momentum=0.5", *(f"{key}={value}" for key, value in best["settings"].items())]
    assert store.read_sealed(project / "tuned" / "result.json") == found

    given = {key: value for key, value in UNLEARN.items() if key != "--out"}
    first = excise("unlearn", *typed(given), "--config", "tuned/settings.toml", "--out", "by-file", "--json")
    assert first.code == 0, first.err
    words = [word for one in found["set"] for word in ("--set", one)]
    second = excise("unlearn", *typed(given), *words, "--recipe", "Finetune", "--seed", 7, "--out", "by-hand", "--json")
    assert first.json["model_digest"] == second.json["model_digest"]
    record = json.loads((project / "by-file" / "run.json").read_text())["request"]
    plan = record["settings"]["method"]["plan"]
    assert (plan["lr"], plan["epochs"], plan["momentum"]) == (best["settings"]["lr"], best["settings"]["epochs"], 0.5)
    assert record["seed"] == 7


def test_people_read_a_table_the_choice_and_the_next_command(tuned):
    done = tuned(*SPACE)
    assert done.code == 0, done.err
    assert len(re.findall(r"^\d  lr [\d.e-]+, epochs (2|20) ", done.out, re.M)) == 3
    assert len(re.findall(r"  chosen$", done.out, re.M)) == 1
    assert re.search(r"Finetune: --set lr=[\d.e-]+ --set epochs=(2|20)\n", done.out)
    assert "Half of the test rows are used up by this choice" in done.out
    assert "Next: excise unlearn --config tuned/settings.toml" in done.out
    assert "trial 1/3, Finetune" in done.err
    assert max(map(len, done.out.split("Finetune: ")[0].splitlines())) <= 80


def test_quiet_says_nothing(tuned):
    assert tuned(*SPACE, "--quiet", trials=1) == (0, "", "")


def test_the_same_command_again_runs_no_trial_and_more_trials_go_on(project, tuned):
    first = tuned(*SPACE, "--json").json
    trials = (project / "tuned" / "tuning.json").read_bytes()
    again = tuned(*SPACE, "--json")
    assert again.json["trials"] == first["trials"] and "Finetune (" not in again.err
    assert (project / "tuned" / "tuning.json").read_bytes() == trials
    more = tuned(*SPACE, "--json", trials=4).json
    assert more["trials"][:3] == first["trials"] and len(more["trials"]) == 4


def test_another_search_is_refused_the_directory(project, tuned):
    assert tuned(*SPACE, trials=1).code == 0
    before = tree(project)
    done = tuned("--space", "lr=0.1,0.2", trials=1)
    assert done.code == 2 and "tuned holds another search (space: " in done.err
    assert tree(project) == before


def test_a_holdout_leaves_the_test_rows_alone(project, tuned):
    (project / "seen.py").write_text("import mine\n\n\ndef unseen():\n    return mine.blobs(5, 60)\n")
    done = tuned(*SPACE, "--json", trials=1, holdout="seen:unseen")
    assert done.json["held_out"] == "holdout" and done.json["num_held_out"] == 60
    assert tuned(*SPACE, "--json", trials=1, out="half").json["num_held_out"] == 75


def test_oracles_come_after_the_choice_and_say_how_it_ranks(project, tuned, monkeypatch):
    (project / "short.toml").write_text('epochs = 20\noptimizer = "adam"\nlr = 0.02\nbatch_size = 200\n')
    plain = tuned(*SPACE, "--json", plan="short.toml").json
    assert plain["ranking"] is None
    asked, fleet = [], Elsewhere()
    monkeypatch.setattr(tune, "read_fleet", lambda *words: asked.append(words) or fleet)
    done = tuned(*SPACE, "--json", "--oracles", 3, "--cluster", "local", plan="short.toml")
    assert done.code == 0, done.err
    assert asked == [("local", 1)] and [name for name, _ in fleet.jobs] == ["train_there"] * 3
    rank = done.json["ranking"]
    assert done.json["settings"] == plain["settings"]
    assert rank["num_oracles"] == 3 and 1 <= rank["rank"] <= rank["num_trials"] <= 3 and rank["kendall_tau"] is None
    assert rank["regret"] == rank["distance"] - rank["best"]
    assert "networks retrained afterwards the choice is" in done.err


def test_no_setting_that_keeps_the_bound_is_exit_code_3(tuned):
    done = tuned("--space", "lr=300,400", recipe="NegGrad", trials=2)
    assert done.code == 3 and "none of 2 settings" in done.err


def test_features_are_the_users_own(project, tuned):
    (project / "look.py").write_text("def first(batch):\n    return batch[0][:, :1]\n")
    plain, own = (
        tuned(*SPACE, "--json", trials=1, out=out, **more).json
        for out, more in (("a", {}), ("b", {"features": "look:first"}))
    )
    assert plain["value"] != own["value"]


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        (["--space", "lr"], {}, "--space: expected key=low:high, key=low:high:log or key=a,b,c"),
        (["--space", "lr="], {}, "found 'lr='"),
        (["--space", "epoch=1,2"], {}, "found 'epoch=1,2'; did you mean 'epochs'?"),
        (["--space", "lr=1,2", "--space", "lr=1:2"], {}, "found 'lr=1:2'"),
        (["--space", "lr=1,2", "--set", "lr=1"], {}, "none that --set names; found 'lr=1,2'"),
        (["--space", "epochs=1.5,2"], {}, "--space epochs=1.5,2: Expected `int`"),
        (["--space", "lr=1:2:linear"], {}, "lr: expected a list of different values, (low, high)"),
        (["--space", "lr=1:2:log:log"], {}, "lr: expected a list of different values, (low, high)"),
        (["--space", "lr=0:1:log"], {}, "with 0 < low"),
        ([*SPACE, "--oracles", "3"], {}, "--oracles: retraining needs --plan"),
        ([*SPACE, "--oracles", "2"], {"plan": "plan.toml"}, "--oracles: expected 0, or at least 3"),
        ([*SPACE, "--max-cost-share", "0.1"], {}, "max_cost_share: expected plan"),
        ([*SPACE], {"recipe": "Finetuned"}, "did you mean 'Finetune'?"),
        ([*SPACE], {"recipe": "Nothing"}, "found 'lr=0.01:0.5:log'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_acted_on_is_exit_code_2_before_any_work(project, tuned, words, changes, message):
    done = tuned(*words, "--json", **changes)
    assert done.code == done.json["exit_code"] == 2, done.err
    assert message in done.err
    assert not (project / "tuned").exists()


def test_a_space_in_words_is_the_space_in_python():
    words = ["lr=0.001:0.3:log", "epochs=2,4,8", "budget_fraction=0.1:0.5", "granularity=weight,channel", "head=1,2"]
    assert tune.read_space("DEL", recipes.DEL, {}, words) == {
        "lr": (0.001, 0.3, "log"),
        "epochs": [2, 4, 8],
        "budget_fraction": (0.1, 0.5),
        "granularity": ["weight", "channel"],
        "head": ["1", "2"],
    }
    assert tune.read_space("IU", recipes.IU, {}, ["num_rows=null,256"]) == {"num_rows": [None, 256]}
    assert tune.read_space("DEL", recipes.DEL, {}, None) is None
