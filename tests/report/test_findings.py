"""What an audit found, as values."""

import msgspec
import pytest

from excise.report import Control, MeasureRow, Verdict

SHARED = {"value": 0, "low": 0, "high": 0, "null_mean": 0, "null_low": 0, "null_high": 0, "num_models": 1}


def test_a_measure_decides_unless_it_is_said_that_it_only_informs():
    measure = MeasureRow(name="a", title="a", **SHARED)
    assert measure.decides
    assert not measure.rejected
    assert (measure.p, measure.least_detectable, measure.group, measure.unit) == (None, None, "", "")


@pytest.mark.parametrize("field", ["value", "low", "high", "null_mean", "null_low", "null_high", "num_models"])
def test_no_measure_is_without_value_interval_null_and_number_of_networks(field):
    given = {"name": "a", "title": "a", **SHARED}
    assert msgspec.convert(given, MeasureRow)
    del given[field]
    with pytest.raises(msgspec.ValidationError, match=f"missing required field `{field}`"):
        msgspec.convert(given, MeasureRow)


def test_a_control_says_what_it_must_come_to():
    with pytest.raises(TypeError, match="expected"):
        Control(name="a", title="A", outcome="FAIL")


def test_a_verdict_without_controls_and_reasons_is_one():
    verdict = Verdict(word="PASS", headline="So it is.")
    assert (list(verdict.reasons), list(verdict.controls)) == ([], [])
