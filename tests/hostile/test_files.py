"""No file runs code, takes long or takes much memory, whichever of our readers it is given to; none is believed."""

import io
import json
import os
import pickle
import resource
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
import typer

from excise import errors, store
from excise.cli import commands as asked
from excise.cli import main, options, report, tables
from excise.masks import Mask
from excise.oracles.bank import Bank
from excise.patch import Patch
from excise.pipeline.tuning_journal import Journal
from excise.store.values import read_array
from tests.hostile import corpus

SECONDS, MEGABYTES = 5, 512
KEY = "0" * 64


def bank(directory):
    found = Bank(directory)
    assert [entry.kind for entry in found.entries()] in ([], ["unreadable"])
    return found.find(KEY)


REPORT = typer.main.get_command(asked.app).commands["report"]


def options_of(path):
    """Read a file of options as every command does."""
    return options._config(typer.Context(REPORT, info_name="report"), path)


def page_of(path):
    return report.run(run=path.parent, quiet=True)


# What reads files that may come from elsewhere: where the file lies, and the call.
READERS = {
    "weights.safetensors": store.read_weights,
    "weights.pt": store.read_weights,
    "metadata.safetensors": store.read_metadata,
    "mask.safetensors": Mask.load,
    "patch.safetensors": Patch.load,
    f"bank/{KEY}.safetensors": lambda path: bank(path.parent),
    "run/run.json": lambda path: store.read_record(path.parent),
    "search/tuning.json": lambda path: Journal(path.parent, {}),
    "ids.txt": lambda path: tables.read_ids(path, 1000),
    "ids.npy": lambda path: tables.read_ids(path, 1000),
    "array.npy": read_array,
    "plan.toml": lambda path: tables.read_plan(str(path)),
    "plan.json": lambda path: tables.read_plan(str(path)),
    "excise.toml": options_of,
    "audited/audit.json": page_of,
    "shown/demo.json": page_of,
}
# Of these nothing is taken: an entry that no tensor names, no file under that name, no ids.
HARMLESS = {
    ("weights.pt", "a zip with a link"),
    (f"bank/{KEY}.safetensors", "a link to itself"),
    (f"bank/{KEY}.safetensors", "a link to nowhere"),
    ("ids.txt", "nothing"),
    ("excise.toml", "nothing"),
}


def test_what_the_files_would_run_does_run(tmp_path):
    """So that a marker that is not there says something."""
    for name in ("a pickle of protocol 0", "a pickle of protocol 2", "a pickle with INST", "a pickle with OBJ"):
        marker = tmp_path / name
        pickle.loads(corpus.CONTENTS[name](marker))
        assert marker.exists(), name
    for name in ("a state dict with a call", "a state dict with a call, old form"):
        marker = tmp_path / name
        torch.load(io.BytesIO(corpus.CONTENTS[name](marker)), weights_only=False)
        assert marker.exists(), name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every file once; the readers get links to them, or copies of what is no file."""
    home = tmp_path_factory.mktemp("corpus")
    for number, name in enumerate(corpus.NAMES):
        corpus.make(name, home / str(number), home / "marker")
    yield home
    shutil.rmtree(home)


def in_child(work):
    """Run `work(tell)` in a forked child with limits on memory and time; give what it told, line by line."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            with os.fdopen(writing, "w") as pipe:
                sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                work(lambda *told: (pipe.write(json.dumps(told) + "\n"), pipe.flush()))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = [json.loads(line) for line in pipe]
    assert os.waitpid(child, 0)[1] == 0
    return told


def peak():
    """Give the most memory this process has held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_all(reader, made, place, tell):
    before = peak()
    for number, name in enumerate(corpus.NAMES):
        path = place / str(number) / reader
        if name in corpus.NODES:
            corpus.make(name, path, made / "marker")
        else:
            path.parent.mkdir(parents=True)
            path.hardlink_to(made / str(number))
        tell(name, "begun", 0, 0)
        started = time.monotonic()
        try:
            READERS[reader](path)
            outcome = "read"
        except errors.ExciseError as error:
            outcome = "refused" if error.exit_code in (2, 6) else repr(error)
        except BaseException as error:
            outcome = repr(error)
        tell(name, outcome, time.monotonic() - started, peak() - before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("reader", READERS)
def test_no_file_runs_anything_or_takes_long_or_much(tmp_path, made, reader):
    told = in_child(lambda tell: read_all(reader, made, tmp_path, tell))
    assert [line[0] for line in told if line[1] == "begun"] == corpus.NAMES and len(told) == 2 * len(corpus.NAMES)
    found = [line for line in told if line[1] != "begun"]
    assert {(reader, name) for name, outcome, _, _ in found if outcome == "read"} == {
        pair for pair in HARMLESS if pair[0] == reader
    }
    assert [(name, outcome) for name, outcome, _, _ in found if outcome not in ("read", "refused")] == []
    assert [(name, seconds) for name, _, seconds, _ in found if seconds > SECONDS] == []
    assert [(name, size) for name, _, _, size in found if size > MEGABYTES] == []
    assert not list(tmp_path.parent.rglob("marker")) and not (made / "marker").exists()


@pytest.mark.parametrize("name", ["a pickle of protocol 2", "JSON 100,000 deep", "a page with a script", "a pipe"])
def test_the_command_line_says_in_one_message_what_is_wrong(tmp_path, capsys, name):
    corpus.make(name, tmp_path / "run" / "audit.json", tmp_path / "marker")
    assert main.call(["report", str(tmp_path / "run")]) in (2, 6)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("excise: ") and err.count("\n") == 1 and "Traceback" not in err
    assert not (tmp_path / "marker").exists()


def test_the_corpus_is_large():
    assert len(corpus.NAMES) == len({*corpus.CONTENTS}) + len({*corpus.NODES}) >= 90
