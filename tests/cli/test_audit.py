import importlib
import json

import pytest

from excise import store
from excise.cli import audit as cli_audit
from excise.oracles import Bank
from tests.cli.conftest import PLAN
from tests.cli.project import tree
from tests.cluster.fleets import Elsewhere

KEYS = {"verdict", "controls", "measures", "report"}
MEASURE = {"name", "value", "low", "high", "null_mean", "null_high", "p", "num_models", "least_detectable"}


@pytest.fixture
def made(unlearn):
    """A run that was finished, by the plan that the audit needs."""
    assert unlearn("--set", "epochs=3", plan="plan.toml").code == 0


@pytest.fixture
def audit(excise):
    """Run `excise audit` on it with few oracles."""

    def call(*words, oracles=4, test="mine:test"):
        count = [] if oracles is None else ["--oracles", oracles]
        return excise("audit", "run", *count, *(["--test", test] if test else []), *words)

    return call


def test_numbers_and_page_are_written_into_the_run(project, made, audit):
    done = audit("--json")
    assert done.code == 0 and done.json.keys() >= KEYS
    assert done.json["verdict"] in ("PASS", "FAIL") and done.json["report"] == "run/report.html"
    assert done.json["controls"].keys() == {"nothing", "retrained", "plan"}
    assert done.json["controls"]["nothing"] == "FAIL"  # the network knew the wrong labels by heart
    assert all(one.keys() >= MEASURE for one in done.json["measures"])
    deciding = [one["name"] for one in done.json["measures"] if one["decides"]]
    assert deciding == done.json["plan"]["deciding"] and len(deciding) == 5
    assert all(one["num_models"] == 4 for one in done.json["measures"])
    held = json.loads((project / "run" / "audit.json").read_text())
    assert all(held[key] == value for key, value in done.json.items() if key != "report")
    assert (project / "run" / "report.html").read_text().startswith("<!doctype html>")
    assert len(kept(project)) == 4


def test_people_read_the_verdict_its_reasons_and_the_measures(made, audit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = audit()
    first, *others = done.out.splitlines()
    assert first in ("Verdict: PASS", "Verdict: FAIL") and others[0].startswith("  - ")
    assert "Controls: nothing FAIL, as it must; retrained " in done.out and others[-1] == "Open run/report.html"
    table = [line for line in others if line.startswith(("decides", "informs", "forget_", "retain_", "test_", "rmia"))]
    assert len(table) > 9 and max(map(len, table)) <= 80
    assert done.err.count("oracle ") == 4 and "oracle 4/4" in done.err
    assert audit("--quiet") == (done.code, f"{first}\n", "")


def test_the_same_command_again_says_so_and_does_nothing(project, made, audit):
    first, before = audit("--json"), tree(project)
    again = audit("--json")
    assert again.code == first.code and again.json == first.json
    assert "run already holds this audit, complete; nothing was done." in again.err
    assert "oracle 1/4" not in again.err and tree(project) == before


def test_an_audit_with_more_oracles_keeps_those_it_has(project, made, audit):
    assert audit(oracles=2).code == 0
    before, first = kept(project), json.loads((project / "run" / "audit.json").read_text())
    assert len(before) == 2
    done = audit("--json", oracles=4)
    assert done.json["num_oracles"] == 4
    after = kept(project)
    assert len(after) == 4 and before.items() <= after.items()
    aside = project / "run" / f"audit-{first['plan_digest'][:12]}.json"  # no audit is written over
    assert json.loads(aside.read_text()) == first


def test_a_page_that_is_gone_is_drawn_again(project, made, audit):
    assert audit().code == 0
    (project / "run" / "report.html").unlink()
    assert audit().code == 0
    assert (project / "run" / "report.html").is_file()


def test_few_oracles_decide_nothing_and_a_cluster_may_train_them(project, made, audit, monkeypatch):
    asked, fleet = [], Elsewhere()
    monkeypatch.setattr(cli_audit, "read_fleet", lambda *words: asked.append(words) or fleet)
    there = f"file://{project}/nets"
    done = audit("--json", "--cluster", "10.0.0.1:6379", "--at-once", "2", "--bank", there, oracles=2)
    assert done.code == 0 and done.json["verdict"] == "INCONCLUSIVE"
    assert asked == [("10.0.0.1:6379", 2)] and len(fleet.jobs) >= 2
    assert [one.kind for one in Bank(there).entries()] == ["oracle"] * 2  # the others have gone


def kept(project):
    """The oracles in the bank that commands use unless they are told of another."""
    bank = project.parent / "cache" / "excise" / "bank"
    oracles = {f"{one.key}.safetensors" for one in Bank(bank).entries() if one.kind == "oracle"}
    return {name: found for name, found in tree(bank).items() if name in oracles}


def test_a_plan_that_is_not_how_the_network_was_trained_is_4(project, made, audit):
    (project / "short.toml").write_text(PLAN.replace("epochs = 200", "epochs = 2"))
    done = audit("--json", "--plan", "short.toml")
    assert done.code == 4 and done.json["verdict"] == "INVALID" and done.json["controls"]["plan"] == "FAIL"
    assert audit("--plan", "short.toml").code == 4


def test_the_plan_of_the_audit_is_there_before_anything_is_trained(project, made, audit):
    (project / "own.py").write_text(
        "import json, pathlib\n"
        "def train(model, rows, seed):\n"
        "    assert json.loads(pathlib.Path('run/audit-plan.json').read_text())['tier'] == 'T1'\n"
        "    raise OSError('the plan was there')\n"
    )
    assert "the plan was there" in audit("--plan", "own:train").err


@pytest.mark.parametrize(
    "edit", ["a measure is added", "another decides", "the plan is changed", "it passes all the same"]
)
def test_an_audit_that_left_its_plan_is_refused(project, made, audit, excise, edit):
    assert audit().code == 0
    path = project / "run" / "audit.json"
    held = json.loads(path.read_text())
    if edit == "a measure is added":
        held["measures"].append({**held["measures"][0], "name": "a_kinder_one", "decides": False})
    elif edit == "another decides":
        next(one for one in held["measures"] if one["name"] == "confidence_attack")["decides"] = True
    elif edit == "it passes all the same":
        held["verdict"] = "PASS"
        next(one for one in held["measures"] if one["decides"])["p"] = 1e-4
    else:
        held["plan"]["deciding"] = held["plan"]["deciding"][:1]
    path.write_text(json.dumps(held))
    assert excise("report", "run").code == 6 and audit().code == 6  # it is not what the record says
    store.amend_record(path.parent, {"audit.json": path.read_bytes()})
    assert excise("report", "run").code == 6 and audit().code == 6


def test_the_smallest_tier_trains_nothing(project, made, audit):
    done = audit("--json", "--tier", "T0", oracles=None)
    assert done.code == 0 and done.json["verdict"] == "INCONCLUSIVE" and done.json["measures"] == []
    assert kept(project) == {} and set(done.json["controls"].values()) == {"not run"}


def test_the_smallest_tier_needs_no_plan(project, unlearn, audit):
    assert unlearn("--set", "epochs=1").code == 0
    done = audit("--json", "--tier", "T0", oracles=None)
    assert done.code == 0 and done.json["verdict"] == "INCONCLUSIVE" and done.json["plan"]["training"] == "none"


def test_networks_that_know_the_rows_stay_in_the_bank_only_if_asked(project, made, audit):
    def originals():
        entries = Bank(project.parent / "cache" / "excise" / "bank").entries()
        return [one for one in entries if one.kind == "original"]

    done = audit("--json")
    assert "swap" in done.json["plan"]["informing"] and originals() == []
    (project / "run" / "audit.json").unlink()
    assert audit("--keep-originals").code == 0 and originals()


def test_people_read_that_rows_without_a_trace_prove_nothing():
    words = cli_audit._control("nothing", "PASS", "INCONCLUSIVE"), cli_audit._control("nothing", "PASS", "INVALID")
    assert words[0] == "nothing PASS, these rows left no trace that this audit can see"
    assert words[1] == "nothing PASS, NOT as it must"
    assert cli_audit._control("retrained", "PASS", "PASS") == "retrained PASS, as it must"


def test_networks_that_are_trained_in_another_precision_than_the_run_are_told_of(unlearn, audit):
    assert unlearn("--set", "epochs=1", "--precision", "bfloat16", plan="plan.toml").code == 0
    told = "run was made with --precision bfloat16 --layout auto --compile auto; give the audit the same"
    assert told in audit("--tier", "T1", oracles=1).out
    assert told not in audit("--tier", "T0", oracles=None).out
    same = audit("--precision", "bfloat16", "--workers", "1", oracles=1)
    assert same.code == 0 and "give the audit the same" not in same.out


def test_a_budget_picks_what_fits_and_says_what_it_left_out(project, made, audit):
    done = audit("--json", "--budget-seconds", "0.001", oracles=None)
    assert done.code == 0 and done.json["tier"] == "T0" and len(done.json["left_out"]) == 2
    assert "left out: " in audit("--budget-seconds", "0.001", oracles=None).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tier", "T9"], "tier: expected one of T0, T1, T2, found 'T9'"),
        (["--budget-seconds", "5", "--tier", "T1"], "budget_seconds: it chooses tier and number of oracles itself"),
        (["--effect", "0"], "effect: expected a share"),
        (["--confused", "1"], "--confused: expected two classes such as 3,5"),
        (["--trigger", "mine:make"], "--trigger: expected pkg.mod:apply=CLASS"),
    ],
)
def test_options_that_cannot_be_are_told_before_any_training(project, made, audit, words, message):
    before = tree(project)
    done = audit(*words, oracles=None)
    assert done.code == 2 and message in done.err and tree(project) == before


def test_an_audit_that_cannot_see_even_doing_nothing_is_inconclusive(project, unlearn, audit):
    (project / "own.py").write_text(
        "import mine, torch\n"
        "from safetensors.torch import load_file\n"
        "def train(model, rows, seed):\n"
        "    model.load_state_dict(load_file('w.safetensors'))\n"  # an oracle that knows the rows is none
        "    torch.manual_seed(seed)\n"
        "    with torch.no_grad():\n"
        "        for value in model.parameters():\n"
        "            value += 0.01 * torch.randn_like(value)\n"
        "    return model\n"
    )
    assert unlearn(plan="own:train", recipe="Nothing").code == 0
    for _ in range(2):
        done = audit("--json")
        assert done.code == 0 and done.json["verdict"] == "INCONCLUSIVE" and done.json["controls"]["nothing"] == "PASS"


def test_a_plan_of_ones_own_code(project, made, audit):
    (project / "own.py").write_text(
        "import torch\n"
        "def train(model, rows, seed):\n"
        "    inputs, labels = rows.dataset.tensors\n"
        "    inputs, labels = inputs[rows.indices], labels[rows.indices]\n"
        "    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)\n"
        "    for _ in range(200):\n"
        "        optimizer.zero_grad()\n"
        "        torch.nn.functional.cross_entropy(model(inputs), labels).backward()\n"
        "        optimizer.step()\n"
        "    return model\n"
    )
    done = audit("--plan", "own:train", "--json")
    assert done.code == 0 and done.json["num_oracles"] == 4


@pytest.mark.parametrize(
    ("plan", "message"), [("mine:raises", "TypeError: raises() takes 0"), ("mine:quits", "TypeError")]
)
def test_what_ones_own_training_raises_is_told_as_ones_own(project, made, audit, plan, message):
    before = tree(project)
    done = audit("--plan", plan)
    assert done.code == 2 and done.err.splitlines()[-1].startswith(f"excise: --plan: {plan}() raised {message}")
    after = tree(project)
    assert "did not foresee" not in done.err
    assert after.pop("run/audit-plan.json") and after.pop("run/run.json") != before.pop("run/run.json")
    assert after == before and "audit-plan.json" in store.read_record(project / "run")["files"]


@pytest.mark.parametrize("name", ["model.safetensors", "mask.safetensors", "patch.safetensors"])
def test_a_changed_artifact_is_told_with_both_hashes_before_any_training(project, made, audit, name):
    path = project / "run" / name
    expected = store.file_digest(path)
    path.write_bytes(path.read_bytes() + b"x")
    before = tree(project)
    done = audit()
    assert done.code == 6 and f"run/{name} is not what its record says" in done.err
    assert expected in done.err and store.file_digest(path) in done.err and "oracle" not in done.err
    assert tree(project) == before


def test_other_weights_or_ids_than_the_runs_are_told(project, made, audit):
    weights = (project / "w.safetensors").read_bytes()
    (project / "w.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    done = audit()
    assert done.code == 6 and "w.safetensors does not hold the weights that run was made from" in done.err
    (project / "w.safetensors").write_bytes(weights)
    (project / "ids.txt").write_text("0\n20\n41\n")
    done = audit()
    assert done.code == 6 and "the forget ids are not those that run was made with" in done.err
    assert not (project / "run" / "audit.json").exists()


def test_inputs_that_have_moved_are_named_anew(project, made, audit):
    for name in ("w.safetensors", "ids.txt", "plan.toml"):
        (project / name).rename(project / f"moved-{name}")
    assert "--plan: expected a file at plan.toml, found none" in audit().err
    assert "expected weights at w.safetensors, found no such file" in audit("--plan", "moved-plan.toml").err
    words = ["--plan", "moved-plan.toml", "--weights", "moved-w.safetensors", "--forget", "moved-ids.txt"]
    assert audit(*words, "--model", "mine:make", "--data", "mine:train").code == 0


def test_without_test_rows_there_is_no_audit(project, made, audit):
    before = tree(project)
    done = audit(test=None)
    assert done.code == 2 and "--test: an audit needs rows that the network never saw; give pkg.mod:test" in done.err
    assert tree(project) == before


def test_without_a_plan_there_is_no_audit(unlearn, audit):
    assert unlearn("--set", "epochs=1").code == 0
    done = audit()
    assert done.code == 2 and "--plan: an audit retrains networks the way yours was trained" in done.err
    assert audit("--plan", "plan.toml").code == 0


@pytest.mark.parametrize("place", ["nowhere", ".", "plan.toml"])
def test_a_place_without_a_run_is_refused(project, excise, place):
    done = excise("audit", place)
    assert done.code == 2
    assert f"expected the directory of an `excise unlearn` run, found no run.json in {place}" in done.err


def test_the_run_of_another_command_is_refused(localize, excise):
    assert localize().code == 0
    done = excise("audit", "run")
    assert done.code == 2 and "expected the directory of an `excise unlearn` run, found one of 'localize'" in done.err


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: {**record, "result": {}},
        lambda record: {**record, "request": None},
        lambda record: {**record, "request": {**record["request"], "weights": 3}},
        lambda record: {key: value for key, value in record.items() if key != "result"},
    ],
)
def test_a_record_that_lacks_something_is_corrupt(project, made, audit, damage):
    path = project / "run" / "run.json"
    store.write_sealed(path, damage(store.read_sealed(path)))
    done = audit()
    assert done.code == 6 and "run/run.json is not a record that this version can read" in done.err


def test_numbers_of_another_form_are_replaced(project, made, audit):
    assert audit().code == 0
    store.amend_record(project / "run", {"audit.json": b"[]"})
    assert audit("--json").json["verdict"] in ("PASS", "FAIL")


@pytest.mark.parametrize("stopped", ["run.json", "audit.json", "report.html"])
def test_another_audit_that_was_killed_between_its_files_is_not_taken_for_a_complete_one(
    project, made, audit, monkeypatch, stopped
):
    assert audit("--tier", "T0", oracles=None).code == 0
    before, real = (project / "run" / "report.html").read_bytes(), store.files.write_bytes
    changed = ["--tier", "T0", "--effect", "0.4"]

    def killed(path, content):
        if path.name == stopped and (stopped != "run.json" or b'"pending"' in content):
            raise KeyboardInterrupt
        real(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("excise.store.runs.write_bytes", killed)
        patched.setattr("excise.store.sealed.write_bytes", killed)
        assert audit(*changed, oracles=None).code == 130
    store.read_record(project / "run")  # each file is the old one or the new one
    again = audit(*changed, oracles=None)
    assert again.code == 0 and "already holds" not in again.err + again.out
    record = store.read_record(project / "run")
    assert "pending" not in record and (project / "run" / "report.html").read_bytes() != before
    assert "already holds" in audit(*changed, oracles=None).out


def test_data_that_have_changed_since_the_run_are_told(project, made, audit, monkeypatch):
    mine = importlib.import_module("mine")
    inputs, labels = mine.train()
    monkeypatch.setattr(mine, "train", lambda: (inputs + 1, labels))
    done = audit()
    assert done.code == 6 and "the training data are not those that run was made from" in done.err


def test_how_the_work_is_done_is_an_option_of_every_command_that_works(project, excise, unlearn, localize):
    assert localize("--workers", "1", out="mask").code == 0
    assert unlearn("--set", "epochs=1", "--layout", "channels-last").code == 0
    assert excise("audit", "run", "--test", "mine:test", "--tier", "T0", "--precision", "bfloat16").code == 0
    expected = {"mask/run.json": {"workers": 1}, "run/run.json": {"layout": "channels-last"}}
    for path, machine in {**expected, "run/audit.json": {"precision": "bfloat16"}}.items():
        assert json.loads((project / path).read_text())["request"]["machine"] == machine
