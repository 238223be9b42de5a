"""Real data sets in the file formats they are published in: a name comes in, a `DataSet` goes out.

Nothing here downloads, and nothing unpickles.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from excise import errors
from excise.data.sets import cifar, digits, find, image_folder, mnist, svhn
from excise.data.sets.dataset import DataSet

__all__ = ["SETS", "DataSet", "Entry", "load"]


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        what: one line for people.
        load: reads the set; takes the folder to look in first, or None.
    """

    what: str
    load: Callable[[Path | None], DataSet]


SETS: Mapping[str, Entry] = {
    "digits": Entry("handwritten digits of 8 x 8, 10 classes; ships with scikit-learn", lambda _: digits.load()),
    **{name: Entry(family.what, partial(mnist.load, name)) for name, family in mnist.FAMILIES.items()},
    "emnist": Entry("the same as emnist-balanced", partial(mnist.load, "emnist-balanced")),
    "cifar10": Entry("photographs of 32 x 32, 10 classes", cifar.load_cifar10),
    "cifar100": Entry("photographs of 32 x 32, 100 classes", cifar.load_cifar100),
    "cifar100-coarse": Entry("the same photographs, 20 superclasses", partial(cifar.load_cifar100, coarse=True)),
    "svhn": Entry("house numbers of 32 x 32, 10 classes", svhn.load),
    "imagefolder:PATH": Entry(
        "PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg", lambda at: image_folder.load(at or Path())
    ),
}


def load(name: str, data_root: str | Path | None = None) -> DataSet:
    """Read a data set by name.

    Args:
        name: a key of `SETS`; in `imagefolder:PATH`, PATH is the folder, relative to `data_root` if that is given.
        data_root: the folder to look in before the usual places, which `excise.data.sets.find` lists.

    Returns:
        The training and the test rows.

    Raises:
        errors.BadRequest: no set of this name.
        errors.BadData: files missing or damaged.
        errors.MissingExtra: `imagefolder` without Pillow.

    Example:
        >>> load("digits").num_classes
        10
    """
    root = None if data_root is None else find.expanded(data_root)
    head, colon, path = name.partition(":")
    key = f"{head}:PATH" if colon else name
    if key not in SETS:
        raise errors.BadRequest(_unknown(name))
    return SETS[key].load((root or Path()) / find.expanded(path) if colon else root)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower().replace("_", "-"), SETS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    width = max(map(len, SETS))
    rows = "\n".join(f"  {key:{width}}  {entry.what}" for key, entry in SETS.items())
    return f"data set: expected one of the names below, found {name!r}{hint}\n{rows}"
