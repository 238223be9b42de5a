"""Digests of rows and of networks: equal for the same, different for others."""

import torch
from torch import nn

from excise.attribution.origin import network_digest, row_digests
from excise.data import Rows


def test_rows_that_change_as_they_are_read_are_known_by_their_ids_alone():
    class Moving:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            Moving.reads = getattr(Moving, "reads", 0) + 1
            return torch.tensor([float(Moving.reads)]), index

    assert row_digests(Rows.all_of(Moving())).tolist() == [0, 0, 0]


def test_a_row_has_one_digest_whatever_is_read_with_it():
    data = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 4
    rows = Rows.all_of(data)
    every = row_digests(rows)
    assert len(set(every.tolist())) == 20
    assert torch.equal(row_digests(Rows(rows.source, torch.tensor([3, 11]))), every[[3, 11]])
    data[1][11] += 1
    assert (row_digests(rows) != every).nonzero().flatten().tolist() == [11]


def test_a_row_that_is_augmented_at_random_has_one_digest_whatever_is_read_with_it():
    class Jittered:
        def __len__(self):
            return 9

        def __getitem__(self, index):
            return torch.tensor([float(index)]) + torch.rand(1), index % 2

    rows = Rows.all_of(Jittered())
    every = row_digests(rows)
    assert len(set(every.tolist())) == 9 and 0 not in every
    assert torch.equal(row_digests(Rows(rows.source, torch.tensor([2, 7]))), every[[2, 7]])


def test_a_network_is_known_by_names_and_shapes_and_not_by_weights():
    assert network_digest(nn.Linear(2, 3)) == network_digest(nn.DataParallel(nn.Linear(2, 3)))
    others = [nn.Linear(2, 3, bias=False), nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 3))]
    assert len({network_digest(one) for one in (nn.Linear(2, 3), *others)}) == 4
