"""Distances from forget rows to their nearest rows elsewhere, and what distance is small for these data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from excise import seeds

MAX_QUERIES = 2_000
MAX_OTHERS = 50_000
MAX_REFERENCES = 500
MIN_REFERENCES = 20
MIN_NUMBERS = 4
MAX_NUMBERS = 1_024

NEAR_FRACTION = 0.1
"""A near copy is nearer than this share of the median distance at which retain rows have their nearest neighbour.

Of rows spread evenly over d dimensions, a share of 1 - 2^-(0.1^d) has a neighbour as near as that by chance: 7 in 100 for
d = 1, 7 in 100,000 for d = 4, the fewest numbers a row that are looked at. No row of scikit-learn's digits, iris, wine,
breast cancer or diabetes has one (the nearest pairs lie at 0.24 to 0.45 of the median), while noise of up to a fifth of a
grey level (0.013 of the range), 8-bit rounding and 2 % more brightness leave a digit below it (at 0.10, 0.006 and 0.07).
"""


def drawn(ids: Tensor, most: int, seed: int, name: str) -> Tensor:
    """Give at most so many ids, drawn without replacement where there are more, in ascending order."""
    if len(ids) <= most:
        return ids
    return ids[torch.randperm(len(ids), generator=seeds.generator(seed, "doctor", name))[:most]].sort().values


def features(inputs: object) -> Tensor | None:
    """Give inputs as float32 `[rows, numbers]` with at most 1,024 numbers a row; None where distances would mean nothing.

    Numbers are floating point or bytes (pixels); other integers may be tokens. Longer rows are sketched: each number is added,
    with a random sign, to one of 1,024 sums, which keeps a distance to about 2 % (the standard deviation).

    References:
        Charikar, Chen and Farach-Colton (2002), Finding Frequent Items in Data Streams (the sketch).
    """
    if not isinstance(inputs, Tensor) or not (inputs.is_floating_point() or inputs.dtype == torch.uint8):
        return None
    flat = inputs.detach().reshape(len(inputs), -1).to(torch.float32)
    if flat.shape[1] < MIN_NUMBERS:
        return None
    if flat.shape[1] <= MAX_NUMBERS:
        return flat
    draws = seeds.generator(0, "sketch", flat.shape[1])
    signs = torch.randint(2, (flat.shape[1],), generator=draws).float() * 2 - 1
    sums = torch.randint(MAX_NUMBERS, (flat.shape[1],), generator=draws)
    return torch.zeros(len(flat), MAX_NUMBERS).index_add_(1, sums, flat * signs)


@dataclass
class Neighbours:
    """The search for nearest neighbours among rows that come by in chunks.

    Forget rows and a sample of retain rows (the reference) are held; every other row is met once.

    Attributes:
        places: positions of the searched forget rows.
        forget: their features `[queries, numbers]`.
        references: ids of the reference rows.
        reference: their features.
        best: by part, for each searched forget row, the distance to its nearest neighbour met.
        around: for each reference row, the distance to its nearest retain neighbour.
        num_met: by part, how many rows were met.
    """

    places: list[int]
    forget: Tensor
    references: Tensor
    reference: Tensor
    best: dict[str, Tensor] = field(default_factory=dict)
    num_met: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.centre = self.reference.mean(0)  # far from the origin, float32 has no digits left for small distances
        self.around = torch.full((len(self.reference),), torch.inf)

    def meet(self, part: str, others: Tensor, ids: Tensor) -> None:
        """Take some rows of a part into account: features `[rows, numbers]` and ids."""
        if not len(others):
            return
        self.num_met[part] = self.num_met.get(part, 0) + len(others)
        best = self.best.setdefault(part, torch.full((len(self.forget),), torch.inf))
        torch.minimum(best, self._nearest(self.forget, others), out=best)
        if part == "retain":
            own = self.references[:, None] == ids[None, :]
            torch.minimum(self.around, self._nearest(self.reference, others, own), out=self.around)

    def _nearest(self, queries: Tensor, others: Tensor, leave_out: Tensor | None = None) -> Tensor:
        """Give each query's distance to the nearest of the others: found by products, then measured by differences."""
        a, b = queries - self.centre, others - self.centre
        squared = b.square().sum(1) - 2 * a @ b.T  # up to each query's own square, which changes no order
        if leave_out is not None:
            squared = squared.masked_fill(leave_out, torch.inf)
        found, nearest = squared.nan_to_num(nan=torch.inf).min(1)
        return torch.where(found.isfinite(), (a - b[nearest]).norm(dim=1), torch.inf)

    @property
    def threshold(self) -> float:
        """Give the distance below which a neighbour is a near copy; 0 where there are too few rows to say."""
        known = self.around[self.around.isfinite() & (self.around > 0)]  # rows that stand there twice say nothing
        return NEAR_FRACTION * float(known.median()) if len(known) >= MIN_REFERENCES else 0.0

    def near(self, part: str) -> list[int]:
        """Give the positions of forget rows that have a near copy in a part, exact ones among them."""
        if part not in self.best:
            return []
        close = self.best[part] < self.threshold
        return [place for place, one in zip(self.places, close.tolist(), strict=True) if one]

    @property
    def usual_fraction(self) -> float:
        """Give the share of reference rows that have a near, not an exact, copy among the other retain rows."""
        known = self.around[self.around.isfinite() & (self.around > 0)]
        return float((known < self.threshold).double().mean()) if len(known) else 0.0
