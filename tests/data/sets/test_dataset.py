from pathlib import Path

import pytest
import torch

from excise import errors
from excise.data.sets.dataset import DataSet, as_arrays, require_labels

FILE = Path("folder/labels")


def pair(*shape):
    return torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64)


def test_holds_what_it_is_given():
    data = DataSet(name="d", train=pair(3, 1, 2, 2), test=pair(1, 1, 2, 2), num_classes=2, class_names=("a", "b"))
    assert (data.name, len(data.train[0]), len(data.test[0]), data.num_classes, data.class_names) == (
        "d",
        3,
        1,
        2,
        ("a", "b"),
    )
    with pytest.raises(AttributeError):
        data.name = "other"


def test_refuses_another_number_of_names():
    with pytest.raises(errors.BadData, match="d: expected one name for each of 3 classes, found 2"):
        DataSet(name="d", train=pair(1, 1, 2, 2), test=pair(1, 1, 2, 2), num_classes=3, class_names=("a", "b"))


def test_refuses_images_of_two_shapes():
    with pytest.raises(errors.BadData, match=r"d: expected .* of one shape, found \(1, 2, 2\) and \(1, 2, 3\)"):
        DataSet(name="d", train=pair(1, 1, 2, 2), test=pair(1, 1, 2, 3), num_classes=3)


def test_every_byte_is_divided_by_255():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
    inputs, labels = as_arrays(pixels, torch.full((256,), 4, dtype=torch.uint8), 4, file=FILE, first_label=1)
    assert inputs.flatten().tolist() == [torch.tensor(value / 255).item() for value in range(256)]
    assert labels.tolist() == [3] * 256
    assert labels.dtype == torch.int64
    assert pixels[255] == 255  # what was given is left alone


def test_refuses_lengths_that_differ():
    with pytest.raises(errors.BadData, match="folder/labels: expected one label for each of the 2 images, found 1"):
        as_arrays(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8), 2, file=FILE)


@pytest.mark.parametrize("label, low, high", [(0, 1, 3), (4, 1, 3), (255, 0, 254)])
def test_refuses_labels_outside(label, low, high):
    labels = torch.tensor([low, high, label, label], dtype=torch.uint8)
    with pytest.raises(
        errors.BadData, match=f"folder/labels: expected labels from {low} to {high}, found {label} in row 2"
    ):
        require_labels(labels, low, high, file=FILE)
    require_labels(labels[:2], low, high, file=FILE)
