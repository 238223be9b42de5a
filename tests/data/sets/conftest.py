"""Writers of small files that share no code with the readers, and a machine on which no data set lies."""

import gzip
import math
import struct

import pytest

from excise.data.sets import find

MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """Point every usual place below `tmp_path`."""
    monkeypatch.delenv("EXCISE_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(find, "SYSTEM_ROOT", tmp_path / "system")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write_idx():
    """Write a flat list of values as IDX, compressed if the name says so."""

    def write(path, shape, values, code=0x08, letter="B"):
        path.parent.mkdir(parents=True, exist_ok=True)
        data = struct.pack(f">BBBB{len(shape)}I{len(values)}{letter}", 0, 0, code, len(shape), *shape, *values)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return path

    return write


@pytest.fixture
def write_four(write_idx):
    """Write the four files of a set like MNIST, images of 2 x 3: three for training, two for testing."""

    def write(folder, names=MNIST_FILES, labels=(0, 9, 4, 7, 7), suffix=""):
        for name, rows in ((names[0], range(3)), (names[2], range(3, 5))):
            pixels = [row * 50 + place for row in rows for place in range(6)]
            write_idx(folder / (name + suffix), (len(rows), 2, 3), pixels)
        write_idx(folder / (names[1] + suffix), (3,), labels[:3])
        write_idx(folder / (names[3] + suffix), (2,), labels[3:])
        return folder

    return write


@pytest.fixture
def write_cifar():
    """Write rows of labels and a pixel rule as CIFAR's binary version; row r, byte b is (r + 7 b) mod 256."""

    def write(path, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            bytes(row) + bytes((r + 7 * b) % 256 for b in range(math.prod((3, 32, 32)))) for r, row in enumerate(labels)
        ]
        path.write_bytes(b"".join(rows))
        return path

    return write
