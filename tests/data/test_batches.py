import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from excise import seeds
from excise.data.batches import UnreadBatch, batches, num_batches, read_batch
from excise.data.rows import ArraySource, Rows, as_source

CPU = torch.device("cpu")
NUM_ROWS = 40
SOURCE = as_source((torch.arange(NUM_ROWS, dtype=torch.float64)[:, None] * 10, torch.arange(NUM_ROWS)))


@st.composite
def rows(draw):
    ids = draw(st.lists(st.integers(0, NUM_ROWS - 1), unique=True, min_size=1, max_size=17))
    return Rows(SOURCE, torch.tensor(sorted(ids), dtype=torch.int64))


sizes = st.integers(1, 12)
options = st.fixed_dictionaries({"drop_last": st.booleans(), "keep_single": st.booleans()})


def naive(ids, size, *, drop_last, keep_single):
    """Fill one batch after another, then treat the last as the arguments say."""
    found = []
    for row in ids:
        if not found or len(found[-1]) == size:
            found.append([])
        found[-1].append(row)
    if drop_last and len(found) > 1 and len(found[-1]) < size:
        return found[:-1]
    if not keep_single and len(found) > 1 and len(found[-1]) == 1:
        return [*found[:-2], found[-2] + found[-1]]
    return found


def ids_of(found):
    return [batch.ids.tolist() for batch in found]


@given(rows(), sizes, options)
def test_batches_are_those_of_a_naive_loop(chosen, size, given_options):
    found = list(batches(chosen, size, CPU, **given_options))
    assert ids_of(found) == naive(chosen.ids.tolist(), size, **given_options)
    assert num_batches(len(chosen), size, **given_options) == len(found)
    for batch in found:
        inputs, labels = batch.content
        assert len(batch) == len(batch.ids)
        assert labels.tolist() == batch.ids.tolist() and inputs[:, 0].tolist() == [10.0 * i for i in batch.ids.tolist()]


@given(rows(), sizes, options, st.integers(0, 99))
def test_shuffled_batches_are_cut_the_same_from_one_permutation(chosen, size, given_options, seed):
    found = ids_of(batches(chosen, size, CPU, shuffle=seeds.generator(seed), **given_options))
    order = torch.randperm(len(chosen), generator=seeds.generator(seed))
    assert found == naive(chosen.ids[order].tolist(), size, **given_options)
    again = ids_of(batches(chosen, size, CPU, shuffle=seeds.generator(seed), **given_options))
    assert found == again


@given(rows(), sizes, st.booleans(), st.one_of(st.none(), st.integers(0, 99)))
def test_every_row_comes_exactly_once(chosen, size, keep_single, seed):
    shuffle = None if seed is None else seeds.generator(seed)
    found = ids_of(batches(chosen, size, CPU, shuffle=shuffle, keep_single=keep_single))
    flat = list(itertools.chain.from_iterable(found))
    assert sorted(flat) == chosen.ids.tolist()
    assert all(len(ids) <= size + (not keep_single) for ids in found)


def test_the_batch_that_batch_normalisation_cannot_train_on_joins_the_one_before():
    chosen = Rows(SOURCE, torch.arange(9))
    assert [len(batch) for batch in batches(chosen, 4, CPU)] == [4, 4, 1]
    assert [len(batch) for batch in batches(chosen, 4, CPU, keep_single=False)] == [4, 5]
    assert [len(batch) for batch in batches(chosen, 4, CPU, drop_last=True)] == [4, 4]
    assert [len(batch) for batch in batches(chosen, 4, CPU, drop_last=True, keep_single=False)] == [4, 4]
    assert [len(batch) for batch in batches(chosen.head(1), 4, CPU, drop_last=True, keep_single=False)] == [1]


@given(rows(), sizes)
def test_without_options_every_row_comes_in_order_and_the_count_knows(chosen, size):
    found = ids_of(batches(chosen, size, CPU))
    assert found == naive(chosen.ids.tolist(), size, drop_last=False, keep_single=True)
    assert num_batches(len(chosen), size) == len(found)


def test_a_generator_is_used_once_and_the_global_one_never():
    chosen = Rows(SOURCE, torch.arange(9))
    before = torch.get_rng_state()
    shared = seeds.generator(3)
    epochs = [list(itertools.chain.from_iterable(ids_of(batches(chosen, 2, CPU, shuffle=shared)))) for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    twin = seeds.generator(3)
    assert epochs == [torch.randperm(9, generator=twin).tolist() for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_are_read_one_batch_at_a_time():
    class Watched(Dataset):
        read = 0

        def __len__(self):
            return 10

        def __getitem__(self, index):
            Watched.read += 1
            return torch.zeros(1), index

    stream = batches(Rows.all_of(Watched()), 4, CPU)
    assert Watched.read == 0
    next(stream)
    assert Watched.read == 4


def test_examples_keep_their_form():
    class Nested(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"x": torch.tensor(index), "deep": (torch.tensor(-index), [f"p{index}", index])}

    (batch,) = batches(Rows.all_of(Nested()), 8, torch.device("meta"))
    assert batch.content["x"].device.type == batch.content["deep"][0].device.type == "meta"
    assert batch.ids.device == CPU
    (batch,) = batches(Rows.all_of(Nested()), 8, CPU)
    assert batch.content["deep"][0].tolist() == [0, -1, -2]
    names, numbers = batch.content["deep"][1]
    assert (names, numbers.tolist()) == (("p0", "p1", "p2"), [0, 1, 2])


@pytest.mark.parametrize("way", [tuple, lambda pair: list(zip(*pair, strict=True))])
def test_a_pair_is_a_tuple_whatever_it_was_read_from(way):
    (batch,) = batches(Rows.all_of(way((torch.zeros(3, 2), torch.arange(3)))), 3, CPU)
    assert type(batch.content) is tuple and len(batch.content) == 2


def test_a_batch_may_be_read_when_somebody_asks_and_then_once():
    read = []

    class Told(ArraySource):
        def read(self, ids):
            read.append(ids.tolist())
            return super().read(ids)

    source, ids, device = Told((torch.arange(10.0), torch.arange(10))), torch.tensor([7, 2]), torch.device("cpu")
    batch = UnreadBatch(source, ids, device)
    assert (len(batch), batch.ids.tolist(), read) == (2, [7, 2], [])
    wanted = read_batch(source, ids, device).content
    assert all(torch.equal(one, other) for one, other in zip(batch.content, wanted, strict=True))
    assert batch.content is batch.content
    assert read == [[7, 2], [7, 2]]
