import pytest
import torch

from excise import errors
from excise.data.sets import find, mnist

EMNIST = tuple(
    f"emnist-{{}}-{part}"
    for part in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "test-images-idx3-ubyte",
        "test-labels-idx1-ubyte",
    )
)


def real_fashion_mnist():
    try:
        return find.find(mnist.FAMILIES["fashion-mnist"].wanted)[0].parent
    except errors.BadData:
        return None


FASHION_MNIST = real_fashion_mnist()  # found before any test points the usual places elsewhere


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    "name, folder", [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw"), ("kmnist", "KMNIST")]
)
def test_reads_four_files(tmp_path, write_four, name, folder, suffix):
    write_four(tmp_path / "root" / folder, suffix=suffix)
    data = mnist.load(name, tmp_path / "root")
    assert (data.name, data.num_classes, len(data.class_names)) == (name, 10, 10)
    inputs, labels = data.train
    pixels = [[[0, 1, 2], [3, 4, 5]], [[50, 51, 52], [53, 54, 55]], [[100, 101, 102], [103, 104, 105]]]
    assert torch.equal(inputs, torch.tensor(pixels, dtype=torch.float32).unsqueeze(1) / 255)
    assert (labels.tolist(), labels.dtype) == ([0, 9, 4], torch.int64)
    assert torch.equal(data.test[0][1, 0], torch.tensor([[200, 201, 202], [203, 204, 205]]) / 255)
    assert data.test[1].tolist() == [7, 7]


SPLITS = {"balanced": 47, "byclass": 62, "bymerge": 47, "digits": 10, "letters": 26, "mnist": 10}


@pytest.mark.parametrize("split, num_classes", SPLITS.items())
def test_emnist_comes_out_upright_and_from_zero(tmp_path, write_four, split, num_classes):
    first = 1 if split == "letters" else 0
    last = first + num_classes - 1
    write_four(tmp_path / "gzip", [name.format(split) for name in EMNIST], (first, last, 5, first, last), ".gz")
    data = mnist.load(f"emnist-{split}", tmp_path)
    assert data.train[0][0, 0].mul(255).round().tolist() == [[0, 3], [1, 4], [2, 5]]
    assert data.train[0].is_contiguous()
    assert data.train[1].tolist() == [0, num_classes - 1, 5 - first]
    assert data.test[1].tolist() == [0, num_classes - 1]
    assert (data.num_classes, len(set(data.class_names))) == (num_classes, num_classes)


def test_emnist_names_follow_the_mapping_files():
    names = mnist.FAMILIES["emnist-balanced"].class_names
    assert (names[0], names[10], names[35], names[36], names[46]) == ("0", "A", "Z", "a", "t")
    assert mnist.FAMILIES["emnist-byclass"].class_names[61] == "z"
    assert mnist.FAMILIES["emnist-letters"].class_names[0] == "a"


def test_refuses_labels_out_of_range(tmp_path, write_four):
    write_four(tmp_path, labels=(0, 1, 10, 0, 0))
    with pytest.raises(
        errors.BadData, match=r"train-labels-idx1-ubyte: expected labels from 0 to 9, found 10 in row 2"
    ):
        mnist.load("mnist", tmp_path)
    write_four(tmp_path, [name.format("letters") for name in EMNIST], (1, 0, 3, 1, 1))
    with pytest.raises(errors.BadData, match="expected labels from 1 to 26, found 0 in row 1"):
        mnist.load("emnist-letters", tmp_path)


def test_refuses_files_of_different_sets(tmp_path, write_four, write_idx):
    write_four(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", (2,), [1, 2])
    with pytest.raises(errors.BadData, match="expected one label for each of the 3 images, found 2"):
        mnist.load("mnist", tmp_path)


@pytest.mark.skipif(FASHION_MNIST is None, reason="needs Fashion-MNIST: apt-get install dataset-fashion-mnist")
def test_fashion_mnist_for_real():
    data = mnist.load("fashion-mnist", FASHION_MNIST)
    # Sums of all bytes; over 255 and the number of pixels they are the means 0.28604 and 0.28685 given everywhere.
    for (inputs, labels), rows, total in ((data.train, 60_000, 3_431_114_169), (data.test, 10_000, 573_469_082)):
        assert inputs.shape == (rows, 1, 28, 28)
        assert labels.bincount().tolist() == [rows // 10] * 10
        assert inputs.mul(255).round().sum(dtype=torch.float64).item() == total
        assert (inputs.min().item(), inputs.max().item()) == (0, 1)
    assert [data.class_names[label] for label in data.train[1][:3]] == ["Ankle boot", "T-shirt/top", "T-shirt/top"]
