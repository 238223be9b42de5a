import json
import re
from datetime import date
from pathlib import Path

import pytest

from excise import lifecycle, store, verify
from excise.cli import commands_ledger  # noqa: F401 - adds its commands
from excise.cli import ledger as work
from excise.lifecycle import requesting
from excise.store.keys import keys_home
from tests.cli.project import typed

OPEN = {
    "--model": "mine:make",
    "--weights": "w.safetensors",
    "--data": "mine:train",
    "--test": "mine:test",
    "--plan": "plan.toml",
    "--max-drop": "0.5",
}
RUN = ("run", "life", "--recipe", "Finetune", "--set", "epochs=1", "--tier", "T0")


@pytest.fixture
def ledger(excise, monkeypatch):
    monkeypatch.setattr(requesting, "now", lambda: "2026-02-01T10:00:00Z")

    def call(*words):
        return excise("ledger", *words, "--json")

    assert call("open", "life", *typed(OPEN)).code == 0
    return call


def test_a_life_from_the_first_request_to_a_receipt_that_verifies(ledger, excise, project):
    asked = ledger("request", "life", "--forget", "ids.txt", "--reason", "mislabel")
    assert asked.code == 0 and re.fullmatch("[0-9a-f]{32}", asked.json["id"])
    assert (asked.json["num_rows"], asked.json["due"], asked.json["state"]) == (10, "2026-03-03", "open")
    found = ledger("status", "life").json
    assert found["waiting"] == 1 and found["requests"][0]["id"] == asked.json["id"]
    done = ledger(*RUN)
    assert done.code == 0 and done.json["verdict"] == "INCONCLUSIVE" and done.json["adopted"]
    assert ledger("head", "life", "--out", "head.json").json == {"seq": 1, "hash": done.json["receipt"]}
    assert ledger("receipt", "life", asked.json["id"], "--out", "receipt.json").json["receipt"]["seq"] == 1
    model = project / done.json["out"] / "model.safetensors"
    with_log = {"log": project / "life" / "receipts.jsonl", "head": json.loads((project / "head.json").read_text())}
    assert verify.faults(project / "receipt.json", weights=model, **with_log) == []
    again = ledger("replay", "life")
    assert again.code == 0 and again.json["valid"] and again.json["replayed"][0]["outcome"] == "valid"
    assert ledger("forget-key", "life", asked.json["id"]).json["request"] == asked.json["id"]
    lost = ledger("replay", "life", "1")
    assert lost.code == 3 and "was destroyed" in lost.json["reasons"][0]


def test_a_receipt_is_held_against_a_replay_of_the_ledger_it_comes_from(ledger, excise, project):
    ledger("request", "life", "--forget", "ids.txt")
    ledger(*RUN)
    ledger("receipt", "life", "1", "--out", "receipt.json")
    receipt, life = project / "receipt.json", project / "life"
    assert work.replay_faults(receipt, life, "cpu", quiet=True) == []
    asked = ("verify", "receipt.json", "--replay", "life")
    assert excise(*asked, "--json").json["valid"] and excise(*asked, "--device", "cpu").code == 0
    told = excise(*asked, "--device", "abacus")
    assert told.code == 2 and "--device" in told.err and "abacus" in told.err
    told = json.loads(receipt.read_text())
    for changed in ({**told, "model_after": told["model_before"]}, {**told, "seq": None}, []):
        receipt.write_text(json.dumps(changed))
        assert work.replay_faults(receipt, life, "cpu", quiet=True) == [
            f"replay: this receipt is not the one that {life} holds under its number"
        ]


def test_the_same_in_words(ledger, excise, project):
    (project / "few.txt").write_text("1\n2\n")
    said = excise("ledger", "request", "life", "--forget", "ids.txt", "--due", "2026-02-03").out
    assert re.match(
        r"Request [0-9a-f]{32}: 10 rows, exact copies included; due 2026-02-03\.\nAnswer it by: excise", said
    )
    said = excise("ledger", "status", "life").out
    assert "OVERDUE" in said and "1 waiting, 1 overdue; in use: the original" in said
    assert "test accuracy changed by +0.0 percentage points, 0.00 retrainings spent by runs with a receipt" in said
    id = lifecycle.status("life")["requests"][0]["id"]
    table = said.split("\n")[:3]
    assert table[2] == f"request 1: {id}" and all(len(line) <= 80 for line in table)
    assert table[1].split() == ["1", "10", "2026-02-03", table[1].split()[3], "d", "OVERDUE", "open"]
    said = excise("ledger", *RUN).out
    assert "Run 1: 1 request, verdict INCONCLUSIVE; receipt 1." in said
    assert "adopted all the same, and its requests count as answered with the verdict INCONCLUSIVE: at tier T0" in said
    assert re.search(
        r"0 waiting, 0 overdue; in use: life/runs/0001/model\.safetensors", excise("ledger", "status", "life").out
    )
    head = lifecycle.head("life")
    assert excise("ledger", "head", "life").out == f"1:{head['hash'].removeprefix('sha256:')}\n"
    assert "Check it by: excise verify r.json" in excise("ledger", "receipt", "life", "1", "--out", "r.json").out
    assert excise("ledger", "replay", "life").out == "receipt 1: valid\n"
    assert excise("ledger", "status", "life", "--quiet").out == ""


def test_records_are_taken_by_content_and_what_is_no_training_row_is_an_error(ledger, project):
    (project / "asked.py").write_text(
        "import mine\n\n\ndef two():\n    inputs, labels = mine.train()\n    return inputs[[5, 9]], labels[[5, 9]]\n"
    )
    assert ledger("request", "life", "--records", "asked:two").json["num_rows"] == 2
    done = ledger("request", "life", "--records", "mine:test")
    assert done.code == 2 and "in no training row" in done.json["error"]
    assert len(ledger("status", "life").json["requests"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("request", "life", "--forget", "none.txt"), 2, "expected a file of row ids at none.txt, found none"),
        (("request", "life"), 2, "expected either row ids to forget or records"),
        (
            ("request", "life", "--forget", "ids.txt", "--due", "soon"),
            2,
            "--due: expected a date as YYYY-MM-DD, found 'soon'",
        ),
        (("request", "life", "--forget", "ids.txt", "--due", "2026-01-31"), 2, "due: expected a date from today"),
        (("request", "life", "--forget", "ids.txt", "--reason", "spite"), 2, "reason: expected one of erasure"),
        (("request", "nowhere", "--forget", "ids.txt"), 2, "found none; begin one with `excise ledger open`"),
        (("run", "life"), 2, "expected open requests to answer, found none"),
        (("run", "life", "--recipe", "DELL"), 2, "did you mean 'DEL'"),
        (("receipt", "life", "1", "--out", "r.json"), 2, "expected a receipt with the number 1 (there are 0)"),
        (("forget-key", "life", "abc"), 2, "expected an answered request under the id abc, found none"),
        (("withdraw", "life", "abc"), 2, "expected an open request under the id abc, found none"),
        (("head", "life", "--out", "life/receipts.jsonl"), 2, "lies in the ledger itself"),
        (("head", "life", "--out", "."), 2, "--out: expected the name of a file, found '.'"),
        (("open", "life", *typed(OPEN)), 2, "expected an empty or new directory for a ledger"),
        (("open", "other", *typed(OPEN, max_drop=2)), 2, "max_drop: expected a fraction"),
    ],
    ids=lambda value: " ".join(value[:5]) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_message_and_an_exit_code(ledger, project, words, code, message):
    done = ledger(*words)
    assert (done.code, done.json["exit_code"]) == (code, code) and message in done.json["error"]
    assert not (project / "nowhere").exists() and not (project / "other").exists()


def test_a_network_that_lost_too_much_is_refused_with_the_way_out(ledger, excise, monkeypatch):
    ledger("request", "life", "--forget", "ids.txt")
    monkeypatch.setattr(lifecycle.Subject, "test_accuracy", lambda *_: 0.1)
    done = ledger(*RUN)
    assert done.code == 3 and "--accept-drop" in done.json["error"] and "--anew" in done.json["error"]
    found = ledger("status", "life").json
    assert (found["runs"][0]["waits"] or "").startswith("--accept-drop or --anew")
    assert found["requests"][0]["running"] is False
    told = excise("ledger", "status", "life").out
    assert "running" not in told and "Run 1 waits for --accept-drop or --anew: its network lost too much" in told
    done = ledger(*RUN, "--accept-drop")
    assert done.code == 0 and done.json["adopted"] and done.json["run"] == 1


def test_a_run_that_fails_its_audit_leaves_the_requests_open_and_says_so_by_its_code(ledger, excise, monkeypatch):
    ledger("request", "life", "--forget", "ids.txt")
    found = {
        "run": 1,
        "requests": [1],
        "verdict": "FAIL",
        "seq": 1,
        "reasons": ["why"],
        "adopted": False,
        "report": "r",
    }
    monkeypatch.setattr(work.Ledger, "run", lambda *_, **__: found)
    done = excise("ledger", *RUN)
    assert done.code == 3 and "requests stay open; run again with another recipe" in done.out
    assert "adopted all the same" not in done.out
    monkeypatch.setattr(work.Ledger, "run", lambda *_, **__: {**found, "verdict": "INVALID"})
    assert excise("ledger", *RUN).code == 4
    monkeypatch.setattr(work.Ledger, "run", lambda *_, **__: {**found, "verdict": "PASS", "adopted": True})
    assert "adopted all the same" not in excise("ledger", *RUN).out
    monkeypatch.setattr(work.Ledger, "run", lambda *_, **__: {**found, "verdict": "INCONCLUSIVE", "adopted": True})
    told = excise("ledger", *RUN[:-2]).out
    assert "INCONCLUSIVE: the audit could not decide. Whether the rows are forgotten was not shown." in told


def test_without_the_original_weights_the_ledger_goes_on_from_its_own_and_cannot_be_replayed(ledger, project):
    ledger("request", "life", "--forget", "ids.txt")
    assert ledger(*RUN).code == 0
    (project / "w.safetensors").unlink()
    (project / "more.txt").write_text("1\n")
    assert ledger("request", "life", "--forget", "more.txt").code == 0
    done = ledger(*RUN)
    assert done.code == 0 and done.json["drift"]["distance"] is None
    lost = ledger("replay", "life")
    assert lost.code == 2 and "a replay begins with the original network" in lost.json["error"]


def test_a_ledger_from_python_is_gone_on_with_from_python(ledger, project):
    made = work._ledger(project / "life", "cpu")
    lifecycle.Ledger.open(
        project / "own", made.subject.model, made.subject.trained._given[0], test=made.subject.trained._given[1]
    )
    for words in (("request", "own", "--forget", "ids.txt"), ("run", "own"), ("replay", "own")):
        done = ledger(*words)
        assert done.code == 2 and "own was opened from Python, and does not say where network" in done.json["error"]
    assert ledger("status", "own").code == 0


def test_nothing_that_is_said_promises_more_than_is_known(ledger, excise, project):
    ledger("request", "life", "--forget", "ids.txt")
    said = [
        excise("ledger", *RUN),
        excise("ledger", "status", "life"),
        excise("ledger", "--help"),
        excise("ledger", "run", "--help"),
    ]
    text = " ".join(one.out + one.err for one in said) + (project / "life" / "receipts.jsonl").read_text()
    assert not re.search("proof|certif|guarante|complian", text, re.IGNORECASE)


def test_the_forget_files_path_and_ids_are_in_no_file_of_the_ledger(ledger, project):
    (project / "jane-doe.txt").write_text((project / "ids.txt").read_text())
    ledger("request", "life", "--forget", "jane-doe.txt")
    ledger(*RUN)
    held = b"".join(path.read_bytes() for path in (project / "life").rglob("*") if path.is_file())
    assert b"jane-doe" not in held and b"0, 20, 40" not in held and b"0,20,40" not in held


def test_days_are_counted_from_the_day_received(ledger):
    ledger("request", "life", "--forget", "ids.txt")
    one = lifecycle.status("life", today=date(2026, 2, 11))["requests"][0]
    assert (one["received"], one["days_left"]) == ("2026-02-01T10:00:00Z", 20)
    assert not Path("life", store.LOCK).exists()


def test_a_request_is_taken_back_and_its_rows_may_be_named_again(ledger, excise):
    made = ledger("request", "life", "--forget", "ids.txt").json
    assert excise("ledger", "withdraw", "life", made["id"]).out.startswith(f"Request {made['id']} is taken back.")
    found = ledger("status", "life").json
    assert (found["waiting"], found["requests"][0]["state"]) == (0, "withdrawn")
    assert ledger(*RUN).code == 2
    assert ledger("request", "life", "--forget", "ids.txt").code == 0


def test_a_record_is_shown_to_be_among_the_rows_of_a_receipt(ledger, excise, project):
    made = ledger("request", "life", "--forget", "ids.txt").json
    ledger(*RUN)
    ledger("receipt", "life", "1", "--out", "receipt.json")
    done = excise("ledger", "show-record", "life", made["id"], "--row", "20", "--out", "path.json")
    assert (
        done.out == "Wrote path.json. Whoever has the receipt checks it by: excise verify RECEIPT --record path.json\n"
    )
    assert excise("verify", "receipt.json", "--record", "path.json", "--json").json["valid"]
    (project / "asked.py").write_text(
        "import mine\n\n\ndef one():\n    inputs, labels = mine.train()\n    return inputs[[20]], labels[[20]]\n"
    )
    before = (project / "path.json").read_bytes()
    words = ("show-record", "life", made["id"], "--out", "path.json")
    assert ledger(*words, "--record", "asked:one").code == 0 and (project / "path.json").read_bytes() == before
    refused = ledger(*words, "--row", "21")
    assert refused.code == 2 and "expected one record that is among the rows" in refused.json["error"]


def test_a_second_run_with_other_settings_beside_one_at_work_names_its_process(ledger, project):
    ledger("request", "life", "--forget", "ids.txt")
    with store.lock(project / "life"):
        done = ledger("run", "life", "--recipe", "DEL", "--tier", "T0", "--seed", "3")
    assert done.code == 7 and re.search(r"is in use by process \d+", done.json["error"])


def test_a_key_that_is_gone_is_said_to_be_gone(ledger, excise, project):
    made = ledger("request", "life", "--forget", "ids.txt").json
    ledger(*RUN)
    (key,) = Path(keys_home() / "keys").glob(made["key_id"])
    key.unlink()
    assert f"until they are put back: {made['id']}." in excise("ledger", "status", "life").out
    done = excise("ledger", "forget-key", "life", made["id"])
    assert done.code == 0 and "is not on this machine: it is noted as gone, and may lie elsewhere" in done.out
    assert ledger("status", "life").json["notes"] == []
    assert ledger("status", "life").json["requests"][0]["key"] == "destroyed"


def test_every_row_is_more_than_a_ledger_can_forget(ledger, project):
    refused = ledger("request", "life", "--forget", "all")
    assert refused.code == 2 and "rows are all that no request has named yet" in refused.json["error"]
