"""What goes wrong is told without what is in the rows: no pixel, label, text, name or id stands in a message."""

import importlib

import numpy as np
import pytest
from PIL import Image

from excise import Split, checks, errors
from excise.data import mislabelled, of_class, of_group, within_classes
from excise.data.sets import image_folder
from tests.privacy import broken, photos
from tests.privacy.broken import LABEL, PIXEL, SECRETS, TEXT

DATA = (
    "too_high",
    "negative",
    "real",
    "several",
    "short",
    "flat",
    "wide",
    "large",
    "whole",
    "texts",
    "objects",
    "words",
    "text_inputs",
    "one_word",
    "one_high",
    "one_real",
    "one_wide",
    "one_none",
    "single",
    "triple",
    "mapping",
    "nothing",
    "strange",
    "no_rows",
    "not_finite",
    "endless",
    "everything",
    "alone",
    "generator",
)
COMMANDS = {
    "unlearn": ("--out", "out", "--recipe", "Finetune", "--set", "epochs=1"),
    "tune": ("--out", "out", "--test", "photos:test", "--recipe", "Finetune", "--trials", "1"),
    "doctor": (),
}
IDS = {
    "out of range": f"5 {LABEL}",
    "negative": f"-{LABEL} 5",
    "repeated": f"{LABEL} {LABEL}",
    "a name": f"5\n{TEXT}\n",
    "a name after a comma": f"5,{TEXT},7",
    "too long": f"{LABEL}" * 9,
    "a fraction": f"{PIXEL}",
    "nothing": f"# {TEXT}\n",
    "not text": TEXT.encode("utf-16"),
    "as an array of fractions": np.asarray([PIXEL]),
    "as an array out of range": np.asarray([LABEL]),
    "as an array of texts": np.asarray([TEXT]),
    "as an array of objects": np.asarray([{TEXT: PIXEL}], dtype=object),
    "as an array in rows": np.full((2, 2), LABEL),
    "as a mask": np.ones(LABEL % 1000, bool),
}


def clean(done):
    """Check that something was said, and no secret among it."""
    said = done.out + done.err
    assert said and [secret for secret in SECRETS if secret in said] == [], said
    return True


@pytest.fixture
def call(excise, project, network):
    def refused(command, *words, forget=None):
        options = ["--model", "photos:make", "--weights", "w.safetensors", "--forget", forget or "few.txt"]
        return excise(command, *options, *COMMANDS.get(command, ()), *words, "--debug")

    (project / "few.txt").write_text("5 100 200\n")
    return refused


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_used(call, command, name):
    done = call(command, "--data", f"tests.privacy.broken:{name}")
    assert done.code != 0 and clean(done)


@pytest.mark.parametrize("name", IDS)
def test_row_ids_that_cannot_be_used(call, project, name):
    path = project / ("ids.npy" if name.startswith("as ") else "some.txt")
    content = IDS[name]
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = call("unlearn", "--data", "photos:train", forget=path)
    assert done.code == errors.BadSplit.exit_code and clean(done)


def test_a_column_of_people_that_cannot_be_used(call, project):
    (project / "people.txt").write_text(f"{TEXT}\n" * 3)
    done = call("doctor", "--data", "photos:train", "--groups", "people.txt")
    assert done.code != 0 and clean(done)


def _folder(tmp_path, *, broken_row=False, unknown=False):
    for part, kind in (("train", "a"), ("train", "b"), ("val", "a")):
        (tmp_path / part / kind).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / part / kind / "x.png")
    if broken_row:
        (tmp_path / "train" / "a" / f"{TEXT}.png").write_bytes(b"no picture")
    return image_folder.load(tmp_path)


CALLS = {
    "ids, out of range": lambda _: Split(photos.train(), forget=[5, LABEL]),
    "ids, negative": lambda _: Split(photos.train(), forget=[-LABEL]),
    "ids, repeated": lambda _: Split(photos.train(), forget=[5, 5]),
    "ids, of texts": lambda _: Split(photos.train(), forget=[TEXT]),
    "ids, a text": lambda _: Split(photos.train(), forget=TEXT),
    "ids, of objects": lambda _: Split(photos.train(), forget=[{TEXT: 1}]),
    "ids, of fractions": lambda _: Split(photos.train(), forget=[PIXEL]),
    "test rows out of range": lambda _: Split(photos.train(), forget=[5], test=[LABEL]),
    "all rows": lambda _: Split(photos.train(), forget=range(photos.NUM_ROWS)),
    "a group, a single word": lambda _: of_group([TEXT], TEXT),
    "a group, of lists": lambda _: of_group([[TEXT]], [TEXT]),
    "a group, too few": lambda _: Split(photos.train(), forget=of_group([TEXT], [TEXT])),
    "a group, of nobody": lambda _: Split(photos.train(), forget=of_group([TEXT] * photos.NUM_ROWS, ["x"])),
    "true labels, too few": lambda _: Split(photos.train(), forget=mislabelled([LABEL])),
    "true labels, of texts": lambda _: mislabelled([TEXT]),
    "a class that is not there": lambda _: Split(broken.Rows(lambda *row: (row[1], TEXT)), forget=of_class(2)),
    "more than there are": lambda _: Split(photos.train(), forget=within_classes([2], fraction=0.9, seed=0)),
    "ids by hand": lambda _: checks.as_ids("rows", [LABEL, TEXT], 7),
    "a damaged picture named after somebody": lambda path: _folder(path, broken_row=True).train[0],
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_cannot_be_answered(tmp_path, name):
    with pytest.raises(errors.ExciseError) as caught:
        CALLS[name](tmp_path)
    said = f"{caught.value} {caught.value.__cause__ or ''}"
    assert [secret for secret in SECRETS if secret in said] == [], said


def test_there_are_as_many_as_were_promised():
    assert len(DATA) * len(COMMANDS) + len(IDS) + len(CALLS) + 1 >= 60


def test_words_of_the_users_own_code_pass_as_they_are(call, project):
    """What a data set raises is the user's own sentence, told to the user; it is kept nowhere."""
    (project / "own.py").write_text(f"def rows():\n    raise ValueError({TEXT!r})\n")
    done = call("unlearn", "--data", "own:rows")
    assert done.code != 0 and TEXT in done.err
    kept = [path for path in project.parent.rglob("*") if path.is_file() and path.name != "own.py"]
    assert [path for path in kept if TEXT.encode() in path.read_bytes()] == []


def test_everything_that_is_called_data_here_is_named_above():
    own = importlib.import_module("tests.privacy.broken")
    usable = {"double", "one_kind"}
    made = {name for name, value in vars(own).items() if name.islower() and not callable(value) and name[0] != "_"}
    assert made - {"np", "torch"} == {*DATA, *usable}
