"""Where rows lie while a run reads them."""

import pickle

import pytest
import torch
from torch.utils.data import TensorDataset

from excise.data import Split
from excise.data.batches import read_batch
from excise.data.placing import PlacedSource, free_bytes, placed, total_bytes, worth_a_copy
from excise.data.rows import ArraySource, JoinedSource, Rows, as_source

CPU, META = torch.device("cpu"), torch.device("meta")
INPUTS, LABELS = torch.randn(8, 2), torch.arange(8)


class Listed(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, row):
        return INPUTS[row], int(LABELS[row])


def split_of(data=(INPUTS, LABELS)):
    return Split(data, forget=[1, 2], test=[6], holdout=(INPUTS.clone(), LABELS))


@pytest.mark.parametrize("on_device", ["auto", "never", "always"])
def test_on_a_cpu_nothing_changes(on_device):
    split = split_of()
    assert placed(split, CPU, on_device=on_device, workers=3) is split


def test_array_data_are_copied_once_and_keep_their_ids_and_their_content():
    split = split_of()
    near = placed(split, META, on_device="always")
    sources = {name: getattr(near, name).source for name in Split.__slots__}
    assert sources["train"] is sources["forget"] is sources["retain"] is sources["test"] is not sources["holdout"]
    assert all(isinstance(source, PlacedSource) for source in sources.values())
    for name in Split.__slots__:
        assert torch.equal(getattr(near, name).ids, getattr(split, name).ids)
    batch = read_batch(near.retain.source, near.retain.ids, META)
    assert [part.device for part in batch.content] == [META, META]
    # the CPU reads what was given
    assert near.forget.fingerprint() == split.forget.fingerprint()
    assert near.forget.labels().tolist() == [1, 2]
    assert near.forget.as_dataset()[0][0].equal(INPUTS[1])
    assert placed(near, META, on_device="always") is near  # it is there already


def test_the_copy_is_read_from_only_for_its_own_device():
    given = as_source((INPUTS, LABELS)).tensors
    source = PlacedSource(given, tuple(tensor + 1 for tensor in given))
    assert torch.equal(source.read(torch.tensor([3]))[0], INPUTS[3:4])
    assert torch.equal(source.read_to(torch.tensor([3]), CPU)[0], INPUTS[3:4] + 1)
    elsewhere = PlacedSource(given, tuple(tensor.to(META) for tensor in given))
    assert torch.equal(elsewhere.read_to(torch.tensor([3]), CPU)[0], INPUTS[3:4])


def test_to_another_process_goes_what_was_given():
    given = as_source((INPUTS, LABELS)).tensors
    sent = pickle.loads(pickle.dumps(PlacedSource(given, tuple(tensor.to(META) for tensor in given))))
    assert type(sent) is ArraySource and torch.equal(sent.tensors[0], INPUTS)


def test_what_is_on_the_device_already_stays_and_what_does_not_fit_too():
    split = split_of()
    assert placed(split, META) is split  # its free memory is not known
    there = split_of((INPUTS.to(META), LABELS.to(META)))
    assert placed(there, META, on_device="always").train.source is there.train.source


@pytest.mark.parametrize(
    ("num_bytes", "kind", "free", "on_device", "expected"),
    [
        (50, "cuda", 100, "auto", True),
        (51, "cuda", 100, "auto", False),
        (1, "cuda", None, "auto", False),
        (1, "cuda", 100, "never", False),
        (10**9, "cuda", 100, "always", True),
        (1, "cpu", 100, "always", False),
    ],
)
def test_half_of_the_free_memory_is_for_rows(num_bytes, kind, free, on_device, expected):
    assert worth_a_copy(num_bytes, kind, free, on_device) is expected


def test_workers_are_for_data_that_are_no_arrays():
    split = Split(Listed(), forget=[1], test=(INPUTS, LABELS))
    found = placed(split, CPU, workers=2)
    assert found.retain.source.workers == 2 and found.test.source is split.test.source
    assert found.train.source.dataset is split.train.source.dataset
    assert placed(found, CPU, workers=2) is found
    joined = JoinedSource(split.train.source, as_source((INPUTS, LABELS)))
    assert joined.workers == 0
    both = split.over({name: Rows(joined, torch.arange(2)) for name in Split.__slots__})
    assert placed(both, CPU, workers=2).train.source.workers == 2
    assert Rows.all_of(TensorDataset(INPUTS, LABELS)).source.workers == 0


def test_a_cpu_s_memory_is_not_asked_for():
    assert total_bytes(CPU) is None
    if not torch.accelerator.is_available():
        assert free_bytes(META) is None


@pytest.mark.gpu
def test_an_accelerator_says_how_much_memory_it_has():
    device = torch.accelerator.current_accelerator()
    assert 0 < free_bytes(device) <= total_bytes(device)
    assert isinstance(placed(split_of(), device).train.source, PlacedSource)
