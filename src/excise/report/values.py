"""What a page is drawn from: frozen values of plain numbers and text, and the check that they can be drawn.

A [`Page`][] survives a round trip through JSON, so a page can be drawn again from the JSON that it carries:

    >>> import msgspec
    >>> page = Page(title="Nothing to show yet")
    >>> msgspec.json.decode(msgspec.json.encode(page), type=Page) == page
    True
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Annotated, Any, Literal

import msgspec

from excise.errors import BadRequest

SPLITS = ("forget", "retain", "test")

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]

# Characters that act on the reader's screen instead of showing on it: C0 and C1 controls (ANSI escapes among them),
# lone surrogates, and the marks that reorder the text around them.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")


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


class MeasureRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measure of an audit beside its null: the same measure taken on networks that never saw the forget rows.

    Attributes:
        name: key, as in `audit.json`.
        title: name for people.
        value: the measure.
        low: lower end of its interval.
        high: upper end of its interval.
        null_mean: mean of the null.
        null_low: lower end of the null's band.
        null_high: upper end of the null's band.
        p: p-value against the null, or None.
        num_models: number of networks behind the measure.
        least_detectable: smallest effect this audit could have noticed, or None.
        sentence: the outcome in one sentence.
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


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The outcome of an audit in words.

    Attributes:
        word: the verdict.
        headline: the verdict as a sentence.
        reasons: why, one sentence each.
        controls: each control of the audit and how it came out.
    """

    word: Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
    headline: str
    reasons: Sequence[str] = []
    controls: Mapping[str, str] = {}


class Timing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long one thing took.

    Attributes:
        what: the thing.
        seconds: wall-clock time.
    """

    what: str
    seconds: Amount


class Page(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything on the page. A part that is empty is left out.

    Attributes:
        title: heading of the page.
        lead: what was done, in one paragraph.
        verdict: outcome of the audit, or None when there was none.
        measures: the audit's measures.
        sections: one per choice of forget rows.
        timings: how long things took.
        facts: what is needed to repeat the run: versions, seeds, threads, hashes.
        limits: what the page does not show, one sentence each.
    """

    title: str
    lead: str = ""
    verdict: Verdict | None = None
    measures: Sequence[MeasureRow] = []
    sections: Sequence[Section] = []
    timings: Sequence[Timing] = []
    facts: Mapping[str, str] = {}
    limits: Sequence[str] = []


def checked(page: Page) -> Page:
    r"""Give the page as it may be drawn: numbers finite and in range, text without characters that act on a screen.

    Control characters (ANSI escapes among them), lone surrogates and marks that reorder text become U+FFFD, so that a
    reader sees that something was there. Checking a checked page changes nothing.

    Args:
        page: the value to check.

    Returns:
        An equal page, but for the replaced characters.

    Raises:
        BadRequest: a number is not finite, is out of range or of the wrong type, or two parts do not fit each other.
            The message names the field.

    Examples:
        >>> checked(Page(title="\x1b[31mred")).title == "\ufffd[31mred"
        True
    """
    try:
        builtins = msgspec.to_builtins(page, enc_hook=_builtin)
    except TypeError as error:
        raise BadRequest(f"a page holds plain numbers and text only; found: {error}. Convert arrays first.") from error
    plain = _plain(builtins, "page")
    try:
        result = msgspec.convert(plain, Page)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the page cannot be drawn: {error}. Correct this field ($ is the page).") from error
    for index, section in enumerate(result.sections):
        _fits(section, f"page.sections[{index}]")
    for index, measure in enumerate(result.measures):
        where = f"page.measures[{index}]"
        _ordered(f"{where}.low and .high", measure.low, measure.high)
        _ordered(f"{where}.null_low and .null_high", measure.null_low, measure.null_high)
    return result


def _builtin(value: object) -> int | float:
    """Turn a number of another library's into Python's own."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(type(value).__name__)


def _plain(value: Any, where: str) -> Any:
    """Refuse numbers that are not finite and replace acting characters, all the way down; `where` names the field."""
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRequest(f"{where} should be a finite number; found {value}. Leave out what could not be measured.")
    if isinstance(value, str):
        return _ACTING.sub("\ufffd", value.replace("\r\n", "\n"))
    if isinstance(value, dict):
        return {_plain(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    return value


def _ordered(where: str, *numbers: float) -> None:
    """Refuse numbers that are not in ascending order."""
    if any(left > right for left, right in pairwise(numbers)):
        raise BadRequest(f"{where} should be in ascending order; found {', '.join(map(repr, numbers))}. Swap the ends.")


def _fits(section: Section, where: str) -> None:
    """Refuse a section whose parts do not fit each other."""
    for index, row in enumerate(section.rows):
        missing = [split for split in SPLITS if split not in row.accuracy]
        if missing:
            raise BadRequest(
                f"{where}.rows[{index}].accuracy should hold {', '.join(SPLITS)}; {missing[0]} is missing."
            )
        _known(row.gap, f"{where}.rows[{index}].gap")
    _known(section.bands, f"{where}.bands")
    for split, band in section.bands.items():
        _ordered(f"{where}.bands.{split}", band.low, band.mean, band.high)
    if section.attack_band is not None:
        _ordered(f"{where}.attack_band", section.attack_band.low, section.attack_band.mean, section.attack_band.high)
    edges = section.histogram_edges
    if section.histograms and (len(edges) < 2 or edges[0] <= 0 or any(a >= b for a, b in pairwise(edges))):
        raise BadRequest(
            f"{where}.histogram_edges should be two or more positive numbers in strictly ascending order, for a log "
            f"axis; found {list(edges)[:6]}. Start the first bin above zero."
        )
    for index, histogram in enumerate(section.histograms):
        if len(histogram.counts) != len(edges) - 1:
            raise BadRequest(
                f"{where}.histograms[{index}].counts should have one count per bin, {len(edges) - 1}; "
                f"found {len(histogram.counts)}. Count over {where}.histogram_edges."
            )


def _known(mapping: Mapping[str, object], where: str) -> None:
    """Refuse keys that are not the name of a split."""
    unknown = [key for key in mapping if key not in SPLITS]
    if unknown:
        raise BadRequest(
            f"{where} should have the keys {', '.join(SPLITS)} only; found {unknown[0]!r}. Rename or drop it."
        )
