"""CIFAR-10 and CIFAR-100 in their binary version: rows of labels and pixels, one after the other, without a header.

A row is one label byte (CIFAR-10) or two (CIFAR-100: coarse, then fine), then 1,024 red, 1,024 green and 1,024 blue
bytes, each plane row by row.

References:
    Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images, https://www.cs.toronto.edu/~kriz/cifar.html,
    section "Binary version".
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from excise import errors
from excise.data.sets import find
from excise.data.sets.dataset import DataSet, as_arrays, require_labels

log = logging.getLogger(__name__)

_IMAGE_SHAPE = (3, 32, 32)
_IMAGE_BYTES = 3 * 32 * 32
_NUM_FINE, _NUM_COARSE = 100, 20
_HOW = (
    "binary version of https://www.cs.toronto.edu/~kriz/cifar.html ({}); the Python version is pickled and never read"
)

CIFAR10 = find.Wanted(
    name="cifar10",
    files=(*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
    folders=("cifar-10-batches-bin", "cifar10"),
    how=_HOW.format("cifar-10-binary.tar.gz"),
)
CIFAR100 = find.Wanted(
    name="cifar100",
    files=("train.bin", "test.bin"),
    folders=("cifar-100-binary", "cifar100"),
    how=_HOW.format("cifar-100-binary.tar.gz"),
    distinctive=False,
)


def read(path: Path, *, num_labels: int = 1) -> tuple[Tensor, Tensor]:
    """Read one binary file.

    Args:
        path: the file.
        num_labels: label bytes in a row: 1 for CIFAR-10, 2 for CIFAR-100.

    Returns:
        uint8 `[examples, 3, 32, 32]` and uint8 `[examples, num_labels]`.

    Raises:
        errors.BadData: not readable, or not a whole number of rows.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "test_batch.bin")
        ...     _ = path.write_bytes(bytes([3]) + bytes(3072))
        ...     images, labels = read(path)
        >>> tuple(images.shape), labels.tolist()
        ((1, 3, 32, 32), [[3]])
    """
    try:
        values = np.fromfile(path, dtype=np.uint8)
    except OSError as cause:
        raise errors.BadData(f"{path}: expected a readable file, found: {cause}") from cause
    row_bytes = num_labels + _IMAGE_BYTES
    if len(values) == 0 or len(values) % row_bytes:
        raise errors.BadData(
            f"{path}: expected rows of {row_bytes:,} bytes, found {len(values):,} bytes, which is "
            f"{len(values) // row_bytes} rows and {len(values) % row_bytes} bytes; it is truncated, or not this format"
        )
    rows = torch.from_numpy(values).reshape(-1, row_bytes)
    return rows[:, num_labels:].reshape(-1, *_IMAGE_SHAPE), rows[:, :num_labels]


def load_cifar10(data_root: str | Path | None = None) -> DataSet:
    """Read CIFAR-10.

    Class names come from `batches.meta.txt`, where it lies beside the other files.

    Args:
        data_root: where to look first, see `find.find`.

    Returns:
        Inputs float32 `[examples, 3, 32, 32]` in [0, 1], labels int64 `[examples]`.

    Raises:
        errors.BadData: files missing or damaged, labels or class names that are not CIFAR-10's.
    """
    paths = find.find(CIFAR10, data_root)
    parts = []
    for path in paths:
        images, labels = read(path)
        _tell_if_odd(path, len(images), 10_000)
        parts.append(as_arrays(images, labels[:, 0], 10, file=path))
    train = tuple(torch.cat(tensors) for tensors in zip(*parts[:-1], strict=True))
    names = _class_names(paths[0].with_name("batches.meta.txt"), 10)
    return DataSet(name="cifar10", train=(train[0], train[1]), test=parts[-1], num_classes=10, class_names=names)


def load_cifar100(data_root: str | Path | None = None, *, coarse: bool = False) -> DataSet:
    """Read CIFAR-100.

    Class names come from `fine_label_names.txt` or `coarse_label_names.txt`, where they lie beside the other files.

    Args:
        data_root: where to look first, see `find.find`.
        coarse: label by the 20 superclasses instead of the 100 classes.

    Returns:
        Inputs float32 `[examples, 3, 32, 32]` in [0, 1], labels int64 `[examples]`.

    Raises:
        errors.BadData: files missing or damaged, labels or class names that are not CIFAR-100's.
    """
    paths = find.find(CIFAR100, data_root)
    column, num_classes, level = (0, _NUM_COARSE, "coarse") if coarse else (1, _NUM_FINE, "fine")
    parts = []
    for path, published in zip(paths, (50_000, 10_000), strict=True):
        images, labels = read(path, num_labels=2)
        _tell_if_odd(path, len(images), published)
        # Both, whichever is asked for: nothing else in the format tells it from any file of the right length.
        require_labels(labels[:, 0], 0, _NUM_COARSE - 1, file=path)
        require_labels(labels[:, 1], 0, _NUM_FINE - 1, file=path)
        parts.append(as_arrays(images, labels[:, column], num_classes, file=path))
    names = _class_names(paths[0].with_name(f"{level}_label_names.txt"), num_classes)
    name = "cifar100-coarse" if coarse else "cifar100"
    return DataSet(name=name, train=parts[0], test=parts[1], num_classes=num_classes, class_names=names)


def _tell_if_odd(path: Path, found: int, published: int) -> None:
    """Warn of a file cut between two rows, which the format itself cannot show."""
    if found != published:
        log.warning("%s: found %d rows, the published file has %d", path, found, published)


def _class_names(path: Path, num_classes: int) -> tuple[str, ...] | None:
    """Read one name a line, or give None where there is no such file."""
    try:
        names = tuple(path.read_text("utf-8", errors="replace").split())
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise errors.BadData(f"{path}: expected a readable file of class names, found: {cause}") from cause
    if len(names) != num_classes:
        raise errors.BadData(f"{path}: expected {num_classes} class names, one a line, found {len(names)}")
    return names
