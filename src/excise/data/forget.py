"""Rules that say which rows are to be forgotten. Each is a value; `Split` asks it for ids.

A rule sees labels and ids, never inputs, and gives ascending ids of the training data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from excise import checks, errors, seeds
from excise.data.rows import Rows, as_labels, as_tensor


class Rule(ABC):
    """Which rows to forget, decided from the training rows."""

    @abstractmethod
    def ids(self, train: Rows) -> Tensor:
        """Give the chosen ids, int64, ascending."""


@dataclass(frozen=True)
class _OfClass(Rule):
    label: int

    def ids(self, train: Rows) -> Tensor:
        return train.ids[train.labels() == self.label]


@dataclass(frozen=True)
class _RandomFraction(Rule):
    fraction: float
    seed: int

    def ids(self, train: Rows) -> Tensor:
        return _draw(train.ids, _count(self.fraction, len(train)), self.seed, "random_fraction")


@dataclass(frozen=True)
class _WithinClasses(Rule):
    classes: tuple[int, ...]
    fraction: float
    seed: int

    def ids(self, train: Rows) -> Tensor:
        pool = train.ids[torch.isin(train.labels(), torch.tensor(self.classes))]
        count = _count(self.fraction, len(train))
        if count > len(pool):
            raise errors.BadSplit(
                f"within_classes: {self.fraction:.0%} of {len(train)} rows is {count}, but classes {list(self.classes)} "
                f"have {len(pool)} rows; name more classes or ask for less"
            )
        return _draw(pool, count, self.seed, "within_classes")


@dataclass(frozen=True, eq=False)
class _Flagged(Rule):
    flags: Tensor
    what: str

    def ids(self, train: Rows) -> Tensor:
        _require_one_a_row(self.what, self.flags, train)
        return train.ids[self.flags[train.ids]]


@dataclass(frozen=True, eq=False)
class _Mislabelled(Rule):
    true_labels: Tensor

    def ids(self, train: Rows) -> Tensor:
        _require_one_a_row("mislabelled", self.true_labels, train)
        return train.ids[train.labels() != self.true_labels[train.ids]]


def of_class(label: int) -> Rule:
    """Choose every row of one class.

    >>> from excise.data import Split
    >>> rows = (torch.zeros(4, 1), torch.tensor([0, 1, 1, 2]))
    >>> Split(rows, forget=of_class(1)).forget.ids.tolist()
    [1, 2]
    """
    return _OfClass(label)


def random_fraction(fraction: float, *, seed: int = 0) -> Rule:
    """Choose a random share of all rows, without replacement (rounded to the nearest row, at least one).

    Raises:
        errors.BadRequest: a fraction outside [0, 1].
    """
    return _RandomFraction(checks.require_fraction("fraction", fraction), seed)


def within_classes(classes: Sequence[int] | np.ndarray | Tensor, *, fraction: float, seed: int = 0) -> Rule:
    """Choose rows of the given classes only, as many as `fraction` of all rows (the non-IID set of the DEL paper).

    Raises:
        errors.BadRequest: no classes, classes that are no integers, or a fraction outside [0, 1].
        errors.BadSplit: (when applied) the classes have fewer rows than that.
    """
    labels = _plain(classes)
    if not labels or not all(isinstance(label, int) for label in labels):
        raise errors.BadRequest(f"within_classes: expected at least one class, as integers, found {labels or 'none'}")
    return _WithinClasses(tuple(labels), checks.require_fraction("fraction", fraction), seed)


def of_group(column: Sequence[object] | np.ndarray | Tensor, values: Sequence[object] | np.ndarray | Tensor) -> Rule:
    """Choose the rows whose entry in `column` (one a row: a person, a source) is one of `values`.

    Raises:
        errors.BadRequest: `values` is a single word, or entries that are not plain values.
        errors.BadSplit: (when applied) a column of another length than the data.
    """
    if isinstance(values, str | bytes):
        raise errors.BadRequest(
            f"of_group: expected a list of values, found a single {type(values).__name__}; put it in a list"
        )
    try:
        wanted = set(_plain(values))
        flags = [entry in wanted for entry in _plain(column)]
    except TypeError as error:
        raise errors.BadRequest(f"of_group: expected one plain value a row, a number or a text ({error})") from error
    return _Flagged(torch.tensor(flags, dtype=torch.bool), "of_group")


def mislabelled(true_labels: Sequence[int] | np.ndarray | Tensor) -> Rule:
    """Choose the rows whose label in the training data differs from the true one given here.

    Raises:
        errors.BadData: true labels that are not integers, one a row.
        errors.BadSplit: (when applied) a list of another length than the data.
    """
    return _Mislabelled(as_labels(as_tensor(true_labels)).clone())


def _plain(values: Sequence[object] | np.ndarray | Tensor) -> list[Any]:
    """Give a list of Python's own numbers and texts, which compare by value; tensors in a set compare by identity."""
    listed = values.tolist() if isinstance(values, np.ndarray | Tensor) else list(values)
    return [entry.item() if isinstance(entry, Tensor | np.generic) else entry for entry in listed]


def _require_one_a_row(what: str, values: Tensor, train: Rows) -> None:
    if len(values) != len(train.source):
        raise errors.BadSplit(
            f"{what}: expected one value for each of the {len(train.source)} rows of the data, found {len(values)}"
        )


def _count(fraction: float, num_rows: int) -> int:
    return max(1, round(fraction * num_rows)) if fraction > 0 else 0


def _draw(pool: Tensor, count: int, seed: int, purpose: str) -> Tensor:
    order = torch.randperm(len(pool), generator=seeds.generator(seed, purpose))
    return pool[order[:count]].sort().values
