"""Twins: every number on a page taken anew from the evidence; and the page is drawn."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from msgspec import structs

import excise
from excise.masks import Mask
from excise.measure import Measure, against_oracles, oracle_band
from excise.oracles import Trained
from excise.pipeline import measuring, pages, policy
from excise.pipeline.audited import audit_page
from excise.pipeline.evidence import Evidence, Oracles
from excise.report import Row, Timing, render
from excise.train.engine import Spent
from tests import planted
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
        assert (band.low, band.mean, band.high) == oracle_band(values, resolution=1 / num_rows, limits=(0, 1))
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
    low, mean, high = oracle_band([one.attack for one in ORACLES.evidence], resolution=1 / 40, limits=(0, 1))
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


def test_every_measure_that_an_audit_can_take_has_a_title_a_group_and_a_unit():
    known = {*policy.SINGLE, *policy.POPULATION, "confidence_attack", "swap", "canaries"}
    assert known | {name for line in measuring.LINES for name in line.names} == set(pages.TITLES)
    assert {group for _, group, _ in pages.TITLES.values()} == set(pages.GROUPS)
    assert len({title for title, *_ in pages.TITLES.values()}) == len(pages.TITLES)


def test_measures_stand_whole_and_in_groups():
    found = [*policy.measures_of(evidence(0), ORACLES.evidence, SPLIT), measure("relearning"), measure("klom")]
    rows = {row.name: row for row in pages.measure_rows(found, {"forget_margin"})}
    assert set(rows) == {one.name for one in found}
    for one in found:
        row = rows[one.name]
        for field in Measure.__struct_fields__:
            assert getattr(row, field) == getattr(one, field), field
        assert (row.title, row.group, row.unit) == pages.TITLES[one.name]
        assert row.rejected is (one.name == "forget_margin")
    order = [pages.GROUPS.index(row.group) for row in rows.values()]
    assert order == sorted(order)


def test_a_measures_sentence_is_whole_on_the_page():
    told = against_oracles("klom", 0.5, [0.1, 0.4], resolution=0.1, sentence="klom of margins in nats")
    assert [row.sentence for row in pages.measure_rows([told])] == ["Klom of margins in nats."]
    assert [row.sentence for row in pages.measure_rows([structs.replace(told, sentence="")])] == [""]


# ---------------------------------------------------------------- the verdict in words


def test_every_verdict_has_a_headline():
    words = policy.Verdict.__args__
    assert set(pages.HEADLINES) == set(words)
    assert set(pages.CONTROLS) == set(policy.CONTROLS)
    for word in words:
        found = pages.verdict_of(word, ["why"], {"nothing": "FAIL"})
        assert (found.word, found.headline, found.reasons) == (word, pages.HEADLINES[word], ["Why."])
        (control,) = found.controls
        assert (control.name, control.outcome, control.expected) == ("nothing", "FAIL", "FAIL")
    for name, expected in policy.CONTROLS.items():
        assert pages.CONTROLS[name]["expected"] == expected


def test_a_failure_on_other_rows_alone_is_said_to_be_damage():
    one = structs.replace(measure("retain_accuracy"), p=1e-9, decides=True)
    found = pages.verdict_of("FAIL", [policy.DAMAGE, "retain_accuracy: -1"], {}, [one])
    assert found.headline == "The network was damaged; nothing here says that it still knows the rows."
    assert found.explanation.startswith("It was told apart by other rows than those to be forgotten")
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith("Accuracy on retain rows: ")
    other = pages.verdict_of("FAIL", ["retain_accuracy: -1"], {}, [one])
    assert (other.headline, other.explanation) == (pages.HEADLINES["FAIL"], "")
    assert pages.verdict_of("INVALID", [policy.DAMAGE], {}, [one]).headline == pages.HEADLINES["INVALID"]


def test_a_network_that_no_measure_rejects_and_that_fails_is_at_fault_by_itself():
    one = structs.replace(measure("forget_accuracy"), p=0.5, decides=True)
    assert pages.verdict_of("FAIL", ["why"], {}, [one]).explanation.startswith("It is at fault by itself")
    for word in ("PASS", "INCONCLUSIVE", "INVALID"):
        assert pages.verdict_of(word, ["why"], {}, [one]).explanation == ""
    assert "by any measure that decides" in pages.HEADLINES["PASS"]


def test_an_original_that_left_no_trace_excuses_the_control_unless_the_audit_is_broken():
    outcomes = {"nothing": "PASS", "retrained": "PASS", "plan": "FAIL"}
    for word in policy.Verdict.__args__:
        excused = {one.name: one.excused for one in pages.verdict_of(word, [], outcomes).controls}
        wanted = "" if word == "INVALID" else "these rows left no trace that this audit can see"
        assert excused == {"nothing": wanted, "retrained": "", "plan": ""}
    assert pages.verdict_of("PASS", [], {"nothing": "FAIL"}).controls[0].excused == ""


def test_notes_stand_after_the_reasons_as_what_is_beside_the_verdict():
    found = pages.verdict_of("PASS", ["why"], {}, [], ["Some note", "another."])
    assert found.reasons == ["Why.", "Beside the verdict: some note.", "Beside the verdict: another."]


def networks(lifts, seed=0, retain=0.9):
    """Give networks on 40 forget rows whose margins and accuracies hardly differ but by `lifts`."""
    draw = np.random.default_rng(seed)
    rows = 3 * np.random.default_rng(77).normal(size=40)
    found = []
    for lift in lifts:
        margins = rows + lift + 0.05 * draw.normal(size=40)
        shares = (0.5 + lift / 20, retain, 0.8)
        accuracy = {
            part: share + 0.01 * float(draw.normal())
            for part, share in zip(("forget", "retain", "test"), shares, strict=True)
        }
        found.append(Evidence(accuracy, 0.5, margins, np.logaddexp(0, -margins), finite=True))
    return found


def in_words(own, original, oracles):
    outcome = policy.verdict(own, original, oracles, SPLIT)
    found = pages.verdict_of(outcome.verdict, outcome.reasons, outcome.controls, outcome.measures)
    return outcome, [reason.replace("\u00a0", " ").replace("−", "-") for reason in found.reasons]


def test_findings_have_units_directions_and_few_digits():
    oracles = networks([0.0] * 8)
    for lift, side in ((3.0, "above"), (-3.0, "below")):
        outcome, told = in_words(*networks([lift], 1), *networks([6.0], 2), oracles)
        assert outcome.verdict == "FAIL"
        margin = next(one for one in outcome.measures if one.name == "forget_margin")
        (said,) = [one for one in told if one.startswith("Log-odds of forget rows:")]
        digits = r"\d\.\d+"
        wanted = (
            rf"Log-odds of forget rows: ({digits}) log-odds {side} the mean of the retrained networks; one more of them "
            rf"would lie within -({digits}) to \+({digits}) of it \(p < 0\.001\)\."
        )
        value, low, high = map(float, re.fullmatch(wanted, said).groups())
        assert (value, low, high) == pytest.approx((abs(margin.value), -margin.null_low, margin.null_high), abs=0.006)
        (share,) = [one for one in told if one.startswith("Accuracy on forget rows:")]
        gap = next(one for one in outcome.measures if one.name == "forget_accuracy")
        number = float(re.match(rf"Accuracy on forget rows: (.*) points {side} the mean", share).group(1))
        assert number == pytest.approx(100 * abs(gap.value), abs=0.06)
        assert not any(name in reason for name in pages.TITLES for reason in told if "_" in name)


def test_what_a_pass_could_have_noticed_has_units():
    outcome, told = in_words(*networks([0.0], 1), *networks([6.0], 2), networks([0.0] * 8))
    assert outcome.verdict == "PASS"
    assert told[0] == "No deciding measure tells the network from networks that never saw the rows."
    (least,) = [one for one in told if one.startswith("Smallest differences")]
    said = dict(re.findall(r"(?:: |; )([^;:]*?) ([\d.]+ (?:points|log-odds|spreads))", least))
    assert set(said) == {pages.TITLES[name][0] for name in policy.SINGLE}
    for one in outcome.measures:
        if one.decides:
            title, _, unit = pages.TITLES[one.name]
            number, counted = said[title].split(" ")
            assert counted == ("points" if unit == "%" else unit)
            assert float(number) == pytest.approx(one.least_detectable * (100 if unit == "%" else 1), rel=0.06)


def test_what_is_set_aside_by_a_broken_yardstick_is_in_words_too():
    outcome, told = in_words(*networks([3.0], 1), *networks([6.0], 2), networks([0.0] * 8, retain=0.5))
    assert outcome.verdict == "INVALID"
    assert told[0].startswith("Control 'plan': the original gets")
    aside = [one for one in told if one.startswith("Set aside, as the yardstick is broken: ")]
    assert len(aside) == len(outcome.reasons) - 1 > 0
    assert any(": Log-odds of forget rows: 3." in one for one in aside)


def test_a_measure_that_is_no_gap_is_said_beside_what_retrained_networks_give():
    told = structs.replace(
        measure("ulira"), value=0.9917, null_mean=0.5, null_low=0.4741, null_high=0.5289, p=0.002, decides=True
    )
    outcome = ["ulira: +0.992, where an oracle's own lies within +0.474 to +0.529 (p = 0.002)"]
    (said,) = pages.verdict_of("FAIL", outcome, {}, [told]).reasons
    wanted = "U-LiRA on the recipe: 99.2 %, where retrained networks give 47.4 to 52.9 % (p = 0.002)."
    assert said.replace("\u00a0", " ") == wanted


@pytest.mark.parametrize(
    ("value", "reach", "text"),
    [
        (34.712, 0.29, "34.7 spreads above"),
        (2.998, 0.047, "3.00 spreads above"),
        (-0.0123, 0.005, "0.012 spreads below"),
    ],
)
def test_a_finding_has_three_digits_at_most(value, reach, text):
    one = structs.replace(
        measure("forget_margin_distance"), value=value, null_low=-reach, null_high=reach, decides=True
    )
    (said,) = pages.verdict_of("FAIL", ["forget_margin_distance: +1"], {}, [one]).reasons
    assert f": {text} the mean" in said.replace("\u00a0", " ")


def test_an_audit_without_a_yardstick_tells_nothing_apart(audited):
    assert policy.rejects(audited.measures)
    assert any(row.rejected for row in audit_page(audited).measures)
    assert not any(row.rejected for row in audit_page(replace(audited, verdict="INVALID")).measures)


def test_a_reason_about_no_measure_is_left_as_it_is():
    reasons = ["the noise planted in 3 canaries is still there: a swap", "my_ulira tells nothing"]
    told = [*map(measure, ("canaries", "swap")), structs.replace(measure("ulira"), decides=True)]
    assert pages.verdict_of("FAIL", reasons, {}, told).reasons == [
        "The noise planted in 3 canaries is still there: a swap.",
        "My_ulira tells nothing.",
    ]
    arms = "control 'retrained': 0 of 8 oracles, each held against the others, fail; ulira tells held-out oracles"
    (said,) = pages.verdict_of("INVALID", [arms], {}, told).reasons
    assert said.endswith("fail; U-LiRA on the recipe tells held-out oracles.")


def test_what_was_not_tested_names_each_measure_that_is_not_there():
    done = [measure(name) for name in ("rmia", "klom")]
    (missing, *others) = pages.untested("T2", done)
    assert missing.removeprefix("Not run here: ").rstrip(".").split("; ") == [
        title for name, (title, *_) in pages.TITLES.items() if name not in ("rmia", "klom")
    ]
    assert not any("tier T2" in one for one in others)
    assert any("tier T2" in one for one in pages.untested("T1", done))
    assert "none was trained (tier T0)" in pages.untested("T0", [])[0]
    assert not any(
        one.startswith("Not run here") for one in pages.untested("T2", [measure(name) for name in pages.TITLES])
    )


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
    assert "cannot show that data were deleted" in found.limits[0]
    html = render(found)
    for text in (word, "Because.", pages.TITLES["forget_margin"][0], "A sentence.", "evidence about the attacks"):
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


# ---------------------------------------------------------------- whole audits


@pytest.fixture(scope="module")
def audited():
    before = planted.network(planted.trained(1, 0)[0])
    split = planted.split_of()
    done = excise.unlearn(before, split, excise.recipes.Finetune(epochs=2), fresh=planted.make)
    plan = excise.TrainPlan(epochs=6, lr=0.1, batch_size=32)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measuring, "LINES", [line for line in measuring.LINES if "relearning" not in line.names])
        yield excise.audit(done, split, fresh=planted.make, plan=plan, oracles=4, seed=1)


def test_every_part_of_an_audit_is_on_its_page(audited):
    page = audit_page(audited)
    assert page.title == "Did the network forget 16 rows?"
    assert "forget 16 of its 160 training rows. It was then held against 4 networks retrained" in page.lead
    assert [one.name for one in page.rocs] == ["rmia"]
    assert [one.name for one in page.classes] == ["forget", "test"]
    assert len(page.distributions) == 2
    assert sum(one.num_rows for one in page.strata.strata) == 16
    assert {one.name: one.value for one in page.measures} == {one.name: one.value for one in audited.measures}
    (section,) = page.sections
    assert section.sentence.startswith("All 387 weights were allowed to change.")
    assert [row.recipe for row in section.rows] == ["Original", "Finetune", "SameCostRetrain"]
    assert [row.recipe for row in page.costs.rows] == ["Finetune", "SameCostRetrain"]
    assert page.costs.num_rows == {"forget": 16, "retain": 144, "test": 100}
    steps = {one.what: one for one in page.costs.steps}
    assert steps["Unlearning"].training_passes == steps["Audit: same-cost retraining"].training_passes == 2 * 144 / 160
    assert steps["Audit: oracles"].training_passes == 4 * 6 * 144 / 160
    cost = f"This audit cost as much as {round(audited.audit_retrainings)} retrainings. "
    assert audited.verdict == "FAIL"
    assert page.costs.sentence == f"{cost}The recipe failed it, so there is nothing to reckon them against."
    passed = audit_page(replace(audited, verdict="PASS")).costs.sentence
    paid = f"They have paid off after {audited.requests_until_paid} requests answered by this recipe instead of by retraining."
    assert passed == f"{cost}{paid}"
    assert list(page.assumptions) == list(pages.ASSUMPTIONS)
    assert len(audited.notes) >= 2
    assert [one.removeprefix("Beside the verdict: ") for one in page.verdict.reasons[-len(audited.notes) :]] == [
        f"{note}." for note in audited.notes
    ]
    assert "<svg" in render(page)


def test_what_was_found_in_a_bank_is_said_not_to_be_counted(audited):
    spent = {**audited.spent, "oracles": Spent(0.1, 0, 0, 0)}
    assert "found in a bank" in audit_page(replace(audited, spent=spent)).costs.sentence


def test_what_the_search_for_settings_cost_is_said_to_be_counted(audited):
    spent = {**audited.spent, "search": Spent(trained_rows=20 * 6 * 144)}
    said = audit_page(replace(audited, spent=spent)).costs.sentence
    assert said.startswith("This audit and the search for settings cost as much as")
    assert f"{round(audited.audit_retrainings + 20)} retrainings" in said


def test_when_the_audit_has_paid_off_is_said_only_where_it_does(audited):
    cost = replace(audited.unlearned.cost, retraining_share=1.5)
    dear = replace(audited, verdict="PASS", unlearned=replace(audited.unlearned, cost=cost))
    assert audit_page(dear).costs.sentence.endswith("Unlearning cost no less than retraining, so they never pay off.")
    assert "pay" not in audit_page(replace(dear, verdict="FAIL")).costs.sentence
    unknown = [replace(one, trained_rows=None) for one in audited.oracles.trained]
    custom = replace(audited, verdict="PASS", oracles=replace(audited.oracles, trained=unknown))
    assert audit_page(custom).costs.sentence == (
        "Rows that a training function of your own reads are not counted, so neither is what the audit cost."
    )


def test_a_network_that_is_not_finite_has_no_exhibits(audited):
    broken = replace(audited.own, finite=False, seen=None, attack=math.nan)
    page = audit_page(replace(audited, own=broken, measures=[], verdict="FAIL", reasons=["broken"]))
    assert (page.rocs, page.sections, page.distributions, page.classes) == ([], [], [], [])
    assert (page.strata, page.costs) == (None, None)
    assert "Broken." in render(page)


def test_without_oracles_a_page_says_what_both_networks_get_right(audited):
    plan = structs.replace(audited.plan, tier="T0", num_oracles=0)
    page = audit_page(replace(audited, oracles=None, plan=plan, measures=[], twins=None))
    own, original = (
        {part: f"{100 * one.accuracy[part]:.1f} %" for part in ("forget", "retain", "test")}
        for one in (audited.own, audited.original)
    )
    assert "No network was retrained" in page.lead
    for part in own:
        assert f"{original[part]} and {own[part]} of the {part} rows" in page.lead
    assert list(page.assumptions) == []
    assert any(reason.startswith("Beside the verdict: a retraining") for reason in page.verdict.reasons)
    assert (page.sections, page.costs, page.measures) == ([], None, [])
    assert "tier T0" in render(page)


def test_one_row_and_one_network_are_in_the_singular(audited):
    plan = structs.replace(audited.plan, num_oracles=1, num_rows={**audited.plan.num_rows, "forget": 1})
    page = audit_page(replace(audited, plan=plan, measures=[]))
    assert page.title == "Did the network forget 1 row?"
    assert "held against 1 network retrained from scratch without it." in page.lead
