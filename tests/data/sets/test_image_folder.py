import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from excise import errors
from excise.data.sets import image_folder
from excise.data.sets.image_folder import ImageFolder


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def tree(tmp_path):
    """Two classes of training images, one of them in a folder of its own, and a validation image."""
    save(tmp_path / "train" / "cat" / "b.png", noise(4, 4, 1))
    save(tmp_path / "train" / "cat" / "a.PNG", noise(4, 4, 2))
    save(tmp_path / "train" / "ant" / "images" / "c.bmp", noise(4, 4, 3))
    save(tmp_path / "train" / "cat" / ".hidden.png", noise(4, 4, 4))
    save(tmp_path / "train" / ".thumbnails" / "x.png", noise(4, 4, 4))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "Labels.json").write_text("{}")
    save(tmp_path / "val" / "cat" / "d.png", noise(4, 4, 5))
    return tmp_path


def test_rows_are_ordered_by_class_then_path(tree):
    data = image_folder.load(tree, image_size=4)
    assert (data.num_classes, data.class_names, data.name) == (2, ("ant", "cat"), f"imagefolder:{tree}")
    assert [path.name for path in data.train.paths] == ["c.bmp", "a.PNG", "b.png"]
    assert (data.train.targets, len(data.train)) == ([0, 1, 1], 3)
    assert (data.test.targets, data.test.class_names) == ([1], ("ant", "cat"))
    for row, seed in enumerate((3, 2, 1)):
        image, label = data.train[row]
        assert torch.equal(image, torch.from_numpy(noise(4, 4, seed)).permute(2, 0, 1).to(torch.float32) / 255)
        assert label == data.train.targets[row]
    with pytest.raises(IndexError):
        data.train[3]


def test_test_folder_serves_where_there_is_no_val(tree):
    (tree / "val").rename(tree / "test")
    assert image_folder.load(tree).test.folder == tree / "test"


def test_default_size_and_range(tree):
    image, _ = image_folder.load(tree).train[0]
    assert (image.shape, image.dtype) == ((3, 128, 128), torch.float32)
    assert image.min() >= 0
    assert image.max() <= 1


@pytest.mark.parametrize("height, width", [(4, 10), (10, 4), (4, 4)])
def test_takes_the_centred_square(tmp_path, height, width):
    pixels = noise(height, width)
    save(tmp_path / "a" / "x.png", pixels)
    image, _ = ImageFolder(tmp_path, image_size=4)[0]
    top, left = (height - 4) // 2, (width - 4) // 2
    expected = pixels[top : top + 4, left : left + 4].transpose(2, 0, 1).astype(np.float32) / 255
    assert torch.equal(image, torch.from_numpy(expected))


def naive_halving(pixels):
    """Halve a square image by the triangle filter of width 4, its weights renormalised at the border."""
    size = len(pixels) // 2
    weights = np.zeros((size, 2 * size))
    for out in range(size):
        for source in range(2 * size):
            weights[out, source] = max(0.0, 1 - abs((source + 0.5) - (2 * out + 1)) / 2)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("ay,bx,yxc->cab", weights, weights, pixels.astype(float)) / 255


def test_halving_is_antialiased_bilinear(tmp_path):
    pixels = noise(16, 16)
    save(tmp_path / "a" / "x.png", pixels)
    image, _ = ImageFolder(tmp_path, image_size=8)[0]
    # Pillow rounds to whole bytes after each of two passes.
    assert np.abs(image.numpy() - naive_halving(pixels)).max() <= 1.01 / 255


def test_every_kind_of_image_becomes_rgb(tmp_path):
    grey = np.array([[0, 255], [128, 3]], np.uint8)
    save(tmp_path / "a" / "1grey.png", grey)
    save(tmp_path / "a" / "2alpha.png", np.dstack([grey, grey, grey, np.full((2, 2), 9, np.uint8)]))
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "a" / "3palette.png", transparency=bytes([0, 9]))
    save(tmp_path / "a" / "4lossless.webp", np.dstack([grey] * 3), lossless=True)
    Image.fromarray(grey > 100).save(tmp_path / "a" / "5bits.png")
    data = ImageFolder(tmp_path, image_size=2)
    expected = torch.from_numpy(grey).expand(3, 2, 2).to(torch.float32) / 255
    for row in range(4):
        assert torch.equal(data[row][0], expected), data.paths[row]
    assert torch.equal(data[4][0], torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(3, 2, 2))


def test_jpeg_is_close_and_repeatable(tmp_path):
    save(tmp_path / "a" / "x.JPEG", np.full((8, 8, 3), 100), quality=95)
    data = ImageFolder(tmp_path, image_size=4)
    assert torch.equal(data[0][0], data[0][0])
    assert (data[0][0] * 255 - 100).abs().max() <= 2  # JPEG is lossy


def test_travels_to_the_workers_of_a_loader(tree):
    data = image_folder.load(tree, image_size=4).train
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[2][0], data[2][0])


@pytest.mark.parametrize("gone", ["train", "val"])
def test_refuses_half_a_set(tree, gone):
    (tree / gone).rename(tree / "elsewhere")
    with pytest.raises(
        errors.BadData, match=rf"expected train/CLASS.*at most one(.|\n)*{tree}/train\n.*{tree}/val\n(.|\n)*To get it"
    ):
        image_folder.load(tree)


def test_refuses_a_name_too_long_to_be_a_path():
    with pytest.raises(errors.BadData, match="expected train/CLASS"):
        image_folder.load("x" * 5000)


def test_refuses_a_class_without_images(tree):
    (tree / "train" / "bee").mkdir()
    with pytest.raises(errors.BadData, match=r"train/bee: expected images \(\.jpg .*\), found none"):
        image_folder.load(tree)


def test_refuses_a_class_that_training_does_not_have(tree):
    save(tree / "val" / "dog" / "x.png", noise(2, 2))
    with pytest.raises(
        errors.BadData, match=r"val: expected folders of the 2 classes of the training set, found others: dog"
    ):
        image_folder.load(tree)


def test_refuses_folders_without_classes_or_images(tmp_path):
    with pytest.raises(errors.BadData, match=r"expected a folder with one folder a class, found: .*No such file"):
        ImageFolder(tmp_path / "nothing")
    with pytest.raises(errors.BadData, match="expected one folder a class, found no folder"):
        ImageFolder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(errors.BadData, match=r"expected images \(.*\) in the folders of the classes, found none"):
        ImageFolder(tmp_path)


def test_refuses_a_size_below_one(tree):
    with pytest.raises(errors.BadRequest, match="image_size: expected at least 1 pixel, found 0"):
        image_folder.load(tree, image_size=0)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.webp"])
def test_refuses_damaged_images(tmp_path, name):
    path = tmp_path / "a" / name
    save(path, noise(40, 40))
    whole = path.read_bytes()
    data = ImageFolder(tmp_path)
    for damaged in (b"", b"no image at all", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(
            errors.BadData, match=r"row 0 of .*: expected an undamaged image of 8 bits a channel \(BMP, JPEG"
        ) as caught:
            data[0]
        assert name not in str(caught.value) and caught.value.__cause__ is None  # it may be named after a person


def test_refuses_more_than_eight_bits(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.array([[0, 40000]], np.uint16)).save(tmp_path / "a" / "x.png")
    with pytest.raises(errors.BadData, match=r"8 bits a channel .* found: mode I;16"):
        ImageFolder(tmp_path)[0]


def test_without_pillow_says_how_to_install_it(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(errors.MissingExtra, match=r"pip install 'excise\[images\]'"):
        image_folder.load(tree)
