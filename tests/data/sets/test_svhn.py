import numpy as np
import pytest
import torch
from scipy.io import savemat

from excise import errors
from excise.data.sets import svhn


def images(num_rows):
    return (np.arange(32 * 32 * 3 * num_rows) % 251).astype(np.uint8).reshape(32, 32, 3, num_rows)


def column(*labels, dtype=np.uint8):
    return np.array(labels, dtype).reshape(-1, 1)


@pytest.mark.parametrize("compressed", [False, True])
def test_reads_both_files(tmp_path, compressed):
    pixels = images(3)
    savemat(tmp_path / "train_32x32.mat", {"X": pixels, "y": column(10, 1, 9)}, do_compression=compressed)
    savemat(tmp_path / "test_32x32.mat", {"X": images(2), "y": column(2, 10, dtype=float)}, do_compression=compressed)
    data = svhn.load(tmp_path)
    assert (data.name, data.num_classes, data.class_names[0]) == ("svhn", 10, "0")
    assert data.train[0].shape == (3, 3, 32, 32)
    assert (data.train[1].tolist(), data.test[1].tolist()) == ([0, 1, 9], [2, 0])
    for row, channel, y, x in [(0, 0, 0, 0), (2, 1, 5, 30), (1, 2, 31, 0)]:
        assert data.train[0][row, channel, y, x] == torch.tensor(int(pixels[y, x, channel, row])) / 255


WRONG = {
    "no X": ({"y": column(1, 2)}, "expected arrays of numbers X and y, found no X"),
    "neither": ({"z": column(1, 2)}, "found no X and no y"),
    "text": ({"X": images(2), "y": "labels"}, "found no y"),
    "type of X": (
        {"X": images(2).astype(float), "y": column(1, 2)},
        r"X to be uint8 .* found float64 of \(32, 32, 3, 2\)",
    ),
    "shape of X": ({"X": images(2).T, "y": column(1, 2)}, r"X to be uint8 .* found uint8 of \(2, 3, 32, 32\)"),
    "no rows": ({"X": images(0), "y": column()}, r"found uint8 of \(32, 32, 3, 0\)"),
    "shape of y": ({"X": images(4), "y": np.ones((2, 2))}, r"y to be whole numbers .* found float64 of \(2, 2\)"),
    "fractions": (
        {"X": images(2), "y": column(1, 2.5, dtype=float)},
        r"y to be whole numbers .* found float64 of \(2, 1\)",
    ),
    "not numbers": ({"X": images(2), "y": column(1, np.nan, dtype=float)}, "y to be whole numbers"),
    "endless": ({"X": images(2), "y": column(1, np.inf, dtype=float)}, "y to be whole numbers"),
    "label 0": ({"X": images(2), "y": column(1, 0)}, "expected labels from 1 to 10, found 0 in row 1"),
    "label 11": ({"X": images(2), "y": column(11, 1)}, "expected labels from 1 to 10, found 11 in row 0"),
    "lengths": ({"X": images(2), "y": column(1, 2, 3)}, "expected one label for each of the 2 images, found 3"),
}


@pytest.mark.parametrize("content, message", WRONG.values(), ids=WRONG.keys())
def test_refuses_other_content(tmp_path, content, message):
    path = tmp_path / "train_32x32.mat"
    savemat(path, content)
    with pytest.raises(errors.BadData, match=rf"train_32x32\.mat: .*{message}"):
        svhn.read(path)
