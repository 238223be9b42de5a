"""What the request shows: its size, its people, its loader."""

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from excise import Split, errors
from excise.diagnosis import request

ROWS = TensorDataset(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2)


def split(num_forget=2):
    return Split(ROWS, forget=range(num_forget))


@pytest.mark.parametrize(
    ("num_forget", "words"), [(6, None), (7, "recipe saves at most"), (10, "at most"), (11, "more to")]
)
def test_a_large_forget_set_is_better_retrained(num_forget, words):
    found = request.size(split(num_forget))
    assert bool(found) == (words is not None)
    for one in found:
        assert words in one.what and one.where == f"{num_forget} of 20 training rows" and "retrain" in one.remedy
        assert f"{1 - num_forget / 20:.2f} of the first training" in one.what


@pytest.mark.parametrize(
    "kind", [list, np.array, torch.tensor, lambda v: [f"person {one}" for one in v], lambda v: [np.int64(o) for o in v]]
)
def test_people_on_both_sides_are_found(kind):
    people = [row // 3 for row in range(20)]  # 0 0 0 1 1 1 ...
    rows = Split(ROWS, forget=[0, 1, 2, 4, 5, 19])
    (found,) = request.groups(rows, request.as_groups(kind(people), 20))
    assert found.where == "3 of 6 forget rows (positions 3, 4, 5)" and found.what.startswith("2 groups with")
    assert "2 rows of theirs" in found.what  # rows 3 and 18
    assert "person" not in found.where
    assert request.groups(Split(ROWS, forget=[0, 1, 2]), request.as_groups(kind(people), 20)) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1] * 19, "groups: expected one value for each of the 20 training rows, by id; found 19"),
        (7, "groups: expected one value a training row .*, found int"),
        ("a" * 20, "found str"),
        (torch.zeros(20, 2), "found Tensor"),
        ([[1]] * 20, r"groups: expected plain values, numbers or texts \(unhashable"),
    ],
)
def test_groups_that_are_none_are_refused(given, message):
    with pytest.raises(errors.BadRequest, match=message):
        request.as_groups(given, 20)


class Shuffled(Sampler):
    """A sampler of the user's own, in other orders each time."""

    def __init__(self, num_rows):
        self.num_rows, self.generator = num_rows, torch.Generator().manual_seed(3)

    def __iter__(self):
        yield from torch.randperm(self.num_rows, generator=self.generator).tolist()


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield 3


class Stream(IterableDataset):
    def __iter__(self):
        yield 1


SICK = {
    "drop_last in order": (lambda: DataLoader(ROWS, 8, drop_last=True), "4 rows an epoch, the same", "warning"),
    "drop_last": (lambda: DataLoader(ROWS, 8, shuffle=True, drop_last=True), "4 rows an epoch, others", "note"),
    "replacement": (
        lambda: DataLoader(ROWS, 8, sampler=RandomSampler(ROWS, replacement=True)),
        "RandomSampler gives",
        "warning",
    ),
    "weights": (
        lambda: DataLoader(ROWS, 8, sampler=WeightedRandomSampler([1.0] * 20, 20)),
        "WeightedRandomSampler gives",
        "warning",
    ),
    "subset": (lambda: DataLoader(ROWS, 8, sampler=SubsetRandomSampler(range(5))), "gives 5 of 20", "warning"),
    "fewer": (lambda: DataLoader(ROWS, 8, sampler=RandomSampler(ROWS, num_samples=5)), "gives 5 of 20", "warning"),
    "own batches": (
        lambda: DataLoader(ROWS, batch_sampler=BatchSampler(SequentialSampler(range(6)), 3, drop_last=False)),
        "BatchSampler gives 6 of 20",
        "warning",
    ),
    "endless": (lambda: DataLoader(ROWS, 8, sampler=Endless()), "Endless gives 1 of 20", "warning"),
    "other rows": (
        lambda: DataLoader(TensorDataset(torch.zeros(9, 1)), 3),
        "reads 9 rows, the split is of 20",
        "warning",
    ),
    "stream": (lambda: DataLoader(Stream()), "reads a stream", "error"),
}
HEALTHY = {
    "in order": lambda: DataLoader(ROWS, 8),
    "shuffled": lambda: DataLoader(ROWS, 8, shuffle=True),
    "no remainder": lambda: DataLoader(ROWS, 10, shuffle=True, drop_last=True),
    "own sampler": lambda: DataLoader(ROWS, 8, sampler=Shuffled(20)),
    "own batches": lambda: DataLoader(ROWS, batch_sampler=BatchSampler(Shuffled(20), 3, drop_last=False)),
    "no batches": lambda: DataLoader(ROWS, batch_size=None),
}


@pytest.mark.parametrize("name", SICK)
def test_a_loader_that_leaves_rows_out_is_found(name):
    make, words, severity = SICK[name]
    (found,) = request.loader(split(), make())
    assert words in found.what and found.severity == severity and found.where.startswith("loader (DataLoader)")


@pytest.mark.parametrize("name", HEALTHY)
def test_a_loader_that_gives_every_row_is_not(name):
    assert request.loader(split(), HEALTHY[name]()) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda g: WeightedRandomSampler([1.0] * 20, 20, generator=g),
        lambda g: BatchSampler(RandomSampler(ROWS, replacement=True, generator=g), 3, drop_last=False),
    ],
)
def test_a_loaders_own_random_numbers_do_not_move(make):
    generator = torch.Generator().manual_seed(7)
    sampler = make(generator)
    given = {"batch_sampler": sampler} if isinstance(sampler, BatchSampler) else {"sampler": sampler}
    before = generator.get_state()
    assert request.loader(split(), DataLoader(ROWS, **given))
    assert torch.equal(generator.get_state(), before)
