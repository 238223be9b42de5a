import msgspec
import pytest

from excise.ledger.entries import REASONS, Life, Run
from excise.verify import receipt_faults

LIFE = Life(
    opened="2026-01-01T00:00:00Z",
    original="a" * 64,
    manifest_root="b" * 64,
    num_rows=3,
    key_id="k",
    max_drop=0.0,
    due_days=1,
    test_accuracy=0.1 + 0.2,
)


def test_a_life_comes_back_from_json_to_the_bit():
    assert msgspec.json.decode(msgspec.json.encode(LIFE), type=Life) == LIFE


def test_a_life_with_a_field_that_is_not_known_is_refused():
    told = {**msgspec.to_builtins(LIFE), "owner": "somebody"}
    with pytest.raises(msgspec.ValidationError, match="owner"):
        msgspec.convert(told, Life)


def test_two_runs_do_not_share_what_they_found():
    first, second = (Run(number=n, id=str(n), begun="", state="begun", asked={}) for n in (1, 2))
    first.found["verdict"] = "PASS"
    assert second.found == {}


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_one_that_a_receipt_may_give(reason):
    said = [one for one in receipt_faults({"requests": [{"reason": reason}]}) if "requests.reason" in one]
    assert said == []
    assert any("requests.reason" in one for one in receipt_faults({"requests": [{"reason": "spite"}]}))
