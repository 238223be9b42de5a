"""What an audit shows beside its measures: an attack's curves, distributions, classes, strata and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from excise.report.values import Amount, Band, Count, Fraction, Histogram, Row

MOST_POINTS = 2000


class Curve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well an attack finds one network's forget rows: its receiver operating characteristic.

    Attributes:
        name: whose; `original`, `unlearned` and `oracles` have a look of their own.
        false_positive: share of non-members called members at each threshold, not descending, at most `MOST_POINTS`.
        true_positive: share of members called members at the same thresholds, not descending.
        auc: area under the curve.
        auc_low: lower end of its interval, or None.
        auc_high: upper end of its interval, or None.
        at_one_percent: share of members found with at most 1% of non-members wrongly called members; needs 100
            non-members.
        at_one_permille: the same at 0.1%; needs 1,000 non-members.
    """

    name: str
    false_positive: Sequence[Fraction]
    true_positive: Sequence[Fraction]
    auc: Fraction
    auc_low: Fraction | None = None
    auc_high: Fraction | None = None
    at_one_percent: Fraction | None = None
    at_one_permille: Fraction | None = None


class CurveBand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the curves of held-out oracles lie: the same attack on networks that never saw the rows.

    Attributes:
        false_positive: grid, not descending, at most `MOST_POINTS`.
        low: lower end of the true positive rates at each of these.
        high: upper end.
        auc: the oracles' areas under the curve, or None.
    """

    false_positive: Sequence[Fraction]
    low: Sequence[Fraction]
    high: Sequence[Fraction]
    auc: Band | None = None


class Roc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One membership attack.

    Attributes:
        name: key, such as `u_lira`.
        title: name for people.
        sentence: what the attacker knows and does, in one sentence.
        num_members: forget rows attacked.
        num_non_members: rows never trained on, attacked likewise.
        counted: what these two numbers count, in one sentence, where it is not rows of one network; else "".
        curves: one per network.
        band: the held-out oracles', or None.
    """

    name: str
    title: str
    sentence: str = ""
    num_members: Count
    num_non_members: Count
    counted: str = ""
    curves: Sequence[Curve]
    band: CurveBand | None = None


class BinBand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the oracles' counts lie in each bin.

    Attributes:
        low: lowest count over the oracles, one per bin.
        mean: mean count.
        high: highest count.
    """

    low: Sequence[Amount]
    mean: Sequence[Amount]
    high: Sequence[Amount]


class Distribution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one number is spread over the rows, for several networks.

    Attributes:
        name: key, such as `forget_loss`.
        title: heading, such as "Losses of the forget rows".
        caption: what to look at, or "".
        unit: what stands along the axis, such as "loss".
        axis: `log` (edges above zero) or `linear`.
        edges: edges of the bins, strictly ascending, one more than there are bins.
        histograms: rows per bin, one per network.
        oracles: the same for the oracles, as a band, or None.
    """

    name: str
    title: str
    caption: str = ""
    unit: str
    axis: Literal["log", "linear"] = "linear"
    edges: Sequence[float]
    histograms: Sequence[Histogram] = []
    oracles: BinBand | None = None


class ClassAccuracy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One class: how many of its rows are classified correctly.

    Attributes:
        name: the class, as the data set calls it.
        num_rows: number of its rows.
        original: fraction right before unlearning, or None.
        unlearned: fraction right after.
        oracles: the oracles' fractions.
    """

    name: str
    num_rows: Count
    original: Fraction | None = None
    unlearned: Fraction
    oracles: Band


class Classes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Accuracy per class on one kind of rows.

    Attributes:
        name: which rows, such as `forget` or `test`.
        title: heading, such as "Test rows".
        classes: all classes, in the data set's order.
    """

    name: str
    title: str
    classes: Sequence[ClassAccuracy]


class Compared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number before and after unlearning, beside the oracles'.

    Attributes:
        title: name for people.
        sentence: what it says, in one sentence.
        unit: as in `MeasureRow`: with "%" the numbers are fractions and written in per cent.
        original: before unlearning, or None.
        unlearned: after.
        oracles: the oracles', or None.
        num_rows: rows behind the number, or None.
    """

    title: str
    sentence: str = ""
    unit: str = ""
    original: float | None = None
    unlearned: float
    oracles: Band | None = None
    num_rows: Count | None = None


class Stratum(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Forget rows that the original network had memorised to a like degree.

    Attributes:
        name: such as "low", "mid" and "high".
        num_rows: number of rows.
        original: mean log-odds of the labels before unlearning, or None.
        unlearned: mean log-odds after.
        oracles: mean log-odds under the oracles.
        told_apart: share of these rows that the audit tells from never-seen rows, one by one, or None.
        told_apart_oracles: the same for held-out oracles, or None.
    """

    name: str
    num_rows: Count
    original: float | None = None
    unlearned: float
    oracles: Band
    told_apart: Fraction | None = None
    told_apart_oracles: Band | None = None


class Strata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who among the rows is forgotten, and who pays for it.

    Attributes:
        sentence: how memorisation was measured.
        strata: from the least to the most memorised.
        lines: further numbers: the worst 5% of the rows, retained rows whose exposure grew, an attack before and after.
    """

    sentence: str = ""
    strata: Sequence[Stratum] = []
    lines: Sequence[Compared] = []


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one part of the work cost.

    Attributes:
        what: the part, such as "Localization".
        seconds: wall-clock time.
        training_passes: passes over the training rows forward and backward, or None.
        forward_passes: passes over the training rows forward only, or None.
        peak_bytes: most memory held at once, or None.
        retraining_share: work as a share of one retraining's, or None.
    """

    what: str
    seconds: Amount
    training_passes: Amount | None = None
    forward_passes: Amount | None = None
    peak_bytes: Count | None = None
    retraining_share: Amount | None = None


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What forgetting cost against what it saves, search included.

    Attributes:
        steps: localization, unlearning, search, audit, each apart.
        retraining: one retraining from scratch, the yardstick, or None.
        rows: the method and a retraining that may cost no more, in this order, as in a `Section`; or none.
        num_rows: number of `forget`, `retain` and `test` rows behind these accuracies.
        sentence: after how many requests the oracles have paid off.
    """

    steps: Sequence[Step] = []
    retraining: Step | None = None
    rows: Sequence[Row] = []
    num_rows: Mapping[str, Count] = {}
    sentence: str = ""
