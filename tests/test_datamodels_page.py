"""The page on datamodels: its Python runs."""

from pathlib import Path

import torch
from torch import nn

from excise.data import Split
from excise.train import TrainPlan
from tests.cases import CASES

PAGE = Path(__file__).parent.parent / "docs" / "datamodels.md"


def make_model():
    return nn.Linear(6, 4).double()


def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    inputs, labels = CASES["mlp"].data(16)
    split = Split((inputs[:12], labels[:12]), forget=[3, 5], test=(inputs[12:], labels[12:]))
    known = {"make_model": make_model, "split": split, "plan": TrainPlan(epochs=30, lr=0.5, batch_size=6)}
    known["model"] = make_model()
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0].replace("=64", "=16")
    exec(compile(code, str(PAGE), "exec"), known)
    assert known["effects"].shape == known["errors"].shape == (4, 4)
    assert known["score"].num_models == 8 and (tmp_path / "datamodel.safetensors").is_file()
    assert not torch.equal(known["unlearned"].model.weight, known["model"].weight)
