"""Batches of a training, read as they come or ahead by workers."""

import multiprocessing

import pytest
import torch
from torch.utils.data import Dataset

from excise.data.rows import DatasetSource, Rows
from excise.masks import Mask
from excise.train import Checkpoints, Pass, TrainPlan, fit_
from excise.train.feeding import Feed
from excise.train.order import Schedule
from tests.cases import CASES
from tests.probes import engine_for, same_bytes, snapshot

PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=4)
INPUTS, LABELS = CASES["mlp"].data(13)


class Listed(Dataset):
    """Rows one by one; with noise, such as a transform's, from the global generator if it is wanted."""

    def __init__(self, *, noise=False):
        self.noise = noise

    def __len__(self):
        return 13

    def __getitem__(self, row):
        return INPUTS[row] + (0.1 * torch.randn(6, dtype=torch.float64) if self.noise else 0.0), int(LABELS[row])


class Stopped(Exception):
    pass


def train(workers, *, noise=False, checkpoints=None, stop_at=None):
    """Two streams, dropout inside: everything that draws."""
    model = CASES["mlp"].make()
    model.insert(2, torch.nn.Dropout(0.3))
    source = DatasetSource(Listed(noise=noise), workers)
    rows = {"retain": Rows(source, torch.arange(10)), "forget": Rows(source, torch.arange(10, 13))}

    def objective(step):
        if stop_at == (step.epoch, step.index):
            raise Stopped
        return step.mean_loss("retain") - 0.1 * step.mean_loss("forget")

    engine = engine_for(model, seed=3)
    engine.__dict__["checkpoints"] = checkpoints
    part = Pass(objective, ("retain", "forget"))
    fit_(model, lambda _: (part,), rows, PLAN, Mask.full(model), engine, stage="Test")
    return snapshot(model)


def test_data_that_draw_nothing_train_to_the_same_bits_with_workers():
    assert same_bytes(train(0), train(1))


def test_what_data_draw_does_not_depend_on_the_number_of_workers(tmp_path):
    """And a run that goes on reads from the right step: it ends with the same bits."""
    whole = train(1, noise=True)
    with pytest.raises(Stopped):
        train(2, noise=True, checkpoints=Checkpoints(tmp_path, 0), stop_at=(1, 1))
    assert not multiprocessing.active_children()
    assert same_bytes(whole, train(2, noise=True, checkpoints=Checkpoints(tmp_path, 0)))
    assert not same_bytes(whole, train(0, noise=True))  # which draws from the run's own generators


def test_a_feed_begins_anywhere_and_is_closed_twice():
    rows = {"retain": Rows(DatasetSource(Listed(), 1), torch.arange(10))}
    schedule = Schedule(lambda _: (Pass(None, ("retain",)),), rows, {"retain": 4}, PLAN, 0, keep_single=True)
    feed = Feed(schedule, (1, 1), torch.device("cpu"))
    for index, _, ids in schedule.steps(1, 1):
        batch = feed.read(1, index, ids, {})["retain"]
        assert torch.equal(batch.ids, ids["retain"]) and torch.equal(batch.content[0], INPUTS[ids["retain"]])
    feed.close()
    feed.close()
    assert not multiprocessing.active_children()
