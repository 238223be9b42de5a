"""Folders of images, one folder a class: `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, as ImageNet's are kept.

The only file that uses Pillow, which is an optional dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from excise import errors
from excise.data.sets import find
from excise.data.sets.dataset import DataSet

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}
_DECODERS = sorted(set(_FORMATS.values()))
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_TEST_FOLDERS = ("val", "test")


class _Deep(ValueError):
    """More than 8 bits a channel."""


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """The images below one folder for each class, decoded when they are asked for.

    Each is turned to RGB, and its largest centred square is scaled to `image_size` by antialiased bilinear
    interpolation: the shorter side resized and the centre cropped, in one step. Nothing is random. Orientation tags are
    not applied. Rows are ordered by class, then by path. Names that begin with a dot, or do not end in an image suffix,
    are left out.

    Attributes:
        folder: the folder above those of the classes.
        class_names: what each label stands for.
        image_size: height and width of every image, in pixels.
        paths: the file of each row.
        targets: the label of each row.

    Raises:
        errors.MissingExtra: Pillow is not installed.
        errors.BadRequest: an `image_size` below 1.
        errors.BadData: no such folder, no class, a class that is not in `class_names`, no image at all.
    """

    def __init__(self, folder: str | Path, *, class_names: Sequence[str] | None = None, image_size: int = 128) -> None:
        _pillow()
        if image_size < 1:
            raise errors.BadRequest(f"image_size: expected at least 1 pixel, found {image_size}")
        self.folder = Path(folder)
        self.image_size = image_size
        found = _class_folders(self.folder)
        self.class_names = tuple(found if class_names is None else class_names)
        unknown = [name for name in found if name not in self.class_names]
        if unknown:
            raise errors.BadData(
                f"{self.folder}: expected folders of the {len(self.class_names)} classes of the training set, "
                f"found others: {', '.join(unknown[:5])}"
            )
        self.paths: list[Path] = []
        self.targets: list[int] = []
        for name in found:
            images = _images_below(self.folder / name)
            self.paths += images
            self.targets += [self.class_names.index(name)] * len(images)
        if not self.paths:
            raise errors.BadData(
                f"{self.folder}: expected images ({' '.join(_FORMATS)}) in the folders of the classes, found none"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Decode one image.

        Args:
            index: the row, as in a list.

        Returns:
            float32 `[3, image_size, image_size]` in [0, 1], and the label.

        Raises:
            errors.BadData: a file that cannot be decoded, or has more than 8 bits a channel.
        """
        path = self.paths[index]
        try:
            pixels = _decode(path, self.image_size)
        except Exception as cause:  # a damaged file makes Pillow raise almost anything
            raise errors.BadData(
                f"row {index} of {self.folder}: expected an undamaged image of 8 bits a channel ({', '.join(_DECODERS)}), "
                f"found: {cause if isinstance(cause, _Deep) else type(cause).__name__}; the file is paths[{index}] here"
            ) from None  # the cause names the file, which may be named after a person
        return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32).div_(255), self.targets[index]


def load(folder: str | Path, *, image_size: int = 128) -> DataSet:
    """Give a folder that holds `train/CLASS/...` and `val/CLASS/...` (or `test/CLASS/...`, if there is no `val`).

    Args:
        folder: the folder above `train`.
        image_size: height and width of every image, in pixels.

    Returns:
        Two `ImageFolder`s; the classes are the folders of `train`, in the order of their names.

    Raises:
        errors.MissingExtra: Pillow is not installed.
        errors.BadData: folders missing or empty, classes in the test folder that `train` does not have.
    """
    root = find.expanded(folder).absolute()
    test_folder = next((root / name for name in _TEST_FOLDERS if find.exists(root / name, folder=True)), None)
    if test_folder is None or not find.exists(root / "train", folder=True):
        searched = "\n  ".join(str(root / name) for name in ("train", *_TEST_FOLDERS))
        raise errors.BadData(
            "imagefolder: expected train/CLASS/*.jpg and val/CLASS/*.jpg (or test/CLASS/*.jpg), found at most one of "
            f"the two. Searched:\n  {searched}\n"
            "To get it: sort the images into one folder a class (ImageNet: https://image-net.org/download)"
        )
    train = ImageFolder(root / "train", image_size=image_size)
    missing = sorted(set(range(len(train.class_names))) - set(train.targets))
    if missing:
        raise errors.BadData(
            f"{root / 'train' / train.class_names[missing[0]]}: expected images ({' '.join(_FORMATS)}), found none; "
            "remove the folder, or fill it"
        )
    test = ImageFolder(test_folder, class_names=train.class_names, image_size=image_size)
    names = train.class_names
    return DataSet(name=f"imagefolder:{folder}", train=train, test=test, num_classes=len(names), class_names=names)


def _class_folders(folder: Path) -> list[str]:
    """List the names of the folders in a folder, sorted."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as cause:
        raise errors.BadData(f"{folder}: expected a folder with one folder a class, found: {cause}") from cause
    if not names:
        raise errors.BadData(f"{folder}: expected one folder a class, found no folder")
    return names


def _images_below(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in _FORMATS and not path.name.startswith("."))
    return sorted(path for path in paths if find.exists(path))


def _decode(path: Path, image_size: int) -> np.ndarray:
    """Give uint8 `[image_size, image_size, 3]`."""
    with _pillow().open(path, formats=_DECODERS) as image:
        if image.mode not in _EIGHT_BIT_MODES:
            raise _Deep(f"mode {image.mode}")
        # Pillow warns when it drops a palette's transparency in one step.
        rgb = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    square = rgb.resize(
        (image_size, image_size), _pillow().Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.array(square)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as cause:
        raise errors.MissingExtra(
            "imagefolder needs Pillow to decode images, and it is not installed: pip install 'excise[images]'"
        ) from cause
    return Image
