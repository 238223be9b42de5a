"""Twins: the softmax and its entropies by hand, and the attack by sklearn on the very subset that the generator draws."""

import decimal
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.svm import SVC

from excise import errors
from excise.measure import above_unseen, auc, confidence_attack, confidences, entropies, margins, modified_entropy


def draws(seed=0):
    return np.random.default_rng(seed)


def sure(generator, count):
    return generator.beta(20, 2, count)


def unsure(generator, count):
    return generator.beta(2, 4, count)


def test_confidences_are_the_softmax_of_the_target():
    generator = draws()
    logits, targets = generator.normal(0, 3, (40, 5)), generator.integers(5, size=40)
    wanted = [
        math.exp(row[target]) / sum(math.exp(value) for value in row)
        for row, target in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    np.testing.assert_allclose(confidences(logits, targets), wanted, rtol=1e-12)
    np.testing.assert_allclose(sum(confidences(logits, np.full(40, k)) for k in range(5)), 1.0, rtol=1e-12)


def test_confidences_of_extreme_logits_are_0_or_1():
    logits = np.array([[3e38, -3e38], [3e38, -3e38]], dtype=np.float32)
    assert confidences(logits, np.array([0, 1])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [([math.inf, 0.0], math.nan), ([math.nan, 0.0], math.nan), ([0.0, math.inf], 0), ([-math.inf, 0.0], 0)],
)
def test_what_the_logits_leave_undefined_is_not_a_number_and_no_warning(row, wanted):
    np.testing.assert_equal(confidences(np.array([row]), np.array([0])), [wanted])


def exact_softmax(row):
    with decimal.localcontext(decimal.Context(prec=90)):
        powers = [decimal.Decimal(value).exp() for value in row]
        return [power / sum(powers) for power in powers]


def song_and_mittal(row, target):
    """Mentr(F(x), y), equation 8, with 90 digits."""
    with decimal.localcontext(decimal.Context(prec=90)):
        p = exact_softmax(row)
        others = sum(p[k] * (1 - p[k]).ln() for k in range(len(p)) if k != target)
        return float(-(1 - p[target]) * p[target].ln() - others)


LOGITS = arrays.arrays(np.float64, (3, 4), elements=st.floats(-60, 60, width=32))


@settings(max_examples=40)
@given(LOGITS, arrays.arrays(np.int64, 3, elements=st.integers(0, 3)))
def test_entropies_are_their_definitions(logits, targets):
    with decimal.localcontext(decimal.Context(prec=90)):
        plain = [float(-sum(p * p.ln() for p in exact_softmax(row))) for row in logits.tolist()]
    modified = [song_and_mittal(row, target) for row, target in zip(logits.tolist(), targets.tolist(), strict=True)]
    np.testing.assert_allclose(entropies(logits), plain, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(modified_entropy(logits, targets), modified, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("num_classes", [2, 10])
def test_entropies_of_an_even_row_have_a_closed_form(num_classes):
    even = np.zeros((1, num_classes))
    assert entropies(even)[0] == pytest.approx(math.log(num_classes))
    rest = 1 - 1 / num_classes
    wanted = rest * math.log(num_classes) - rest * math.log(rest)
    assert modified_entropy(even, np.array([1]))[0] == pytest.approx(wanted)


def test_published_bug_of_modified_entropy_a_row_does_not_depend_on_its_neighbours():
    """`probs[:, labels]` takes every row's label for every row; the score of a row alone and in a batch must be one."""
    generator = draws(7)
    logits, targets = generator.normal(0, 2, (9, 5)), generator.integers(5, size=9)
    together = modified_entropy(logits, targets)
    alone = [modified_entropy(logits[[row]], targets[[row]])[0] for row in range(9)]
    np.testing.assert_allclose(together, alone, rtol=1e-14)
    order = generator.permutation(9)
    np.testing.assert_allclose(modified_entropy(logits[order], targets[order]), together[order], rtol=1e-14)


def test_published_bug_of_modified_entropy_the_wrong_classes_enter_by_one_minus_p():
    """With ln p in place of ln(1 - p) a confident mistake would cost no more than a vague one."""
    p = [0.1, 0.7, 0.2]
    wanted = -(0.9 * math.log(0.1)) - 0.7 * math.log(0.3) - 0.2 * math.log(0.8)
    by_mistake = -(0.9 * math.log(0.1)) - 0.7 * math.log(0.7) - 0.2 * math.log(0.2)
    found = modified_entropy(np.log([p]), np.array([0]))[0]
    assert found == pytest.approx(wanted)
    assert abs(found - by_mistake) > 0.3
    sure = [modified_entropy(np.array([[0.0, gap, 0.0]]), np.array([0]))[0] for gap in (0, 2, 5, 20, 200)]
    assert sure == sorted(sure)
    assert sure[-1] == pytest.approx(400, rel=1e-2)  # 200 for the target, 200 - ln 2 for the mistake


def test_entropies_of_members_are_smaller_and_the_modified_one_knows_the_label():
    right, wrong = np.array([[9.0, 0.0, 0.0]]), np.array([[0.0, 9.0, 0.0]])
    zero = np.array([0])
    assert entropies(right)[0] == pytest.approx(entropies(wrong)[0])
    assert modified_entropy(right, zero)[0] < 1e-5
    assert modified_entropy(wrong, zero)[0] > 9


@pytest.mark.parametrize("large", [1e4, 3e38])
def test_entropies_of_extreme_logits_are_0_or_as_large_as_the_logits(large):
    logits = np.array([[large, 0.0, 0.0], [0.0, large, 0.0]], dtype=np.float32)
    assert entropies(logits).tolist() == [0.0, 0.0]
    np.testing.assert_allclose(modified_entropy(logits, np.array([0, 0])), [0.0, 2 * large], rtol=1e-3)


@pytest.mark.parametrize(
    ("row", "wanted"), [([math.inf, 0.0], math.nan), ([math.nan, 0.0], math.nan), ([0.0, -math.inf], 0.0)]
)
def test_entropies_that_the_logits_leave_undefined_are_not_numbers_and_no_warning(row, wanted):
    np.testing.assert_equal(entropies(np.array([row])), [wanted])
    np.testing.assert_equal(modified_entropy(np.array([row]), np.array([0])), [wanted])


def test_published_bug_the_callers_logits_are_not_changed():
    logits, targets = draws(8).normal(0, 3, (6, 4)), np.array([0, 1, 2, 3, 0, 1])
    before = logits.copy()
    for score in (confidences, margins, modified_entropy, lambda values, _: entropies(values)):
        score(logits, targets)
        np.testing.assert_array_equal(logits, before)


def test_forget_rows_like_members_give_0_and_like_non_members_give_1():
    generator = draws(1)
    members, non_members = sure(generator, 400), unsure(generator, 300)
    like_members = confidence_attack(members, non_members, sure(generator, 200), draws())
    like_others = confidence_attack(members, non_members, unsure(generator, 200), draws())
    assert like_members < 0.1
    assert like_others > 0.9
    # the population attack's known trap: exchanged roles exchange the answer
    assert confidence_attack(non_members, members, sure(generator, 200), draws()) > 0.9


def by_hand(members, non_members, forget, generator):
    count = min(len(members), len(non_members))
    inside = [members[place] for place in generator.permutation(len(members))[:count]]
    outside = [non_members[place] for place in generator.permutation(len(non_members))[:count]]
    machine = SVC(C=3, gamma=1.0)  # one feature: gamma = 1 / 1
    machine.fit([[value] for value in inside + outside], [1] * count + [0] * count)
    decisions = machine.decision_function([[value] for value in forget])
    return sum(value <= 0 for value in decisions) / len(forget)


@pytest.mark.parametrize("sizes", [(90, 40), (40, 90), (30, 30), (1, 5)])
def test_the_attack_is_a_support_vector_machine_on_an_even_subset(sizes):
    generator = draws(2)
    members, non_members = sure(generator, sizes[0]), generator.beta(8, 3, sizes[1])
    forget = generator.uniform(0.3, 1.0, 60)
    found = confidence_attack(members, non_members, forget, draws(3))
    assert found == by_hand(members, non_members, forget, draws(3))
    assert 0 < found < 1


def test_the_classifier_starts_even_however_uneven_the_sets():
    """Were nothing drawn down, 1,000 members against 10 others would make it call everything a member."""
    generator = draws(4)
    same = [generator.uniform(size=count) for count in (1000, 10, 500)]
    found = [confidence_attack(*same, draws(seed)) for seed in range(30)]
    assert 0.3 < np.mean(found) < 0.7


def test_the_generator_decides_the_subset():
    generator = draws(5)
    parts = (generator.beta(8, 3, 200), generator.beta(7, 3, 60), generator.uniform(size=200))
    assert confidence_attack(*parts, draws(1)) == confidence_attack(*parts, draws(1))
    assert len({confidence_attack(*parts, draws(seed)) for seed in range(8)}) > 1


def test_sets_that_cannot_be_told_apart_give_a_number_all_the_same():
    ones = np.ones(20)
    assert 0 <= confidence_attack(ones, ones, ones, draws()) <= 1


def test_inputs_and_the_global_random_state_are_left_alone():
    generator = draws(6)
    parts = [sure(generator, 20), unsure(generator, 10), sure(generator, 5)]
    before = [part.copy() for part in parts]
    world = np.random.get_state()  # noqa: NPY002 - the global state is what is watched
    confidence_attack(*parts, draws())
    np.testing.assert_array_equal(np.random.get_state()[1], world[1])  # noqa: NPY002
    assert np.random.get_state()[2] == world[2]  # noqa: NPY002
    for part, was in zip(parts, before, strict=True):
        np.testing.assert_array_equal(part, was)


@pytest.mark.parametrize("name", ["members", "non_members", "forget"])
@pytest.mark.parametrize("broken", [[], [0.5, math.nan], [math.inf]])
def test_empty_arrays_and_values_that_are_not_finite_are_refused_by_name(name, broken):
    parts = {"members": np.ones(3), "non_members": np.zeros(3), "forget": np.ones(2), name: np.array(broken)}
    with pytest.raises(errors.BadRequest, match=rf"^{name}: expected finite confidences"):
        confidence_attack(**parts, generator=draws())


def test_a_score_as_the_unseen_have_it_on_average_is_a_half():
    unseen = draws().normal(2, 3, (9, 20))
    np.testing.assert_allclose(above_unseen(unseen.mean(axis=0), unseen), 0.5, atol=1e-12)
    scores = above_unseen(unseen[0], unseen[1:])
    assert auc(scores, scores) == 0.5


def test_it_is_the_normal_distribution_of_each_row_by_itself():
    unseen, own = draws().normal(2, 3, (9, 4)), draws(1).normal(2, 4, 4)
    for row, found in enumerate(above_unseen(own, unseen)):
        normal = statistics.NormalDist(*(part(unseen[:, row].tolist()) for part in (statistics.mean, statistics.stdev)))
        assert found == pytest.approx(normal.cdf(own[row]), rel=1e-12)


def test_scores_of_one_network_more_are_spread_evenly_and_those_of_a_member_are_not():
    """With many networks mu and sd are known, and Phi of a normal score is uniform."""
    unseen = draws().normal(0, 2, (400, 3000))
    even = above_unseen(draws(1).normal(0, 2, 3000), unseen)
    assert (
        np.abs(np.sort(even) - (np.arange(3000) + 0.5) / 3000).max() < 1.63 / math.sqrt(3000) + 0.01
    )  # Kolmogorov, 1%
    assert auc(above_unseen(draws(1).normal(2, 2, 3000), unseen), even) == pytest.approx(
        0.7602, abs=0.02
    )  # Phi(1/sqrt 2)


def test_where_all_agree_nothing_is_divided():
    unseen = np.ones((3, 3))
    assert above_unseen(np.array([0.0, 1.0, 2.0]), unseen).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("shape", [(1, 4), (3, 5), (4,)])
def test_other_tables_are_refused(shape):
    with pytest.raises(
        errors.BadRequest, match=r"^unseen: expected scores \[models, examples\] of at least 2 networks"
    ):
        above_unseen(np.zeros(4), np.zeros(shape))
