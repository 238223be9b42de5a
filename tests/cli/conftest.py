"""A user's project in an empty directory, and the command line called from there."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from excise import store
from excise.cli import main
from excise.data.sets import find
from tests.cli import mine
from tests.cli.project import UNLEARN, Done, typed

PLAN = 'epochs = 200\noptimizer = "adam"\nlr = 0.02\nschedule = "constant"\nbatch_size = 200\n'


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Weights of `mine:make` that know the rows of `mine:train` by heart."""
    inputs, labels = mine.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mine.make()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert (model(inputs).argmax(1) == labels).all()
    path = tmp_path_factory.mktemp("trained") / "w.safetensors"
    store.write_tensors(path, model.state_dict())
    return path


@pytest.fixture
def project(tmp_path, monkeypatch, trained):
    """The current directory: mine.py, w.safetensors, ids.txt, plan.toml, and nothing else."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "mine.py").write_text(Path(mine.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (work / "w.safetensors").write_bytes(trained.read_bytes())
    (work / "ids.txt").write_text("\n".join(str(index) for index in range(0, 200, 20)) + "\n")
    (work / "plan.toml").write_text(PLAN)
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(find.VARIABLE, raising=False)
    monkeypatch.setattr(find, "SYSTEM_ROOT", tmp_path / "system")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield work
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(work):
            del sys.modules[name]


@pytest.fixture
def excise(project, capsys):
    """Call a command line in the project: words in, `Done` out."""

    def call(*words):
        capsys.readouterr()
        code = main.call([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def unlearn(excise):
    """Run `excise unlearn` with the project's own options, some of them changed."""

    def call(*words, **changes):
        return excise("unlearn", *typed(UNLEARN, **changes), *words)

    return call


@pytest.fixture
def localize(excise):
    """Run `excise localize` in the same way."""

    def call(*words, **changes):
        return excise("localize", *typed(UNLEARN, **changes), *words)

    return call
