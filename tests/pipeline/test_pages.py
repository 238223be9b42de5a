"""Twins: every number on a page taken anew from the evidence; and the page is drawn."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import excise
from excise.masks import Mask
from excise.measure import Measure, against_oracles, oracle_band
from excise.oracles import Trained
from excise.pipeline import pages, policy
from excise.pipeline.evidence import Evidence, Oracles
from excise.report import Row, Timing, render
from tests.cases import CASES


def evidence(seed, finite=True):
    draw = np.random.default_rng(seed)
    margins = draw.normal(0, 3, 40)
    accuracy = {part: float(draw.uniform(0.3, 0.9)) for part in ("forget", "retain", "test")}
    return Evidence(accuracy, float(draw.uniform()) if finite else math.nan, margins, np.logaddexp(0, -margins), finite)


ORACLES = Oracles([Trained(seed, {}, 1.0 + seed, 10) for seed in range(4)], [evidence(seed) for seed in range(10, 14)])
SPLIT = excise.Split(
    (torch.zeros(100, 1), torch.zeros(100)), forget=range(40), test=(torch.zeros(30, 1), torch.zeros(30))
)


def section(rows, mask=None, own=None, original=None):
    made = mask or Mask.of_modules(CASES["mlp"].make(), ["2", "4.bias"])
    return pages.section(
        "key", "A title", "A sentence.", SPLIT, rows, ORACLES, original or evidence(1), own or evidence(2), made
    )


def test_a_row_holds_the_evidence_and_its_gap_to_the_oracles_mean():
    own = evidence(0)
    found = pages.row("DEL", own, ORACLES, 1.5, 0.25, "a note")
    assert isinstance(found, Row)
    assert (found.recipe, found.seconds, found.retraining_share, found.note) == ("DEL", 1.5, 0.25, "a note")
    assert found.accuracy == own.accuracy
    assert found.attack == own.attack
    for part, gap in found.gap.items():
        total = 0.0
        for one in ORACLES.evidence:
            total += one.accuracy[part]
        assert gap == pytest.approx(own.accuracy[part] - total / 4, abs=1e-15)
    assert set(found.gap) == {"forget", "retain", "test"}


def test_an_attack_that_could_not_be_run_is_left_out():
    assert pages.row("x", evidence(0, finite=False), ORACLES, 0.0, None).attack is None


def test_bands_are_the_oracles():
    for part, band in pages.bands(ORACLES, SPLIT).items():
        values, num_rows = [one.accuracy[part] for one in ORACLES.evidence], len(getattr(SPLIT, part))
        assert (band.low, band.mean, band.high) == oracle_band(values, resolution=1 / num_rows)
        assert band.low < band.mean < band.high


def test_a_section_counts_rows_and_losses():
    own, original = evidence(2), evidence(1)
    found = section([pages.row("DEL", own, ORACLES, 1.0, 0.5)], own=own, original=original)
    assert (found.num_forget, found.num_retain, found.num_test, found.num_oracles) == (40, 60, 30, 4)
    assert found.oracle_seconds == 2.5
    named = {one.name: one.counts for one in found.histograms}
    assert list(named) == ["original", "unlearned", "oracles"]
    edges = found.histogram_edges
    for name, losses in (("original", original.losses), ("unlearned", own.losses)):
        assert sum(named[name]) == 40
        inner = [sum(low <= loss < high for loss in losses) for low, high in pairwise(edges)]
        assert list(named[name]) == inner
    everyone = np.concatenate([one.losses for one in ORACLES.evidence])
    wanted = [np.sum((everyone >= low) & (everyone < high)) / 4 for low, high in pairwise(edges)]
    assert list(named["oracles"]) == pytest.approx(wanted)
    assert sum(named["oracles"]) == pytest.approx(40)
    low, mean, high = oracle_band([one.attack for one in ORACLES.evidence])
    assert (found.attack_band.low, found.attack_band.mean, found.attack_band.high) == (low, mean, high)


def test_layers_are_the_mask_by_module_with_its_weights():
    model = CASES["transformer"].make()
    tensors = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in model.named_parameters()}
    tensors["position"][:] = True
    tensors["head.weight"][1:3] = True
    found = {one.name: (one.fraction, one.num_parameters) for one in pages.layers(Mask.from_tensors(tensors))}
    assert found["position"] == (1.0, 40)
    assert found["head"] == (pytest.approx(16 / 36), 36)
    assert found["layers.0.linear1"] == (0.0, 8 * 12 + 12)
    assert sum(count for _, count in found.values()) == sum(value.numel() for value in model.parameters())
    own = [
        name
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    ]
    assert set(found) == {"position", *own}


def measure(name):
    return against_oracles(name, 0.5, [0.1, 0.4, 0.2], resolution=0.1, sentence="Said.")


def test_every_measure_of_the_audit_has_a_title():
    found = policy.measures_of(evidence(0), ORACLES.evidence, SPLIT)
    assert {one.name for one in found} == set(pages.TITLES)
    rows = pages.measure_rows(found)
    assert [row.title for row in rows] == [pages.TITLES[one.name] for one in found]
    for row, one in zip(rows, found, strict=True):
        for field in Measure.__struct_fields__:
            assert getattr(row, field) == getattr(one, field), field


def test_every_verdict_has_a_headline():
    words = policy.Verdict.__args__
    assert set(pages.HEADLINES) == set(words)
    for word in words:
        found = pages.verdict_of(word, ["why"], {"nothing": "FAIL"})
        assert (found.word, found.headline, found.reasons) == (word, pages.HEADLINES[word], ["why"])
        assert found.controls == {"nothing": "FAIL"}


def test_facts_are_text_with_names_for_people():
    assert pages.facts({"torch": "2"}, mask_digest="ab", seed=3) == {"torch": "2", "mask digest": "ab", "seed": "3"}


@pytest.mark.parametrize("word", policy.Verdict.__args__)
def test_a_page_is_drawn_with_its_limits(word):
    found = pages.page(
        "A title",
        "A lead.",
        verdict=pages.verdict_of(word, ["because"], {"nothing": "FAIL", "retrained": "PASS"}),
        measures=pages.measure_rows([measure("forget_margin")]),
        sections=[section([pages.row("DEL", evidence(0), ORACLES, 1.0, None)])],
        timings=[Timing(what="work", seconds=1.0)],
        facts=pages.facts({"torch": "2"}),
    )
    assert list(found.limits) == list(pages.LIMITS)
    assert "not a proof" in found.limits[0]
    html = render(found)
    for text in (word, "because", pages.TITLES["forget_margin"], "A sentence.", "evidence about the attacks"):
        assert text in html, text


def test_losses_that_are_not_finite_are_drawn_too():
    broken = evidence(3, finite=False)
    broken.losses[:3] = [math.nan, math.inf, 0.0]
    found = section([pages.row("x", broken, ORACLES, 0.0, None)], own=broken)
    assert sum(found.histograms[1].counts) == 40
    assert "<svg" in render(pages.page("A title", "A lead.", sections=[found]))


def test_a_band_is_never_narrower_than_half_a_row_allows():
    low, mean, high = oracle_band([1.0] * 8, resolution=1 / 100)
    reach = 2.364624251592784 * 0.005 * (1 + 1 / 8) ** 0.5  # Student's t with 7 degrees of freedom at 97.5%
    assert (mean - low, high - mean) == pytest.approx((reach, reach))
