"""The networks and rows that are timed: a CIFAR-shaped ResNet-18 at full width, and synthetic rows."""

import torch

from excise.data import Split
from excise.localize import WeightGradient
from excise.masks import Mask
from excise.networks import resnet18
from excise.train import Engine, Task

NUM_FORGET, NUM_RETAIN, BATCH = 48, 96, 16


def problem():
    """Give a trained-shaped network and a split of synthetic rows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet18(10)
        rows = (torch.rand(NUM_FORGET + NUM_RETAIN, 3, 32, 32), torch.randint(0, 10, (NUM_FORGET + NUM_RETAIN,)))
    return model, Split(rows, forget=range(NUM_FORGET))


def engine(model):
    """Give an engine that watches nothing."""
    return Engine(Task(), seed=0, besides=Mask.empty(model))


def del_mask(model, split):
    """Give DEL's mask at 30%."""
    return WeightGradient(batch_size=BATCH)(model, split).select(budget_fraction=0.3)
