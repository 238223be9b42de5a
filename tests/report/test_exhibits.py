"""What an audit shows beside its measures, as values."""

import msgspec
import pytest

from excise.report import Costs, Curve, Strata, Stratum


def test_exhibits_may_be_empty_and_are_strict():
    assert not (Costs().steps or Costs().rows or Costs().retraining)
    assert not (Strata().strata or Strata().lines)
    with pytest.raises(msgspec.ValidationError, match="unknown field `auk`"):
        msgspec.json.decode(
            b'{"name": "a", "false_positive": [0, 1], "true_positive": [0, 1], "auc": 0.5, "auk": 1}', type=Curve
        )


def test_a_stratum_without_the_oracles_says_nothing():
    with pytest.raises(TypeError, match="oracles"):
        Stratum(name="low", num_rows=3, unlearned=1.0)
