"""From results to the values a page is drawn from. Arranges numbers; computes none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from excise.data.split import Split
from excise.masks import Mask
from excise.measure import Measure, counts, log_edges, oracle_band
from excise.pipeline.evidence import PARTS, Evidence, Oracles
from excise.report import Band, Histogram, Layer, MeasureRow, Page, Row, Section, Verdict

LIMITS = (
    "This is an audit of one network against retrained ones. It is evidence about the attacks and measures listed here and "
    "about no others, and it is not a proof that data were deleted.",
    "The confidence attack is a population attack: its value for a network retrained without the rows is its only yardstick.",
    "Copies of the original network, its checkpoints and caches of its features still hold what this network forgot.",
)

TITLES = {
    "forget_accuracy": "Accuracy on forget rows",
    "retain_accuracy": "Accuracy on retain rows",
    "test_accuracy": "Accuracy on test rows",
    "forget_margin": "Log-odds of forget rows",
    "forget_margin_distance": "Distance of log-odds, row by row",
    "confidence_attack": "Confidence attack",
}


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
    low, mean, high = oracle_band(values, resolution=1 / num_rows)
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


def measure_rows(measures: Sequence[Measure]) -> list[MeasureRow]:
    """Give the audit's measures with titles for people."""
    return [
        MeasureRow(
            name=one.name,
            title=TITLES[one.name],
            value=one.value,
            low=one.low,
            high=one.high,
            null_mean=one.null_mean,
            null_low=one.null_low,
            null_high=one.null_high,
            p=one.p,
            num_models=one.num_models,
            least_detectable=one.least_detectable,
            sentence=one.sentence,
        )
        for one in measures
    ]


def facts(environment: Mapping[str, Any], **more: object) -> dict[str, str]:
    """Give what is needed to repeat a run, as text."""
    return {key.replace("_", " "): str(value) for key, value in {**environment, **more}.items()}


def page(title: str, lead: str, **parts: Any) -> Page:
    """Give a page with the limits that hold for every audit."""
    return Page(title=title, lead=lead, limits=list(LIMITS), **parts)


def verdict_of(word: str, reasons: Sequence[str], controls: Mapping[str, str]) -> Verdict:
    """Give the verdict in words that a data-protection officer can read."""
    return Verdict(word=word, headline=HEADLINES[word], reasons=list(reasons), controls=dict(controls))  # type: ignore[arg-type]


HEADLINES = {
    "PASS": "The network cannot be told from networks that never saw the rows, by any measure of this audit.",
    "FAIL": "The network can be told from networks that never saw the rows.",
    "INCONCLUSIVE": "Too few retrained networks to decide.",
    "INVALID": "The audit failed its own controls, so its numbers decide nothing.",
}
