"""What the page of the published systems says with its numbers: means over training seeds, intervals, who beats whom."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FAILED_DISTANCE = 1e9
SAME_COST, NOTHING = "SameCostRetrain", "Nothing"


@dataclass(frozen=True)
class Interval:
    """A mean over training seeds, and how far a 95% t-interval reaches on either side.

    Attributes:
        mean: over the seeds; NaN where a seed gave none.
        reach: half the interval; infinite of one seed.
    """

    mean: float
    reach: float

    @classmethod
    def of(cls, values):
        """Give the interval of one value a seed."""
        values = np.asarray(values, np.float64)
        if not len(values) or not np.isfinite(values).all():
            return cls(math.nan, math.nan)
        if len(values) < 2:
            return cls(float(values.mean()), math.inf)
        reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
        return cls(float(values.mean()), float(reach))

    @property
    def sign(self):
        """1 where it lies above zero, -1 below, 0 where it holds zero or there is none."""
        return int(self.mean > self.reach) - int(self.mean < -self.reach)

    def __str__(self):
        return told(self.mean, self.reach)


def told(mean, reach):
    """Give a number with no more digits than its reach supports: one of the reach's, two where that begins with 1."""
    if math.isnan(mean):
        return "-"
    if not math.isfinite(reach):
        return f"{mean:.2g} ± ?"
    place = 0
    if reach > 0:
        place = -math.floor(math.log10(reach))
        place += int(f"{reach:.1e}"[0] == "1")
        place = min(max(place, 0), 3)
    elif mean:
        place = 1
    return f"{_plain(mean, place)} ± {_plain(reach, place)}"


def _plain(value, place):
    text = f"{value:.{place}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def arms(found):
    """Give every case, a problem and a forget set, with its arms: `(problem, set, what was found)`."""
    for problem, sets in found["problems"].items():
        for name, place in sets.items():
            yield problem, name, place


def values(rows, key, part=None):
    """Give one number a seed of an arm; NaN where it failed."""
    if any(row.get("failed") for row in rows):
        return [math.nan] * len(rows)
    return [row[key] if part is None else row[key][part] for row in rows]


def distance(place, arm):
    """Give an arm's distance a seed; one that failed at any is further than any other at all; None where it was not run."""
    rows = place["arms"].get(arm)
    if rows is None:
        return None
    return [FAILED_DISTANCE] * len(rows) if any(row["failed"] for row in rows) else [row["distance"] for row in rows]


def against(one, other):
    """Give -1 where the first of two distances a seed is the smaller, 1 where it is the larger, 0 where that is open.

    Paired by seed, since the two had the same networks, rows and oracles; of their ratio, since distances have none but a
    relative scale.
    """
    if one is None or other is None:
        return 0
    return Interval.of(np.log(np.maximum(one, 1e-12)) - np.log(np.maximum(other, 1e-12))).sign


@dataclass
class Counts:
    """In how many cases one of two was nearer, further, or neither for sure."""

    nearer: int = 0
    even: int = 0
    further: int = 0

    @property
    def cases(self):
        """All of them."""
        return self.nearer + self.even + self.further

    def add(self, sign):
        """Count a case."""
        self.nearer += sign < 0
        self.even += sign == 0
        self.further += sign > 0

    @classmethod
    def over(cls, signs):
        """Count several."""
        found = cls()
        for sign in signs:
            found.add(sign)
        return found

    def __add__(self, other):
        return Counts(self.nearer + other.nearer, self.even + other.even, self.further + other.further)


def beside(found, arm, other):
    """Count the cases in which an arm is nearer to the oracles than another, and further."""
    return Counts.over(
        against(distance(place, arm), distance(place, other)) for _, _, place in arms(found) if arm in place["arms"]
    )


def masked(found, arm, one, other):
    """Count the cases in which an arm under one mask is nearer than under another; `none` is no mask."""
    names = {"none": arm, "del": f"{arm}/del", "random": f"{arm}/random"}
    return Counts.over(
        against(distance(place, names[one]), distance(place, names[other]))
        for _, _, place in arms(found)
        if names[one] in place["arms"]
    )
