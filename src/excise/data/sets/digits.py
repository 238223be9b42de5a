"""The handwritten digits that ship with scikit-learn: 1,797 grey images of 8 x 8, always there.

References:
    Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits (its test part), UCI,
    https://doi.org/10.24432/C50P49.
"""

from __future__ import annotations

import hashlib

import torch
from sklearn.datasets import load_digits

from excise.data.sets.dataset import DataSet

NUM_TRAIN = 1280


def order(num_rows: int) -> list[int]:
    """Give the fixed permutation by which rows are dealt to training and test set.

    Rows are sorted by the SHA-256 of their index in decimal, so that it depends on no library's random numbers.

    Args:
        num_rows: how many rows there are.

    Returns:
        Each index below `num_rows`, once.

    Example:
        >>> order(5)
        [4, 3, 0, 1, 2]
    """
    return sorted(range(num_rows), key=lambda index: hashlib.sha256(str(index).encode()).digest())


def load() -> DataSet:
    """Give the digits: the first 1,280 rows of `order` for training, the other 517 for testing.

    Returns:
        Inputs float32 `[examples, 1, 8, 8]` in [0, 1], the sixteen levels divided by 16; labels int64 `[examples]`.

    Example:
        >>> digits = load()
        >>> tuple(digits.train[0].shape), tuple(digits.test[0].shape)
        ((1280, 1, 8, 8), (517, 1, 8, 8))
    """
    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images).to(torch.float32).div(16).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    rows = torch.tensor(order(len(labels)))
    train, test = ((inputs[part], labels[part]) for part in (rows[:NUM_TRAIN], rows[NUM_TRAIN:]))
    return DataSet(name="digits", train=train, test=test, num_classes=10, class_names=tuple("0123456789"))
