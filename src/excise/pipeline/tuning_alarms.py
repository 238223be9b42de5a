"""What should make one doubt a choice of settings: each alarm with its number and what to do."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from excise.measure import below_twins, twin_distance
from excise.pipeline.tuning_journal import Margins
from excise.pipeline.tuning_yardstick import Yardstick, paired

LEVEL = 0.05
"""Chance of either rank test speaking where there is nothing."""

MOST_BELOW = 0.6
"""Share of pairs in which the forget row may lie below its twin: of many rows a test sees differences that matter to nobody."""

LEAST_MOVED = 0.25
"""What the forget rows' margins must have moved by, as a share of the original's distance to the twins."""

LEAST_ALIKE = 0.8
"""Share of the held-out rows that must have the label of the nearest other; below it, rows that lie close are not alike."""

Name = Literal["over-forgotten", "no-closer", "nothing-happened", "never-memorised", "poor-twins", "removed-labels"]


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A reason to doubt.

    Attributes:
        name: stable key.
        effect: the number it rests on.
        p: of the test behind it; None where there is none.
        sentence: what it says, and what to do.
    """

    name: Name
    effect: float
    sentence: str
    p: float | None = None


def alarms_before(yardstick: Yardstick) -> list[Alarm]:
    """Give what can be said before anything is tried: of the twins, and of what there is to forget."""
    found = []
    original = yardstick.original
    p, share = below_twins(original.twins, original.paired, yardstick.places)
    if p > LEVEL:
        found.append(
            Alarm(
                name="never-memorised",
                effect=share,
                p=p,
                sentence=f"the original network is surer of a forget row than of its twin in {share:.0%} of the pairs "
                f"(p = {p:.2g}): the rows left no trace that these twins show, or are too few to show it; there is nothing to "
                "tune for, take the cheapest recipe",
            )
        )
    if yardstick.agreement < LEAST_ALIKE:
        found.append(
            Alarm(
                name="poor-twins",
                effect=yardstick.agreement,
                sentence=f"only {yardstick.agreement:.0%} of the held-out rows have the label of the row nearest to them: rows "
                "that lie close are not alike, and the twins say little; pass features=, a representation in which they are, "
                "from another network than the one that is to forget",
            )
        )
    if yardstick.removed_labels:
        labels = ", ".join(map(str, yardstick.removed_labels))
        found.append(
            Alarm(
                name="removed-labels",
                effect=float(len(yardstick.removed_labels)),
                sentence=f"no retained row has label {labels}: twins there are held-out rows of other labels. A network that "
                "never saw the label still gives it to them less than to the rows to forget, so the target is too strict",
            )
        )
    return found


def alarms_after(yardstick: Yardstick, margins: Margins) -> list[Alarm]:
    """Give what can be said of the chosen network.

    Args:
        yardstick: with the original's margins.
        margins: of the forget rows and their twins, by the chosen network.
    """
    before, others = yardstick.original, margins["twins"]
    own = paired(margins["forget"], others)
    found = []
    p, share = below_twins(own, others, yardstick.places)
    if p < LEVEL and share > MOST_BELOW:
        found.append(
            Alarm(
                name="over-forgotten",
                effect=share,
                p=p,
                sentence=f"the chosen network is less sure of a forget row than of its twin in {share:.0%} of the pairs "
                f"(p = {p:.2g}): forgotten harder than rows never seen, which gives them away; search gentler settings",
            )
        )
    near, far = twin_distance(own, others), yardstick.distances(before)[0]
    if near >= far:
        found.append(
            Alarm(
                name="no-closer",
                effect=near - far,
                sentence=f"the forget rows are no closer to their twins ({near:.3g}) than in the original network ({far:.3g}): "
                "what was chosen is the least harm, and no forgetting; widen the space, or take another recipe",
            )
        )
    gap = float(np.abs(np.sort(before.paired) - np.sort(before.twins)).mean())
    moved = float(np.abs(own - before.paired).mean())
    if moved < LEAST_MOVED * gap:
        found.append(
            Alarm(
                name="nothing-happened",
                effect=moved / gap,
                sentence=f"the forget rows' margins moved by {moved / gap:.0%} of their distance to the twins: the chosen "
                "setting does next to nothing; widen the space, or take another recipe",
            )
        )
    return found
