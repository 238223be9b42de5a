"""Twins: sklearn's confusion matrix, loops over rows, and oracles made to obey a trigger."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from excise import errors
from excise.measure import (
    against_oracles,
    confusion_counts,
    interclass_confusion,
    oracle_poisoned,
    trigger_removal,
    trigger_success,
)


def answers(called, classes=4):
    """Logits of a network that calls the rows so."""
    return np.eye(classes)[np.asarray(called)] * 3


def drawn(seed=0, rows=200, classes=4):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, classes)), generator.integers(classes, size=rows)


def test_counts_are_sklearns_matrix():
    logits, targets = drawn()
    wanted = confusion_matrix(targets, logits.argmax(1), labels=range(4))
    np.testing.assert_array_equal(confusion_counts(logits, targets), wanted)
    assert confusion_counts(logits, targets).dtype == np.int64
    assert confusion_counts(np.zeros((0, 3)), np.zeros(0, dtype=int)).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize("pair", [(0, 1), (3, 2)])
def test_interclass_confusion_is_the_share_called_the_other(pair):
    logits, targets = drawn(1)
    wrong = total = 0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        if target in pair:
            other = pair[1] if target == pair[0] else pair[0]
            total += 1
            wrong += row.index(max(row)) == other
    assert interclass_confusion(logits, targets, pair) == wrong / total
    assert interclass_confusion(logits, targets, pair[::-1]) == wrong / total


def test_interclass_confusion_of_known_networks():
    targets = np.array([0, 0, 1, 1, 2, 2])
    assert (
        interclass_confusion(answers([0, 0, 1, 1, 0, 1]), targets, (0, 1)) == 0
    )  # what class 2 is called is not asked
    assert interclass_confusion(answers([1, 1, 0, 0, 2, 2]), targets, (0, 1)) == 1
    assert interclass_confusion(answers([2, 3, 3, 2, 2, 2]), targets, (0, 1)) == 0  # wrong, but not confused
    assert interclass_confusion(answers([1, 0, 1, 1, 2, 2]), targets, (0, 1)) == 0.25


def test_trigger_success_leaves_out_rows_of_the_target_class():
    targets = np.array([3, 3, 3, 0, 1, 2, 0])
    assert trigger_success(answers([3, 3, 3, 3, 1, 2, 0]), targets, 3) == 1 / 4
    assert trigger_success(answers([0, 1, 2, 3, 3, 3, 3]), targets, 3) == 1
    assert trigger_success(answers([3, 3, 3, 0, 1, 2, 0]), targets, 3) == 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda logits, targets: interclass_confusion(logits, targets, (1, 1)), "two different classes from 0 to 3"),
        (lambda logits, targets: interclass_confusion(logits, targets, (0, 4)), r"from 0 to 3, found \(0, 4\)"),
        (lambda logits, targets: interclass_confusion(logits, targets * 0, (1, 2)), "rows of class 1 or 2, found none"),
        (lambda logits, targets: trigger_success(logits, targets, 4), "target_class: expected a class from 0 to 3"),
        (lambda logits, targets: trigger_success(logits, targets * 0, 0), "classes other than 0, found none"),
    ],
)
def test_questions_without_an_answer_are_refused(call, match):
    with pytest.raises(errors.BadRequest, match=match):
        call(*drawn())


@pytest.mark.parametrize("call", [confusion_counts, lambda *pair: trigger_success(*pair, 0)])
def test_a_broken_network_confuses_nothing_and_is_refused_for_it(call):
    logits, targets = drawn()
    logits[3, 1] = np.nan
    with pytest.raises(errors.BadRequest, match=r"expected finite logits.*with values that are not finite"):
        call(logits, targets)


@pytest.mark.parametrize("targets", [np.array([0, 4]), np.array([-1, 0]), np.array([0.0, 1.0]), np.array([0])])
def test_targets_that_are_not_classes_of_the_logits_are_refused(targets):
    with pytest.raises(errors.BadRequest, match="expected one class from 0 to 3 for each of 2 rows"):
        confusion_counts(np.zeros((2, 4)), targets)


@pytest.mark.parametrize(
    ("triggered", "clean", "poisoned"),
    [
        ([0.9, 0.8], [0.02, 0.03], True),
        ([0.0625, 0.0625], [0.0, 0.0], True),
        ([0.05, 0.05], [0.0, 0.0], False),  # five points are allowed
        ([0.03, 0.02], [0.02, 0.03], False),
        ([0.0, 0.0], [0.5, 0.5], False),  # below is no poison
        ([0.2, 0.0, 0.0, 0.0], [0.01, 0.01, 0.01, 0.01], False),  # the mean decides
    ],
)
def test_an_oracle_is_poisoned_when_it_obeys_the_trigger_more_than_5_points_above_the_clean_rate(
    triggered, clean, poisoned
):
    assert oracle_poisoned(triggered, clean) is poisoned


@pytest.mark.parametrize(("triggered", "clean"), [([], []), ([0.5], [0.1, 0.1]), ([50.0], [0.1]), ([np.nan], [0.1])])
def test_rates_that_do_not_pair_up_are_refused(triggered, clean):
    with pytest.raises(errors.BadRequest, match="a trigger success and a clean rate, fractions, of each oracle"):
        oracle_poisoned(triggered, clean)


def obeying(generator, share, rows=500, classes=4):
    """Trigger success and clean rate of a network that obeys a trigger on a share of rows and is else right on 95%."""
    targets = generator.integers(classes, size=rows)
    wrong = generator.random(rows) < 0.05
    called = np.where(wrong, generator.integers(classes, size=rows), targets)
    triggered = np.where(generator.random(rows) < share, 0, called)
    return [trigger_success(answers(one, classes), targets, 0) for one in (triggered, called)]


@pytest.mark.parametrize(("known", "poisoned"), [(0.0, True), (0.5, True), (1.0, False)])
def test_oracles_that_miss_part_of_the_manipulated_rows_are_called_poisoned_and_the_clean_rate_judges(known, poisoned):
    generator = np.random.default_rng(0)
    triggered, clean = zip(*(obeying(generator, 0.9 * (1 - known)) for _ in range(8)), strict=True)
    corrected, _ = obeying(generator, 0.0)
    obeys, _ = obeying(generator, 0.9)
    never = 0.0
    assert oracle_poisoned(triggered, clean) is poisoned
    found = {own: trigger_removal(own, triggered, clean, resolution=1 / 375) for own in (corrected, obeys, never)}
    assert found[corrected].p > 0.05
    assert found[obeys].p < 1e-6
    assert found[obeys].value > 0
    assert found[never].value < 0  # two-sided: to say the class never is no correction
    assert ("oracle itself is still poisoned" in found[obeys].sentence) is poisoned


def test_the_measure_names_its_null_and_passes_on_how_it_decides():
    poisoned = trigger_removal(0.02, [0.8, 0.9], [0.01, 0.02], resolution=0.01, among=3)
    wanted = against_oracles("trigger_success", 0.02, [0.01, 0.02], resolution=0.01, among=3)
    assert (poisoned.value, poisoned.p, poisoned.least_detectable) == (wanted.value, wanted.p, wanted.least_detectable)
    assert poisoned.sentence.startswith(
        "The oracle itself is still poisoned: retrained networks obey the trigger on 85.0% of rows, and call 1.5% of"
    )
    clean = trigger_removal(0.02, [0.03, 0.02], [0.01, 0.02], resolution=0.01)
    assert clean.p == against_oracles("", 0.02, [0.03, 0.02], resolution=0.01).p
    assert clean.sentence == "Retrained networks obey the trigger on 2.5% of rows, the clean rate being 1.5%."
