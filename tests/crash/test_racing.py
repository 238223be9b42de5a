"""Eight processes on one directory, eight on one log."""

from excise.ledger.log import Log
from tests.crash.racing import append_all, race


def test_of_eight_processes_one_runs_and_the_others_are_refused_with_its_number(stages, tmp_path):
    raced = race(stages, tmp_path / "trial")
    assert raced.ran.code == 0 and len(raced.refused) == 7
    for one in raced.refused:
        assert "run is in use by process" in one.err and "Traceback" not in one.err
    assert (tmp_path / "trial" / "work" / "run" / "run.json").exists()
    assert [path.name for path in (tmp_path / "trial" / "work" / "run").iterdir() if path.name[0] == "."] == []


def test_eight_processes_lose_no_receipt_of_one_log(stages, tmp_path):
    place = stages.after(None).copied_to(tmp_path / "place")
    receipts = append_all(place, 8, 12)
    assert [one["seq"] for one in receipts] == list(range(1, 97))
    assert Log(place.work / "receipts.jsonl").head() == {"seq": 96, "hash": receipts[-1]["hash"]}
