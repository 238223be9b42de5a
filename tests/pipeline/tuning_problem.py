"""A small network that knows its rows by heart, some of them wrong, and rows it never saw."""

import functools

import torch
from torch import nn

from excise.data import Rows, Split
from excise.masks import Mask
from excise.oracles import retrain
from excise.train import Engine, Task, TrainPlan

PLAN = TrainPlan(epochs=100, lr=0.03, optimizer="adam", batch_size=64, schedule="constant")
WRONG = list(range(0, 160, 8))
SPACE = {"lr": (0.01, 1.0, "log"), "epochs": [2, 20], "weight_decay": (0.0, 0.01)}


def make():
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))


def blobs(seed, num_rows):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_rows) % 3
    return torch.randn(num_rows, 4, generator=draws) + 5 * torch.eye(3, 4)[labels], labels


def train_rows():
    inputs, labels = blobs(0, 160)
    labels[WRONG] = (labels[WRONG] + 1) % 3
    return inputs, labels


@functools.cache
def trained():
    """A network trained on every row; look at it, and leave it."""
    engine = Engine(Task(), 0, Mask.empty(make()))
    state = retrain(make, Rows.all_of(train_rows()), PLAN, [0], engine)[0].state
    model = make()
    model.load_state_dict(state)
    return model


def wrong_labels(**changes):
    """The split in which the wrong labels are to be forgotten, with a holdout and test rows."""
    given = {"forget": WRONG, "holdout": blobs(1, 90), "test": blobs(2, 60), **changes}
    return Split(train_rows(), **given)
