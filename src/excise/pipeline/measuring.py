"""The measures that inform: what an audit reports beside those that decide, each against the oracles' own.

One table, `LINES`, says which there are, when each applies, and how it is taken. What applies is known before any network
is observed, so that the plan of an audit can name it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs
from scipy.special import expit

from excise import seeds
from excise.measure import (
    Measure,
    Signals,
    against_oracles,
    agreement,
    before_and_after,
    beside_oracles,
    epsilon,
    epsilon_bounds,
    forget_rows,
    forgetting_score,
    interclass_confusion,
    klom,
    pairs_beside_oracles,
    relearning,
    retain_auc,
    retain_exposure,
    rmia,
    total_variation,
    trigger_removal,
    trigger_success,
    tug_of_war,
    ulira_worst_rows,
    unlearning_score,
    zero_retrain_forgetting,
)
from excise.measure.ulira import LEAST_MODELS
from excise.pipeline.case import Case
from excise.pipeline.evidence import Evidence, Oracles, observe
from excise.pipeline.planning import MOST_PROBED
from excise.pipeline.population import Population, margins_of
from excise.pipeline.probing import RELEARNING_EVERY, Confusion, Probed, Trigger, probed
from excise.train.statistics import running_statistics

FEWEST = 3
"""Oracles from which on the informing measures are taken: each is held against at least two others."""


@dataclass(frozen=True, eq=False)
class Bench:
    """Everything that a measure may be taken from.

    Attributes:
        case: what is audited.
        own: the unlearned network.
        original: the network before.
        oracles: the networks to compare with.
        probes: of the unlearned network, the original, an untrained one, and of the first oracles, in this order.
        untrained: logits of an untrained network on the forget rows.
        population: the populations of tier T2.
    """

    case: Case
    own: Evidence
    original: Evidence
    oracles: Sequence[Evidence]
    probes: Sequence[Probed]
    untrained: np.ndarray
    population: Population | None

    def generator(self, *purpose: str) -> np.random.Generator:
        """Give a generator for one purpose."""
        return np.random.default_rng(seeds.derive(self.case.engine.seed, *purpose))

    def stacked(self, part: str) -> np.ndarray:
        """Give the oracles' margins on a part, `[models, rows]`."""
        return np.stack([one.rows.margins[part] for one in self.oracles])


@dataclass(frozen=True, eq=False)
class Line:
    """One informing measure, or a few taken together.

    Attributes:
        names: of the measures.
        take: from the bench to the measures, in the order of the names.
        applies: whether it can be taken, by what is known beforehand.
        tiers: at which.
    """

    names: tuple[str, ...]
    take: Callable[[Bench], Sequence[Measure]]
    applies: Callable[[Case], bool] = lambda case: True
    tiers: tuple[str, ...] = ("T1", "T2")


def names(case: Case, tier: str, num_oracles: int) -> tuple[str, ...]:
    """Give the names of the informing measures that this audit will report."""
    if num_oracles < 2:
        return ()
    lines = [line for line in LINES if _due(line, case, tier, num_oracles)]
    return ("confidence_attack", *(name for line in lines for name in line.names))


def informing(
    case: Case, tier: str, own: Evidence, original: Evidence, oracles: Oracles, population: Population | None
) -> list[Measure]:
    """Take every informing measure that applies.

    Cost: the probes of the unlearned network, the original, an untrained one and up to `MOST_PROBED` oracles.
    """
    due = [line for line in LINES if _due(line, case, tier, len(oracles.evidence))]
    if not due:
        return []
    with seeds.isolated(case.engine.seed, "untrained"):
        blank = case.build()
    some = [oracles.model(case.build, place) for place in range(min(MOST_PROBED, len(oracles.trained)))]
    knows_nothing = observe(blank, case.split, case.engine)
    known = [own, original, knows_nothing, *oracles.evidence]
    tests = [one.accuracy["test"] for one in known]
    models = [case.model, case.before, blank, *some]
    probes = probed(case.prober, models, tests[: len(models)], "probing")
    bench = Bench(case, own, original, oracles.evidence, probes, _logits(knows_nothing), population)
    return [measure for line in due for measure in line.take(bench)]


def _due(line: Line, case: Case, tier: str, num_oracles: int) -> bool:
    return tier in line.tiers and num_oracles >= FEWEST and line.applies(case)


# ---------------------------------------------------------------- membership


def _rmia(bench: Bench) -> list[Measure]:
    pairs = bench.case.twins

    def signals(found: tuple[np.ndarray, np.ndarray]) -> Signals:
        inside, outside = map(expit, found)
        return Signals(forget=inside, non_members=outside, population=outside)

    return [rmia(signals(pairs.margins(bench.own)), signals(pairs.stacked(bench.oracles)))]


def _before_and_after(bench: Bench) -> list[Measure]:
    pairs = bench.case.twins
    return [before_and_after(pairs.margins(bench.original), pairs.margins(bench.own), pairs.stacked(bench.oracles))]


def _worst_forget_rows(bench: Bench) -> list[Measure]:
    found = forget_rows(bench.own.margins, bench.stacked("forget"))
    return [found.share, found.worst]


def _retained_rows(bench: Bench) -> list[Measure]:
    before, after = (one.rows.margins["retain"] for one in (bench.original, bench.own))
    found = retain_exposure(before, after, bench.stacked("retain"))
    return [found.share, found.worst]


def _retain_auc(bench: Bench) -> list[Measure]:
    own = bench.own.rows.margins
    return [retain_auc((own["retain"], own["test"]), (bench.stacked("retain"), bench.stacked("test")))]


# ---------------------------------------------------------------- utility and likeness


def _tug_of_war(bench: Bench) -> list[Measure]:
    said = (
        "1 minus the gaps in accuracy on forget, retain and test rows, multiplied (ToW); held against the oracles' own."
    )
    own, oracles = bench.own.accuracy, [one.accuracy for one in bench.oracles]
    step = min(1 / len(getattr(bench.case.split, part)) for part in own)
    return [beside_oracles("tug_of_war", tug_of_war, own, oracles, resolution=step, sentence=said)]


def _unlearning_score(bench: Bench) -> list[Measure]:
    case = bench.case

    def score(one: Evidence) -> float:
        if not case.removes_classes:
            return unlearning_score(
                original_test=bench.original.accuracy["test"], test=one.accuracy["test"], forget=one.accuracy["forget"]
            )
        gone = np.isin(case.labels["test"], np.setdiff1d(case.labels["forget"], case.labels["retain"]))
        before, after = (found.rows.predicted["test"] == case.labels["test"] for found in (bench.original, one))
        return unlearning_score(
            original_test=_share(before[~gone]),
            test=_share(after[~gone]),
            forget=_share(after[gone]),
            scenario="class removal",
        )

    how = "class removal" if case.removes_classes else "random removal"
    own, values = score(bench.own), [score(one) for one in bench.oracles]
    said = (
        f"DUCK's adaptive unlearning score ({how}), {own:.3f}, minus the oracles' mean, {np.mean(values):.3f} with a standard "
        f"error of {np.std(values, ddof=1) / len(values) ** 0.5:.3f}; 1 is ideal on its own scale."
    )
    step = 1 / len(case.split.forget)
    return [against_oracles("unlearning_score", own, values, resolution=step, sentence=said)]


def _share(right: np.ndarray) -> float:
    return float(right.mean()) if len(right) else 0.0


def _likeness(bench: Bench) -> list[Measure]:
    own, oracles = _logits(bench.own), [_logits(one) for one in bench.oracles]
    step = 1 / len(own)
    return [
        pairs_beside_oracles(
            "agreement",
            agreement,
            own,
            oracles,
            resolution=step,
            sentence="Share of forget rows that the network and an oracle classify alike, minus the same of two oracles.",
        ),
        pairs_beside_oracles(
            "total_variation",
            total_variation,
            own,
            oracles,
            resolution=0.0,
            sentence="Distance of the network's probabilities on forget rows from an oracle's, minus that of two oracles.",
        ),
        against_oracles(
            "zero_retrain_forgetting",
            zero_retrain_forgetting(own, bench.untrained),
            [zero_retrain_forgetting(one, bench.untrained) for one in oracles],
            resolution=0.0,
            limits=(0, 1),
            sentence="How alike the network and an untrained one are on forget rows (ZRF), minus the oracles' mean.",
        ),
    ]


def _logits(one: Evidence) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.maximum(np.log(one.rows.probabilities), -745.0))  # the log of the smallest number there is


# ---------------------------------------------------------------- what a network knows and does not say


def _recalibrated(bench: Bench) -> list[Measure]:
    own, _, _, *oracles = (one.recalibrated for one in bench.probes)
    said = (
        "Accuracy on forget rows after the running statistics were recomputed from retain rows, minus the oracles' after the "
        "same: what batch normalisation alone was hiding."
    )
    return _of_probes("recalibrated_forget_accuracy", own, oracles, bench, said)


def _linear_probe(bench: Bench) -> list[Measure]:
    own, _, _, *oracles = (one.probe for one in bench.probes)
    said = (
        "Accuracy on forget rows of a new linear head on the network's features, fitted to retain rows, minus the oracles': "
        "what the layers below the head still know."
    )
    return _of_probes("linear_probe", own, oracles, bench, said)


def _of_probes(
    name: str, own: float | None, oracles: Sequence[float | None], bench: Bench, sentence: str
) -> list[Measure]:
    values = [one for one in oracles if one is not None]
    if own is None or len(values) < 2:
        return []
    step = 1 / len(bench.case.split.forget)
    return [against_oracles(name, own, values, resolution=step, limits=(0, 1), sentence=sentence)]


def _relearning(bench: Bench) -> list[Measure]:
    own, original, untrained, *oracles = (one.relearner for one in bench.probes)
    values = [one for one in oracles if one is not None]
    if own is None or original is None or untrained is None or len(values) < 2 or not original.accuracy[:, 0].any():
        return []
    found = relearning(own, values, original=original, untrained=untrained, every=RELEARNING_EVERY)
    runs = len(own.accuracy)
    if found.num_censored["own"] == runs and found.num_censored["oracles"] == runs * len(values):
        return []  # nobody got there, which says nothing of how soon
    told = f" The original needs {found.index_original:.2f} and an untrained network {found.index_untrained:.2f} times theirs."
    return [structs.replace(found.measure, sentence=found.measure.sentence + told)]


# ---------------------------------------------------------------- corrections


def _trigger(bench: Bench) -> list[Measure]:
    goal, targets = bench.case.goal, bench.case.labels["test"]
    assert isinstance(goal, Trigger)
    rates = {
        kind: [trigger_success(one.logits[kind], targets, goal.target) for one in bench.probes]
        for kind in ("triggered", "clean")
    }
    own, _, _, *triggered = rates["triggered"]
    others = int((targets != goal.target).sum())
    return [trigger_removal(own, triggered, rates["clean"][3:], resolution=1 / others)]


def _confusion(bench: Bench) -> list[Measure]:
    goal, targets = bench.case.goal, bench.case.labels["test"]
    assert isinstance(goal, Confusion)
    rates = [interclass_confusion(one.logits["clean"], targets, (goal.first, goal.second)) for one in bench.probes]
    rows = int(np.isin(targets, (goal.first, goal.second)).sum())
    said = (
        f"Share of test rows of classes {goal.first} and {goal.second} called the other of the two, minus the oracles'."
    )
    return [
        against_oracles("interclass_confusion", rates[0], rates[3:], resolution=1 / rows, limits=(0, 1), sentence=said)
    ]


# ---------------------------------------------------------------- populations


def _population(bench: Bench) -> list[Measure]:
    assert bench.population is not None
    if len(bench.population.unlearned) < LEAST_MODELS:
        return []
    own, oracles, held_out = (
        margins_of(arm) for arm in (bench.population.unlearned, bench.oracles, bench.population.held_out.evidence)
    )
    return [
        ulira_worst_rows(own, oracles, held_out, bench.generator("worst")),
        klom(own, oracles, held_out, generator=bench.generator("klom"), quantile=0.95),
        epsilon(own, oracles, held_out, generator=bench.generator("epsilon"), num_permutations=99),
    ]


LINES = (
    Line(("rmia",), _rmia, lambda case: case.has_twins),
    Line(("before_and_after",), _before_and_after, lambda case: case.has_twins),
    Line(("forget_rows", "worst_forget_rows"), _worst_forget_rows),
    Line(("tug_of_war",), _tug_of_war),
    Line(("unlearning_score",), _unlearning_score, lambda case: bool(case.labels)),
    Line(("agreement", "total_variation", "zero_retrain_forgetting"), _likeness),
    Line(("recalibrated_forget_accuracy",), _recalibrated, lambda case: bool(running_statistics(case.model))),
    Line(("linear_probe",), _linear_probe, lambda case: case.prober.has_linear_head),
    Line(("relearning",), _relearning),
    Line(("retain_exposure", "worst_retain_rows"), _retained_rows),
    Line(("retain_auc",), _retain_auc),
    Line(("trigger_success",), _trigger, lambda case: isinstance(case.goal, Trigger)),
    Line(("interclass_confusion",), _confusion, lambda case: isinstance(case.goal, Confusion)),
    Line(("ulira_worst_rows", "klom-0.95", "epsilon"), _population, tiers=("T2",)),
)


def notes(case: Case, oracles: Oracles | None, population: Population | None = None) -> list[str]:
    """Give what a reader should know of what was compared; with populations, what bounds epsilon and the challenge's score."""
    found = []
    if oracles is not None and population is not None and len(population.unlearned) >= 4:
        found += _of_population(case, oracles.evidence, population)
    if oracles is not None and case.labels and not case.has_twins:
        found.append("forget rows have no twins among the test rows: attacks that need rows never trained on are out")
    if case.removes_classes:
        found.append("a class of the forget rows has no retain row: oracles never name it, and every trace of it shows")
    return found


def _of_population(case: Case, oracles: Sequence[Evidence], population: Population) -> list[str]:
    """Give the lower bound on epsilon beside its ceiling, and the challenge's score beside that of held-out oracles."""
    unlearned, held_out = population.unlearned, population.held_out.evidence
    own, reference, others = (margins_of(arm) for arm in (unlearned, oracles, held_out))
    generator = np.random.default_rng(seeds.derive(case.engine.seed, "bounds"))
    bounds = epsilon_bounds(own, reference, generator=generator)
    found = [
        f"with 95% confidence the worst forget row's epsilon under the recipe is at least {bounds.worst:.2f} (delta 1e-5; so "
        f"many networks can show {bounds.ceiling:.2f} at most)"
    ]
    if len({len(own), len(reference), len(others)}) == 1:
        means = {
            part: np.mean([one.accuracy[part] for one in unlearned]) / np.mean([one.accuracy[part] for one in oracles])
            for part in ("retain", "test")
        }
        score = forgetting_score(
            own,
            reference,
            others,
            generator=generator,
            retain_ratio=float(means["retain"]),
            test_ratio=float(means["test"]),
        )
        found.append(
            f"the score of the NeurIPS 2023 unlearning challenge is {score.score:.3f}, where held-out oracles get "
            f"{score.null:.3f}: {score.ratio:.0%} of theirs"
        )
    return found
