"""What is audited, as one value; and the twins of its forget rows among rows that were never trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from excise import errors, seeds
from excise.cluster import Fleet, Here
from excise.data.rows import Rows
from excise.data.split import Split
from excise.measure import margins, matched, twins
from excise.oracles.retrain import TrainFunction
from excise.pipeline.evidence import Evidence
from excise.pipeline.probing import Canaries, Confusion, Goal, Prober, Trigger
from excise.pipeline.unlearned import Unlearned
from excise.train.engine import Cost, Engine
from excise.train.plan import TrainPlan
from excise.train.task import forward_pair

MOST_FORGET, MOST_TEST = 1000, 4000
"""Rows among which twins are looked for: all distances between them are taken."""


@dataclass(frozen=True, eq=False)
class Twins:
    """Forget rows, and for each a test row, never trained on, that is asked about under the forget row's own label.

    So a wrong label's twin is a look-alike under the same wrong label: without it, an attack would find the wrong labels and
    not what was remembered of them.

    Attributes:
        rows: `[pairs]`, places among the forget rows.
        places: `[pairs]`, places among the test rows.
        labels: `[pairs]`, under which the test rows are asked about.
    """

    rows: np.ndarray
    places: np.ndarray
    labels: np.ndarray

    def margins(self, one: Evidence) -> tuple[np.ndarray, np.ndarray]:
        """Give a network's margins of the forget rows and of their twins."""
        return one.margins[self.rows], margins(one.rows.test_logits[self.places], self.labels)

    def stacked(self, networks: Sequence[Evidence]) -> tuple[np.ndarray, np.ndarray]:
        """Give the same of several networks, `[models, pairs]` each."""
        inside, outside = zip(*map(self.margins, networks), strict=True)
        return np.stack(inside), np.stack(outside)


def twins_of(split: Split, labels: dict[str, np.ndarray], seed: int) -> Twins:
    """Pair forget rows with test rows: by nearness where inputs are floating numbers, else drawn from the same class.

    Of more than `MOST_FORGET` forget rows or `MOST_TEST` test rows, as many are drawn from the seed.
    """
    assert split.test is not None
    generator = np.random.default_rng(seeds.derive(seed, "twins"))
    rows = np.sort(generator.permutation(len(split.forget))[:MOST_FORGET])
    tests = np.sort(generator.permutation(len(split.test))[:MOST_TEST])
    forget, test = (_inputs(one, some) for one, some in ((split.forget, rows), (split.test, tests)))
    wanted = labels["forget"][rows]
    if forget is not None and test is not None and forget.shape[1:] == test.shape[1:]:
        return Twins(rows, tests[twins(forget, test)], wanted)
    places = matched(wanted, labels["test"], generator)
    drawn = labels["test"][places]
    paired = np.concatenate([rows[wanted == label][: int((drawn == label).sum())] for label in np.unique(drawn)])
    ordered = np.concatenate([places[drawn == label] for label in np.unique(drawn)])
    return Twins(paired, ordered, labels["test"][ordered])


def _inputs(rows: Rows, some: np.ndarray | None = None) -> np.ndarray | None:
    """Give the inputs of rows as floating numbers; None where they are none."""
    chosen = rows.ids if some is None else rows.ids[torch.from_numpy(some)]
    content = rows.source.read(chosen)
    first = content[0] if isinstance(content, tuple | list) else content
    return first.double().numpy() if isinstance(first, Tensor) and first.is_floating_point() else None


@dataclass(frozen=True, eq=False)
class Case:
    """What is audited, on what, and how it was trained.

    Attributes:
        unlearned: what `excise.unlearn` gave.
        model: its network, out of any wrapper.
        before: the network before unlearning.
        split: the rows.
        build: gives an untrained network, another at each call.
        plan: how the original was trained; None where nothing is retrained.
        engine: task, seed and hooks of the audit.
        prober: looks for what networks still know.
        fleet: who trains networks from scratch.
    """

    unlearned: Unlearned
    model: nn.Module
    before: nn.Module
    split: Split
    build: Callable[[], nn.Module]
    plan: TrainPlan | TrainFunction | None
    engine: Engine
    prober: Prober
    fleet: Fleet = field(default_factory=Here)

    @property
    def goal(self) -> Goal | None:
        """What the removal is to correct."""
        return self.prober.goal

    @property
    def retraining(self) -> TrainPlan | TrainFunction:
        """How networks are retrained, for tiers that do."""
        assert self.plan is not None
        return self.plan

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Labels of forget, retain and test rows; empty where a custom `forward` hides them."""
        if self.engine.task.forward is not forward_pair or self.split.test is None:
            return {}
        parts = {"forget": self.split.forget, "retain": self.split.retain, "test": self.split.test}
        return {part: rows.labels().numpy() for part, rows in parts.items()}

    @cached_property
    def has_twins(self) -> bool:
        """Whether forget rows can be set beside rows never trained on: look-alikes, or rows of the same classes."""
        if not self.labels:
            return False
        same_classes = bool(np.isin(self.labels["forget"], self.labels["test"]).all())
        return same_classes or _inputs(self.split.forget.head(1)) is not None

    @cached_property
    def twins(self) -> Twins:
        """Each forget row's twin, see `twins_of`."""
        return twins_of(self.split, self.labels, self.engine.seed)

    @cached_property
    def removes_classes(self) -> bool:
        """Whether some class of the forget rows is in no retain row."""
        return bool(self.labels) and not np.isin(self.labels["forget"], self.labels["retain"]).all()


def require_options(goal: object, canaries: object, search: object, original: object, seed: object) -> None:
    """Refuse options of an audit that are of another kind than they should be."""
    kinds: tuple[tuple[str, object, type | tuple[type, ...]], ...] = (
        ("goal", goal, (Trigger, Confusion)),
        ("canaries", canaries, Canaries),
        ("search", search, Cost),
        ("original", original, nn.Module),
    )
    for name, value, kind in kinds:
        if value is not None and not isinstance(value, kind):
            wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise errors.BadRequest(f"{name}: expected a {wanted}, found {type(value).__name__}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise errors.BadRequest(f"seed: expected a whole number, found {seed!r}")
