"""A page with every part on it, of made-up numbers chosen so that no two are alike."""

import pytest

from excise.report import Band, Histogram, Layer, MeasureRow, Page, Row, Section, Timing, Verdict


def _section(name):
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


@pytest.fixture
def section():
    """One section with every part in it."""
    return _section("iid")


@pytest.fixture
def measures():
    """A measure inside its null band, one outside, one far outside."""
    shared = {"null_mean": 0.5, "null_low": 0.46, "null_high": 0.54, "num_models": 16}
    return [
        MeasureRow(name="a", title="Inside", value=0.51, low=0.48, high=0.55, p=0.41, least_detectable=0.07, **shared),
        MeasureRow(name="b", title="Outside", value=0.6, low=0.57, high=0.63, p=0.0312, sentence="Too much.", **shared),
        MeasureRow(name="c", title="Far", value=-9.5, low=-9.9, high=-9.1, p=0.0000123, **shared),
    ]


@pytest.fixture
def page(section, measures):
    """A page with every part on it."""
    return Page(
        title="Audit of a toy",
        lead="A toy was audited.",
        verdict=Verdict(
            word="FAIL",
            headline="Some rows are remembered.",
            reasons=["The second measure lies outside."],
            controls={"nothing": "failed, as it must", "retrained": "passed, as it must"},
        ),
        measures=measures,
        sections=[section, _section("non-iid")],
        timings=[Timing(what="Training", seconds=61.75), Timing(what="Audit", seconds=4.125)],
        facts={"seed": "0", "torch": "2.9"},
        limits=["What backups hold."],
    )
