"""The example package as its user meets it: installed, listed, run, checked."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from excise import store
from tests.cli import mine

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "excise-shrink"
# One process, which imports torch once, runs one command after another and tells of each how it ended.
IN_TURN = """
import contextlib, io, json, sys
from excise.cli.main import call

for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with the package in it, built and installed without a network."""
    work = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, work / "source")
    how = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *how, "--target", str(work / "site"), str(work / "source")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return work / "site"


@pytest.fixture
def call(installed, tmp_path):
    """Run Python with words in an empty project, the package installed."""

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(installed), "XDG_STATE_HOME": str(tmp_path / "state")}
        return subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
        )

    return run


@pytest.fixture
def excise(call):
    """Run commands of the command line, each as `(code, stdout, stderr)`."""

    def run(*commands):
        done = call("-c", IN_TURN, json.dumps(commands))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_it_is_listed_with_where_it_is_from(call):
    done = call("-c", "from excise.cli.main import run; run()", "recipes", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["DEL"]["from"] == "excise"
    shrink, largest = rows["Shrink"], rows["ShrinkLargest"]
    assert list(shrink) == list(rows["DEL"])
    assert shrink["from"] == largest["from"] == "excise-shrink 0.1.0"
    assert shrink["method"] == largest["method"] == "Shrink" and shrink["defaults"] == {"factor": 0.5}
    assert largest["mask"] == "RowNorms by channel, 30%" and shrink["mask"] == "everywhere"


def test_its_method_runs_by_name(excise, tmp_path):
    (tmp_path / "mine.py").write_text(Path(mine.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "ids.txt").write_text("0 20 40")
    before = {name: value.detach() for name, value in mine.make().state_dict().items()}
    store.write_tensors(tmp_path / "w.safetensors", before)
    words = ["--model", "mine:make", "--weights", "w.safetensors", "--data", "mine:train", "--forget", "ids.txt"]
    front = ["unlearn", *words]
    done, misspelt, too_large, cut = excise(
        [*front, "--out", "run", "--recipe", "Shrink", "--set", "factor=0.25", "--json"],
        [*front, "--out", "other", "--recipe", "Shrnk"],
        [*front, "--out", "other", "--recipe", "Shrink", "--set", "factor=3"],
        ["localize", *words, "--out", "cut", "--criterion", "rows-by-norm", "--json"],
    )
    code, out, err = done
    assert code == 0, err
    assert json.loads(out)["recipe"] == "Shrink"
    after = store.read_weights(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(after[name], value * 0.25) for name, value in before.items())
    request = json.loads((tmp_path / "run" / "run.json").read_text())["request"]
    assert request["settings"]["method"] == {"factor": 0.25}
    code, _, err = misspelt
    assert code == 2 and "did you mean 'Shrink'?" in err
    code, _, err = too_large
    assert code == 2 and "factor: expected a fraction between 0 and 1, found 3.0" in err
    code, out, err = cut
    assert code == 0, err
    assert 0.2 < json.loads(out)["mask_fraction"] <= 0.3


def test_its_own_test_passes(call):
    own = str(EXAMPLE / "tests" / "test_shrink.py")
    done = call("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE), own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(". ")


def test_it_stays_small():
    assert len((EXAMPLE / "src" / "excise_shrink" / "__init__.py").read_text().splitlines()) < 60
