"""Every reason is given for a network that has it, and for no other."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from excise.data import Rows
from excise.train import Task, unstackable
from excise.train.unstackable import why_not_stacked
from tests.cases import CASES
from tests.probes import Watched, engine_for


class Around(nn.Module):
    """A linear layer, and what a test does around it."""

    def __init__(self, what):
        super().__init__()
        self.layer, self.what = nn.Linear(6, 4, dtype=torch.float64), what
        self.register_buffer("seen", torch.zeros(4, dtype=torch.float64))

    def forward(self, inputs):
        return self.what(self, inputs)


def branches(model, inputs):
    return model.layer(inputs) if inputs.sum() > 0 else -model.layer(inputs)


def counts(model, inputs):
    model.calls = getattr(model, "calls", 0) + 1
    return model.layer(inputs)


def rebinds(model, inputs):
    found = model.layer(inputs)
    model.seen = 0.5 * model.seen + found.detach().mean(0)
    return found + model.seen


def moves(model, inputs):
    found = model.layer(inputs)
    model.seen.mul_(0.5).add_(found.detach().mean(0))
    return found + model.seen


def draws_with_numpy(model, inputs):
    return model.layer(inputs) * np.random.rand()  # noqa: NPY002


def draws_with_python(model, inputs):
    return model.layer(inputs) * random.random()


def leaves(model, inputs):
    return model.layer(torch.from_numpy(inputs.numpy()))


def why(model, *, rows=None, task=None):
    rows = rows or [Rows.all_of(CASES["mlp"].data(30))]
    return why_not_stacked(model, rows, engine_for(model, task=task))


def test_a_network_that_can_run_with_others_is_let_through():
    assert why(CASES["mlp"].make()) is None
    assert why(Around(moves)) is None


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(CASES["mlp"].make(), nn.Dropout(0.1)), "draws random numbers"),
        (Around(draws_with_numpy), "draws random numbers"),
        (Around(draws_with_python), "draws random numbers"),
        (Around(branches), "cannot be done for many networks at once"),
        (Around(leaves), "cannot be done for many networks at once"),
        (Around(counts), "writes to its attribute 'calls'"),
        (Around(rebinds), "differs between networks that run alone and together"),
        (Around(lambda model, inputs: model.layer(inputs[:, :5])), "could not be run on 8 rows"),
        (nn.DataParallel(CASES["mlp"].make()), "wrapped in a DataParallel"),
    ],
    ids=["dropout", "numpy", "python", "branch", "numpy array", "attribute", "rebound", "broken", "wrapped"],
)
def test_a_reason_is_given(model, reason):
    assert reason in why(model)


def test_a_hook_on_a_gradient_is_seen():
    model = CASES["mlp"].make()
    next(model.parameters()).register_hook(lambda gradient: 2 * gradient)
    assert "hook on its gradient" in why(model)


def test_rows_must_be_arrays_of_one_data_set():
    data = CASES["mlp"].data(30)
    assert "no arrays" in why(CASES["mlp"].make(), rows=[Rows.all_of(Watched(*data))])
    assert "different data sets" in why(CASES["mlp"].make(), rows=[Rows.all_of(data), Rows.all_of(data)])


def test_a_task_of_the_users_own_is_tried():
    model = CASES["mlp"].make()
    smooth = Task(
        loss=lambda logits, targets: nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)
    )
    by_value = Task(loss=lambda logits, targets: logits[:, 0] * logits.sum().item())
    reduced = Task(loss=nn.functional.cross_entropy)
    assert why(model, task=smooth) is None
    assert "cannot be done" in why(model, task=by_value)
    assert "could not be run on 8 rows (loss: expected one value" in why(model, task=reduced)


def test_a_slow_rule_of_torch_is_no_reason_to_be_silent():
    embedding = nn.Sequential(nn.EmbeddingBag(11, 4, mode="max")).double()
    rows = [Rows.all_of((torch.randint(11, (30, 5), generator=torch.Generator().manual_seed(0)), torch.arange(30) % 4))]
    assert why(embedding, rows=rows) is not None


@pytest.mark.parametrize(
    ("found", "num_rows", "reason", "num_asked"),
    [
        ([unstackable._Differs("a")], 23, "a", 1),  # too few rows to ask others
        ([unstackable._Differs("a"), None, None], 24, None, 3),
        ([unstackable._Differs("a"), None, unstackable._Differs("b")], 24, "b", 3),
        (["it draws"], 24, "it draws", 1),
        ([None], 24, None, 1),
    ],
)
def test_where_values_differ_on_some_rows_others_are_asked(monkeypatch, found, num_rows, reason, num_asked):
    asked = []

    def difference(model, rows, engine, place=0):
        asked.append(place)
        return found[place]

    monkeypatch.setattr(unstackable, "_difference", difference)
    model = CASES["mlp"].make()
    assert why_not_stacked(model, [Rows.all_of(CASES["mlp"].data(num_rows))], engine_for(model)) == reason
    assert asked == list(range(num_asked))


def test_each_probe_asks_rows_of_its_own(monkeypatch):
    asked = []

    def alone(model, rows, ids, engine):
        asked.append(ids.tolist())
        return {"loss": torch.zeros(())}

    monkeypatch.setattr(unstackable, "_alone", alone)
    monkeypatch.setattr(unstackable, "_together", lambda *_: {"loss": torch.ones(2)})
    model, rows = CASES["mlp"].make(), Rows.all_of(CASES["mlp"].data(48))
    assert "loss differs" in why_not_stacked(model, [rows], engine_for(model))
    assert sorted(row for ids in asked for row in ids) == list(range(48))
