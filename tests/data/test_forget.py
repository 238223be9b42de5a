import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise import errors, seeds
from excise.data import Rule, Split, mislabelled, of_class, of_group, random_fraction, within_classes
from excise.data.rows import Rows, as_source

labels = st.lists(st.integers(0, 4), min_size=2, max_size=30)


@st.composite
def training_rows(draw):
    """Some rows of a labelled data set, not all: ids are not positions."""
    known = draw(labels)
    ids = draw(st.lists(st.sampled_from(range(len(known))), unique=True, min_size=1))
    return known, Rows(as_source((torch.zeros(len(known), 1), torch.tensor(known))), torch.tensor(sorted(ids)))


def chosen(rule, rows):
    found = rule.ids(rows)
    assert isinstance(rule, Rule) and found.dtype == torch.int64
    assert rule.ids(rows).tolist() == found.tolist()
    assert sorted(set(found.tolist())) == found.tolist() and set(found.tolist()) <= set(rows.ids.tolist())
    return found.tolist()


@given(training_rows(), st.integers(-1, 5))
def test_a_class_is_the_rows_with_its_label(pair, label):
    known, rows = pair
    assert chosen(of_class(label), rows) == [i for i in rows.ids.tolist() if known[i] == label]


@given(training_rows(), st.randoms(use_true_random=False), st.sampled_from([list, np.array, torch.tensor]))
def test_mislabelled_rows_are_those_whose_labels_differ(pair, rng, kind):
    known, rows = pair
    truth = [label if rng.random() < 0.6 else rng.randrange(5) for label in known]
    wanted = [i for i in rows.ids.tolist() if known[i] != truth[i]]
    assert chosen(mislabelled(kind(truth)), rows) == wanted


@given(training_rows(), st.sets(st.sampled_from("abcd"), max_size=3), st.randoms(use_true_random=False))
def test_a_group_is_the_rows_with_one_of_its_values(pair, values, rng):
    known, rows = pair
    column = [rng.choice("abcd") for _ in known]
    wanted = [i for i in rows.ids.tolist() if column[i] in values]
    for way in (column, tuple(column), np.array(column)):
        assert chosen(of_group(way, sorted(values)), rows) == wanted
    codes = ["abcd".index(entry) for entry in column]
    for way in (np.array(codes), torch.tensor(codes)):
        numbers = np.array(["abcd".index(value) for value in sorted(values)], dtype=np.int64)
        assert chosen(of_group(way, numbers), rows) == wanted
        assert chosen(of_group(way, torch.from_numpy(numbers)), rows) == wanted


@given(training_rows(), st.floats(0, 1), st.integers(0, 99))
def test_a_random_fraction_has_the_nearest_number_of_rows(pair, fraction, seed):
    _, rows = pair
    found = chosen(random_fraction(fraction, seed=seed), rows)
    assert abs(len(found) - fraction * len(rows)) <= 0.5 or (len(found) == 1 and 0 < fraction * len(rows) < 0.5)
    assert bool(found) == (fraction > 0)


@given(training_rows(), st.sets(st.integers(0, 4), min_size=1), st.floats(0, 1), st.integers(0, 99))
def test_a_share_within_classes_is_of_all_rows_but_from_those_classes(pair, classes, fraction, seed):
    known, rows = pair
    pool = [i for i in rows.ids.tolist() if known[i] in classes]
    count = max(1, round(fraction * len(rows))) if fraction else 0
    rule = within_classes(sorted(classes), fraction=fraction, seed=seed)
    if count <= len(pool):
        found = chosen(rule, rows)
        assert set(found) <= set(pool) and len(found) == count
        if count == len(pool):
            assert found == pool
        return
    with pytest.raises(errors.BadSplit) as caught:
        rule.ids(rows)
    assert f"of {len(rows)} rows is {count}, but classes {sorted(classes)} have {len(pool)} rows" in str(caught.value)


def many(num_rows=400, num_classes=4):
    return Rows.all_of((torch.zeros(num_rows, 1), torch.arange(num_rows) % num_classes))


@pytest.mark.parametrize(
    "make",
    [lambda seed: random_fraction(0.1, seed=seed), lambda seed: within_classes([1, 2], fraction=0.1, seed=seed)],
    ids=["random_fraction", "within_classes"],
)
def test_draws_depend_on_the_seed_alone(make):
    rows, before = many(), torch.get_rng_state()
    sets = [tuple(make(seed).ids(rows).tolist()) for seed in range(20)]
    assert len(set(sets)) == 20
    with seeds.isolated(1):
        again = [tuple(make(seed).ids(rows).tolist()) for seed in range(20)]
    assert again == sets
    assert torch.equal(torch.get_rng_state(), before)


def test_every_row_is_as_likely_as_any_other():
    rows = many(20)
    counts = np.zeros(20)
    for seed in range(2000):
        counts[random_fraction(0.25, seed=seed).ids(rows).numpy()] += 1
    # 20 counts with mean 500 and standard deviation 19.4: five of them off by chance in 1e-5
    assert counts.sum() == 10_000 and np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_a_draw_is_the_head_of_a_seeded_permutation():
    rows = many(10, 2)
    order = torch.randperm(10, generator=seeds.generator(3, "random_fraction"))
    assert random_fraction(0.4, seed=3).ids(rows).tolist() == sorted(order[:4].tolist())
    order = torch.randperm(5, generator=seeds.generator(3, "within_classes"))
    assert within_classes([1], fraction=0.3, seed=3).ids(rows).tolist() == sorted(int(2 * i + 1) for i in order[:3])


def test_the_seed_is_0_if_none_is_given():
    rows = many()
    assert random_fraction(0.1).ids(rows).tolist() == random_fraction(0.1, seed=0).ids(rows).tolist()
    one, other = within_classes([1], fraction=0.1), within_classes([1], fraction=0.1, seed=0)
    assert one == other and one.ids(rows).tolist() == other.ids(rows).tolist()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), "0.1", None, True])
def test_a_share_that_is_none_is_refused_at_once(fraction):
    for make in (random_fraction, lambda share: within_classes([1], fraction=share)):
        with pytest.raises(errors.BadRequest, match=r"^fraction: expected a fraction between 0 and 1, found"):
            make(fraction)


@pytest.mark.parametrize("none", [[], (), np.array([], dtype=np.int64), torch.tensor([], dtype=torch.int64)])
def test_no_classes_are_refused_at_once(none):
    with pytest.raises(errors.BadRequest, match="within_classes: expected at least one class, as integers, found none"):
        within_classes(none, fraction=0.1)


@pytest.mark.parametrize("wrong", [[1.5], ["cat"], [None, 1], torch.tensor([1.0]), [[1]]], ids=str)
def test_classes_are_integers(wrong):
    with pytest.raises(errors.BadRequest, match=r"within_classes: expected at least one class, as integers, found \["):
        within_classes(wrong, fraction=0.1)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_classes_may_come_as_an_array(kind):
    assert within_classes([np.int64(1), torch.tensor(2)], fraction=0.1) == within_classes([1, 2], fraction=0.1)
    assert within_classes(kind([1, 2]), fraction=0.1) == within_classes([1, 2], fraction=0.1)


@pytest.mark.parametrize("num_values", [5, 7])
def test_a_column_of_another_length_is_refused(num_values):
    rows = many(6)
    rules = {"of_group": of_group(["a"] * num_values, ["a"]), "mislabelled": mislabelled([9] * num_values)}
    for name, rule in rules.items():
        with pytest.raises(
            errors.BadSplit, match=rf"^{name}: expected one value for each of the 6 rows .* found {num_values}$"
        ):
            rule.ids(rows)


def test_a_column_is_of_the_data_and_not_of_the_rows_trained_on():
    data = (torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64))
    split = Split(data, forget=of_group(list("abaaba"), ["b"]), test=[1, 2])
    assert split.forget.ids.tolist() == [4]
    with pytest.raises(
        errors.BadSplit, match="of_group: expected one value for each of the 6 rows of the data, found 4"
    ):
        Split(data, forget=of_group(list("abaa"), ["b"]), test=[1, 2])


@pytest.mark.parametrize(
    "truth", [[0.5, 1.0], torch.zeros(6), np.zeros((6, 1), dtype=int), torch.zeros(6, dtype=torch.bool)], ids=str
)
def test_true_labels_are_integers_one_a_row(truth):
    with pytest.raises(errors.BadData, match="expected one integer label a row, found"):
        mislabelled(truth)
    with pytest.raises(errors.BadData, match=r"expected arrays of numbers, found list \("):
        mislabelled(["cat", "dog"])


def test_a_word_is_not_a_list_of_its_letters():
    with pytest.raises(
        errors.BadRequest, match="of_group: expected a list of values, found a single str; put it in a list"
    ):
        of_group(["a", "ab", "b"], "ab")
    assert chosen(of_group(["a", "ab", "b"], ["ab"]), many(3)) == [1]


@pytest.mark.parametrize("column", [np.zeros((6, 1)), torch.zeros(6, 1), [[1], [2]]], ids=str)
def test_a_column_has_one_plain_value_a_row(column):
    with pytest.raises(errors.BadRequest, match="of_group: expected one plain value a row"):
        of_group(column, [0])


def test_rules_do_not_change_with_what_they_were_made_from():
    truth, column, classes = torch.zeros(6, dtype=torch.int64), np.zeros(6, dtype=np.int64), [1]
    rows = Rows.all_of((torch.zeros(6, 1), torch.arange(6) % 2))
    rules = mislabelled(truth), of_group(column, [1]), within_classes(classes, fraction=0.3)
    before = [rule.ids(rows).tolist() for rule in rules]
    truth += 1
    column += 1
    classes[0] = 0
    assert [rule.ids(rows).tolist() for rule in rules] == before


def test_a_rule_reads_no_inputs():
    class Blind:
        """Has labels in a list; its rows may be looked at three times, to see that the list is right."""

        targets = tuple(random.Random(0).choices(range(3), k=50))

        def __init__(self):
            self.read = 0

        def __len__(self):
            return 50

        def __getitem__(self, index):
            self.read += 1
            return torch.zeros(1), self.targets[index]

    for rule in (of_class(1), within_classes([1], fraction=0.1), mislabelled([0] * 50)):
        data = Blind()
        rule.ids(Rows.all_of(data))
        assert data.read == 3
    for rule in (random_fraction(0.1), of_group(range(50), [3])):
        data = Blind()
        rule.ids(Rows.all_of(data))
        assert data.read == 0
