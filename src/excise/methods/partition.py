"""Partition: forget in parts, each with a method of its own, from the least to the most memorised rows."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from excise import checks, errors, params, seeds
from excise.data.batches import batches, num_batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Method, Need
from excise.train.engine import Engine
from excise.train.masked import Statistics, most_permissive
from excise.train.task import device_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition(Method):
    """Sort the forget rows by how much they are memorised, cut them into parts, and forget part after part, low to high.

    Part i is run as a request of its own: the method's forget rows are the part's, its retain rows those retained in the end
    and those of later parts, whose turn has not come; what was forgotten before is gone. The network before the run
    (`engine.original`) is for each part the one that the part before left. Each part draws from a seed of its own.

    Without scores the parts are cut by the loss of each forget row in eval mode on the network before the run. For
    cross-entropy that is the order of 1 - p, with p the confidence in the row's own label; rows for which p rounds to 1 go by
    id. It is the one proxy that a single network gives without training, and it says little about a network that fits every
    row by heart: all its losses are near 0, the memorised rows' too. Scores from many networks (how much likelier a row is
    classified right by those that trained on it) or from the course of training should be given where they exist.

    Reads what the methods read; forget rows, too, if it has to score them, and as retain rows of an earlier part. Outside the
    mask nothing moves. Cost: what the methods cost on their parts, and without scores a pass forward over forget. Memory: a
    copy of the network from the second part on, if the engine has an original.

    References:
        Zhao, Kurmanji, Barbulescu, Triantafillou, Triantafillou, "What Makes Unlearning Hard and What to Do About It",
        NeurIPS 2024 (RUM: nothing, `Finetune`, then random labels on a mask, on three parts of equal size).
        Feldman, "Does Learning Require Memorization? A Short Tale about a Long Tail", STOC 2020 (the score).

    Args:
        methods: one a part, for the least memorised rows first.
        bounds: where the parts end, as ascending shares of the forget rows in (0, 1), one fewer than methods: a bound b ends
            a part after floor(b * rows) rows. None for parts of equal size, but for one row.
        memorization: `[forget rows]`, one finite score a forget row in ascending order of id, higher for more memorised.
            Ties go by id. None for the loss.
        batch_size: examples a batch where rows are scored.

    Raises:
        errors.BadRequest: no methods, bounds or scores that do not fit, or a part without rows; before any work.

    What a method refuses is refused before any work, too: of its own part where scores are given; else of all forget rows, and
    of its part when its turn comes.
    """

    methods: tuple[Method, ...]
    bounds: tuple[float, ...] | None = None
    memorization: Tensor | None = None
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Check the options."""
        if not isinstance(self.methods, tuple) or not self.methods:
            raise errors.BadRequest(f"Partition: expected a tuple of at least one method, found {self.methods!r}")
        for method in self.methods:
            if not isinstance(method, Method):
                raise errors.BadRequest(f"Partition: expected a tuple of methods, found {method!r} in it")
        if self.bounds is not None:
            edges = [0.0, *(checks.require_fraction("bounds", bound) for bound in self.bounds), 1.0]
            if len(edges) != len(self.methods) + 1 or any(a >= b for a, b in itertools.pairwise(edges)):
                raise errors.BadRequest(
                    f"bounds: expected {len(self.methods) - 1} ascending fractions between 0 and 1, both excluded, to part "
                    f"{len(self.methods)} methods, found {self.bounds!r}"
                )
        scores = self.memorization
        if scores is not None and not (
            isinstance(scores, Tensor) and scores.ndim == 1 and bool(scores.isfinite().all())
        ):
            found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise errors.BadRequest(f"memorization: expected a tensor [forget rows] of finite numbers, found {found}")
        checks.require_positive_int("batch_size", self.batch_size)

    @property
    def needs(self) -> frozenset[Need]:
        """What any method needs; and forget rows, if they are to be scored, or retained until their part comes."""
        found: frozenset[Need] = frozenset().union(*(method.needs for method in self.methods))
        scores = self.memorization is None and len(self.methods) > 1
        waits = any("retain" in method.needs for method in self.methods[:-1])
        return found | {"forget"} if scores or waits else found

    @property
    def statistics(self) -> Statistics:
        """The rule of the method that moves most: adapt, then follow-mask, then hold."""
        return most_permissive(method.statistics for method in self.methods)

    @property
    def widens(self) -> bool:
        """Whether any method does."""
        return any(method.widens for method in self.methods)

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse scores and parts that do not fit the rows, and what the methods refuse, each of its part if that is known."""
        self._cuts(len(split.forget))
        self._require_scores(split)
        known = self.memorization is not None or len(self.methods) == 1
        splits = self._splits(split, self._parts(split, engine)) if known else [split] * len(self.methods)
        for method, part in zip(self.methods, splits, strict=True):
            method.require(model, part, mask, engine)

    def for_network(self, model: nn.Module, split: Split, engine: Engine) -> Method:
        """Give the parts for another network."""
        return replace(self, methods=tuple(part.for_network(model, split, engine) for part in self.methods))

    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Run the methods in order, in place, each on its part of the forget rows."""
        self.require(model, split, mask, engine)
        splits = self._splits(split, self._parts(split, engine))
        for place, (method, part) in enumerate(zip(self.methods, splits, strict=True)):
            own = engine.reseeded(seeds.derive(engine.seed, "partition", place))
            if place and engine.original is not None:
                own = replace(own, original=params.clone_model(model))
            method.unlearn_(model, part, mask, own)

    def _splits(self, split: Split, parts: list[Tensor]) -> list[Split]:
        """Give each part's request, what came before it gone."""
        before = [torch.cat([split.forget.ids[:0], *parts[:place]]) for place in range(len(parts))]
        return [split.narrowed(ids, gone=gone) for ids, gone in zip(parts, before, strict=True)]

    def _require_scores(self, split: Split) -> None:
        if self.memorization is not None and len(self.memorization) != len(split.forget):
            raise errors.BadRequest(
                f"memorization: expected one score for each of {len(split.forget)} forget rows, found "
                f"{len(self.memorization)}; give them in ascending order of the rows' ids"
            )

    def _parts(self, split: Split, engine: Engine) -> list[Tensor]:
        """Give the ids of each part, low to high."""
        cuts = self._cuts(len(split.forget))
        if len(self.methods) == 1:
            return [split.forget.ids]
        scores = self._losses(split.forget, engine) if self.memorization is None else self.memorization
        order = scores.detach().cpu().argsort(stable=True)
        return list(split.forget.ids[order].tensor_split(cuts))

    def _cuts(self, num_rows: int) -> list[int]:
        """Give how many rows come before each part but the first."""
        parts = len(self.methods)
        if self.bounds is None:
            cuts = [place * num_rows // parts for place in range(1, parts)]
        else:
            cuts = [math.floor(round(bound * num_rows, 9)) for bound in self.bounds]  # 0.29 * 100 is 29
        for place, (start, end) in enumerate(itertools.pairwise([0, *cuts, num_rows]), 1):
            if start == end:
                raise errors.BadRequest(
                    f"Partition: part {place} of {parts} would hold none of {num_rows} forget rows; "
                    "give fewer methods, or bounds further apart"
                )
        return cuts

    @torch.no_grad()
    def _losses(self, rows: Rows, engine: Engine) -> Tensor:
        """Give each row's loss in eval mode on the network before the run."""
        if engine.original is None:
            raise errors.BadRequest(
                "Partition: without scores the rows are parted by their loss on the network as it was; "
                "run it through excise.unlearn, or give memorization="
            )
        network, stage = engine.original_model(), type(self).__name__
        engine.hooks.on_stage(stage, num_batches(len(rows), self.batch_size))
        found = []
        with seeds.isolated(engine.seed, "partition"):
            for batch in batches(rows, self.batch_size, device_of(network)):
                engine.cost.count(forward=len(batch))
                found.append(engine.task.losses(network, batch))
                engine.hooks.on_step()
        engine.hooks.on_stage_end(stage)
        return torch.cat(found)
