"""`DataSet`: a named training set and test set, as every reader of this package gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from excise import errors

Arrays: TypeAlias = tuple[Tensor, Tensor]
Examples: TypeAlias = Arrays | Dataset[tuple[Tensor, int]]


@dataclass(frozen=True, eq=False, kw_only=True)
class DataSet:
    """A training set and a test set of the same kind of image.

    Attributes:
        name: what the set is called in `excise.data.sets.SETS`.
        train: a pair `(inputs, labels)` - float32 `[examples, channels, height, width]` in [0, 1], int64 `[examples]`
            counted from 0 - or a map-style dataset of `(float32 [channels, height, width], int)`.
        test: the same for the test rows.
        num_classes: how many labels there are.
        class_names: what each label stands for, or None where the files do not say.

    Raises:
        errors.BadData: class names that are not one for each class, training and test images of different shape.
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise errors.BadData(
                f"{self.name}: expected one name for each of {self.num_classes} classes, found {len(self.class_names)}"
            )
        if isinstance(self.train, tuple) and isinstance(self.test, tuple):
            train, test = (tuple(pair[0].shape[1:]) for pair in (self.train, self.test))
            if train != test:
                raise errors.BadData(
                    f"{self.name}: expected training and test images of one shape, found {train} and {test}; "
                    "the files are not of the same data set"
                )


def as_arrays(images: Tensor, labels: Tensor, num_classes: int, *, file: Path, first_label: int = 0) -> Arrays:
    """Turn raw pixels and labels into a checked pair of inputs and labels.

    Args:
        images: uint8 `[examples, channels, height, width]`, 0 to 255.
        labels: integers `[examples]`, `first_label` to `first_label + num_classes - 1`.
        num_classes: how many labels there are.
        file: the file the labels come from, for messages.
        first_label: what the file calls its first class.

    Returns:
        float32 `[examples, channels, height, width]`, each pixel divided by 255; int64 `[examples]`, counted from 0.

    Raises:
        errors.BadData: more or fewer labels than images, a label out of range.

    Example:
        >>> pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
        >>> inputs, labels = as_arrays(pixels, torch.tensor([2, 1, 2]), 2, file=Path("labels"), first_label=1)
        >>> [round(value, 1) for value in inputs.flatten().tolist()], labels.tolist()
        ([0.0, 0.2, 1.0], [1, 0, 1])
    """
    if len(images) != len(labels):
        raise errors.BadData(
            f"{file}: expected one label for each of the {len(images)} images, found {len(labels)}; "
            "images and labels are not of the same set, or one file is incomplete"
        )
    require_labels(labels, first_label, first_label + num_classes - 1, file=file)
    return images.to(torch.float32).div_(255), labels.to(torch.int64) - first_label


def require_labels(labels: Tensor, lowest: int, highest: int, *, file: Path) -> None:
    """Refuse labels outside of `lowest` to `highest`, both included.

    Args:
        labels: integers `[examples]`.
        lowest: the smallest label the format has.
        highest: the largest.
        file: where they were read, for the message.

    Raises:
        errors.BadData: a label out of range; the message names the first.
    """
    wrong = torch.nonzero((labels < lowest) | (labels > highest)).flatten()
    if len(wrong):
        row = int(wrong[0])
        raise errors.BadData(
            f"{file}: expected labels from {lowest} to {highest}, found {int(labels[row])} in row {row}; "
            "the file is damaged, or of another data set"
        )
