"""What counts as passed: one rule for turning measures and controls into a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from excise.data.split import Split
from excise.measure import Measure, against_oracles, holm, margin_distance, more_than_chance, oracle_band
from excise.pipeline.evidence import Evidence

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]

ALPHA = 0.05
"""Chance of failing a network that is one more oracle, over all deciding measures together."""

FEWEST_ORACLES = 4
"""Below this the intervals are so wide that nothing could fail."""

PLAN_TOLERANCE = 0.02
"""How far the original's accuracy on the retain rows may lie from the oracles' mean: the absence of the forget rows moves it
by less, another optimizer or schedule by more."""

DECIDING = ("forget_accuracy", "retain_accuracy", "test_accuracy", "forget_margin", "forget_margin_distance")
"""Measures that a verdict rests on. The confidence attack is reported and decides nothing: it is a population attack."""


def measures_of(own: Evidence, oracles: Sequence[Evidence], split: Split) -> list[Measure]:
    """Compare one network's evidence with that of oracles: every measure of the audit."""
    sizes = {"forget": len(split.forget), "retain": len(split.retain), "test": len(split.test or ())}
    found = [
        against_oracles(
            f"{part}_accuracy",
            own.accuracy[part],
            [other.accuracy[part] for other in oracles],
            resolution=1 / sizes[part],
            among=len(DECIDING),
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
            among=len(DECIDING),
            sentence="Mean log-odds of the forget rows' labels, minus the oracles' mean: above 0 the rows are still "
            "remembered, below 0 they are forgotten harder than by a network that never saw them.",
        )
    )
    if len(oracles) > 2:
        found.append(_distance(own, oracles))
    found.append(
        against_oracles(
            "confidence_attack",
            own.attack,
            [other.attack for other in oracles],
            resolution=1 / sizes["forget"],
            sentence="Share of forget rows that an attack on confidence takes for rows never trained on, minus the "
            "oracles' mean. A population attack: reported because papers report it, and not part of the verdict.",
        )
    )
    return found


def _distance(own: Evidence, oracles: Sequence[Evidence]) -> Measure:
    margins = [other.margins for other in oracles]
    others = [margins[:i] + margins[i + 1 :] for i in range(len(margins))]
    # the network too is held against one oracle less at a time: the mean of more oracles is closer to anything
    away = float(np.mean([margin_distance(own.margins, rest) for rest in others]))
    return against_oracles(
        "forget_margin_distance",
        away,
        [margin_distance(one, rest) for one, rest in zip(margins, others, strict=True)],
        resolution=0.0,
        among=len(DECIDING),
        sentence="How far, row by row, the log-odds of the forget rows lie from the oracles' (root mean square, in "
        "units of their spread), minus the same for each oracle held against the others.",
    )


def rejects(measures: Sequence[Measure]) -> list[Measure]:
    """Give the deciding measures that tell the network from an oracle, by Holm's step-down at `ALPHA` in all."""
    deciding = [measure for measure in measures if measure.name in DECIDING]
    rejected = holm([measure.p for measure in deciding], ALPHA)
    return [measure for measure, out in zip(deciding, rejected, strict=True) if out]


def judge(own: Evidence, oracles: Sequence[Evidence], split: Split) -> tuple[str, list[Measure]]:
    """Give PASS or FAIL for one network against oracles, without controls, and the measures."""
    if not own.finite:
        return "FAIL", []
    measures = measures_of(own, oracles, split)
    return ("FAIL" if rejects(measures) else "PASS"), measures


def verdict(
    own: Evidence, original: Evidence, oracles: Sequence[Evidence], split: Split
) -> tuple[Verdict, list[str], Mapping[str, str], list[Measure]]:
    """Give the verdict, its reasons, what the controls came to, and the measures.

    - The network fails if any deciding measure tells it from an oracle (two-sided: forgetting too hard is a trace too).
    - Control `nothing`: the original, judged in the same way, must fail. If it passes, this audit has not enough power to
      see even doing nothing.
    - Control `retrained`: each oracle, held against the others, should pass; more failures than chance allows at `ALPHA`
      mean that the null is wrong.
    - Control `plan`: oracles must be as accurate on the retain rows as the original is there, within `PLAN_TOLERANCE` or
      their own band. Oracles trained in another way than the original are no yardstick, and a network spoilt by
      unlearning can look like an oracle that was trained too little.
    - If a control is not as it must be, the verdict is INVALID, whatever the network did.
    - With fewer than `FEWEST_ORACLES` oracles nothing is decided: INCONCLUSIVE.
    """
    if len(oracles) < FEWEST_ORACLES:
        measures = measures_of(own, oracles, split) if len(oracles) > 1 and own.finite else []
        reason = f"{len(oracles)} oracles are too few to know their spread; give at least {FEWEST_ORACLES}"
        return "INCONCLUSIVE", [reason], dict.fromkeys(("nothing", "retrained", "plan"), "not run"), measures
    outcome, measures = judge(own, oracles, split)
    nothing, _ = judge(original, oracles, split)
    failed = sum(judge(one, [*oracles[:i], *oracles[i + 1 :]], split)[0] == "FAIL" for i, one in enumerate(oracles))
    too_many = more_than_chance(failed, len(oracles), ALPHA)
    controls = {
        "nothing": nothing,
        "retrained": "FAIL" if too_many else "PASS",
        "plan": "PASS" if _plan_reproduces(original, oracles) else "FAIL",
    }
    broken = _broken_controls(controls, f"{failed} of {len(oracles)}", original, oracles)
    if broken:
        return "INVALID", broken, controls, measures
    return ("PASS" if outcome == "PASS" else "FAIL"), _reasons(outcome, measures, own), controls, measures


def _plan_reproduces(original: Evidence, oracles: Sequence[Evidence]) -> bool:
    low, mean, high = oracle_band([one.accuracy["retain"] for one in oracles])
    return low <= original.accuracy["retain"] <= high or abs(original.accuracy["retain"] - mean) <= PLAN_TOLERANCE


def _reasons(outcome: str, measures: Sequence[Measure], own: Evidence) -> list[str]:
    if not own.finite:
        return ["the network gives logits that are not finite"]
    told = [
        f"{measure.name}: {measure.value:+.3g}, where an oracle's own lies within {measure.null_low:+.3g} to "
        f"{measure.null_high:+.3g} (p = {measure.p:.2g})"
        for measure in rejects(measures)
    ]
    seen = ", ".join(f"{m.name} {m.least_detectable:.2g}" for m in measures if m.name in DECIDING)
    return [
        *(
            told
            if outcome == "FAIL"
            else ["no deciding measure tells the network from networks that never saw the rows"]
        ),
        f"smallest differences this audit would have noticed (with probability 0.8): {seen}",
    ]


def _broken_controls(
    controls: Mapping[str, str], failed: str, original: Evidence, oracles: Sequence[Evidence]
) -> list[str]:
    reasons = []
    if controls["plan"] != "PASS":
        _, mean, _ = oracle_band([one.accuracy["retain"] for one in oracles])
        reasons.append(
            f"control 'plan': the original gets {original.accuracy['retain']:.1%} of the retain rows right, networks "
            f"retrained by this plan {mean:.1%}; the plan is not how the network was trained; give the true one, or your "
            "own training function"
        )
    if controls["nothing"] != "FAIL":
        reasons.append(
            "control 'nothing': the original network passes too, so this audit cannot see even doing nothing; "
            "use more oracles, or accept that these rows left no trace that can be seen"
        )
    if controls["retrained"] != "PASS":
        reasons.append(
            f"control 'retrained': {failed} oracles, each held against the others, fail; "
            "oracles differ more than the null allows; use more of them"
        )
    return reasons
