"""What settings are judged by where there is no oracle: rows that were never trained on, and what networks say of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from excise import errors, seeds
from excise.data.rows import Rows
from excise.data.split import Split
from excise.measure import accuracy, margins, neighbour_agreement, twin_distance, twins
from excise.measure.twins import REACH
from excise.observe import Outputs, collect
from excise.train.engine import Engine

Features = Callable[[Any], Tensor]
"""From the collated examples of a batch to what they are compared by, `[batch, ...]`."""

RETAIN_WEIGHT = 0.1
"""What the retain rows' distance counts for beside the twins'. Chosen on one seed of the demo's problem, see docs/tuning.md."""

NUM_RETAIN = 1000
"""Retain rows that are looked at after each trial, at most; drawn from the seed."""

FEWEST_PAIRS = 16
"""Fewer forget rows than this get several twins each, the nearest, since two margins have hardly a spread."""

_READ = 512


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows never trained on, that settings are chosen on.

    Attributes:
        rows: the rows.
        source: what they are, in words.
        audit_split: the split without them: what the result may be judged on.
    """

    rows: Rows
    source: str
    audit_split: Split


def held_out_rows(split: Split, seed: int) -> HeldOut:
    """Give the split's holdout, or else half of its test rows, drawn from the seed.

    Raises:
        errors.BadSplit: the split has neither, or a single test row.
    """
    if split.holdout is not None:
        return HeldOut(split.holdout, "holdout", split)
    if split.test is None or len(split.test) < 2:
        raise errors.BadSplit(
            "holdout: settings are chosen on rows the network never saw, and the split has none to spare; pass holdout= to "
            "Split, or test= with two rows or more, of which half is then set aside"
        )
    order = torch.randperm(len(split.test), generator=seeds.generator(seed, "tuning half"))
    half = len(order) // 2
    own, rest = (Rows(split.test.source, split.test.ids[part].sort().values) for part in (order[:half], order[half:]))
    left = object.__new__(Split)  # as `Split.narrowed` makes one: every row has been checked
    left.train, left.forget, left.retain, left.test, left.holdout = split.train, split.forget, split.retain, rest, own
    return HeldOut(own, "half of test", left)


@dataclass(frozen=True, eq=False)
class Look:
    """What one network says.

    Attributes:
        forget: `[forget]` margins of the forget rows.
        twins: `[pairs]` margins of their twins, under the forget rows' labels; those of one forget row lie together.
        retain: `[rows]` margins of some retain rows.
        accuracy: on the held-out rows whose label some retain row has.
    """

    forget: np.ndarray
    twins: np.ndarray
    retain: np.ndarray
    accuracy: float

    @property
    def paired(self) -> np.ndarray:
        """Margins of the forget rows, `[pairs]`: each as often as it has twins."""
        return paired(self.forget, self.twins)

    @property
    def finite(self) -> bool:
        """Whether every margin is a finite number."""
        return all(bool(np.isfinite(part).all()) for part in (self.forget, self.twins, self.retain))


def paired(forget: np.ndarray, twins: np.ndarray) -> np.ndarray:
    """Repeat each forget row's margin as often as it has twins."""
    return np.repeat(forget, len(twins) // len(forget))


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Twins of the forget rows, and what the original says of everything that is looked at.

    Attributes:
        split: the request.
        held_out: the rows that twins are among.
        places: `[pairs]`, which held-out row is the twin; as many for each forget row.
        counts: `[held out]`, whether a row counts for accuracy: its label is that of some retain row.
        retain: the retain rows that are looked at.
        original: what the original says.
        agreement: share of the held-out rows whose nearest other has their label.
        removed_labels: the forget rows' labels that no retain row has.
    """

    split: Split
    held_out: Rows
    places: np.ndarray
    counts: np.ndarray
    retain: Rows
    original: Look
    agreement: float
    removed_labels: tuple[int, ...]

    def look(self, model: nn.Module, engine: Engine) -> Look:
        """Run a network over the forget rows, the held-out rows and some retain rows."""
        with seeds.isolated(
            engine.seed, "tuning look"
        ):  # rows may be augmented at random: for each network in the same way
            forget, unseen, retain = (
                collect(model, rows, engine) for rows in (self.split.forget, self.held_out, self.retain)
            )
        return _look(forget, unseen, margins(retain.logits, retain.targets), self.places, self.counts)

    def distances(self, look: Look) -> tuple[float, float]:
        """Give how far forget rows lie from their twins, and retain rows from what the original says of them."""
        return twin_distance(look.paired, look.twins), twin_distance(look.retain, self.original.retain)


def value_of(distances: tuple[float, float]) -> float:
    """Give what is made small."""
    return distances[0] + RETAIN_WEIGHT * distances[1]


def make_yardstick(
    model: nn.Module, split: Split, held_out: Rows, engine: Engine, features: Features | None
) -> Yardstick:
    """Find the twins and look at the original: one forward pass over forget, held-out and all retain rows.

    A forget row whose label no retain row has gets its twin among the held-out rows of other labels: held-out rows of that
    label are ones the original knows well, and a network that never saw the label would not.

    Raises:
        errors.BadData: logits and targets that are not of classes, inputs that cannot be compared.
        errors.BadSplit: no held-out row has a label that some retain row has.
    """
    with seeds.isolated(engine.seed, "tuning look"):
        forget, unseen, retain = (collect(model, rows, engine) for rows in (split.forget, held_out, split.retain))
        for part, found in (("forget", forget), ("holdout", unseen), ("retain", retain)):
            require_classes(part, found)
        own, others = _compared(split.forget, features), _compared(held_out, features)
    stays = np.unique(retain.targets)
    counts, removed = np.isin(unseen.targets, stays), ~np.isin(forget.targets, stays)
    if not counts.any():
        raise errors.BadSplit(
            "holdout: none of its rows has a label of the retain rows; give rows like those trained on"
        )
    each = -(-FEWEST_PAIRS // len(forget))
    reach = REACH if each == 1 else np.inf
    own, removed = np.repeat(own, each, axis=0), np.repeat(removed, each)
    places = np.empty(len(own), dtype=np.int64)
    if not removed.all():
        places[~removed] = twins(own[~removed], others, reach=reach)
    if removed.any():
        places[removed] = np.flatnonzero(counts)[twins(own[removed], others[counts], reach=reach)]
    some = np.sort(
        np.random.default_rng(seeds.derive(engine.seed, "tuning retain")).permutation(len(retain))[:NUM_RETAIN]
    )
    known = margins(retain.logits[some], retain.targets[some])
    return Yardstick(
        split=split,
        held_out=held_out,
        places=places,
        counts=counts,
        retain=Rows(split.retain.source, split.retain.ids[torch.as_tensor(some)]),
        original=_look(forget, unseen, known, places, counts),
        agreement=neighbour_agreement(others, unseen.targets),
        removed_labels=tuple(int(label) for label in np.unique(np.setdiff1d(forget.targets, stays))),
    )


def _look(forget: Outputs, unseen: Outputs, retain: np.ndarray, places: np.ndarray, counts: np.ndarray) -> Look:
    return Look(
        forget=margins(forget.logits, forget.targets),
        twins=margins(unseen.logits[places], np.repeat(forget.targets, len(places) // len(forget))),
        retain=retain,
        accuracy=accuracy(unseen.logits[counts], unseen.targets[counts]),
    )


def require_classes(part: str, found: Outputs) -> None:
    """Refuse logits and targets that are not of classes."""
    logits, targets = found.logits, found.targets
    whole = targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)
    if logits.ndim != 2 or not whole or targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise errors.BadData(
            f"{part}: tune needs logits [examples, classes] and one label a row within the classes, found logits "
            f"{list(logits.shape)} and targets {targets.dtype} {list(targets.shape)}; give them through forward="
        )


def _compared(rows: Rows, features: Features | None) -> np.ndarray:
    """Give what rows are compared by, float64 `[rows, ...]`."""
    read = [(features or _inputs)(rows.source.read(ids)) for ids in torch.split(rows.ids, _READ)]
    return torch.cat(read).detach().cpu().double().numpy()


def _inputs(content: Any) -> Tensor:
    first = content[0] if isinstance(content, tuple | list) and len(content) else None
    if not isinstance(first, Tensor):
        raise errors.BadData(
            "features: expected examples (input, label) whose inputs are numbers to compare rows by, found "
            f"{type(content).__name__}; pass features=, a function from a batch to numbers [batch, ...]"
        )
    return first
