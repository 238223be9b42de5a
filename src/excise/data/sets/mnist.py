"""MNIST, Fashion-MNIST, KMNIST and EMNIST: four IDX files each, grey images of 28 x 28.

References:
    LeCun, Cortes and Burges (1998), The MNIST database of handwritten digits, http://yann.lecun.com/exdb/mnist/.
    Xiao, Rasul and Vollgraf (2017), Fashion-MNIST, https://arxiv.org/abs/1708.07747.
    Clanuwat et al. (2018), Deep Learning for Classical Japanese Literature, https://arxiv.org/abs/1812.01718.
    Cohen, Afshar, Tapson and van Schaik (2017), EMNIST: an extension of MNIST to handwritten letters,
    https://arxiv.org/abs/1702.05373.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path

from excise.data.sets import find, idx
from excise.data.sets.dataset import Arrays, DataSet, as_arrays

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_SHARING_NAMES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One member of the family.

    Attributes:
        what: one line for people.
        wanted: its four files: training images and labels, test images and labels.
        class_names: what each label stands for, in order.
        first_label: what the files call the first class.
        transposed: whether the files hold each image with rows and columns exchanged.
    """

    what: str
    wanted: find.Wanted
    class_names: tuple[str, ...]
    first_label: int = 0
    transposed: bool = False


def _of_mnist(name: str, what: str, class_names: tuple[str, ...], how: str) -> Family:
    """Describe a set whose files are called exactly as MNIST's, so that only their folder tells it apart."""
    own = _SHARING_NAMES[name]  # torchvision's folder
    rivals = {other.lower() for row in _SHARING_NAMES.items() if row != (name, own) for other in row}
    wanted = find.Wanted(
        name=name,
        files=_FILES,
        folders=(name, f"{own}/raw", own),
        how=how,
        compressed=True,
        distinctive=False,
        rivals=frozenset(rivals),
    )
    return Family(what=what, wanted=wanted, class_names=class_names)


def _of_emnist(split: str, class_names: str, *, first_label: int = 0) -> Family:
    """Describe one split of EMNIST, whose files hold every image transposed (they were written column by column)."""
    wanted = find.Wanted(
        name=f"emnist-{split}",
        files=tuple(
            f"emnist-{split}-{part}-{kind}-ubyte"
            for part in ("train", "test")
            for kind in ("images-idx3", "labels-idx1")
        ),
        folders=("emnist", "emnist/gzip", "EMNIST/raw", "gzip"),
        how="gzip.zip of https://www.nist.gov/itl/products-and-services/emnist-dataset, unpacked",
        compressed=True,
    )
    what = f"handwritten characters, {len(class_names)} classes"
    return Family(what=what, wanted=wanted, class_names=tuple(class_names), first_label=first_label, transposed=True)


_MERGED = (
    string.digits + string.ascii_uppercase + "abdefghnqrt"
)  # lower-case letters that look like their capitals are merged

FAMILIES: dict[str, Family] = {
    "mnist": _of_mnist(
        "mnist",
        "handwritten digits, 10 classes",
        tuple(string.digits),
        "the four files of http://yann.lecun.com/exdb/mnist/",
    ),
    "fashion-mnist": _of_mnist(
        "fashion-mnist",
        "articles of clothing, 10 classes",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        "apt-get install dataset-fashion-mnist (Debian, Ubuntu), or https://github.com/zalandoresearch/fashion-mnist",
    ),
    "kmnist": _of_mnist(
        "kmnist",
        "cursive Japanese characters, 10 classes",
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        "the four files of Kuzushiji-MNIST, https://github.com/rois-codh/kmnist",
    ),
    "emnist-balanced": _of_emnist("balanced", _MERGED),
    "emnist-byclass": _of_emnist("byclass", string.digits + string.ascii_uppercase + string.ascii_lowercase),
    "emnist-bymerge": _of_emnist("bymerge", _MERGED),
    "emnist-digits": _of_emnist("digits", string.digits),
    "emnist-letters": _of_emnist("letters", string.ascii_lowercase, first_label=1),
    "emnist-mnist": _of_emnist("mnist", string.digits),
}


def load(name: str, data_root: str | Path | None = None) -> DataSet:
    """Read one of `FAMILIES`.

    EMNIST's files hold every image transposed; it comes out upright, as MNIST does. The labels of `emnist-letters`, 1
    to 26 in its files, come out as 0 to 25.

    Args:
        name: a key of `FAMILIES`.
        data_root: where to look first, see `find.find`.

    Returns:
        Inputs float32 `[examples, 1, height, width]` in [0, 1], labels int64 `[examples]`.

    Raises:
        errors.BadData: files missing, damaged, or not of one set.
    """
    family = FAMILIES[name]
    paths = find.find(family.wanted, data_root)
    train, test = _read(family, *paths[:2]), _read(family, *paths[2:])
    names = family.class_names
    return DataSet(name=name, train=train, test=test, num_classes=len(names), class_names=names)


def _read(family: Family, images_path: Path, labels_path: Path) -> Arrays:
    images, labels = idx.read_images(images_path), idx.read_labels(labels_path)
    if family.transposed:
        images = images.transpose(1, 2).contiguous()
    return as_arrays(
        images.unsqueeze(1), labels, len(family.class_names), file=labels_path, first_label=family.first_label
    )
