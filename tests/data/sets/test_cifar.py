import logging

import pytest
import torch

from excise import errors
from excise.data.sets import cifar

BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]


def pixels_of(row):
    """Give the pixels that the writer gives row `row`, one by one."""
    image = torch.zeros(3, 32, 32)
    for channel in range(3):
        for y in range(32):
            for x in range(32):
                image[channel, y, x] = (row + 7 * (channel * 1024 + y * 32 + x)) % 256
    return image


@pytest.fixture
def cifar10(tmp_path, write_cifar):
    folder = tmp_path / "cifar-10-batches-bin"
    for number, name in enumerate(BATCHES):
        write_cifar(folder / name, [[number], [number + 5]])
    write_cifar(folder / "test_batch.bin", [[9], [0], [3]])
    return folder


@pytest.fixture
def cifar100(tmp_path, write_cifar):
    folder = tmp_path / "cifar-100-binary"
    write_cifar(folder / "train.bin", [[19, 99], [0, 7]])
    write_cifar(folder / "test.bin", [[4, 0]])
    return folder


def test_cifar10_reads_batches_in_order(cifar10):
    data = cifar.load_cifar10(cifar10.parent)
    assert data.train[0].shape == (10, 3, 32, 32)
    assert data.train[1].tolist() == [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]
    assert data.test[1].tolist() == [9, 0, 3]
    for row in range(3):
        assert torch.equal(data.test[0][row], pixels_of(row) / 255)
    assert torch.equal(data.train[0][3], pixels_of(1) / 255)
    assert (data.name, data.num_classes, data.class_names) == ("cifar10", 10, None)


def test_cifar10_reads_names(cifar10):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (cifar10 / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    assert cifar.load_cifar10(cifar10).class_names == tuple(names)


def test_cifar100_has_two_levels(cifar100):
    (cifar100 / "coarse_label_names.txt").write_text("\n".join(f"group{k}" for k in range(20)))
    fine, coarse = cifar.load_cifar100(cifar100), cifar.load_cifar100(cifar100, coarse=True)
    assert (fine.name, fine.num_classes, fine.class_names) == ("cifar100", 100, None)
    assert (coarse.name, coarse.num_classes, coarse.class_names[19]) == ("cifar100-coarse", 20, "group19")
    assert (fine.train[1].tolist(), fine.test[1].tolist()) == ([99, 7], [0])
    assert (coarse.train[1].tolist(), coarse.test[1].tolist()) == ([19, 0], [4])
    assert torch.equal(fine.train[0][1], pixels_of(1) / 255)
    assert torch.equal(fine.train[0], coarse.train[0])


def test_a_short_file_is_told_of(cifar100, caplog):
    with caplog.at_level(logging.WARNING):
        cifar.load_cifar100(cifar100)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "found 2 rows, the published file has 50000",
        "found 1 rows, the published file has 10000",
    ]


@pytest.mark.parametrize(
    "size, found", [(0, "0 rows and 0 bytes"), (3072, "0 rows and 3072"), (3075, "1 rows and 2 bytes")]
)
def test_refuses_a_broken_row(tmp_path, size, found):
    path = tmp_path / "test_batch.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(errors.BadData, match=rf"test_batch.bin: expected rows of 3,073 bytes.*{found}.*truncated"):
        cifar.read(path)


def test_refuses_unreadable_files(tmp_path, cifar10):
    with pytest.raises(errors.BadData, match=r"x\.bin: expected a readable file, found: .*No such file"):
        cifar.read(tmp_path / "x.bin")
    (cifar10 / "batches.meta.txt").mkdir()
    with pytest.raises(errors.BadData, match=r"batches\.meta\.txt: expected a readable file of class names, found"):
        cifar.load_cifar10(cifar10)


def test_refuses_labels_out_of_range(cifar10, cifar100, write_cifar):
    write_cifar(cifar10 / "data_batch_4.bin", [[1], [10]])
    with pytest.raises(errors.BadData, match=r"data_batch_4\.bin: expected labels from 0 to 9, found 10 in row 1"):
        cifar.load_cifar10(cifar10)
    write_cifar(cifar100 / "test.bin", [[3, 100]])
    with pytest.raises(errors.BadData, match=r"test\.bin: expected labels from 0 to 99, found 100 in row 0"):
        cifar.load_cifar100(cifar100, coarse=True)
    write_cifar(cifar100 / "test.bin", [[20, 3]])
    with pytest.raises(errors.BadData, match=r"test\.bin: expected labels from 0 to 19, found 20 in row 0"):
        cifar.load_cifar100(cifar100)


def test_refuses_wrong_number_of_names(cifar10):
    (cifar10 / "batches.meta.txt").write_text("airplane\nautomobile\n")
    with pytest.raises(errors.BadData, match=r"batches\.meta\.txt: expected 10 class names, one a line, found 2"):
        cifar.load_cifar10(cifar10)


def test_cifar100_is_not_taken_from_a_usual_root(tmp_path, write_cifar):
    """`./data/train.bin` is anybody's name for a file."""
    write_cifar(tmp_path / "data" / "train.bin", [[1, 1]])
    with pytest.raises(errors.BadData, match="found none of its files"):
        cifar.load_cifar100()
