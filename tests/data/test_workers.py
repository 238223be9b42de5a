"""Processes that read ahead change nothing but who reads."""

import multiprocessing
import random
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from excise.data.batches import batches
from excise.data.rows import DatasetSource, Rows
from excise.data.workers import read_by_workers

CPU = torch.device("cpu")


class Drawing(Dataset):
    """Rows that draw from every global generator, and one that fails."""

    def __len__(self):
        return 12

    def __getitem__(self, row):
        if row == 11:
            raise ValueError("row 11 is broken")
        drawn = [torch.rand(()).item(), np.random.rand(), random.random()]  # noqa: NPY002
        return {"x": torch.tensor([float(row), *drawn], dtype=torch.float64), "name": f"row {row}"}


def read(workers, wanted):
    source = DatasetSource(Drawing(), workers)
    return [(ids.tolist(), content) for ids, content in read_by_workers(source, iter(wanted), CPU)]


def test_batches_come_in_order_and_what_they_draw_depends_on_their_seed_alone():
    wanted = [(7 + place, torch.tensor(ids)) for place, ids in enumerate([[4, 0], [3], [1, 2, 5], [0]])]
    state = torch.get_rng_state()
    one, two = read(1, wanted), read(2, wanted)
    assert [ids for ids, _ in one] == [ids for ids, _ in two] == [[4, 0], [3], [1, 2, 5], [0]]
    for (ids, ours), (_, theirs) in zip(one, two, strict=True):
        assert torch.equal(ours["x"], theirs["x"]) and ours["x"][:, 0].tolist() == ids
        assert ours["name"] == tuple(f"row {row}" for row in ids)
    drawn = torch.cat([content["x"][:, 1:] for _, content in one]).flatten()
    assert len(drawn.unique()) == len(drawn)  # another seed, other numbers; and none repeats within a batch
    assert torch.equal(torch.get_rng_state(), state)
    assert not multiprocessing.active_children()


def test_a_broken_row_is_told_and_the_workers_end():
    stream = read_by_workers(DatasetSource(Drawing(), 1), iter([(0, torch.tensor([1])), (1, torch.tensor([11]))]), CPU)
    next(stream)
    with pytest.raises(ValueError, match="row 11 is broken") as caught:
        next(stream)
    assert caught.value.__traceback__ is not None  # still holds the loader
    assert not multiprocessing.active_children()


class Listening(Dataset):
    """Says what the reading process does at an interrupt and when it is told to end."""

    def __len__(self):
        return 1

    def __getitem__(self, row):
        return [int(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]


def test_workers_leave_an_interrupt_to_the_process_that_they_work_for():
    before = [
        signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)
    ]  # as the command line
    try:
        stream = read_by_workers(DatasetSource(Listening(), 1), iter([(0, torch.tensor([0]))]), CPU)
        ((_, handlers),) = list(stream)
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert [int(one) for one in handlers] == [signal.SIG_IGN, signal.SIG_DFL]


def test_a_pass_that_is_left_early_leaves_no_process():
    rows = Rows(DatasetSource(Drawing(), 1), torch.arange(9))
    stream = batches(rows, 4, CPU)
    assert next(stream).ids.tolist() == [0, 1, 2, 3]
    assert len(multiprocessing.active_children()) == 1
    stream.close()
    assert not multiprocessing.active_children()
    next(iter(batches(rows, 9, CPU)))  # a single batch is not worth a process
    assert not multiprocessing.active_children()
