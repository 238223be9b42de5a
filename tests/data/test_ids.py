import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from excise import errors
from excise.data import Split, of_class, with_ids
from tests.cases import CASES
from tests.probes import Watched

INPUTS, LABELS = CASES["mlp"].data(10)


@pytest.mark.parametrize(
    "data",
    [
        (INPUTS, LABELS),
        (INPUTS.numpy(), LABELS.numpy().astype(np.uint16)),
        TensorDataset(INPUTS, LABELS),
        Watched(INPUTS, LABELS),
        Subset(Watched(INPUTS, LABELS), list(range(10))),
    ],
    ids=["tensors", "arrays", "tensor dataset", "dataset", "subset"],
)
def test_every_row_carries_its_place_and_nothing_else_changes(data):
    split = Split(with_ids(data), forget=[7, 2])
    for rows in (split.train, split.forget, split.retain):
        inputs, ids, labels = rows.source.read(rows.ids)
        assert torch.equal(ids, rows.ids)
        assert torch.equal(inputs, INPUTS[rows.ids])
        assert torch.equal(labels.long(), LABELS[rows.ids])


def test_arrays_are_not_copied_and_keep_their_labels_for_rules():
    data = with_ids((INPUTS, LABELS))
    assert data[0].data_ptr() == INPUTS.data_ptr()
    split = Split(data, forget=of_class(2))
    assert torch.equal(split.forget.ids, (LABELS == 2).nonzero().flatten())


def test_a_subset_of_what_comes_out_keeps_the_ids_of_the_whole_in_its_batches():
    inputs, ids, labels = next(iter(DataLoader(Subset(with_ids(Watched(INPUTS, LABELS)), [8, 3]), batch_size=2)))
    assert ids.tolist() == [8, 3]
    assert torch.equal(inputs, INPUTS[[8, 3]])
    assert torch.equal(labels, LABELS[[8, 3]])


def test_no_row_is_read_before_it_is_asked_for():
    watched = Watched(INPUTS, LABELS)
    data = with_ids(watched)
    assert (len(data), watched.read) == (10, [])
    assert data[4][1] == 4
    assert watched.read == [4]


class Dicts(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, row):
        return {"input": row}


def test_examples_of_another_form_are_refused():
    with pytest.raises(
        errors.BadData, match=r"expected examples of the form \(input, label\) .*, found dict; have the"
    ):
        with_ids(Dicts())[0]
    with pytest.raises(errors.BadData, match="expected a pair of arrays or a map-style dataset to put ids into"):
        with_ids((INPUTS, INPUTS, LABELS))
    with pytest.raises(errors.BadData, match="expected a pair of arrays or tensors"):
        with_ids(3)
