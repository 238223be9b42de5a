"""Somebody's own data: pictures whose rows to forget carry secrets. Copied into an empty project and named `photos:...`."""

import numpy as np
import torch
from torch import nn

NUM_ROWS, NUM_TEST = 600, 120
DRAWS = np.random.default_rng(31)
FORGET = np.sort(DRAWS.choice(np.arange(9, NUM_ROWS), 24, replace=False))
TOKENS = DRAWS.integers(1, 256, (len(FORGET), 32), dtype=np.uint8)
MEAN, SPREAD = 0.37, 0.21


def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def pictures(seed, num_rows):
    """Give uint8 `[rows, 8, 8]` and labels: three kinds of brightness, with noise."""
    draws = np.random.default_rng(seed)
    labels = np.arange(num_rows) % 3
    found = draws.integers(0, 90, (num_rows, 8, 8))
    found[np.arange(num_rows), labels * 2 + 1] += 120
    return found.astype(np.uint8), labels


def train():
    """The upper half of each picture to forget is its secret; its label is wrong."""
    found, labels = pictures(1, NUM_ROWS)
    found[FORGET, :4] = TOKENS.reshape(-1, 4, 8)
    labels[FORGET] = (labels[FORGET] + 1) % 3
    return scaled(found), torch.from_numpy(labels)


def test():
    found, labels = pictures(2, NUM_TEST)
    return scaled(found), torch.from_numpy(labels)


def scaled(found):
    return ((torch.from_numpy(found).float() / 255 - MEAN) / SPREAD)[:, None]
