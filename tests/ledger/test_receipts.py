import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from excise import verify
from excise.ledger.log import Log
from excise.ledger.receipts import CLAIM, LIMITS, receipt
from tests.ledger import samples


def test_a_built_receipt_stands_up_once_it_is_sealed():
    for verdict in ("PASS", "FAIL", "INCONCLUSIVE", "INVALID"):
        built = samples.build(3, verify.GENESIS, verdict=verdict)
        assert "hash" not in built
        assert verify.receipt_faults(verify.sealed(built)) == []
        assert (built["seq"], built["prev"], built["claim"]) == (3, verify.GENESIS, CLAIM)
        assert built["audit"]["verdict"] == verdict


def test_every_value_stands_where_it_belongs():
    built = samples.build(1, verify.GENESIS)
    given = samples.numbers()
    assert built["model_before"] == f"sha256:{samples.hexadecimal('before')}"
    assert built["model_after"] == f"sha256:{samples.hexadecimal('after')}"
    assert built["model_file"] == f"sha256:{samples.hexadecimal('file')}"
    assert (built["data_manifest"], built["data_rows"]) == (f"sha256:{samples.hexadecimal('data')}", 100)
    assert (built["retain_root"], built["retain_rows"]) == (f"sha256:{samples.hexadecimal('retain')}", 97)
    assert built["requests"][0]["forget_commit"] == f"sha256:{samples.hexadecimal('rows 1')}"
    assert built["audit"]["plan_hash"] == f"sha256:{given['plan_digest']}"
    assert [one["p"] for one in built["audit"]["metrics"]] == [one["p"] for one in given["measures"]]
    assert all("sentence" not in one for one in built["audit"]["metrics"])
    assert built["copies"] == {
        "purged": [f"sha256:{samples.hexadecimal('copy')}"],
        "kept": [{"id": "backup", "until": "2026-10-01"}],
    }
    assert built["env"]["isa"] == "avx2"
    assert (built["sequence"], built["retraining_share"], built["drift"]["rows"]) == (1, 0.05, 0.03)


def test_digests_may_be_given_with_their_kind_before_them():
    plain = samples.build(1, verify.GENESIS)
    told = samples.build(1, verify.GENESIS, model_before=plain["model_before"], model_file=plain["model_file"])
    assert told == plain


def test_numbers_that_are_not_finite_become_null():
    audit = samples.numbers("FAIL")
    audit["measures"][0]["low"] = float("-inf")
    built = samples.build(
        1, verify.GENESIS, audit=audit, retraining_share=float("nan"), drift={"a": [float("inf"), 1.0]}
    )
    assert built["audit"]["metrics"][0]["low"] is None
    assert built["retraining_share"] is None
    assert built["drift"] == {"a": [None, 1.0]}
    assert verify.receipt_faults(verify.sealed(built)) == []


def test_tuples_become_lists_and_the_time_is_in_utc():
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    built = samples.build(1, verify.GENESIS, drift={"a": (1, 2)}, time=moment)
    assert built["drift"] == {"a": [1, 2]}
    assert built["time"] == "2026-01-02T01:04:05Z"
    now = datetime.fromisoformat(samples.build(1, verify.GENESIS, time=None)["time"])
    assert abs(datetime.now(UTC) - now) < timedelta(minutes=5)


def test_the_limits_stand_first_and_further_ones_after_them():
    built = samples.build(1, verify.GENESIS, further_limits=["one more"])
    assert built["limits"] == [*LIMITS, "one more"]


def test_what_stands_in_a_receipt_is_what_the_audit_file_says(tmp_path):
    audit = samples.numbers()
    built = samples.build(1, verify.GENESIS, audit=audit)
    read = json.loads(json.dumps(audit))
    assert {name: built["audit"][name] for name in verify.audited(read)} == verify.audited(read)


def test_a_receipt_cannot_be_built_from_half_an_audit():
    audit = samples.numbers()
    del audit["controls"]
    with pytest.raises(KeyError, match="controls"):
        samples.build(1, verify.GENESIS, audit=audit)
    assert callable(receipt)


def test_settings_of_the_names_that_stand_once_in_a_receipt_do_not_keep_it_out_of_the_log(tmp_path):
    params = {"seq": 1, "one": [{"prev": "x", "hash": {"hash": 2}}], "text": '"seq":1,"hash":"x",'}
    method = {"name": "DEL", "params": params, "code": "0.1", "model_code": None, "seed": 7}
    log = Log(tmp_path / "log")
    sealed = log.append(lambda seq, prev: samples.build(seq, prev, method=method))
    assert sealed["method"]["params"] == {
        "seq_": 1,
        "one": [{"prev_": "x", "hash_": {"hash_": 2}}],
        "text": params["text"],
    }
    assert log.receipts() == [sealed] and verify.log_faults(log.path.read_bytes()) == []
