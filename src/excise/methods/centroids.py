"""Class centroids before the head, and for each row the nearest one of another class."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import errors, seeds
from excise.data.rows import Rows
from excise.train.before_head import embedded
from excise.train.engine import Engine
from excise.train.task import require_class_targets

LEAST_NORM = 1e-8
"""A vector shorter than this has no direction: its cosine with any other is 0, and has no slope."""


def directions(vectors: Tensor) -> Tensor:
    """Give vectors `[..., dims]` at length 1, with gradient; zeros, without one, where one is too short to have a direction."""
    long = vectors.detach().norm(dim=-1, keepdim=True) > LEAST_NORM
    safe = torch.where(long, vectors, torch.ones_like(vectors))
    return torch.where(long, safe / safe.norm(dim=-1, keepdim=True), torch.zeros_like(vectors))


def cosine_distances(vectors: Tensor, others: Tensor) -> Tensor:
    """Give 1 - cos of each of `[rows, dims]` and each of `[others, dims]`, as `[rows, others]`.

    >>> cosine_distances(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])).tolist()
    [[0.0, 1.0, 2.0]]
    """
    return 1 - directions(vectors) @ directions(others).T


@dataclass(frozen=True, eq=False)
class Centroids:
    """The mean of each class's rows before the head.

    Attributes:
        means: float64 `[classes, dims]`, on the CPU; zeros for a class without rows.
        counts: int64 `[classes]`, the rows of each.
    """

    means: Tensor
    counts: Tensor

    def nearest_wrong(self, vectors: Tensor, classes: Tensor, removed: Collection[int] = ()) -> Tensor:
        """Give, for each of some rows, the class with the nearest centroid by cosine distance but its own, int64 `[rows]`.

        Of centroids as near as each other the first is taken. A class without rows is never chosen.

        Args:
            vectors: `[rows, dims]`.
            classes: int64 `[rows]`, the rows' own.
            removed: classes that are never chosen either.

        Raises:
            errors.BadRequest: a row for which no class is left.
        """
        distances = cosine_distances(vectors, self.means)
        distances[:, self.counts == 0] = torch.inf
        distances[:, list(removed)] = torch.inf
        distances[torch.arange(len(classes)), classes] = torch.inf
        found = distances.min(1)
        left_out = sorted(set(classes[found.values.isinf()].tolist()))
        if left_out:
            raise errors.BadRequest(_none_left(left_out))
        return found.indices


NO_CENTROIDS = (
    "there are no classes whose centroids forget rows could be pulled to; use another method, such as Contrast"
)


def require_others(forget: Tensor, retain: Tensor, removed: Collection[int]) -> None:
    """Refuse classes of forget rows beside which the retain rows have no other that may be chosen, before any pass."""
    there = set(retain.tolist()) - set(removed)
    left_out = sorted(own for own in set(forget.tolist()) if not there - {own})
    if left_out:
        raise errors.BadRequest(_none_left(left_out))


def _none_left(left_out: Sequence[int]) -> str:
    return (
        "Attract: expected retain rows of another class, to whose centroid forget rows may be pulled; found none for the "
        f"forget rows of class {', '.join(map(str, left_out))}; retain rows of a second class, or name fewer as removed"
    )


def centroids_of(shadow: nn.Module, rows: Rows, engine: Engine, *, head: str, batch_size: int) -> Centroids:
    """Give the centroids of a network's classes over rows, of which a shadow is run. Cost: one forward pass over them.

    Sums are taken in float64, and no row's vector is kept.

    Raises:
        errors.BadData: targets that are no integer classes of the network.
        errors.UnsupportedModel: `head` is not given one vector a row.
    """
    sums, counts = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    with seeds.isolated(engine.seed, "centroids"):
        for features, logits, targets in embedded(shadow, rows, engine, head=head, batch_size=batch_size):
            require_class_targets(targets, logits, "Attract", remedy=NO_CENTROIDS)
            if not len(counts):
                sums = torch.zeros((logits.shape[1], features.shape[1]), dtype=torch.float64)
                counts = torch.zeros(logits.shape[1], dtype=torch.int64)
            classes = targets.long().cpu()
            sums.index_add_(0, classes, features.cpu().double())
            counts += torch.bincount(classes, minlength=len(counts))
    return Centroids(sums / counts.clamp(min=1)[:, None], counts)


def nearest_wrong_of(
    shadow: nn.Module,
    rows: Rows,
    centroids: Centroids,
    engine: Engine,
    *,
    head: str,
    batch_size: int,
    removed: Collection[int] = (),
) -> Tensor:
    """Give each row's nearest wrong class, int64 `[rows]` in order of id; a shadow is run. Cost: one forward pass over them.

    Raises:
        errors.BadData: targets that are no integer classes of the network.
        errors.BadRequest: a row for which no class is left.
    """
    found = []
    with seeds.isolated(engine.seed, "nearest"):
        for features, logits, targets in embedded(shadow, rows, engine, head=head, batch_size=batch_size):
            require_class_targets(targets, logits, "Attract", remedy=NO_CENTROIDS)
            found.append(centroids.nearest_wrong(features.cpu().double(), targets.long().cpu(), removed))
    return torch.cat(found)
