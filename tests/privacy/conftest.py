"""A project whose rows to forget carry secrets, with every place that a run could write to redirected."""

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from excise import Split, masks, store
from excise.cli import main
from excise.measure import margins
from excise.observe import collect
from excise.train import Engine, Task
from tests.cli.project import Done
from tests.privacy import photos
from tests.privacy.scan import Scanner

PLAN = 'epochs = 12\noptimizer = "adam"\nlr = 0.02\nschedule = "constant"\nbatch_size = 100\n'
WHO = bytes(photos.DRAWS.integers(0, 256, 32, dtype=np.uint8))
"""In the name of the file of row ids."""
IDS = f"ids-{WHO.hex()}.txt"
OPTIONS = ("--model", "photos:make", "--weights", "w.safetensors", "--data", "photos:train", "--forget", IDS)


@pytest.fixture(scope="session")
def network():
    """A network that knows the rows by heart."""
    inputs, labels = photos.train()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model = photos.make()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.eval()


@contextmanager
def project_in(folder, network):
    """Make `folder / "work"` the current directory, with the user's own files; `folder / "left"` is all that is written to."""
    work, left = folder / "work", folder / "left"
    for one in (work, *(left / name for name in ("home", "state", "cache", "data", "config", "tmp", "out"))):
        one.mkdir(parents=True, mode=0o700)
    (work / "photos.py").write_text(Path(photos.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    store.write_tensors(work / "w.safetensors", network.state_dict())
    (work / IDS).write_text("\n".join(map(str, np.random.default_rng(3).permutation(photos.FORGET))) + "\n")
    (work / "plan.toml").write_text(PLAN)
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(work)
        patched.setenv("HOME", str(left / "home"))
        patched.setenv("TMPDIR", str(left / "tmp"))
        patched.setattr(tempfile, "tempdir", str(left / "tmp"))
        for name in ("state", "cache", "data", "config"):
            patched.setenv(f"XDG_{name.upper()}_HOME", str(left / name))
        patched.setattr(sys, "path", list(sys.path))
        patched.setattr(sys, "dont_write_bytecode", True)
        yield work
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(work):
            del sys.modules[name]


@pytest.fixture
def project(tmp_path, network):
    with project_in(tmp_path, network) as work:
        yield work


@pytest.fixture
def excise(project, capsys):
    """Call a command line in the project: words in, `Done` out."""

    def call(*words):
        capsys.readouterr()
        code = main.call([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return call


def per_row(model, name):
    """Give a network's margins and losses of the rows to forget, in order of ids, under names."""
    split = Split(photos.train(), forget=photos.FORGET)
    found = collect(model, split.forget, Engine(Task(), 0, masks.Mask.empty(model)))
    return {f"{name} margins": margins(found.logits, found.targets), f"{name} losses": np.asarray(found.losses)}


def scanner(*networks):
    """Give a scanner for all that is secret here, and what some networks say of the rows."""
    tokens = {f"row {row}": bytes(token) for row, token in zip(photos.FORGET[:4], photos.TOKENS[:4], strict=True)}
    pixels = photos.train()[0].numpy()
    return Scanner(
        {**tokens, "the file's name": WHO},
        tuple(int(row) for row in photos.FORGET),
        photos.NUM_ROWS,
        {f"pixels of row {row}": pixels[row].ravel()[:32] for row in photos.FORGET[:4]},
        {key: value for place, one in enumerate(networks) for key, value in per_row(one, f"network {place}").items()},
    )
