"""What an audit's page shows beside its measures: curves, distributions, classes, strata and costs. Arranges numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import structs
from scipy.special import expit

from excise.measure import (
    Measure,
    auc,
    auc_error,
    counts,
    log_edges,
    memorization_of_arms,
    oracle_band,
    ranked_strata,
    rmia_scores,
    roc,
    row_test,
    tpr_at,
    ulira_log_odds,
)
from excise.measure.ulira import LEAST_MODELS
from excise.pipeline import pages
from excise.pipeline.case import Twins
from excise.pipeline.evidence import Evidence, Oracles
from excise.pipeline.population import Population, margins_of
from excise.report import (
    Band,
    BinBand,
    ClassAccuracy,
    Classes,
    Compared,
    Costs,
    Curve,
    CurveBand,
    Distribution,
    Histogram,
    Roc,
    Row,
    Step,
    Strata,
    Stratum,
    formats,
)
from excise.train.engine import Spent

MOST_POINTS = 400
GRID = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, 61)])  # 0.1%, 1%, 10% and 100% are places of it
NUM_BINS = 24
MOST_CURVES = 16
"""Curves that make the band of an attack: so many oracles, or deals of networks."""

FEWEST_ROWS = 10
"""Forget rows from which on an attack has a curve, and distributions, classes and thirds of them are shown: of fewer, each
number would be about one or two rows."""

FEWEST_ORACLES = 4
"""Oracles from which on the forget rows are divided: half of them rank the rows, and what the rows are then held against,
the others, is two at least."""

TRAINED_BY_PLAN = ("oracles", "swap", "population")
"""Parts of which nobody counts the rows where the plan is a training function of the user's own."""

PARTS = {
    "localize": "Localization",
    "unlearn": "Unlearning",
    "search": "Search for settings",
    "oracles": "Audit: oracles",
    "population": "Audit: populations",
}
PARTS |= {"swap": "Audit: SWAP", "same cost": "Audit: same-cost retraining", "measuring": "Audit: probes and measures"}


def rocs(
    own: Evidence,
    original: Evidence,
    oracles: Sequence[Evidence],
    population: Population | None,
    twins: Twins | None,
    seed: int = 0,
) -> list[Roc]:
    """Give the curves of RMIA on the network, and of U-LiRA on its recipe where a population was trained.

    RMIA has none of fewer than `FEWEST_ROWS` rows. The seed is that of the deals behind U-LiRA's band.
    """
    found = []
    if len(oracles) >= 3 and twins is not None and len(twins.rows) >= FEWEST_ROWS:
        found.append(_rmia(own, original, oracles[:MOST_CURVES], twins))
    if population is not None and len(population.unlearned) >= LEAST_MODELS:
        found.append(_ulira(population, oracles, np.random.default_rng(seed)))
    return found


def _rmia(own: Evidence, original: Evidence, oracles: Sequence[Evidence], twins: Twins) -> Roc:
    def scores(one: Evidence, references: Sequence[Evidence]) -> tuple[np.ndarray, np.ndarray]:
        inside, outside = map(expit, twins.margins(one))
        known_inside, known_outside = map(expit, twins.stacked(references))
        return (
            rmia_scores(inside, outside, known_inside, known_outside),
            rmia_scores(outside, outside, known_outside, known_outside),
        )

    held_out = [_curve("oracles", *scores(one, [*oracles[:i], *oracles[i + 1 :]])) for i, one in enumerate(oracles)]
    return Roc(
        name="rmia",
        title="RMIA on this network",
        sentence="The attacker holds the network and some retrained ones, and takes a row for trained on where the network is "
        "surer of its label than they are. Forget rows stand against test rows like them, under the same labels.",
        num_members=len(twins.rows),
        num_non_members=len(twins.places),
        curves=[_curve("unlearned", *scores(own, oracles)), _curve("original", *scores(original, oracles))],
        band=_band_of(held_out, _band([one.auc for one in held_out], limits=(0, 1))),
    )


def _ulira(population: Population, oracles: Sequence[Evidence], generator: np.random.Generator) -> Roc:
    """The band is of deals: oracles and held-out ones mixed, and dealt anew to two arms."""
    reference, held_out = margins_of(oracles), margins_of(population.held_out.evidence)
    arms = {"unlearned": population.unlearned, "original": population.originals}
    odds = {name: ulira_log_odds(margins_of(arm), reference) for name, arm in arms.items()}
    mixed, size = np.concatenate([held_out, reference]), len(held_out)
    deals = [generator.permutation(len(mixed)) for _ in range(MOST_CURVES)]
    nulls = [_pooled("oracles", ulira_log_odds(mixed[deal[:size]], mixed[deal[size:]])) for deal in deals]
    areas, num = [one.auc for one in nulls], formats.fixed(reference.shape[1], 0)
    return Roc(
        name="ulira",
        title="U-LiRA on the recipe",
        sentence="The attacker holds many networks put through the same recipe and many retrained ones, knows how sure both "
        "kinds are of each row, and tells for each row of other networks which kind it comes from.",
        num_members=int(odds["unlearned"][0].size),
        num_non_members=int(odds["unlearned"][1].size),
        counted=f"{num} forget rows, asked about in {len(arms['unlearned'])} unlearned and {len(oracles)} retrained networks",
        curves=[_pooled(name, one) for name, one in odds.items()],
        band=_band_of(nulls, Band(low=min(areas), mean=float(np.mean(areas)), high=max(areas))),
    )


def _pooled(name: str, odds: tuple[np.ndarray, np.ndarray]) -> Curve:
    """Give the curve over all networks and rows; without an interval, which is for rows that are independent."""
    return structs.replace(_curve(name, odds[0].ravel(), odds[1].ravel()), auc_low=None, auc_high=None)


def _curve(name: str, members: np.ndarray, others: np.ndarray) -> Curve:
    """Give a curve; without an interval where the area is 0 or 1, since the formula of its error knows none there."""
    found = roc(members, others)
    area = auc(members, others)
    reach = 1.96 * auc_error(area, len(members), len(others)) or None
    fpr, tpr = _thinned(found.fpr, found.tpr)
    return Curve(
        name=name,
        false_positive=fpr.tolist(),
        true_positive=tpr.tolist(),
        auc=area,
        auc_low=None if reach is None else max(0.0, area - reach),
        auc_high=None if reach is None else min(1.0, area + reach),
        at_one_percent=tpr_at(members, others, 0.01) if len(others) >= 100 else None,
        at_one_permille=tpr_at(members, others, 0.001) if len(others) >= 1000 else None,
    )


def _thinned(fpr: np.ndarray, tpr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep at most so many points: the ends, and the last at or below each place of a fine grid of false positive rates.

    So the curve is exact at the places of `GRID`, 1% and 0.1% among them, and nowhere above the whole one.
    """
    if len(fpr) <= MOST_POINTS:
        return fpr, tpr
    places = np.concatenate([GRID, np.geomspace(1e-4, 1, MOST_POINTS - len(GRID) - 1)])
    kept = np.unique([0, *(np.searchsorted(fpr, places, side="right") - 1)])
    return fpr[kept], tpr[kept]


def _band_of(curves: Sequence[Curve], areas: Band) -> CurveBand:
    """Give the lowest and highest true positive rate of several curves, at each false positive rate of the grid."""
    rates = []
    for one in curves:
        fpr, tpr = np.asarray(one.false_positive), np.asarray(one.true_positive)
        rates.append(tpr[np.searchsorted(fpr, GRID, side="right") - 1])  # a step holds until the next
    stacked = np.maximum.accumulate(np.stack(rates), axis=1)
    return CurveBand(
        false_positive=GRID.tolist(),
        low=stacked.min(axis=0).tolist(),
        high=stacked.max(axis=0).tolist(),
        auc=areas,
    )


def distributions(own: Evidence, original: Evidence, oracles: Sequence[Evidence]) -> list[Distribution]:
    """Give how losses and log-odds are spread over the forget rows; nothing of fewer than `FEWEST_ROWS`."""
    if len(own.margins) < FEWEST_ROWS:
        return []
    edges = log_edges([original.losses, own.losses, *(one.losses for one in oracles)], NUM_BINS)
    margins = [original.margins, own.margins, *(one.margins for one in oracles)]
    together = np.concatenate(margins)
    low, high = float(together.min()), float(together.max())
    air = 0.0 if high - low > 1e-3 * max(1, abs(low), abs(high)) else 0.5 * max(1, abs(low), abs(high))
    linear = np.linspace(low - air, high + air, NUM_BINS + 1)  # rows that are all alike get some room
    return [
        _distribution("forget_loss", "Losses of the forget rows", "loss", edges, own, original, oracles),
        _distribution(
            "forget_margin", "Log-odds of the forget rows' labels", "log-odds", linear, own, original, oracles
        ),
    ]


def _distribution(
    name: str,
    title: str,
    unit: str,
    edges: np.ndarray,
    own: Evidence,
    original: Evidence,
    oracles: Sequence[Evidence],
) -> Distribution:
    def counted(one: Evidence) -> np.ndarray:
        return counts(one.losses if unit == "loss" else one.margins, edges)

    stacked = np.stack([counted(one) for one in oracles])
    return Distribution(
        name=name,
        title=title,
        caption="A network that never saw the rows lies in the band; what lies between it and the original was not forgotten, "
        "what lies beyond it was forgotten too hard.",
        unit=unit,
        axis="log" if unit == "loss" else "linear",
        edges=edges.tolist(),
        histograms=[
            Histogram(name="original", counts=counted(original).tolist()),
            Histogram(name="unlearned", counts=counted(own).tolist()),
        ],
        oracles=BinBand(
            low=stacked.min(axis=0).tolist(), mean=stacked.mean(axis=0).tolist(), high=stacked.max(axis=0).tolist()
        ),
    )


def classes(own: Evidence, original: Evidence, oracles: Sequence[Evidence]) -> list[Classes]:
    """Give accuracy per class on forget (if there are `FEWEST_ROWS`) and on test rows, of the classes that have rows."""
    titles = {"forget": "Forget rows", "test": "Test rows"}
    if len(own.margins) < FEWEST_ROWS:
        del titles["forget"]
    return [
        Classes(name=part, title=title, classes=_by_class(part, own, original, oracles))
        for part, title in titles.items()
    ]


def _by_class(part: str, own: Evidence, original: Evidence, oracles: Sequence[Evidence]) -> list[ClassAccuracy]:
    targets = own.rows.targets[part]
    found = []
    for label in np.unique(targets):
        rows = targets == label
        shares = [float((one.rows.predicted[part][rows] == label).mean()) for one in (own, original, *oracles)]
        found.append(
            ClassAccuracy(
                name=str(label),
                num_rows=int(rows.sum()),
                unlearned=shares[0],
                original=shares[1],
                oracles=_band(shares[2:], 1 / int(rows.sum()), (0, 1)),
            )
        )
    return found


def _band(values: Sequence[float], resolution: float = 0.0, limits: tuple[float, float] | None = None) -> Band:
    low, mean, high = oracle_band(values, resolution=resolution, limits=limits)
    return Band(low=low, mean=mean, high=high)


STRATA = ("low", "mid", "high")


def strata(
    own: Evidence,
    original: Evidence,
    oracles: Sequence[Evidence],
    population: Population | None,
    measures: Sequence[Measure],
) -> Strata:
    """Give the forget rows in thirds by memorisation, and the rows that stand out.

    With populations, memorisation is the share of originals that get a row right, less that of oracles. With one original, or
    where that divides no rows, the thirds are by the trace that the row left: its log-odds in the original, less the oracles'.
    There are none of fewer than `FEWEST_ROWS` rows or by fewer than `FEWEST_ORACLES` oracles.
    """
    lines = [one for name, title in LINES.items() for one in _line(title, name, measures)]
    if len(own.margins) < FEWEST_ROWS:
        few = f"Of fewer than {FEWEST_ROWS} forget rows, no curves, distributions or thirds by memorisation are shown: "
        return Strata(sentence=f"{few}each number would be about one or two of them.", lines=lines)
    if len(oracles) < FEWEST_ORACLES:
        few = f"By fewer than {FEWEST_ORACLES} retrained networks the forget rows are not divided into thirds: "
        return Strata(
            sentence=f"{few}some rank the rows, and the others are what each third is held against.", lines=lines
        )
    # ranked by some oracles and held against the others: against the same ones, the ranking would find its own noise
    stacked, held = margins_of(oracles[::2]), margins_of(oracles[1::2])
    places = ranked_strata(original.margins - stacked.mean(axis=0))
    how = f"the trace in this original: log-odds of the row's label, less the mean of {len(stacked)} oracles"
    if population is not None:
        right = [margins_of(arm) > 0 for arm in (population.originals, oracles[::2])]
        found = ranked_strata(memorization_of_arms(right[0], right[1]))
        if len(np.unique(found)) > 1:
            places, counted = (
                found,
                f"{len(right[0])} originals that get a row right, less that of {len(right[1])} oracles",
            )
            how = f"memorisation: share of {counted}"
    if len(np.unique(places)) == 1:
        return Strata(sentence="The forget rows left traces that are all alike, and are not divided.", lines=lines)
    named = [
        _stratum(STRATA[place], places == place, own, original, held) for place in range(3) if (places == place).any()
    ]
    told = f"Thirds of the forget rows by {how}; held against the {len(held)} other retrained networks."
    return Strata(sentence=told, strata=named, lines=lines)


LINES = {
    "worst_forget_rows": "Worst 5% of the forget rows, beyond what oracles show",
    "ulira_worst_rows": "U-LiRA on the worst 5% of the rows",
    "retain_exposure": "Retain rows whose exposure grew, beyond what oracles show",
    "worst_retain_rows": "Worst 5% of the retain rows, beyond what oracles show",
    "before_and_after": "Attack on the pair of networks, before and after, beyond what oracles show",
}


def _line(title: str, name: str, measures: Sequence[Measure]) -> list[Compared]:
    """Give a measure as a line: the difference from the oracles over the band in which theirs lie."""
    return [
        Compared(
            title=title,
            sentence=one.sentence,
            unit=pages.TITLES[name][2],
            unlearned=one.value,
            oracles=Band(
                low=min(one.null_low, one.null_mean), mean=one.null_mean, high=max(one.null_high, one.null_mean)
            ),
        )
        for one in measures
        if one.name == name
    ]


def _stratum(name: str, rows: np.ndarray, own: Evidence, original: Evidence, oracles: np.ndarray) -> Stratum:
    told = row_test(own.margins, oracles).told_apart
    held_out = None
    if len(oracles) > 2:
        shares = [
            float(row_test(oracles[i], np.delete(oracles, i, axis=0)).told_apart[rows].mean())
            for i in range(len(oracles))
        ]
        held_out = _band(shares, 1 / int(rows.sum()), (0, 1))
    return Stratum(
        name=name,
        num_rows=int(rows.sum()),
        original=float(original.margins[rows].mean()),
        unlearned=float(own.margins[rows].mean()),
        oracles=_band(oracles[:, rows].mean(axis=1).tolist()),
        told_apart=float(told[rows].mean()),
        told_apart_oracles=held_out,
    )


def costs(
    spent: Mapping[str, Spent],
    oracles: Oracles,
    num_train: int,
    rows: Sequence[Row],
    num_rows: Mapping[str, int],
    sentence: str,
) -> Costs:
    """Give what each part cost, beside one retraining."""
    rows_of_one = oracles.trained[0].trained_rows
    steps = [
        Step(
            what=PARTS.get(name, name),
            seconds=one.seconds,
            training_passes=one.trained_rows / num_train if rows_of_one or name not in TRAINED_BY_PLAN else None,
            forward_passes=one.forward_rows / num_train,
            peak_bytes=one.peak_bytes if one.peak_bytes > 0 else None,  # else something earlier held more
            retraining_share=one.trained_rows / rows_of_one if rows_of_one else None,
        )
        for name, one in spent.items()
    ]
    retraining = Step(
        what="One retraining",
        seconds=oracles.mean_seconds,
        training_passes=rows_of_one / num_train if rows_of_one else None,
        retraining_share=1.0,
    )
    return Costs(steps=steps, retraining=retraining, rows=rows, num_rows=num_rows, sentence=sentence)
