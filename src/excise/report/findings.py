"""What an audit found: its verdict, the controls of the audit itself, and each measure beside its null."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from excise.report.values import Count, Fraction

PER_CENT = "%"


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One control of the audit itself: a network whose verdict is known beforehand, judged like the one under test.

    Attributes:
        name: key, as in `audit.json`.
        title: what was judged, for people, such as "Doing nothing".
        outcome: what it came to.
        expected: what it must come to for the audit to mean anything.
        sentence: what this control shows, in one sentence.
        excused: why another outcome than the expected is no failure of the audit here; empty where it is one.
    """

    name: str
    title: str
    outcome: Literal["PASS", "FAIL", "INCONCLUSIVE", "not run"]
    expected: Literal["PASS", "FAIL"]
    sentence: str = ""
    excused: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The outcome of an audit in words.

    Attributes:
        word: the verdict.
        headline: the verdict as a sentence.
        explanation: what it means; the word's own explanation if empty.
        reasons: why, one sentence each.
        controls: the controls of the audit and how they came out.
    """

    word: Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
    headline: str
    explanation: str = ""
    reasons: Sequence[str] = []
    controls: Sequence[Control] = []


class MeasureRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measure of an audit beside its null: the same measure taken on networks that never saw the forget rows.

    Attributes:
        name: key, as in `audit.json`.
        title: name for people.
        value: the measure.
        low: lower end of its 95% interval.
        high: upper end of its 95% interval.
        null_mean: mean of the null.
        null_low: lower end of the null's band.
        null_high: upper end of the null's band.
        p: p-value against the null; only a measure that decides nothing may lack it (None).
        num_models: number of networks behind the measure.
        least_detectable: smallest effect this audit could have noticed; only a measure that decides nothing may lack
            it (None).
        sentence: the outcome in one sentence.
        decides: whether the verdict rests on this measure, or it is only shown.
        rejected: whether the verdict counts this measure as telling the network apart, after correction for all that
            decide.
        group: heading under which it stands, such as "Accuracy"; groups stand in order of first mention.
        unit: what its numbers are counted in, such as "log-odds"; with "%" they are fractions and written in per cent.
    """

    name: str
    title: str
    value: float
    low: float
    high: float
    null_mean: float
    null_low: float
    null_high: float
    p: Fraction | None = None
    num_models: Count
    least_detectable: float | None = None
    sentence: str = ""
    decides: bool = True
    rejected: bool = False
    group: str = ""
    unit: str = ""
