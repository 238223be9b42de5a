import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from excise import errors
from excise.data import sets
from excise.data.sets import cifar, mnist, svhn


def place_everything(root, write_four, write_cifar):
    """Put a small copy of every set that has files below one root."""
    for name, family in mnist.FAMILIES.items():
        labels = [family.first_label + label for label in (0, 9, 4, 7, 7)]
        write_four(root / family.wanted.folders[0], family.wanted.files, labels)
        assert name == family.wanted.name
    for wanted, row in ((cifar.CIFAR10, [3]), (cifar.CIFAR100, [3, 4])):
        for file in wanted.files:
            write_cifar(root / wanted.folders[0] / file, [row])
    (root / "svhn").mkdir()
    for file in svhn.SVHN.files:
        savemat(root / "svhn" / file, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [2]], np.uint8)})
    for part in ("train", "val"):
        folder = root / "photos" / part / "cat"
        folder.mkdir(parents=True)
        Image.new("RGB", (3, 2)).save(folder / "x.png")


def test_every_name_loads_what_it_says(tmp_path, write_four, write_cifar):
    root = tmp_path / "root"
    place_everything(root, write_four, write_cifar)
    for key, entry in sets.SETS.items():
        name = key.replace("PATH", "photos")
        data = sets.load(name, root)
        expected = {"emnist": "emnist-balanced", "imagefolder:photos": f"imagefolder:{root / 'photos'}"}
        assert data.name == expected.get(name, name)
        assert len(data.train[0]) > 0
        if key != "imagefolder:PATH" and name != "emnist":
            assert f"{data.num_classes} " in entry.what


def test_files_are_found_by_the_variable(tmp_path, write_four, monkeypatch):
    write_four(tmp_path / "elsewhere" / "kmnist")
    monkeypatch.setenv("EXCISE_DATA", str(tmp_path / "elsewhere"))
    assert sets.load("kmnist").class_names[9] == "wo"


def test_image_folders_are_relative_to_the_root(tmp_path, write_four, write_cifar):
    place_everything(tmp_path / "root", write_four, write_cifar)
    for name, root in (
        ("root/photos", None),
        ("photos", "root"),
        (f"{tmp_path}/root/photos", "root"),
        ("", "root/photos"),
    ):
        assert sets.load(f"imagefolder:{name}", root).class_names == ("cat",)


@pytest.mark.parametrize("name", [name for name in sets.SETS if name not in ("digits", "imagefolder:PATH")])
def test_a_missing_set_says_what_where_and_how(name):
    with pytest.raises(errors.BadData, match=r"Expected(.|\n)*Searched:(.|\n)*To get them: .*(apt-get|http)"):
        sets.load(name)


@pytest.mark.parametrize(
    "name, near",
    [
        ("fashon-mnist", "fashion-mnist"),
        ("FashionMNIST", "fashion-mnist"),
        ("CIFAR_10", "cifar10"),
        ("imagefolder", "imagefolder:PATH"),
        ("mnist:here", "mnist"),
    ],
)
def test_an_unknown_name_gets_a_suggestion_and_the_table(name, near):
    with pytest.raises(errors.BadRequest, match=f"found '{name}'; did you mean '{near}'") as caught:
        sets.load(name)
    for key, entry in sets.SETS.items():
        assert f"{key} " in str(caught.value)
        assert entry.what in str(caught.value)


def test_a_name_like_no_other_gets_the_table():
    with pytest.raises(errors.BadRequest, match=r"found 'zzzzzz'\.\n  digits "):
        sets.load("zzzzzz")
