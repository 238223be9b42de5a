import hashlib

import torch
from sklearn.datasets import load_digits

from excise.data.sets import digits


def naive_order(num_rows):
    """Repeatedly take the remaining index whose hash is smallest, as text."""
    left, taken = set(range(num_rows)), []
    while left:
        smallest = min(left, key=lambda index: hashlib.sha256(b"%d" % index).hexdigest())
        left.remove(smallest)
        taken.append(smallest)
    return taken


def test_order_is_the_documented_permutation():
    assert digits.order(100) == naive_order(100)
    assert digits.order(1797)[:5] == [1039, 886, 286, 1467, 1064]


def test_every_row_is_dealt_once():
    data, bunch = digits.load(), load_digits()
    assert (len(data.train[1]), len(data.test[1])) == (1280, 517)
    for position, row in enumerate(digits.order(1797)):
        inputs, labels = data.train if position < 1280 else data.test
        place = position if position < 1280 else position - 1280
        assert labels[place] == bunch.target[row]
        assert torch.equal(inputs[place, 0], torch.tensor(bunch.images[row] / 16, dtype=torch.float32))


def test_shapes_and_range():
    data = digits.load()
    assert data.train[0].shape == (1280, 1, 8, 8)
    assert (data.train[0].dtype, data.train[1].dtype) == (torch.float32, torch.int64)
    assert (data.train[0].min().item(), data.train[0].max().item()) == (0, 1)
    assert (data.name, data.num_classes, data.class_names) == ("digits", 10, tuple("0123456789"))
    assert data.test[1].bincount(minlength=10).min() > 40  # every class is tested
