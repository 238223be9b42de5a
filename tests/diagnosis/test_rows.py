"""What the rows show, and that each is read as often as is said."""

from collections import Counter

import pytest
import torch
from torch.utils.data import Dataset

from excise import Split, errors
from excise.data.rows import Rows, as_source
from excise.diagnosis import rows as data
from excise.train.hooks import Hooks
from tests.probes import Watched


def inputs(num_rows, width=6):
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(num_rows))


def labels(num_rows):
    return torch.arange(num_rows) % 3


def taken(train, forget=(1, 4), test=None):
    split = Split(train, forget=list(forget), test=test)
    return data.census(split, 0, Hooks())


def test_every_row_is_read_once_and_a_few_retain_rows_again():
    train, test = Watched(inputs(700), labels(700)), Watched(inputs(50), labels(50))
    found = taken(train, range(30), test)
    read = Counter(train.read)
    assert Counter(test.read) == dict.fromkeys(range(50), 1)
    assert all(read[row] == 1 for row in range(30))
    assert sorted(Counter(read[row] for row in range(30, 700)).items()) == [(1, 170), (2, 500)]
    assert found.sizes == {"forget": 30, "retain": 670, "test": 50}
    assert found.near.num_met == {"retain": 670, "test": 50}


def test_tokens_are_read_once():
    train = Watched(torch.randint(9, (60, 4), generator=torch.Generator().manual_seed(0)), labels(60))
    assert taken(train).near is None
    assert Counter(train.read) == dict.fromkeys(range(60), 1)


def test_labels_that_were_heard_are_not_read_again():
    train = Watched(inputs(40), labels(40))
    found, before = taken(train), len(train.read)
    heard = data.Heard(as_source(train), found.labels["retain"] | found.labels["forget"])
    assert torch.equal(Rows(heard, torch.arange(40)).labels(), labels(40)) and len(train.read) == before
    assert len(heard) == 40 and torch.equal(heard.read(torch.tensor([3]))[0], train.inputs[3:4])
    unheard = data.Heard(as_source(train), {})
    assert unheard.labels(torch.tensor([5])).tolist() == [2]
    with pytest.raises(errors.BadData, match="one integer label a row"):
        data.Heard(as_source(train), {0: 0.5}).labels(torch.tensor([0]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_inputs_that_are_not_finite_are_found(value):
    broken, unseen = inputs(30), inputs(9)
    broken[[4, 20, 25], 2], unseen[8, 0] = value, value
    found = taken((broken, labels(30)), test=(unseen, labels(9)))
    (one,) = data.infinite(found)
    assert one.severity == "error"
    assert one.where == (
        "1 of 2 forget rows (position 1); 2 of 28 retain rows (positions 18, 23); 1 of 9 test rows (position 8)"
    )
    assert data.infinite(taken((inputs(30), labels(30)))) == []


def test_one_label_is_found():
    (one,) = data.one_label(taken((inputs(30), torch.full((30,), 2))))
    assert one.severity == "warning" and one.where == "30 training rows"
    assert data.one_label(taken((inputs(30), labels(30)))) == []
    only = torch.zeros(30, dtype=torch.int64)
    only[4] = 1
    assert data.one_label(taken((inputs(30), only))) == []


class Odd(Dataset):
    """Rows of a shape or a kind of the test's own."""

    def __init__(self, num_rows, give):
        self.num_rows, self.give = num_rows, give

    def __len__(self):
        return self.num_rows

    def __getitem__(self, row):
        return self.give(row)


def augmented(row):
    return torch.full((6,), float(row)) + torch.randn(6), row % 3


def plain(row):
    return torch.full((6,), float(row)).sin(), row % 3


def sometimes(row):
    return torch.full((6,), float(row)) + torch.randn(6) * (row == 3), row % 3


def test_data_that_differ_between_two_reads_are_found():
    split = Split(Odd(100, augmented), forget=[3], test=Odd(40, augmented))
    (one,) = data.read_twice(split, 0)
    assert one.severity == "warning"
    assert one.where == "64 training rows of a sample of 64, 40 test rows of a sample of 64"
    (one,) = data.read_twice(Split(Odd(30, sometimes), forget=[3], test=Odd(40, plain)), 0)
    assert one.where == "1 training row of a sample of 30" or one.where.startswith("1 training row")
    assert data.read_twice(Split(Odd(100, plain), forget=[3], test=Odd(40, plain)), 0) == []


def test_only_a_sample_is_read_twice_and_arrays_are_not():
    train = Watched(inputs(300), labels(300))
    assert data.read_twice(Split(train, forget=[3]), 0) == []
    assert sorted(Counter(train.read).values()) == [2] * 64
    assert data.read_twice(Split((inputs(30), labels(30)), forget=[3]), 0) == []


def lost(row):
    if row == 7:
        raise OSError(2, "No such file or directory", "img/7.png")
    return plain(row)


def ragged(row):
    return torch.zeros(3 + row % 2), 0


@pytest.mark.parametrize(("give", "words"), [(lost, "No such file"), (ragged, "stack expects each tensor")])
def test_a_row_that_cannot_be_read_is_told(give, words):
    with pytest.raises(errors.BadData, match=f"retain rows could not be read: .*{words}.*; correct the data set"):
        taken(Odd(40, give), [2])


@pytest.mark.parametrize(
    "give",
    [
        lambda row: {"tokens": torch.tensor([row, 1]), "label": row % 3},
        lambda row: (f"text {row}", row % 3),
        lambda row: (plain(row)[0], torch.tensor([row]), row % 3),
        lambda row: torch.tensor([row, 1]),
        lambda row: ({"a": [f"x{row}", "y"], "b": torch.zeros(2)}, "ham"),
    ],
    ids=["dict", "text", "two inputs", "no label", "nested"],
)
def test_rows_of_other_shapes_are_told_apart_by_their_inputs(give):
    assert taken(Odd(30, give), [2, 5]).copies == {"forget": {}, "retain": {}}
    twice = Odd(30, lambda row: give(row if row != 20 else 5))
    assert taken(twice, [2, 5]).copies["retain"].keys() == {1}


def test_the_stages_are_told():
    class Heard(Hooks):
        def __init__(self):
            self.told = []

        def on_stage(self, name, num_steps):
            self.told.append([name, num_steps])

        def on_step(self):
            self.told[-1][1] -= 1

    hooks = Heard()
    split = Split(Watched(inputs(700), labels(700)), forget=range(30), test=(inputs(9), labels(9)))
    data.census(split, 0, hooks)
    assert hooks.told == [["reading forget rows", 0], ["reading retain rows", 0], ["reading test rows", 0]]
