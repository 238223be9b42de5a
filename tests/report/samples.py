"""Pages of made-up numbers chosen so that no two are alike: one small, one as a full audit of ten classes gives it."""

import math

import msgspec
import numpy as np

from excise.report import (
    Band,
    BinBand,
    ClassAccuracy,
    Classes,
    Compared,
    Control,
    Costs,
    Curve,
    CurveBand,
    Distribution,
    Histogram,
    Layer,
    MeasureRow,
    Page,
    Roc,
    Row,
    Section,
    Step,
    Strata,
    Stratum,
    Timing,
    Verdict,
)

CONTROLS = [
    Control(
        name="nothing",
        title="Doing nothing",
        outcome="FAIL",
        expected="FAIL",
        sentence="The original network, judged in the same way: an audit that passes it could not see anything.",
    ),
    Control(
        name="retrained",
        title="A held-out retrained network",
        outcome="PASS",
        expected="PASS",
        sentence="Each retrained network in turn, held against the others.",
    ),
    Control(
        name="plan",
        title="Training plan reproduces the original",
        outcome="PASS",
        expected="PASS",
        sentence="Networks retrained by this plan are as accurate on the retain rows as the original.",
    ),
]


def small_section(name):
    rows = [
        Row(
            recipe="Nothing",
            accuracy={"forget": 0.9921875, "retain": 0.98871, "test": 0.91231},
            gap={"forget": 0.5234, "retain": 0.00112, "test": -0.0213},
            attack=0.7312,
            seconds=0.0,
            note="left as it was",
        ),
        Row(
            recipe="DEL",
            accuracy={"forget": 0.46875, "retain": 0.98702, "test": 0.93112},
            gap={"forget": -0.0019, "retain": -0.00057, "test": -0.00241},
            attack=0.5126,
            seconds=3.4567,
            retraining_share=0.05612,
        ),
        Row(recipe="NegGrad", accuracy={"forget": 0.0, "retain": 0.61, "test": 0.6}, seconds=1.25),
    ]
    return Section(
        name=name,
        title=f"Rows of kind {name}",
        sentence="Some rows.",
        num_forget=128,
        num_retain=49_872,
        num_test=10_000,
        num_oracles=8,
        bands={
            "forget": Band(low=0.4141, mean=0.4688, high=0.5312),
            "retain": Band(low=0.98504, mean=0.98759, high=0.99001),
            "test": Band(low=0.92801, mean=0.93353, high=0.93921),
        },
        attack_band=Band(low=0.4712, mean=0.5013, high=0.5341),
        rows=rows,
        histogram_edges=[0.001, 0.01, 0.1, 1.0, 10.0],
        histograms=[
            Histogram(name="original", counts=[100, 28, 0, 0]),
            Histogram(name="unlearned", counts=[0, 31, 90, 7]),
            Histogram(name="oracles", counts=[0, 30.5, 88.25, 9.25]),
        ],
        layers=[
            Layer(name="features.0", fraction=0.0, num_parameters=432),
            Layer(name="features.3", fraction=0.3125, num_parameters=36_864),
            Layer(name="classifier", fraction=1.0, num_parameters=2_359_296),
        ],
    )


# Group, title, unit, half width of the null band, whether it decides.
MEASURES = [
    ("Accuracy", "Accuracy on forget rows", "%", 0.031, True),
    ("Accuracy", "Accuracy on retain rows", "%", 0.004, True),
    ("Accuracy", "Accuracy on test rows", "%", 0.011, True),
    ("Accuracy", "Worst class, test rows", "%", 0.042, False),
    ("Accuracy", "Calibration error, test rows", "%", 0.012, False),
    ("Membership", "Likelihood-ratio attack, area", "AUC", 0.046, True),
    ("Membership", "Likelihood-ratio attack, found at 1%", "%", 0.021, True),
    ("Membership", "Relative attack (RMIA), area", "AUC", 0.05, True),
    ("Membership", "Paired swap test, advantage", "advantage", 0.06, True),
    ("Membership", "Loss attack, area", "AUC", 0.04, False),
    ("Membership", "Confidence attack", "%", 0.05, False),
    ("Membership", "Entropy attack, area", "AUC", 0.043, False),
    ("Membership", "Privacy loss, median row", "nats", 0.9, False),
    ("Population", "Log-odds of forget rows", "log-odds", 0.35, True),
    ("Population", "Distance of log-odds, row by row", "spreads", 0.14, True),
    ("Population", "KL divergence of margins (KLoM)", "nats", 0.11, True),
    ("Population", "Forgetting quality (two-sample test)", "statistic", 0.08, False),
    ("Population", "Rows told apart, one by one", "%", 0.02, True),
    ("Population", "Worst 5% of the rows", "log-odds", 0.8, True),
    ("Population", "Output distance to oracles", "JS, bits", 0.013, False),
    ("Representation", "Features, similarity to oracles (CKA)", "CKA", 0.02, False),
    ("Representation", "Linear probe for the forget rows", "AUC", 0.05, True),
    ("Representation", "Batch statistics, distance", "spreads", 0.4, True),
    ("Representation", "Relearning, steps to the old loss", "steps", 14.0, True),
    ("Representation", "Relearning, area under the curve", "steps", 9.0, False),
    ("Representation", "Effective rank of features", "dimensions", 1.7, False),
    ("Retained rows", "Log-odds of retain rows", "log-odds", 0.12, True),
    ("Retained rows", "Attack on retain rows, area", "AUC", 0.03, False),
    ("Retained rows", "Rows whose exposure grew", "%", 0.015, True),
    ("Retained rows", "Nearest neighbours of forget rows", "%", 0.02, False),
    ("Retained rows", "Churn of test predictions", "%", 0.009, False),
    ("Correction", "Corrected labels now right", "%", 0.05, True),
    ("Correction", "Confusion between the two classes", "%", 0.04, True),
    ("Correction", "Trigger still works", "%", 0.02, True),
    ("Correction", "Repeated rows still known", "%", 0.03, False),
]


def full_measures(rng):
    """Thirty-five measures in six groups; most within their bands, a few well outside."""
    found = []
    for index, (group, title, unit, half, decides) in enumerate(MEASURES):
        middle = {"AUC": 0.5, "CKA": 0.93, "steps": 60.0, "dimensions": 41.0}.get(unit, 0.0)
        place = float(rng.uniform(-0.8, 0.8))
        place = {8: 2.6, 14: 3.4, 18: 9.5, 9: -4.2}.get(index, place)
        value = middle + half * place
        found.append(
            MeasureRow(
                name=f"measure_{index:02}",
                title=title,
                value=value,
                low=value - 0.42 * half,
                high=value + 0.47 * half,
                null_mean=middle + 0.03 * half,
                null_low=middle - half,
                null_high=middle + 1.02 * half,
                p=float(np.exp(-1.4 * place**2)) if decides or index % 2 else None,
                num_models=(8, 16, 64)[index % 3],
                least_detectable=1.31 * half + 0.001 * index if decides or index % 3 else None,
                sentence="" if index % 4 == 1 else "Minus the mean of networks that never saw the forget rows.",
                decides=decides,
                rejected=decides and place > 2,
                group=group,
                unit=unit,
            )
        )
    return found


def full_roc(rng, name, title, num_non_members, shift):
    """The curves of an attack with normal scores: closed forms on a grid."""
    grid = np.concatenate([[0.0], np.logspace(-3.3, 0, 60)])
    normal = lambda x: 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))  # noqa: E731
    scores = np.linspace(-6, 6, 4001)

    def curve(named, distance):
        true = np.interp(grid, 1 - normal(scores[::-1]), 1 - normal(scores[::-1] - distance))
        true[0], true[-1] = 0.0, 1.0
        many, more = num_non_members >= 100, num_non_members >= 1000
        area = float(normal(distance / math.sqrt(2)))
        return Curve(
            name=named,
            false_positive=grid.tolist(),
            true_positive=np.maximum.accumulate(true).tolist(),
            auc=area,
            auc_low=max(0.0, area - 0.0213),
            auc_high=min(1.0, area + 0.0197),
            at_one_percent=float(np.interp(0.01, grid, true)) if many else None,
            at_one_permille=float(np.interp(0.001, grid, true)) if more else None,
        )

    wide = 3 * np.sqrt(grid * (1 - grid) / num_non_members) + 1e-4
    return Roc(
        name=name,
        title=title,
        sentence="Knows the training plan and holds sixteen networks of its own against each row.",
        num_members=128,
        num_non_members=num_non_members,
        curves=[curve("original", 1.9), curve("unlearned", shift)],
        band=CurveBand(
            false_positive=grid.tolist(),
            low=np.clip(grid - wide, 0, 1).tolist(),
            high=np.clip(grid + wide, 0, 1).tolist(),
            auc=Band(low=0.4633, mean=0.5011, high=0.5388),
        ),
    )


def full_distribution(rng, name, title, axis, unit, edges, middles):
    """Histograms of three hills, the oracles' as a band over eight networks."""
    place = np.log if axis == "log" else np.asarray

    def count(middle, num):
        return np.histogram(rng.normal(middle, (place(edges[-1]) - place(edges[0])) / 14, num), place(edges))[0]

    original, unlearned, never = middles
    oracles = np.array([count(never, 128) for _ in range(8)])
    return Distribution(
        name=name,
        title=title,
        unit=unit,
        axis=axis,
        edges=list(map(float, edges)),
        histograms=[
            Histogram(name="original", counts=count(original, 128).tolist()),
            Histogram(name="unlearned", counts=count(unlearned, 128).tolist()),
        ],
        oracles=BinBand(low=oracles.min(0).tolist(), mean=oracles.mean(0).tolist(), high=oracles.max(0).tolist()),
    )


DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def full_classes(rng, name, title, names, num_rows):
    """Accuracies of classes near the oracles', one or two far away."""
    found = []
    for index, each in enumerate(names):
        mean = 0.86 + 0.12 * float(rng.random())
        own = 0.62 if index == 3 else min(1.0, mean + float(rng.normal(0, 0.012)))
        band = Band(low=mean - 0.027, mean=mean, high=min(1.0, mean + 0.0244))
        original = min(1.0, mean + 0.05)
        found.append(ClassAccuracy(name=each, num_rows=num_rows, original=original, unlearned=own, oracles=band))
    return Classes(name=name, title=title, classes=found)


def full_page(*, names=DIGITS):
    """The page of a whole audit: every part filled."""
    rng, section = np.random.default_rng(7), small_section("iid")
    stem = {"oracles": Band(low=-1.42, mean=-0.93, high=-0.41)}
    step = Step(what="One retraining from scratch", seconds=212.4, training_passes=30.0, forward_passes=0.5)
    replaced = {"rows": section.rows[:2], "histograms": [], "histogram_edges": [], "title": "The forget request"}
    layers = [
        Layer(name=f"layer{1 + i // 4}.{i % 4}.conv{1 + i % 2}", fraction=(i / 15) ** 2, num_parameters=9216 * (1 + i))
        for i in range(16)
    ]
    return Page(
        title="Did the network forget 128 rows?",
        lead="DEL was asked to make a network forget 128 of its 50 000 training rows. It was then held against 16 networks "
        "retrained from scratch without them.",
        verdict=Verdict(
            word="FAIL",
            headline="The network can be told from networks that never saw the rows.",
            reasons=[
                "Paired swap test: 0.156, where an oracle's own lies within −0.060 to 0.061 (p < 0.001).",
                "Distance of log-odds, row by row: 0.48, where an oracle's own lies within −0.14 to 0.14 (p < 0.001).",
                "Worst 5% of the rows: 7.6 log-odds, where an oracle's own lies within −0.80 to 0.82 (p < 0.001).",
            ],
            controls=CONTROLS,
        ),
        measures=full_measures(rng),
        rocs=[
            full_roc(rng, "u_lira", "Likelihood-ratio attack (U-LiRA)", 5000, 0.55),
            full_roc(rng, "rmia", "Relative attack (RMIA)", 128, 0.31),
        ],
        sections=[msgspec.structs.replace(section, layers=layers, **replaced)],
        distributions=[
            full_distribution(
                rng, "loss", "Losses of the forget rows", "log", "loss", np.logspace(-4, 1.2, 25), (-6.5, 0.3, 0.9)
            ),
            full_distribution(
                rng,
                "margin",
                "Log-odds of the forget rows",
                "linear",
                "log-odds",
                np.linspace(-9, 13, 25),
                (7.0, 0.4, -1),
            ),
        ],
        classes=[
            full_classes(rng, "forget", "Forget rows", names, 13),
            full_classes(rng, "test", "Test rows", names, 1000),
        ],
        strata=Strata(
            sentence="Rows were ordered by how much less likely their labels are to networks that never saw them.",
            strata=[
                Stratum(
                    name="low",
                    num_rows=43,
                    original=4.21,
                    unlearned=3.77,
                    oracles=Band(low=3.31, mean=3.79, high=4.18),
                    told_apart=0.023,
                    told_apart_oracles=Band(low=0.0, mean=0.031, high=0.093),
                ),
                Stratum(
                    name="mid",
                    num_rows=42,
                    original=4.02,
                    unlearned=1.34,
                    oracles=Band(low=0.61, mean=1.07, high=1.52),
                    told_apart=0.0714,
                    told_apart_oracles=Band(low=0.0, mean=0.029, high=0.095),
                ),
                Stratum(
                    name="high",
                    num_rows=44,
                    original=3.68,
                    unlearned=0.72,
                    told_apart=0.386,
                    told_apart_oracles=Band(low=0.0, mean=0.027, high=0.091),
                    **stem,
                ),
            ],
            lines=[
                Compared(
                    title="Worst 5% of the forget rows",
                    sentence="Mean log-odds above the oracles' of the rows that are farthest above them.",
                    unit="log-odds",
                    original=9.84,
                    unlearned=7.61,
                    oracles=Band(low=-0.81, mean=0.02, high=0.83),
                    num_rows=6,
                ),
                Compared(
                    title="Retained rows whose exposure grew",
                    sentence="Share of retained rows that an attack finds more surely after unlearning than before.",
                    unit="%",
                    unlearned=0.0183,
                    oracles=Band(low=0.0041, mean=0.0112, high=0.0191),
                    num_rows=49_872,
                ),
                Compared(
                    title="Attack that holds both networks",
                    sentence="Area under the curve of an attacker who compares the network before and after.",
                    unit="AUC",
                    original=0.912,
                    unlearned=0.633,
                    oracles=Band(low=0.455, mean=0.502, high=0.549),
                ),
            ],
        ),
        costs=Costs(
            steps=[
                Step(
                    what="Localization",
                    seconds=3.1,
                    forward_passes=0.0026,
                    training_passes=1.003,
                    peak_bytes=611_000_000,
                ),
                Step(
                    what="Unlearning",
                    seconds=8.74,
                    training_passes=1.21,
                    forward_passes=0.052,
                    peak_bytes=742_000_000,
                    retraining_share=0.0403,
                ),
                Step(
                    what="Search of settings",
                    seconds=96.2,
                    training_passes=13.4,
                    forward_passes=6.1,
                    retraining_share=0.4467,
                ),
                Step(what="Audit", seconds=61.3, forward_passes=18.0, peak_bytes=1_310_000_000),
            ],
            retraining=msgspec.structs.replace(step, peak_bytes=803_000_000, retraining_share=1.0),
            rows=[
                section.rows[1],
                Row(
                    recipe="SameCostRetrain",
                    accuracy={"forget": 0.414, "retain": 0.9312, "test": 0.9021},
                    gap={"forget": -0.055, "retain": -0.0564, "test": -0.03143},
                    seconds=8.61,
                    retraining_share=0.0399,
                    note="from scratch, stopped at the method's cost",
                ),
            ],
            num_rows={"forget": 128, "retain": 49_872, "test": 10_000},
            sentence="The 16 retrained networks of this audit cost as much as 16 requests answered by retraining; with the "
            "search they have paid off after 31 requests answered like this one.",
        ),
        untested=[
            "Attacks by someone who saw the network before and after, beyond the one above.",
            "Whether fine-tuning on related rows brings the forgotten ones back.",
        ],
        assumptions=[
            "The training plan given is how the network was trained; a control checks what shows in accuracy."
        ],
        limits=["This is evidence about the attacks and measures on this page and about no others."],
        facts={"excise": "0.4.0", "torch": "2.9.1", "seed": "0", "threads": "2", "mask digest": "9f2c41d08be37a55" * 4},
    )


def small_measures():
    """A measure inside its null band, one outside, one far outside that decides nothing."""
    shared = {"null_mean": 0.5, "null_low": 0.46, "null_high": 0.54, "num_models": 16}
    far = {"p": 0.0000123, "decides": False, "unit": "log-odds"}
    return [
        MeasureRow(name="a", title="Inside", value=0.51, low=0.48, high=0.55, p=0.41, least_detectable=0.07, **shared),
        MeasureRow(
            name="b",
            title="Outside",
            value=0.6,
            low=0.57,
            high=0.63,
            p=0.0312,
            sentence="Too much.",
            least_detectable=0.071,
            rejected=True,
            **shared,
        ),
        MeasureRow(name="c", title="Far", value=-9.5, low=-9.9, high=-9.1, group="Of no weight", **far, **shared),
    ]


def small_page():
    """A page of two sections, with every part of a comparison of recipes on it."""
    return Page(
        title="Audit of a toy",
        lead="A toy was audited.",
        verdict=Verdict(
            word="FAIL",
            headline="Some rows are remembered.",
            reasons=["The second measure lies outside."],
            controls=CONTROLS,
        ),
        measures=small_measures(),
        sections=[small_section("iid"), small_section("non-iid")],
        timings=[Timing(what="Training", seconds=61.75), Timing(what="Audit", seconds=4.125)],
        facts={"seed": "0", "torch": "2.9"},
        limits=["What backups hold."],
    )


def with_recipes(page, *names):
    """A page whose first recipes have these names, in its sections and in its costs."""
    rename = lambda rows: [msgspec.structs.replace(row, recipe=name) for row, name in zip(rows, names, strict=True)]  # noqa: E731
    sections = [msgspec.structs.replace(section, rows=rename(section.rows)) for section in page.sections]
    costs = msgspec.structs.replace(page.costs, rows=rename(page.costs.rows))
    return msgspec.structs.replace(page, sections=sections, costs=costs)
