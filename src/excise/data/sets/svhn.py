"""SVHN, cropped house numbers ("format 2"): MATLAB files with an array `X` of images and `y` of labels.

References:
    Netzer et al. (2011), Reading Digits in Natural Images with Unsupervised Feature Learning,
    http://ufldl.stanford.edu/housenumbers/.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from excise import errors
from excise.data.sets import find, matlab
from excise.data.sets.dataset import Arrays, DataSet, as_arrays, require_labels

SVHN = find.Wanted(
    name="svhn",
    files=("train_32x32.mat", "test_32x32.mat"),
    folders=("svhn", "SVHN"),
    how="format 2 (cropped digits) of http://ufldl.stanford.edu/housenumbers/",
)


def load(data_root: str | Path | None = None) -> DataSet:
    """Read SVHN.

    Args:
        data_root: where to look first, see `find.find`.

    Returns:
        Inputs float32 `[examples, 3, 32, 32]` in [0, 1], labels int64 `[examples]`: each the digit itself (the files
        call the digit 0 class 10).

    Raises:
        errors.BadData: files missing, damaged, or not SVHN's.
    """
    train, test = (read(path) for path in find.find(SVHN, data_root))
    return DataSet(name="svhn", train=train, test=test, num_classes=10, class_names=tuple("0123456789"))


def read(path: Path) -> Arrays:
    """Read one file.

    Args:
        path: a MATLAB file of version 5 with `X`, uint8 `[32, 32, 3, examples]`, and `y`, whole numbers from 1 to 10,
            `[examples, 1]`.

    Returns:
        float32 `[examples, 3, 32, 32]` in [0, 1] and int64 `[examples]`, 0 to 9.

    Raises:
        errors.BadData: as `matlab.read`; `X` or `y` missing or of another kind; labels out of range.

    Example:
        >>> import tempfile
        >>> from scipy.io import savemat
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "test_32x32.mat")
        ...     savemat(path, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[10], [7]], np.uint8)})
        ...     images, labels = read(path)
        >>> tuple(images.shape), labels.tolist()
        ((2, 3, 32, 32), [0, 7])
    """
    arrays = matlab.read(path, ("X", "y"))
    missing = {"X", "y"} - arrays.keys()
    if missing:
        raise errors.BadData(f"{path}: expected arrays of numbers X and y, found no {' and no '.join(sorted(missing))}")
    images, labels = arrays["X"], arrays["y"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3) or not images.size:
        raise errors.BadData(
            f"{path}: expected X to be uint8 of shape (32, 32, 3, examples), found {images.dtype} of {images.shape}"
        )
    classes = labels.astype(np.float64)
    if labels.ndim != 2 or 1 not in labels.shape or not (np.isfinite(classes) & (classes == np.floor(classes))).all():
        raise errors.BadData(
            f"{path}: expected y to be whole numbers of shape (examples, 1), found {labels.dtype} of {labels.shape}"
        )
    numbers = torch.from_numpy(classes.flatten())
    require_labels(numbers, 1, 10, file=path)
    pixels = torch.from_numpy(images.transpose(3, 2, 0, 1).copy())
    return as_arrays(pixels, numbers.to(torch.int64) % 10, 10, file=path)
