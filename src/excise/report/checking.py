"""Whether a page can be drawn: numbers finite and in range, parts that fit each other, text that only shows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import msgspec

from excise.errors import BadRequest
from excise.report.contents import Page
from excise.report.exhibits import MOST_POINTS, Classes, Costs, Distribution, Roc, Strata
from excise.report.findings import MeasureRow
from excise.report.values import SPLITS, Band, Histogram, Row, Section

LARGEST = 1e30
SMALLEST = 1e-100  # of what stands on a log axis

# Characters that act on the reader's screen instead of showing on it: C0 and C1 controls (ANSI escapes among them),
# lone surrogates, and the marks that reorder the text around them.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def checked(page: Page) -> Page:
    r"""Give the page as it may be drawn: numbers finite and in range, text without characters that act on a screen.

    Control characters (ANSI escapes among them), lone surrogates and marks that reorder text become U+FFFD, so that a
    reader sees that something was there. Checking a checked page changes nothing.

    Args:
        page: the value to check.

    Returns:
        An equal page, but for the replaced characters.

    Raises:
        BadRequest: a number is not finite, is out of range or of the wrong type, a measure that decides lacks its p-value
            or its power, or two parts do not fit each other. The message names the field.

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
    for index, measure in enumerate(result.measures):
        _measure(measure, f"page.measures[{index}]")
    for index, roc in enumerate(result.rocs):
        _roc(roc, f"page.rocs[{index}]")
    for index, section in enumerate(result.sections):
        _section(section, f"page.sections[{index}]")
    for index, distribution in enumerate(result.distributions):
        _distribution(distribution, f"page.distributions[{index}]")
    for index, classes in enumerate(result.classes):
        _classes(classes, f"page.classes[{index}]")
    if result.strata is not None:
        _strata(result.strata)
    if result.costs is not None:
        _costs(result.costs)
    return result


def _builtin(value: object) -> int | float:
    """Turn a number of another library's into Python's own."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(type(value).__name__)


def _plain(value: Any, where: str) -> Any:
    """Refuse numbers that cannot be drawn and replace acting characters, all the way down; `where` names the field."""
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRequest(f"{where} should be a finite number; found {value}. Leave out what could not be measured.")
    if isinstance(value, int | float) and abs(value) > LARGEST:
        raise BadRequest(f"{where} should lie within ±{LARGEST:.0e}, to be drawn; found {value!r:.20}. Mend it.")
    if isinstance(value, str):
        return _ACTING.sub("\ufffd", value.replace("\r\n", "\n"))
    if isinstance(value, dict):
        return {_plain(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    return value


def _measure(measure: MeasureRow, where: str) -> None:
    """Refuse a measure with crossed ends, and one that decides without saying how strongly."""
    _ordered(f"{where}.low and .high", measure.low, measure.high)
    _ordered(f"{where}.null_low and .null_high", measure.null_low, measure.null_high)
    if measure.decides:
        for field in ("p", "least_detectable"):
            if getattr(measure, field) is None:
                raise BadRequest(
                    f"{where}.{field} should be a number, since {measure.name!r} decides the verdict; found none. Give it, "
                    "or say decides=False."
                )
        if not measure.num_models:
            raise BadRequest(
                f"{where}.num_models should be 1 or more, since {measure.name!r} decides the verdict; found 0. Say how "
                "many networks it rests on."
            )
    elif measure.rejected:
        raise BadRequest(
            f"{where}.rejected should be false, since {measure.name!r} decides nothing; found true. Say decides=True."
        )


def _roc(roc: Roc, where: str) -> None:
    """Refuse curves that are none, and rates that so few non-members cannot resolve."""
    if not roc.curves:
        raise BadRequest(f"{where}.curves should hold at least one curve; found none. Leave this attack out.")
    for index, curve in enumerate(roc.curves):
        here = f"{where}.curves[{index}]"
        _points(here, "false_positive", curve.false_positive, true_positive=curve.true_positive)
        _ordered(f"{here}.true_positive", *curve.true_positive)
        if (curve.auc_low is None) != (curve.auc_high is None):
            raise BadRequest(f"{here}.auc_low and .auc_high belong together; found one of them. Give both or neither.")
        if curve.auc_low is not None and curve.auc_high is not None:
            _ordered(f"{here}.auc_low and .auc_high", curve.auc_low, curve.auc_high)
        for field, fewest in (("at_one_percent", 100), ("at_one_permille", 1000)):
            if getattr(curve, field) is not None and roc.num_non_members < fewest:
                raise BadRequest(
                    f"{here}.{field} needs {fewest} non-members; found {roc.num_non_members}. Leave it out: fewer cannot "
                    "show so low a rate."
                )
    if roc.band is not None:
        band, here = roc.band, f"{where}.band"
        _points(here, "false_positive", band.false_positive, low=band.low, high=band.high)
        for index, (low, high) in enumerate(zip(band.low, band.high, strict=True)):
            _ordered(f"{here}.low[{index}] and .high[{index}]", low, high)
        if band.auc is not None:
            _band(band.auc, f"{here}.auc")


def _points(where: str, name: str, grid: Sequence[float], **others: Sequence[float]) -> None:
    """Refuse a curve with too few or too many points, unequal lengths or a grid that turns back."""
    if not 2 <= len(grid) <= MOST_POINTS:
        raise BadRequest(
            f"{where}.{name} should hold 2 to {MOST_POINTS} points; found {len(grid)}. Thin the curve out, or leave it out."
        )
    for other, values in others.items():
        if len(values) != len(grid):
            raise BadRequest(
                f"{where}.{other} should have one number per point of .{name}, {len(grid)}; found {len(values)}."
            )
    _ordered(f"{where}.{name}", *grid)


def _section(section: Section, where: str) -> None:
    """Refuse a section whose parts do not fit each other."""
    _rows(section.rows, f"{where}.rows")
    _known(section.bands, f"{where}.bands")
    for split, band in section.bands.items():
        _band(band, f"{where}.bands.{split}")
    if section.attack_band is not None:
        _band(section.attack_band, f"{where}.attack_band")
    edges = section.histogram_edges
    if section.histograms and (len(edges) < 2 or edges[0] < SMALLEST or not _climbs(edges)):
        raise BadRequest(
            f"{where}.histogram_edges should be two or more positive numbers in strictly ascending order, for a log "
            f"axis; found {list(edges)[:6]}. Start the first bin above zero."
        )
    _counts(section.histograms, edges, f"{where}.histograms", f"{where}.histogram_edges")


def _distribution(distribution: Distribution, where: str) -> None:
    """Refuse a distribution without bins, or whose counts do not fit them."""
    edges = distribution.edges
    if len(edges) < 2 or not _climbs(edges) or (distribution.axis == "log" and edges[0] < SMALLEST):
        positive = " positive" if distribution.axis == "log" else ""
        raise BadRequest(
            f"{where}.edges should be two or more{positive} numbers in strictly ascending order, for a {distribution.axis} "
            f"axis; found {list(edges)[:6]}. Correct the bins."
        )
    _counts(distribution.histograms, edges, f"{where}.histograms", f"{where}.edges")
    if distribution.oracles is not None:
        low, mean, high = distribution.oracles.low, distribution.oracles.mean, distribution.oracles.high
        for name, counts in (("low", low), ("mean", mean), ("high", high)):
            _lasts(counts, edges, f"{where}.oracles.{name}", f"{where}.edges")
        for index, ends in enumerate(zip(low, mean, high, strict=True)):
            _ordered(f"{where}.oracles, bin {index},", *ends)


def _classes(classes: Classes, where: str) -> None:
    """Refuse crossed bands."""
    for index, each in enumerate(classes.classes):
        _band(each.oracles, f"{where}.classes[{index}].oracles")


def _strata(strata: Strata) -> None:
    """Refuse crossed bands."""
    for where, band in _strata_bands(strata):
        _band(band, where)


def _strata_bands(strata: Strata) -> Iterator[tuple[str, Band]]:
    """Give every band of the strata with the name of its field."""
    for index, stratum in enumerate(strata.strata):
        yield f"page.strata.strata[{index}].oracles", stratum.oracles
        if stratum.told_apart_oracles is not None:
            yield f"page.strata.strata[{index}].told_apart_oracles", stratum.told_apart_oracles
    for index, line in enumerate(strata.lines):
        if line.oracles is not None:
            yield f"page.strata.lines[{index}].oracles", line.oracles


def _costs(costs: Costs) -> None:
    """Refuse rows whose splits are not known."""
    _rows(costs.rows, "page.costs.rows")
    _known(costs.num_rows, "page.costs.num_rows")


def _rows(rows: Sequence[Row], where: str) -> None:
    """Refuse a recipe without one of the accuracies, or with one of an unknown split."""
    for index, row in enumerate(rows):
        missing = [split for split in SPLITS if split not in row.accuracy]
        if missing:
            raise BadRequest(
                f"{where}[{index}].accuracy should hold {', '.join(SPLITS)}; {missing[0]} is missing. Measure it."
            )
        _known(row.gap, f"{where}[{index}].gap")


def _counts(histograms: Sequence[Histogram], edges: Sequence[float], where: str, named: str) -> None:
    """Refuse histograms that do not have one count per bin."""
    for index, histogram in enumerate(histograms):
        _lasts(histogram.counts, edges, f"{where}[{index}].counts", named)


def _lasts(counts: Sequence[float], edges: Sequence[float], where: str, named: str) -> None:
    """Refuse counts of which there is not one per bin."""
    if len(counts) != len(edges) - 1:
        raise BadRequest(
            f"{where} should have one count per bin, {len(edges) - 1}; found {len(counts)}. Count over {named}."
        )


def _climbs(edges: Sequence[float]) -> bool:
    """Tell whether numbers are in strictly ascending order, and the ends farther apart than floats round."""
    far = len(edges) > 1 and edges[-1] - edges[0] > max(1e-9 * max(map(abs, edges)), SMALLEST)
    return far and all(left < right for left, right in pairwise(edges))


def _band(band: Band, where: str) -> None:
    """Refuse a band whose ends or mean are not in order."""
    _ordered(where, band.low, band.mean, band.high)


def _ordered(where: str, *numbers: float) -> None:
    """Refuse numbers that are not in ascending order, and name the first that is not."""
    for left, right in pairwise(numbers):
        if left > right:
            found = ", ".join(map(repr, numbers)) if len(numbers) < 4 else f"{left!r} before {right!r}"
            raise BadRequest(f"{where} should be in ascending order; found {found}. Swap or sort them.")


def _known(mapping: Mapping[str, object], where: str) -> None:
    """Refuse keys that are not the name of a split."""
    unknown = [key for key in mapping if key not in SPLITS]
    if unknown:
        raise BadRequest(
            f"{where} should have the keys {', '.join(SPLITS)} only; found {unknown[0]!r}. Rename or drop it."
        )
