"""Twins of forget rows: look-alikes where inputs are numbers, rows of the same class elsewhere; never trained on."""

import numpy as np
import pytest
import torch
from torch import nn

import excise
from excise.pipeline import case
from excise.pipeline.case import twins_of
from excise.pipeline.evidence import observe
from excise.train.engine import Engine
from excise.train.task import Task


def split_of(forget_inputs, test_inputs, forget_labels, test_labels):
    inputs = torch.cat([torch.as_tensor(forget_inputs), torch.zeros_like(torch.as_tensor(forget_inputs))])
    labels = torch.cat([torch.as_tensor(forget_labels), torch.as_tensor(forget_labels)])
    count = len(forget_labels)
    return excise.Split(
        (inputs, labels), forget=range(count), test=(torch.as_tensor(test_inputs), torch.as_tensor(test_labels))
    )


def labels_of(split):
    return {part: getattr(split, part).labels().numpy() for part in ("forget", "retain", "test")}


def test_a_twin_is_the_test_row_nearest_and_is_asked_about_under_the_forget_rows_label():
    forget, test = [[0.0, 0.0], [5.0, 5.0]], [[5.1, 5.0], [0.1, 0.0], [9.0, -9.0]]
    split = split_of(forget, test, [1, 0], [0, 1, 1])
    found = twins_of(split, labels_of(split), 0)
    assert (found.rows.tolist(), found.places.tolist(), found.labels.tolist()) == ([0, 1], [1, 0], [1, 0])


def test_tokens_are_paired_by_class():
    split = split_of([[1, 2], [3, 4], [5, 6]], [[9, 9], [8, 8], [7, 7], [6, 6]], [1, 0, 1], [1, 0, 1, 2])
    found = twins_of(split, labels_of(split), 0)
    assert found.labels.tolist() == np.array([1, 0, 1, 2])[found.places].tolist()
    assert [int(split.forget.labels()[row]) for row in found.rows] == found.labels.tolist()
    assert len(set(found.places.tolist())) == 3 and sorted(found.rows.tolist()) == [0, 1, 2]


def test_large_sets_are_drawn_down_and_the_seed_says_how(monkeypatch):
    monkeypatch.setattr(case, "MOST_FORGET", 5)
    monkeypatch.setattr(case, "MOST_TEST", 7)
    draws = torch.Generator().manual_seed(0)
    split = split_of(torch.randn(20, 3, generator=draws), torch.randn(30, 3, generator=draws), [0] * 20, [0] * 30)
    first, again, other = (twins_of(split, labels_of(split), seed) for seed in (1, 1, 2))
    assert first.rows.tolist() == again.rows.tolist() != other.rows.tolist()
    assert first.places.tolist() == again.places.tolist()
    assert len(first.rows) == 5 and len(set(first.places.tolist())) <= 7


@pytest.mark.parametrize("count", [1, 3])
def test_margins_of_twins_are_those_of_the_test_row_under_the_other_label(count):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(2, 3)
    split = split_of(torch.randn(4, 2), torch.randn(6, 2), [0, 1, 2, 0], [2, 2, 1, 1, 0, 0])
    engine = Engine(Task(), 0, excise.Mask.empty(model))
    networks = [observe(model, split, engine)] * count
    found = twins_of(split, labels_of(split), 0)
    inside, outside = found.stacked(networks)
    assert inside.shape == outside.shape == (count, 4)
    logits = model(split.test.source.read(split.test.ids)[0]).double().detach()
    for pair, (place, label) in enumerate(zip(found.places, found.labels, strict=True)):
        p = logits[place].softmax(0)[label]
        assert outside[0, pair] == pytest.approx(float((p / (1 - p)).log()), rel=1e-4)  # float32 logits
