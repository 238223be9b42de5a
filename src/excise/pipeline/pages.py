"""From results to the values a page is drawn from. Arranges numbers; computes none."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from excise.data.split import Split
from excise.masks import Mask
from excise.measure import Measure, counts, log_edges, oracle_band
from excise.pipeline.evidence import PARTS, Evidence, Oracles
from excise.pipeline.policy import DAMAGE, rejects
from excise.report import Band, Control, Histogram, Layer, MeasureRow, Page, Row, Section, Verdict, formats

LIMITS = (
    "An audit is evidence about the attacks and measures listed here and about no others; it cannot show that data were "
    "deleted.",
    "The confidence attack is a population attack: its value for a network retrained without the rows is its only yardstick.",
    "Copies of the original network, its checkpoints and caches of its features still hold what this network forgot.",
)

HARD_SPACE = "\u00a0"

GROUPS = (
    "Accuracy",
    "Trace in the forget rows",
    "Attacks",
    "Likeness and utility",
    "What it knows and does not say",
    "Retained rows",
    "Correction",
)

TITLES = {
    "forget_accuracy": ("Accuracy on forget rows", "Accuracy", "%"),
    "retain_accuracy": ("Accuracy on retain rows", "Accuracy", "%"),
    "test_accuracy": ("Accuracy on test rows", "Accuracy", "%"),
    "forget_margin": ("Log-odds of forget rows", "Trace in the forget rows", "log-odds"),
    "forget_margin_distance": ("Distance of log-odds, row by row", "Trace in the forget rows", "spreads"),
    "ulira": ("U-LiRA on the recipe", "Attacks", "%"),
    "klom": ("KLoM on the recipe, mean over rows", "Trace in the forget rows", "nats"),
    "klom-0.95": ("KLoM on the recipe, 95% quantile", "Trace in the forget rows", "nats"),
    "epsilon": ("Epsilon of the rows under the recipe", "Trace in the forget rows", "nats"),
    "forget_rows": ("Forget rows told apart", "Trace in the forget rows", "%"),
    "worst_forget_rows": ("Worst 5% of the forget rows", "Trace in the forget rows", "spreads"),
    "canaries": ("Planted canaries", "Attacks", "spreads"),
    "ulira_worst_rows": ("U-LiRA on the worst 5% of the rows", "Attacks", "%"),
    "rmia": ("RMIA: forget rows against rows never seen", "Attacks", "area"),
    "swap": ("SWAP test of the recipe", "Attacks", "%"),
    "before_and_after": ("Attack on the pair of networks", "Attacks", "area"),
    "confidence_attack": ("Confidence attack", "Attacks", "%"),
    "tug_of_war": ("Tug of war (ToW)", "Likeness and utility", ""),
    "unlearning_score": ("Adaptive unlearning score (AUS)", "Likeness and utility", ""),
    "agreement": ("Agreement with retrained networks", "Likeness and utility", "%"),
    "total_variation": ("Distance of probabilities", "Likeness and utility", ""),
    "zero_retrain_forgetting": ("Likeness to an untrained network (ZRF)", "Likeness and utility", ""),
    "recalibrated_forget_accuracy": ("Forget accuracy, statistics recomputed", "What it knows and does not say", "%"),
    "linear_probe": ("Linear probe of the features", "What it knows and does not say", "%"),
    "relearning": ("Relearning time", "What it knows and does not say", "log steps"),
    "retain_exposure": ("Retain rows whose exposure grew", "Retained rows", "%"),
    "worst_retain_rows": ("Worst 5% of the retain rows", "Retained rows", "spreads"),
    "retain_auc": ("Retain rows against test rows", "Retained rows", "area"),
    "trigger_success": ("Trigger success", "Correction", "%"),
    "interclass_confusion": ("Interclass confusion", "Correction", "%"),
}
"""By key: the title for people, the group in which it stands, and its unit."""

ASSUMPTIONS = (
    "The retrained networks were trained as the original was: by the plan given, from fresh weights, each from its own seed.",
    "Numbers of independent retrainings are close to normal; with few networks nobody can check that.",
    "The test rows are like the training rows, and were never trained on.",
)


def untested(tier: str, measures: Sequence[Measure]) -> list[str]:
    """Say which of the attacks and probes that excise knows this audit did not run, and which no audit of it runs."""
    done = {one.name for one in measures}
    missing = [TITLES[name][0] for name in TITLES if name not in done]
    found = [f"Not run here: {'; '.join(missing)}."] if missing else []
    if tier == "T0":
        found = ["Whether the network can be told from networks that never saw the rows: none was trained (tier T0)."]
    if tier != "T2":
        found.append("The recipe itself, on other networks than this one (tier T2).")
    found.append(
        "Attackers who ask with inputs made for the purpose, or who know more than is said of each attack here."
    )
    found.append("Copies, backups, logs and caches outside this network.")
    return found


def row(recipe: str, own: Evidence, oracles: Oracles, seconds: float, share: float | None, note: str = "") -> Row:
    """Give a recipe's line of the table."""
    means = oracles.mean_accuracy
    return Row(
        recipe=recipe,
        accuracy=dict(own.accuracy),
        gap={part: own.accuracy[part] - means[part] for part in PARTS},
        attack=own.attack if np.isfinite(own.attack) else None,
        seconds=seconds,
        retraining_share=share,
        note=note,
    )


def bands(oracles: Oracles, split: Split) -> dict[str, Band]:
    """Give the oracles' 95% band of each accuracy."""
    sizes = {"forget": len(split.forget), "retain": len(split.retain), "test": len(split.test or ())}
    return {part: _band([one.accuracy[part] for one in oracles.evidence], sizes[part]) for part in PARTS}


def _band(values: Sequence[float], num_rows: int) -> Band:
    low, mean, high = oracle_band(values, resolution=1 / num_rows, limits=(0, 1))
    return Band(low=low, mean=mean, high=high)


def section(
    name: str,
    title: str,
    sentence: str,
    split: Split,
    rows: Sequence[Row],
    oracles: Oracles,
    original: Evidence,
    own: Evidence,
    mask: Mask,
) -> Section:
    """Give one choice of forget rows: table, bands, loss histograms of forget rows, mask by layer."""
    edges = log_edges([original.losses, own.losses, *(one.losses for one in oracles.evidence)])
    mean_counts = np.mean([counts(one.losses, edges) for one in oracles.evidence], axis=0)
    return Section(
        name=name,
        title=title,
        sentence=sentence,
        num_forget=len(split.forget),
        num_retain=len(split.retain),
        num_test=len(split.test or ()),
        num_oracles=len(oracles.evidence),
        bands=bands(oracles, split),
        attack_band=_band([one.attack for one in oracles.evidence], len(split.forget)),
        oracle_seconds=oracles.mean_seconds,
        rows=list(rows),
        histogram_edges=edges.tolist(),
        histograms=[
            Histogram(name="original", counts=counts(original.losses, edges).tolist()),
            Histogram(name="unlearned", counts=counts(own.losses, edges).tolist()),
            Histogram(name="oracles", counts=mean_counts.tolist()),
        ],
        layers=layers(mask),
    )


def layers(mask: Mask) -> list[Layer]:
    """Give the mask by module, in the network's order."""
    sizes: dict[str, int] = {}
    for name, shape in mask.shapes.items():
        module = name.rpartition(".")[0] or name
        sizes[module] = sizes.get(module, 0) + int(np.prod(shape))
    return [
        Layer(name=module, fraction=fraction, num_parameters=sizes[module])
        for module, fraction in mask.per_module().items()
    ]


def measure_rows(measures: Sequence[Measure], rejected: Collection[str] = ()) -> list[MeasureRow]:
    """Give the audit's measures with titles for people, in groups; `rejected` names those that tell the network apart."""
    order = list(GROUPS)
    return [
        MeasureRow(
            name=one.name,
            title=TITLES[one.name][0],
            group=TITLES[one.name][1],
            unit=TITLES[one.name][2],
            rejected=one.name in rejected,
            value=one.value,
            low=one.low,
            high=one.high,
            null_mean=one.null_mean,
            null_low=one.null_low,
            null_high=one.null_high,
            p=one.p,
            num_models=one.num_models,
            least_detectable=one.least_detectable,
            sentence=_whole(one.sentence),
            decides=one.decides,
        )
        for one in sorted(measures, key=lambda one: order.index(TITLES[one.name][1]))
    ]


def facts(environment: Mapping[str, Any], **more: object) -> dict[str, str]:
    """Give what is needed to repeat a run, as text."""
    return {key.replace("_", " "): str(value) for key, value in {**environment, **more}.items()}


def page(title: str, lead: str, **parts: Any) -> Page:
    """Give a page with the limits that hold for every audit."""
    return Page(title=title, lead=lead, limits=list(LIMITS), **parts)


def verdict_of(
    word: str,
    reasons: Sequence[str],
    controls: Mapping[str, str],
    measures: Sequence[Measure] = (),
    notes: Sequence[str] = (),
) -> Verdict:
    """Give the verdict in words that a data-protection officer can read; numbers of the measures get their units."""
    excused = "these rows left no trace that this audit can see" if word != "INVALID" else ""
    judged = [
        Control(
            name=name,
            outcome=outcome,  # type: ignore[arg-type]
            excused=excused if (name, outcome) == ("nothing", "PASS") else "",
            **CONTROLS[name],  # type: ignore[arg-type]
        )
        for name, outcome in controls.items()
    ]
    told = [_in_words(reason, measures) for reason in reasons if reason != DAMAGE]
    headline, explanation = HEADLINES[word], ""
    if word == "FAIL" and DAMAGE in reasons:
        headline = "The network was damaged; nothing here says that it still knows the rows."
        explanation = "It was told apart by other rows than those to be forgotten, by more than chance allows."
    elif word == "FAIL" and measures and not rejects(measures):
        explanation = "It is at fault by itself, whatever it is compared with."
    beside = [f"Beside the verdict: {note[:1].lower()}{note[1:]}" for note in notes]
    return Verdict(
        word=word,  # type: ignore[arg-type]
        headline=headline,
        explanation=explanation,
        reasons=[*told, *map(_whole, beside)],
        controls=judged,
    )


def _in_words(reason: str, measures: Sequence[Measure]) -> str:
    """Put titles for the keys of measures and numbers with units for theirs, and begin with a capital.

    A finding is a measure's key, a colon and its numbers; it is said anew from the measure. So are the least differences.
    """
    for one in measures:
        reason = re.sub(rf"(^|: ){re.escape(one.name)}: .*", rf"\g<1>{_finding(one)}", reason)
    least = "; ".join(f"{TITLES[one.name][0]} {_least(one)}" for one in measures if one.decides)
    if least:
        reason = re.sub(r"^(smallest differences this audit would have noticed[^:]*: ).*", rf"\g<1>{least}", reason)
    for key in sorted((one.name for one in measures if one.decides), key=len, reverse=True):
        reason = re.sub(
            rf"\b{re.escape(key)}\b", TITLES[key][0], reason
        )  # keys of others are ordinary words: canaries, swap
    return _whole(reason)


def _whole(said: str) -> str:
    """Begin a sentence with a capital and end it with a full stop."""
    return f"{said[:1].upper()}{said[1:]}{'' if said.endswith('.') or not said else '.'}"


def _finding(one: Measure) -> str:
    """Say how far a measure lies from the retrained networks' own, where that is a gap, or else what they give."""
    title, _, unit = TITLES[one.name]
    gap, chance = one.null_mean == 0, formats.probability(one.p).replace(" ", HARD_SPACE)
    digits = _digits(one.null_high - one.null_low, unit)
    low, high = (formats.measured(number, digits, unit, sign=gap) for number in (one.null_low, one.null_high))
    told = HARD_SPACE.join(["p", chance] if chance.startswith("<") else ["p", "=", chance])
    if not gap:
        value = _value(one, digits, unit)
        return f"{title}: {value}{_after(unit)}, where retrained networks give {low} to {high}{_after(unit)} ({told})"
    side = "above" if one.value > 0 else "below"
    value, after = _value(one, digits, unit), _after("points" if unit == "%" else unit)
    return (
        f"{title}: {value}{after} {side} the mean of the retrained networks; one more of them would lie within {low} to "
        f"{high} of it ({told})"
    )


def _value(one: Measure, digits: int, unit: str) -> str:
    """Write the size of a measure with the digits of its null's band, and no more than three that count."""
    size = abs(one.value) * formats.factor(unit)
    whole = int(np.floor(np.log10(size))) if size else 0
    return formats.fixed(size, max(0, min(digits, 2 - whole)))


def _least(one: Measure) -> str:
    unit = TITLES[one.name][2]
    number = formats.measured(one.least_detectable, _digits(one.least_detectable, unit), unit)
    return f"{number}{_after('points' if unit == '%' else unit)}"


def _digits(span: float, unit: str) -> int:
    return formats.span_decimals(formats.factor(unit) * span)


def _after(unit: str) -> str:
    return f"{HARD_SPACE}{unit}" if unit else ""


CONTROLS = {
    "nothing": {
        "title": "Doing nothing",
        "expected": "FAIL",
        "sentence": "The original network, judged in the same way: an audit that passes it could not have seen anything.",
    },
    "retrained": {
        "title": "A held-out retrained network",
        "expected": "PASS",
        "sentence": "Each retrained network, held against the others: an audit that fails them has a wrong yardstick.",
    },
    "plan": {
        "title": "Training plan reproduces the original",
        "expected": "PASS",
        "sentence": "Retrained networks are as accurate on the retain rows as the original: otherwise they are no yardstick.",
    },
}


HEADLINES = {
    "PASS": "The network cannot be told from networks that never saw the rows, by any measure that decides.",
    "FAIL": "The network can be told from networks that never saw the rows.",
    "INCONCLUSIVE": "This audit could not have seen enough to decide.",
    "INVALID": "The audit failed its own controls, so its numbers decide nothing.",
}
