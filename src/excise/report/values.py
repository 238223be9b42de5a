"""What a page is drawn from: frozen values of plain numbers and text.

The whole is a [`Page`][excise.report.Page]; what an audit found is in `findings`, what it shows beside it in `exhibits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

SPLITS = ("forget", "retain", "test")

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Band(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the oracles lie: the networks that never saw the forget rows.

    Attributes:
        low: lower end.
        mean: mean of the oracles.
        high: upper end.
    """

    low: float
    mean: float
    high: float


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One recipe on one split.

    Attributes:
        recipe: name of the recipe.
        accuracy: fraction of rows classified correctly, for `forget`, `retain` and `test`.
        gap: unlearned minus oracles' mean, for any of `forget`, `retain` and `test`.
        attack: result of the membership attack, or None when it was not run.
        seconds: wall-clock time of the recipe.
        retraining_share: rows passed forward and backward, as a share of a retraining's, or None where that is not known.
        note: a remark shown under the name.
    """

    recipe: str
    accuracy: Mapping[str, Fraction]
    gap: Mapping[str, float] = {}
    attack: float | None = None
    seconds: Amount
    retraining_share: Amount | None = None
    note: str = ""


class Histogram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many forget rows have a loss in each bin.

    Attributes:
        name: whose losses; `original`, `unlearned` and `oracles` have a look of their own.
        counts: one count per bin; not whole numbers where they are means over several networks.
    """

    name: str
    counts: Sequence[Amount]


class Layer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of one layer the mask lets change.

    Attributes:
        name: name of the module or parameter.
        fraction: share of its parameters that may change.
        num_parameters: number of its parameters.
    """

    name: str
    fraction: Fraction
    num_parameters: Count


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One choice of forget rows: what every recipe did with it.

    Attributes:
        name: short key, such as `iid`.
        title: heading.
        sentence: what the forget rows are, in one sentence.
        num_forget: number of forget rows.
        num_retain: number of retain rows.
        num_test: number of test rows.
        num_oracles: number of networks trained without the forget rows.
        bands: the oracles' accuracies, for any of `forget`, `retain` and `test`.
        attack_band: the oracles under the membership attack, or None.
        oracle_seconds: mean wall-clock time of one retraining, or None.
        rows: one per recipe.
        histogram_edges: edges of the loss bins, positive and increasing, one more than there are bins.
        histograms: counts over these bins.
        layers: the mask, in order of depth.
    """

    name: str
    title: str
    sentence: str = ""
    num_forget: Count
    num_retain: Count
    num_test: Count
    num_oracles: Count
    bands: Mapping[str, Band] = {}
    attack_band: Band | None = None
    oracle_seconds: Amount | None = None
    rows: Sequence[Row] = []
    histogram_edges: Sequence[float] = []
    histograms: Sequence[Histogram] = []
    layers: Sequence[Layer] = []


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long one thing took.

    Attributes:
        what: the thing.
        seconds: wall-clock time.
    """

    what: str
    seconds: Amount
