import json
import os
from datetime import date

import pytest

from excise import errors, store, verify
from excise.lifecycle import export_head, export_receipt, head, receipt, requesting, status
from excise.lifecycle.papers import opened as opened_papers
from excise.recipes import Finetune, NegGrad
from tests.lifecycle.conftest import COLLAPSE


@pytest.fixture
def february(monkeypatch):
    monkeypatch.setattr(requesting, "now", lambda: "2026-02-01T10:00:00Z")


def test_days_left_are_counted_to_the_due_date_and_what_is_late_is_marked(ledger, february):
    ledger.request([3], due=date(2026, 2, 10))
    ledger.request([11])
    by_day = {day: status(ledger.directory, today=date(2026, 2, day)) for day in (1, 10, 11)}
    assert [one["days_left"] for one in by_day[1]["requests"]] == [9, 30]
    assert [one["days_left"] for one in by_day[10]["requests"]] == [0, 21]
    assert [one["overdue"] for one in by_day[10]["requests"]] == [False, False]
    assert [one["overdue"] for one in by_day[11]["requests"]] == [True, False]
    assert [found["overdue"] for found in by_day.values()] == [0, 0, 1]


def test_an_answered_request_is_never_late_and_names_its_run_verdict_and_receipt(ledger, february):
    made = ledger.request([3], due=date(2026, 2, 2))
    before = status(ledger.directory)
    assert (before["waiting"], before["model"], before["model_digest"]) == (1, None, before["original"])
    ran = ledger.run(Finetune(epochs=1), tier="T0")
    after = status(ledger.directory, today=date(2027, 1, 1))
    (one,) = after["requests"]
    assert (one["id"], one["state"], one["overdue"], one["days_left"]) == (made.id, "answered", False, None)
    assert (one["runs"], one["verdict"], one["receipt"]) == ([1], "INCONCLUSIVE", 1)
    assert after["waiting"] == after["overdue"] == 0
    assert after["head"] == {"seq": 1, "hash": ran["receipt"]} == head(ledger.directory)
    assert after["drift"] == ran["drift"] and after["drift"]["distance"] > 0
    assert after["model"].endswith("runs/0001/model.safetensors")
    assert after["runs"][0]["num_requests"] == 1 and after["runs"][0]["recipe"] == "Finetune"


def test_a_fresh_life_has_no_drift_and_no_advice(ledger):
    found = status(ledger.directory)
    assert found["drift"] == {"distance": 0, "forgotten_fraction": 0, "retrainings": 0, "test_accuracy_change": 0}
    assert found["advice"] == [] and found["head"] == {"seq": 0, "hash": verify.GENESIS}


def test_much_forgotten_brings_the_advice_to_retrain(ledger):
    ledger.request(range(17))
    ledger.run(Finetune(epochs=1), tier="T0")
    assert status(ledger.directory)["advice"][0] == "10.6% of the training rows are forgotten (above 10%)"


def test_a_receipt_is_found_by_its_number_and_by_its_request(ledger, tmp_path):
    first, second = ledger.request([3]), ledger.request([11])
    ledger.run(Finetune(epochs=1), tier="T0")
    third = ledger.request([19])
    ledger.run(Finetune(epochs=1), tier="T0")
    assert receipt(ledger.directory, 1) == receipt(ledger.directory, first.id) == receipt(ledger.directory, second.id)
    assert receipt(ledger.directory, "2") == receipt(ledger.directory, third.id)
    out = tmp_path / "receipt.json"
    assert export_receipt(ledger.directory, third.id, out) == json.loads(out.read_text())
    model = status(ledger.directory)["model"]
    log, audit = ledger.directory / "receipts.jsonl", ledger.directory / "runs" / "0002" / "audit.json"
    assert verify.faults(out, weights=model, log=log, head=head(ledger.directory), audit=audit) == []
    earlier = ledger.directory / "runs" / "0001" / "model.safetensors"
    assert verify.faults(out, weights=earlier) != []


def test_a_request_that_failed_in_two_runs_brings_the_advice_too(opened):
    ledger = opened(max_drop=1.0)
    ledger.request([3])
    for number in (1, 2):
        assert ledger.run(COLLAPSE, tier="T0")["verdict"] == "FAIL"
        said = [one for one in status(ledger.directory)["advice"] if "failed" in one]
        assert said == ([] if number == 1 else ["a request has failed in 2 runs"])
    found = status(ledger.directory)
    assert (
        found["drift"]["distance"] == 0.0 and found["drift"]["retrainings"] == ledger.receipt(2)["drift"]["retrainings"]
    )


@pytest.mark.parametrize("which", ["3", "0", "f" * 32, "nobody"])
def test_a_receipt_that_is_not_there_is_an_error(ledger, which):
    with pytest.raises(errors.BadRequest, match=r"expected a receipt .*, found none; see `excise ledger status"):
        receipt(ledger.directory, which)


def test_what_a_begun_run_waits_for_is_said_and_only_one_at_work_is_running(opened):
    ledger = opened(max_drop=0.02)
    ledger.request([3])
    with pytest.raises(errors.Refused):
        ledger.run(COLLAPSE, tier="T0")
    found = status(ledger.directory)
    assert found["runs"][0]["waits"] == found["requests"][0]["waits"]
    assert found["runs"][0]["waits"].startswith("--accept-drop or --anew") and not found["requests"][0]["running"]
    with store.lock(ledger.directory):
        at_work = status(ledger.directory)
    assert at_work["requests"][0]["running"] and at_work["runs"][0]["waits"] is None
    with pytest.raises(errors.Diverged):
        ledger.run(NegGrad(lr=1e38, epochs=3), tier="T0", anew=True)
    assert status(ledger.directory)["runs"][1]["waits"].startswith("the same command again, or --anew")
    assert ledger.run(Finetune(epochs=1, lr=0.001), tier="T0", anew=True)["adopted"]
    assert [one["waits"] for one in status(ledger.directory)["runs"]] == [None, None, None]


def test_an_accepted_drop_is_waited_for_no_more(opened):
    ledger = opened(max_drop=0.02)
    ledger.request([3])
    with pytest.raises(errors.Refused):
        ledger.run(COLLAPSE, tier="T0")
    ledger.run(COLLAPSE, tier="T0", accept_drop=True)
    assert "refused" not in store.read_record(ledger.directory / "runs" / "0001")


def test_the_ledgers_own_key_is_missed(ledger, home):
    assert status(ledger.directory)["notes"] == []
    with opened_papers(ledger.directory) as papers:
        key = home / "excise" / "keys" / papers.book.life().key_id
    content = key.read_bytes()
    key.write_bytes(content[:-1])
    (note,) = status(ledger.directory)["notes"]
    assert key.name in note and "no request is taken or answered, until it is put back" in note
    key.write_bytes(content)
    assert status(ledger.directory)["notes"] == []


@pytest.mark.parametrize("name", ["receipts.jsonl", "runs/0001/model.safetensors", "new.json", "../link"])
def test_nothing_is_written_over_what_lies_in_the_ledger(ledger, tmp_path, name):
    ledger.request([3])
    ledger.run(Finetune(epochs=1), tier="T0")
    (tmp_path / "link").symlink_to(ledger.directory / "receipts.jsonl")
    before = (ledger.directory / "receipts.jsonl").read_bytes()
    for write in (lambda out: export_receipt(ledger.directory, 1, out), lambda out: export_head(ledger.directory, out)):
        with pytest.raises(errors.BadRequest, match="lies in the ledger itself, whose files nobody else writes"):
            write(ledger.directory / name)
    assert (ledger.directory / "receipts.jsonl").read_bytes() == before and not (ledger.directory / "new.json").exists()


def test_a_pipe_or_a_directory_is_no_place_for_a_receipt(ledger, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for out in (tmp_path / "pipe", tmp_path, ".", ""):
        with pytest.raises(errors.BadRequest, match="--out: expected the name of a file, found"):
            export_head(ledger.directory, out)
    assert export_head(ledger.directory, tmp_path / "head.json") == json.loads((tmp_path / "head.json").read_text())
