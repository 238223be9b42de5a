"""A forget set with the networks around it, what they say of every row, and how one arm of networks is held against another."""

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from benchmarks.published.problems import PARTS, Problem
from excise import seeds
from excise.curvature import second_moments
from excise.data import Split
from excise.measure import klom_rows, margin_distance, margins, ulira_accuracy
from excise.observe import collect
from excise.pipeline.evidence import loaded

DEALS = 10
"""How often oracles and held-out oracles are dealt anew into two arms, to say what two equal arms give."""


@dataclass(frozen=True, eq=False)
class Said:
    """What some networks say of the rows.

    Attributes:
        margins: by part, `[models, rows]`.
        accuracy: by part, `[models]`; after the removal of a class also of its test rows, and of the others.
    """

    margins: dict
    accuracy: dict

    def some(self, places):
        """Give the same of some of the networks."""
        return Said(
            {part: values[places] for part, values in self.margins.items()},
            {part: values[places] for part, values in self.accuracy.items()},
        )


@dataclass(frozen=True, eq=False)
class Scene:
    """A forget set with the networks around it.

    Attributes:
        problem: of which.
        name: of the forget set.
        split: its rows.
        originals: networks trained on all rows.
        held_out: oracles that no method is held against; what oracle matching learns from.
        before: what the originals say.
        oracles: what the oracles say that every method is held against.
        others: what the held-out oracles say.
        floor: what measures give for two arms of oracles.
        oracle_seconds: of one training, as its share of those trained together.
        kept: second moments by place of the original, as they were asked for.
    """

    problem: Problem
    name: str
    split: Split
    originals: list
    held_out: list
    before: Said
    oracles: Said
    others: Said
    floor: dict
    oracle_seconds: float
    kept: dict = field(default_factory=dict)

    def original(self, place):
        """Give one of the originals."""
        return loaded(self.problem.make, self.originals[place], "an original")

    def moments(self, place):
        """Give the second moments of an original's inputs over all training rows, as they are kept since its training."""
        if place not in self.kept:
            self.kept[place] = second_moments(self.original(place), self.split.train)
        return self.kept[place]

    @property
    def removed_class(self):
        """The class that is removed; None where none is."""
        return self.problem.classes(1)[0] if self.name == "class" else None

    def said(self, networks):
        """Ask networks about every row."""
        return said(self.problem, self.split, self.removed_class, networks)


def said(problem, split, removed, networks):
    """Ask networks about every row."""
    found = {part: [] for part in PARTS}
    right = {part: [] for part in PARTS}
    more = ("removed", "others") if removed is not None else ()
    right |= {part: [] for part in more}
    for network in networks:
        for part in PARTS:
            outputs = collect(network, getattr(split, part), problem.engine)
            found[part].append(margins(outputs.logits, outputs.targets))
            correct = outputs.logits.argmax(axis=1) == outputs.targets
            right[part].append(correct.mean())
            if part == "test" and more:
                own = outputs.targets == removed
                right["removed"].append(correct[own].mean())
                right["others"].append(correct[~own].mean())
    return Said(
        {part: np.stack(values) for part, values in found.items()},
        {part: np.array(values, dtype=np.float64) for part, values in right.items()},
    )


def compared(own, oracles):
    """Give U-LiRA on the forget rows, KLoM on every part, and the distance of margins, of one arm against another."""
    found = {"ulira": ulira_accuracy(own.margins["forget"], oracles.margins["forget"])}
    distances = []
    for part in PARTS:
        rows = klom_rows(own.margins[part], oracles.margins[part])
        found[f"klom_{part}"], found[f"klom95_{part}"] = float(rows.mean()), float(np.quantile(rows, 0.95))
        each = [margin_distance(one, list(oracles.margins[part])) for one in own.margins[part]]
        distances.append(float(np.mean(each)))
        found[f"distance_{part}"] = distances[-1]
    return {**found, "distance": float(np.mean(distances))}


def floor_of(one, other, seed):
    """Give what two arms of oracles give: the mean over deals of all of them into two arms."""
    pool = Said(
        {part: np.concatenate([one.margins[part], other.margins[part]]) for part in one.margins},
        {part: np.concatenate([one.accuracy[part], other.accuracy[part]]) for part in one.accuracy},
    )
    count, draws = len(one.accuracy["test"]), np.random.default_rng(seeds.derive(seed, "deals"))
    found = []
    for _ in range(DEALS):
        order = draws.permutation(2 * count)
        found.append(compared(pool.some(order[:count]), pool.some(order[count:])))
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


@cache
def scene(problem, name):
    """Give a forget set's scene; its networks are trained if the bank has none."""
    split = problem.split(name)
    removed = problem.classes(1)[0] if name == "class" else None
    arms = {
        "before": problem.originals(),
        "oracles": problem.oracles(split),
        "others": problem.oracles(split, held_out=True),
    }
    heard = {
        arm: said(problem, split, removed, [loaded(problem.make, one, arm) for one in networks])
        for arm, networks in arms.items()
    }
    return Scene(
        problem=problem,
        name=name,
        split=split,
        originals=arms["before"],
        held_out=arms["others"],
        floor=floor_of(heard["oracles"], heard["others"], problem.seed),
        oracle_seconds=float(np.mean([one.seconds for one in arms["oracles"]])),
        **heard,
    )
