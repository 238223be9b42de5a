"""What counts as passed: one rule for turning measures and controls into a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from msgspec import structs

from excise.data.split import Split
from excise.measure import (
    Measure,
    against_oracles,
    holm,
    margin_distance,
    more_than_chance,
    oracle_band,
)
from excise.pipeline.evidence import Evidence
from excise.pipeline.power import oracles_needed, trace_seen

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]

ALPHA = 0.05
"""Chance of failing a network that is one more oracle, over all deciding measures together."""

FEWEST_ORACLES = 4
"""Below this the intervals are so wide that nothing could fail."""

PLAN_TOLERANCE = 0.02
"""How far the original's accuracy on the retain rows may lie from the oracles' mean: the absence of the forget rows moves it
by less, another optimizer or schedule by more."""

EFFECT = 0.5
"""What a PASS promises to have seen, as a share of the trace that the rows left in the original: half of it left behind."""

CONTROL_ALPHA = 0.01
"""Level at which the control `retrained` counts as broken, by how many oracles fail, or by an arm of held-out ones that is
told from the others: a sound yardstick must not be called broken often."""

SINGLE = ("forget_accuracy", "retain_accuracy", "test_accuracy", "forget_margin", "forget_margin_distance")
"""Measures of the one network on which a verdict rests, at every tier that retrains."""

ELSEWHERE = ("retain_accuracy", "test_accuracy")
"""Measures of what happened to rows that were not to be forgotten."""

POPULATION = ("ulira", "klom")
"""Measures of the recipe, over many networks, on which a verdict rests besides at tier T2."""

CANARY_ALPHA = 1e-3
"""Level of the test on planted canaries, where there are some: its null is exact, and it fails a network by itself."""

FAILING = (
    "logits that are not finite",
    "weights that moved outside the run's mask",
    "outputs that no longer depend on the input",
    "running statistics of normalisation that are still the original's, where retrained networks' are not",
    "a population of which the recipe broke some",
    f"planted canaries whose noise is still known (p at most {CANARY_ALPHA:g})",
)
"""What fails a network by itself, whatever the measures say."""

DAMAGE = "what tells it apart is damage to other rows; nothing here says that it still knows the forget rows"
"""The first reason of a failure on other rows alone."""

CONTROLS = {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"}
"""What each control must come to."""


@dataclass(frozen=True, kw_only=True)
class Arms:
    """What whole populations of networks came to, where an audit trained some (tier T2): measures, deciding and informing.

    Attributes:
        unlearned: many originals, each put through the recipe, against oracles.
        nothing: the originals themselves, against the same oracles.
        retrained: held-out oracles against the same oracles.
        broken: networks of the unlearned population that diverged or gave values that are not finite.
    """

    unlearned: Sequence[Measure] = ()
    nothing: Sequence[Measure] = ()
    retrained: Sequence[Measure] = ()
    broken: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A verdict with all that it rests on.

    Attributes:
        verdict: the word.
        reasons: why, in sentences, the weightiest first.
        controls: what each control came to.
        measures: of the network (and of its recipe, at tier T2).
        trace_seen: the smallest share of the original's trace that would have been noticed if it had been left behind (with
            probability 0.8); None where the original shows no trace.
    """

    verdict: Verdict
    reasons: Sequence[str]
    controls: Mapping[str, str]
    measures: Sequence[Measure] = field(default_factory=list)
    trace_seen: float | None = None


def measures_of(own: Evidence, oracles: Sequence[Evidence], split: Split, *, among: int = len(SINGLE)) -> list[Measure]:
    """Compare one network's evidence with that of oracles: the measures that decide, and the confidence attack."""
    sizes = {"forget": len(split.forget), "retain": len(split.retain), "test": len(split.test or ())}
    found = [
        against_oracles(
            f"{part}_accuracy",
            own.accuracy[part],
            [other.accuracy[part] for other in oracles],
            resolution=1 / sizes[part],
            among=among,
            limits=(0, 1),
            sentence=f"Accuracy on the {part} rows, minus the mean of networks that never saw the forget rows.",
        )
        for part in sizes
    ]
    found.append(
        against_oracles(
            "forget_margin",
            float(own.margins.mean()),
            [float(other.margins.mean()) for other in oracles],
            resolution=0.0,
            among=among,
            sentence="Mean log-odds of the forget rows' labels, minus the oracles' mean: above 0 the rows are still "
            "remembered, below 0 they are forgotten harder than by a network that never saw them.",
        )
    )
    if len(oracles) > 2:
        found.append(_distance(own, oracles, among))
    attack = against_oracles(
        "confidence_attack",
        own.attack,
        [other.attack for other in oracles],
        resolution=1 / sizes["forget"],
        limits=(0, 1),
        sentence="Share of forget rows that an attack on confidence takes for rows never trained on, minus the "
        "oracles' mean. A population attack: reported because papers report it, and not part of the verdict.",
    )
    return [*(structs.replace(one, decides=True) for one in found), attack]


def _distance(own: Evidence, oracles: Sequence[Evidence], among: int) -> Measure:
    margins = [other.margins for other in oracles]
    others = [margins[:i] + margins[i + 1 :] for i in range(len(margins))]
    # the network too is held against one oracle less at a time: the mean of more oracles is closer to anything
    away = float(np.mean([margin_distance(own.margins, rest) for rest in others]))
    return against_oracles(
        "forget_margin_distance",
        away,
        [margin_distance(one, rest) for one, rest in zip(margins, others, strict=True)],
        resolution=0.0,
        among=among,
        sentence="How far, row by row, the log-odds of the forget rows lie from the oracles' (root mean square, in "
        "units of their spread), minus the same for each oracle held against the others.",
    )


def rejects(measures: Sequence[Measure]) -> list[Measure]:
    """Give the deciding measures that tell the network from an oracle, by Holm's step-down at `ALPHA` in all."""
    deciding = [measure for measure in measures if measure.decides and measure.name in (*SINGLE, *POPULATION)]
    rejected = holm([measure.p for measure in deciding], ALPHA)
    return [measure for measure, out in zip(deciding, rejected, strict=True) if out]


def judge(
    own: Evidence, oracles: Sequence[Evidence], split: Split, population: Sequence[Measure] = ()
) -> tuple[str, list[Measure]]:
    """Give PASS or FAIL for one network against oracles, without controls, and the measures."""
    if not own.finite:
        return "FAIL", []
    among = len(SINGLE) + sum(one.decides for one in population)
    measures = [*measures_of(own, oracles, split, among=among), *population]
    return ("FAIL" if rejects(measures) else "PASS"), measures


def verdict(
    own: Evidence,
    original: Evidence,
    oracles: Sequence[Evidence],
    split: Split,
    *,
    effect: float = EFFECT,
    arms: Arms | None = None,
) -> Outcome:
    """Give the verdict, its reasons, what the controls came to, and the measures.

    In this order:

    - Fewer than `FEWEST_ORACLES` oracles: INCONCLUSIVE.
    - Control `retrained`: each oracle, held against the others, should pass; more failures than chance allows (at
      `CONTROL_ALPHA`), or (tier T2) an arm of held-out oracles that is told from the others, mean that the null is wrong:
      INVALID.
    - Control `plan`: oracles must be as accurate on the retain rows as the original is there, within `PLAN_TOLERANCE` or
      their own band. Oracles trained in another way than the original are no yardstick: INVALID.
    - Some deciding measure tells the network from an oracle: FAIL (two-sided: forgetting too hard is a trace too). What was
      seen stays seen, whether or not doing nothing could have been seen as well.
    - What would have been noticed is more than `effect` of the trace that the rows left in the original: INCONCLUSIVE, with
      what could have been seen. So it is wherever the rows left no trace: doing nothing would pass, and a pass says nothing.
    - Control `nothing`: the original, judged in the same way, must fail. If it passes though the effect could have been
      seen: INVALID.
    - Otherwise: PASS.
    """
    found = arms or Arms()
    if len(oracles) < FEWEST_ORACLES:
        measures = measures_of(own, oracles, split) if len(oracles) > 1 and own.finite else []
        reason = f"{len(oracles)} oracles are too few to know their spread; give at least {FEWEST_ORACLES}"
        return Outcome(
            verdict="INCONCLUSIVE", reasons=[reason], controls=dict.fromkeys(CONTROLS, "not run"), measures=measures
        )
    outcome, measures = judge(own, oracles, split, found.unlearned)
    if found.broken:
        outcome = "FAIL"
    nothing, done = judge(original, oracles, split, found.nothing)
    failed = sum(judge(one, [*oracles[:i], *oracles[i + 1 :]], split)[0] == "FAIL" for i, one in enumerate(oracles))
    told = [one for one in found.retrained if one.decides and one.p <= CONTROL_ALPHA]
    controls = {
        "nothing": nothing,
        "retrained": "FAIL" if told or more_than_chance(failed, len(oracles), ALPHA, CONTROL_ALPHA) else "PASS",
        "plan": "PASS" if _plan_reproduces(original, oracles) else "FAIL",
    }
    seen = trace_seen(done)
    against = _findings(own, measures, found.broken)
    yardstick = _broken_yardstick(controls, f"{failed} of {len(oracles)}", told, original, oracles)
    if yardstick:
        aside = [f"set aside, as the yardstick is broken: {one}" for one in against]
        word, reasons = "INVALID", [*yardstick, *aside]
    elif outcome == "FAIL":
        word, reasons = "FAIL", [*_kind(measures, found.broken, own, nothing), *against, *_power(measures, seen)]
    elif seen is None or seen > effect:
        word, reasons = "INCONCLUSIVE", _too_little(done, seen, effect, len(oracles), nothing)
    elif nothing != "FAIL":
        word, reasons = "INVALID", [_nothing_passes(done)]
    else:
        passed = "no deciding measure tells the network from networks that never saw the rows"
        word, reasons = "PASS", [passed, *_power(measures, seen)]
    return Outcome(verdict=word, reasons=reasons, controls=controls, measures=measures, trace_seen=seen)  # type: ignore[arg-type]


def _plan_reproduces(original: Evidence, oracles: Sequence[Evidence]) -> bool:
    low, mean, high = oracle_band([one.accuracy["retain"] for one in oracles])
    knew = _retain_accuracy(original)
    return low <= knew <= high or abs(knew - mean) <= PLAN_TOLERANCE


def _retain_accuracy(original: Evidence) -> float:
    """Give the original's accuracy on retain rows; where whole classes go, on those that it takes for none of these.

    Oracles never name a removed class, and so get right what the original took for one: an easier task, and no other plan.
    """
    if original.seen is None:
        return original.accuracy["retain"]
    seen = original.seen
    gone = np.setdiff1d(seen.targets["forget"], seen.targets["retain"])
    counted = ~np.isin(seen.predicted["retain"], gone)
    if not len(gone) or not counted.any():
        return original.accuracy["retain"]
    return float((seen.predicted["retain"] == seen.targets["retain"])[counted].mean())


def _findings(own: Evidence, measures: Sequence[Measure], broken: int) -> list[str]:
    """Say what speaks against the network, the least likely first."""
    if not own.finite:
        return ["the network gives logits that are not finite"]
    found = [
        f"{one.name}: {one.value:+.3g}, where an oracle's own lies within {one.null_low:+.3g} to {one.null_high:+.3g} "
        f"({_chance(one.p)})"
        for one in sorted(rejects(measures), key=lambda one: (one.name in ELSEWHERE, one.p))
    ]
    if broken:
        found.insert(0, f"the recipe broke {broken} of the networks it was put to: values that are not finite")
    return found


def _chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _kind(measures: Sequence[Measure], broken: int, own: Evidence, nothing: str) -> list[str]:
    """Say what kind of failure it is, where that is not plain, and what doing nothing adds to it."""
    found = []
    if own.finite and not broken and all(one.name in ELSEWHERE for one in rejects(measures)):
        found.append(DAMAGE)
    if nothing != "FAIL":
        found.append(
            "the original itself passes for a network that never saw the rows: they left no trace that this audit sees, so "
            "that forgetting them could be neither shown nor doubted"
        )
    return found


def _power(measures: Sequence[Measure], seen: float | None) -> list[str]:
    least = ", ".join(f"{m.name} {m.least_detectable:.2g}" for m in measures if m.decides)
    told = [f"smallest differences this audit would have noticed (with probability 0.8): {least}"]
    if seen is not None:
        told.append(
            f"with probability 0.8 it would have noticed if {seen:.0%} or more of the trace that the rows left in the original "
            "had stayed"
            if seen <= 1
            else "it might not have noticed even if all of the trace that the rows left in the original had stayed"
        )
    return told


def _too_little(
    nothing: Sequence[Measure], seen: float | None, effect: float, num_oracles: int, outcome: str
) -> list[str]:
    """Say what could have been seen, what there was to see, and whether more oracles can help."""
    margin = next(one for one in nothing if one.name == "forget_margin")
    could = (
        f"would have noticed it only if {seen:.0%} or more of it had stayed"
        if seen is not None and seen <= 1
        else "would not have noticed even all of it"
    )
    reasons = [
        f"the rows left a trace of {margin.value:+.2g} in the original's mean log-odds, and this audit {could} (smallest "
        f"difference it sees: {margin.least_detectable:.2g}); a pass promises to see {effect:.0%}"
    ]
    needed = oracles_needed(margin, effect, among=sum(one.decides for one in nothing))
    if outcome != "FAIL":
        reasons.append(
            "even the original, trained on these rows, passes for a network that never saw them: they left no trace that "
            f"{num_oracles} retrained networks show, and forgetting it can be neither shown nor doubted"
        )
    if needed is not None:
        reasons.append(f"about {needed} oracles would be enough to see {effect:.0%} of that trace")
    elif outcome == "FAIL":
        reasons.append(f"no number of oracles shows {effect:.0%} of it: single networks differ by more than that")
    return reasons


def _nothing_passes(nothing: Sequence[Measure]) -> str:
    least = min(one.p for one in nothing if one.decides)
    return (
        f"control 'nothing': the original network passes too (least p {least:.2g}), though this audit should see doing "
        "nothing; use more oracles, and check that the original was trained on these rows"
    )


def _broken_yardstick(
    controls: Mapping[str, str],
    failed: str,
    told: Sequence[Measure],
    original: Evidence,
    oracles: Sequence[Evidence],
) -> list[str]:
    reasons = []
    if controls["plan"] != "PASS":
        _, mean, _ = oracle_band([one.accuracy["retain"] for one in oracles])
        reasons.append(
            f"control 'plan': the original gets {original.accuracy['retain']:.1%} of the retain rows right, networks "
            f"retrained by this plan {mean:.1%}; the plan is not how the network was trained; give the true one, or your "
            "own training function"
        )
    if controls["retrained"] != "PASS":
        arms = "".join(f"; {one.name} tells held-out oracles from the others (p = {one.p:.2g})" for one in told)
        reasons.append(
            f"control 'retrained': {failed} oracles, each held against the others, fail{arms}; "
            "oracles differ more than the null allows; use more of them"
        )
    return reasons
