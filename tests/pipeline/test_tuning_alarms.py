"""Alarms on margins that are made up: each speaks where it should, and is silent beside that."""

from dataclasses import replace

import numpy as np
import pytest

from excise.measure import twin_distance
from excise.pipeline.tuning_alarms import LEAST_ALIKE, LEAST_MOVED, MOST_BELOW, alarms_after, alarms_before
from excise.pipeline.tuning_yardstick import Look, make_yardstick
from tests.pipeline.test_tuning_yardstick import engine
from tests.pipeline.tuning_problem import WRONG, trained, wrong_labels

NUM = len(WRONG)


@pytest.fixture(scope="module")
def real():
    split = wrong_labels()
    return make_yardstick(trained(), split, split.holdout, engine(), None)


def yardstick(real, forget, twins, **changes):
    look = Look(forget=forget, twins=twins, retain=np.zeros(3), accuracy=0.9)
    return replace(real, original=look, places=np.arange(len(twins)), **changes)


def names(alarms):
    return [alarm.name for alarm in alarms]


def normal(seed, shift=0.0, num=NUM):
    return np.random.default_rng(seed).standard_normal(num) + shift


def test_wrong_labels_that_were_learnt_by_heart_raise_none(real):
    assert alarms_before(real) == []


def test_rows_that_left_no_trace(real):
    [alarm] = alarms_before(yardstick(real, normal(0), normal(1), agreement=1.0))
    assert alarm.name == "never-memorised" and alarm.p > 0.05
    assert "there is nothing to tune for, take the cheapest recipe" in alarm.sentence
    assert alarms_before(yardstick(real, normal(0, 5.0), normal(1), agreement=1.0)) == []


def test_rows_of_which_the_near_are_not_alike(real):
    far = yardstick(real, normal(0, 5.0), normal(1), agreement=LEAST_ALIKE - 0.01)
    [alarm] = alarms_before(far)
    assert alarm.name == "poor-twins" and alarm.effect == far.agreement and "pass features=" in alarm.sentence
    assert alarms_before(replace(far, agreement=LEAST_ALIKE)) == []


def test_a_label_that_goes_whole(real):
    [alarm] = alarms_before(yardstick(real, normal(0, 5.0), normal(1), removed_labels=(1, 2)))
    assert alarm.name == "removed-labels" and "no retained row has label 1, 2" in alarm.sentence and alarm.effect == 2


def test_forgetting_too_hard(real):
    before = yardstick(real, normal(0, 5.0), normal(1))
    twins = normal(2)
    [alarm] = alarms_after(before, {"forget": twins - 1.0, "twins": twins})
    assert alarm.name == "over-forgotten" and alarm.p < 0.05 and alarm.effect == 1.0 > MOST_BELOW
    assert alarms_after(before, {"forget": twins + 1.0, "twins": twins}) == []
    assert alarms_after(before, {"forget": normal(3), "twins": twins}) == []


def test_a_difference_that_a_test_sees_and_nobody_else_raises_none(real):
    num = 4000
    before = yardstick(real, normal(0, 5.0, num), normal(1, 0.0, num))
    twins = normal(2, 0.0, num)
    near = {"forget": twins + normal(3, -0.1, num), "twins": twins}
    assert names(alarms_after(before, near)) == []
    assert names(alarms_after(before, {**near, "forget": twins + normal(3, -0.6, num)})) == ["over-forgotten"]


def test_next_to_nothing_was_done(real):
    twins = normal(1)
    before = yardstick(real, twins + 4.0, twins)  # a gap of 4
    still = {"forget": twins + 4.0 - 4 * (LEAST_MOVED - 0.01), "twins": twins}
    [alarm] = alarms_after(before, still)
    assert alarm.name == "nothing-happened" and alarm.effect == pytest.approx(LEAST_MOVED - 0.01)
    assert alarms_after(before, {**still, "forget": twins + 4.0 - 4 * (LEAST_MOVED + 0.01)}) == []


def test_forgetting_that_comes_no_closer(real):
    twins = normal(1)
    before = yardstick(real, twins + 4 * twins.std(ddof=1), twins)  # 4 away
    own = {"forget": 9 - twins, "twins": twins}
    found = alarms_after(before, own)
    assert names(found) == ["no-closer"]
    assert found[0].effect == pytest.approx(twin_distance(9 - twins, twins) - 4)
    assert names(alarms_after(before, {**own, "forget": twins + 3.9 * twins.std(ddof=1)})) == ["nothing-happened"]


def test_several_twins_of_a_row_are_several_pairs(real):
    before = yardstick(real, np.array([5.0]), normal(1, 0.0, 16))
    assert names(alarms_after(before, {"forget": np.array([-1.5]), "twins": normal(1, 0.0, 16)})) == ["over-forgotten"]
