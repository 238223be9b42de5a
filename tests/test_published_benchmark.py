"""The page of the published systems: its words follow from its numbers, and its cells are what they say they are."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.published import arms, claims, numbers, plots, running
from benchmarks.published import page as pages
from benchmarks.published.numbers import Counts, Interval, against, told
from benchmarks.published.problems import SIZES, Problem, kind_of
from benchmarks.published.scenes import scene
from excise.cluster import Here

SETS = ("class", "random", "component-1")
FLOOR = {
    "ulira": 0.5,
    **{f"{kind}_{part}": 0.2 for kind in ("klom", "klom95") for part in ("forget", "retain", "test")},
}


def arm(distance, *, gap=0.0, removed=0.0, klom=1.0, aus=0.9, share=0.2):
    """Give what was found of an arm at three seeds that hardly differ."""
    row = {
        "failed": 0,
        "accuracy": {"forget": 0.5, "retain": 0.9, "test": 0.8, "removed": removed, "others": 0.9},
        "gap": {"forget": gap, "retain": gap, "test": gap},
        "aus": [aus, 0.01],
        "ulira": 0.6,
        **{f"{kind}_{part}": klom for kind in ("klom", "klom95") for part in ("forget", "retain", "test")},
        "distance": distance,
        "trained_share": share,
        "forward_share": 0.1,
        "seconds": 0.25,
        "mask_fraction": 1.0,
    }
    return [{**row, "distance": distance * jitter, "klom95_forget": klom * jitter} for jitter in (1.0, 1.01, 0.99)]


def place(name, distances):
    """Give a forget set with all arms at a distance, masked ones by their own names."""
    accuracy = {
        "forget": 0.5,
        "retain": 0.9,
        "test": 0.8,
        **({"removed": 0.0, "others": 0.9} if name == "class" else {}),
    }
    row = {
        "num_forget": 10,
        "num_retain": 90,
        "num_test": 50,
        "num_models": 4,
        "oracles": accuracy,
        "originals": accuracy,
        "floor": {**FLOOR, "distance": 1.0},
        "aus": [0.95, 0.01],
        "retraining_seconds": 1.0,
    }
    every = dict.fromkeys(arms.EVERY, 3.0)
    masked = {f"{one}/{mask}": 3.0 for one in arms.MASKED for mask in arms.MASKS}
    return {"scene": [row] * 3, "arms": {one: arm(value) for one, value in {**every, **masked, **distances}.items()}}


def found(**distances):
    """Give what a run found in which all arms lie at distance 3 but those named."""
    told_of = {name.replace("__", "/"): value for name, value in distances.items()}
    return {
        "environment": {"torch": "9"},
        "size": "usual",
        "sizes": {"digits": {"num_train": 100, "num_other": 100}},
        "networks": {"digits": "A perceptron."},
        "seeds": [0, 1, 2],
        "absent": {"fashion-mnist": "not here."},
        "workers": 2,
        "seconds": 60.0,
        "cells": 10,
        "cells_found": 0,
        "prepared": {"digits": [{"num_halves": 8, "seconds": 1.0, "retrainings": 4.0}]},
        "problems": {"digits": {name: place(name, told_of) for name in SETS}},
    }


CHOSEN = {
    "seed": 100,
    "num_models": 4,
    "trials": 6,
    "chosen": {
        "digits": {
            kind: {name: {"place": 0, "trials": [{"settings": {"lr": 0.1}}]} for name in arms.EVERY}
            for kind in {kind_of(name) for name in SETS}
        }
    },
}


def test_an_interval_is_that_of_students_t():
    values = [1.0, 2.0, 4.0]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    ours = Interval.of(values)
    assert (ours.mean - ours.reach, ours.mean + ours.reach) == pytest.approx((low, high))
    assert Interval.of([2.0, 2.1, 2.2]).sign == 1 and Interval.of([-2.0, -2.1, -2.2]).sign == -1
    assert Interval.of([-1.0, 1.0, 0.1]).sign == 0 and Interval.of([5.0]).sign == 0
    assert str(Interval.of([1.0, math.nan])) == "-"


@pytest.mark.parametrize(
    ("mean", "reach", "text"),
    [
        (12.3456, 0.5, "12.3 ± 0.5"),
        (12.3456, 0.123, "12.35 ± 0.12"),
        (12.3456, 40, "12 ± 40"),
        (-0.04, 0.3, "0.0 ± 0.3"),
        (0.0, 0.0, "0 ± 0"),
        (0.97, 0.0, "1.0 ± 0.0"),
    ],
)
def test_a_number_has_no_more_digits_than_its_interval_supports(mean, reach, text):
    assert told(mean, reach) == text


def test_distances_are_compared_by_ratio_and_seed_by_seed():
    apart = [1.0, 10.0, 100.0]
    assert against([1.1 * one for one in apart], apart) == 1
    assert against(apart, [1.1 * one for one in apart]) == -1
    assert against(apart, apart[::-1]) == 0 and against(None, apart) == 0
    assert Counts(1, 2, 3) + Counts(1, 1, 1) == Counts(2, 3, 4) and Counts(1, 2, 3).cases == 6


def test_who_loses_to_retraining_is_said_to():
    page = pages.render(found(DUCK=9.0, DMM=1.0, Nothing=2.0), CHOSEN)
    short = page.partition("## In short")[2].partition("## What")[0]
    row = {line.split(" | ")[0][2:]: line for line in short.split("\n") if " of 3 |" in line}
    assert "0 of 3 | 3 of 3" in row["DUCK"] and row["DUCK"].endswith("| loses to retraining, worse than nothing |")
    assert row["DMM"].count("3 of 3") == 3 and row["DMM"].endswith("|  |")
    assert row["PGU"].endswith("| worse than nothing |")  # even with retraining, further than nothing
    assert "Losing to a retraining of DEL's cost in more cases than not: DUCK.\n" in page
    assert "Nearer than both retraining and nothing most often: DMM, in 3 of the cases.\n" in page
    assert "None is nearer than both" in pages.render(found(), CHOSEN)
    assert "Fashion-MNIST is left out: not here." in page and "A trial at sizes" not in page
    assert "**A trial at sizes that say nothing" in pages.render({**found(), "size": "tiny"}, CHOSEN)


def test_an_arm_that_fails_at_a_seed_loses_and_says_why():
    own = found()
    for sets in own["problems"]["digits"].values():
        sets["arms"]["JiT"][1] = {"failed": 4, "why": "Diverged: gone", "distance": numbers.FAILED_DISTANCE}
    page = pages.render(own, CHOSEN)
    assert "JiT failed: Diverged: gone" in page
    assert "| JiT | 0 of 3 | 3 of 3 | 0 of 3 | 3 of 3 | 0 of 3 | loses to retraining, worse than nothing |" in page


@pytest.mark.parametrize(
    ("under_del", "at_random", "words"),
    [
        (1.0, 3.0, "a mask helps more often than it hurts, and DEL's choice of channels is better than chance"),
        (1.0, 1.0, "a mask helps more often than it hurts, and DEL's choice of channels is no better than chance"),
        (9.0, 20.0, "hurts more often than it helps, and DEL's choice of channels is better than chance"),
        (9.0, 3.0, "hurts more often than it helps, and DEL's choice of channels is worse than chance"),
        (3.0, 3.0, "neither help nor harm, and DEL's choice of channels is no better than chance"),
    ],
)
def test_whether_localization_helps_is_said_by_the_numbers(under_del, at_random, words):
    masks = {f"{one}__del": under_del for one in arms.MASKED}
    masks |= {f"{one}__random": at_random for one in arms.MASKED}
    assert words in " ".join(pages.localization_words(found(**masks)))


def verdict(own, system, start):
    return next(one for one in claims.verdicts(own) if one.system == system and one.claim.startswith(start))


def test_a_claim_appears_or_does_not_by_the_numbers():
    own = found()
    assert verdict(own, "DMM", "nearer").appears == "does not appear"
    assert verdict(own, "JiT", "a class").appears == "appears"  # nothing left, nothing lost
    for sets in own["problems"]["digits"].values():
        sets["arms"]["DMM"] = arm(3.0, klom=0.1)
        sets["arms"]["DUCK"] = arm(3.0, removed=0.5, aus=0.99, share=0.1)
        sets["arms"]["OracleMatching"] = arm(3.0, klom=0.1)
        sets["arms"]["PGU"] = arm(1.0)
    assert verdict(own, "DMM", "nearer").appears == "appears"
    assert verdict(own, "DMM", "matching").appears == "appears"
    assert verdict(own, "DUCK", "a removed").appears == "does not appear"
    assert verdict(own, "DUCK", "far cheaper").appears == "appears"
    assert verdict(own, "PGU", "close").appears == "appears"
    assert verdict(own, "DMM", "the lead").appears == "does not appear"  # no larger there than on random rows
    own["problems"]["digits"]["component-1"]["arms"]["SCRUB"] = arm(3.0, klom=9.0)
    for name in ("NegGradPlus", "Finetune"):
        own["problems"]["digits"]["component-1"]["arms"][name] = arm(3.0, klom=9.0)
    assert verdict(own, "DMM", "the lead").appears == "appears"
    assert {one.appears for one in claims.verdicts({**own, "problems": {}})} == {"not run"}


def test_the_page_names_the_claims_that_do_not_appear():
    page = " ".join(pages.render(found(), CHOSEN).split())
    every = [one.appears for one in claims.verdicts(found())]
    assert f"Of {len(every)} claims {every.count('appears')} appear here, {every.count('in part')} in part" in page
    assert "What does not: DMM, nearer to oracles on the forget rows" in page


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    width = 0
    for line in pages.render(found(), CHOSEN).split("\n"):
        cells = line.count("|") if line.startswith("|") else 0
        assert not (cells and width) or cells == width, line
        width = cells


def test_the_figure_has_a_mark_for_each_method_mask_and_set():
    drawn = plots.pictures(found(), arms.MASKED)
    assert list(drawn) == ["published-masks-digits.svg"]
    root = ElementTree.fromstring(drawn["published-masks-digits.svg"])
    marks = [one for one in root.iter("{http://www.w3.org/2000/svg}circle") if len(one)]
    assert len(marks) == len(SETS) * len(arms.MASKED) * 3


def test_every_recipe_is_tried_equally_often():
    for size, problems in SIZES.items():
        for name in problems:
            problem = Problem(name=name, size=size, seed=0, out="nowhere")
            counts = {one: len(arms.candidates(one, problem)) for one in arms.EVERY}
            assert counts.pop("Nothing") == 1 and set(counts.values()) == {arms.TRIALS}


def test_cells_are_measured_once_against_oracles(tmp_path):
    torch.set_num_threads(1)
    run = running.Run("tiny", ["digits"], tmp_path, "cpu", Here())
    problem = run.problem("digits", 0)
    at = {"problem": "digits", "seed": 0, "set": "class", "settings": {}, "count": 4}
    cells = [{**at, "recipe": "Nothing", "mask": "none"}]
    for name, mask in (("DMM", "random"), ("DUCK", "none")):
        cells.append({**at, "recipe": name, "settings": arms.candidates(name, problem)[0], "mask": mask})
    idle, matched, pulled = run.fill("recipes", arms.arm_cell, cells)
    own = scene(problem, "class")
    for part in ("forget", "removed", "others"):
        gap = own.before.accuracy[part].mean() - own.oracles.accuracy[part].mean()
        assert idle["gap"][part] == pytest.approx(gap)
    assert idle["trained_share"] == idle["forward_share"] == 0 and idle["failed"] == 0
    assert 0.1 < matched["mask_fraction"] < 0.5 and matched["forward_share"] > 0 < matched["trained_share"]
    assert pulled["distance"] == pytest.approx(
        np.mean([pulled[f"distance_{part}"] for part in ("forget", "retain", "test")])
    )
    before = run.found
    assert run.fill("recipes", arms.arm_cell, cells) == [idle, matched, pulled] and run.found == before + 3
