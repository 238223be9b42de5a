import logging
import random
import sys

import numpy as np
import pytest
import torch

from excise import errors
from excise.pipeline.tuning_search import NUM_RANDOM, suggest
from excise.pipeline.tuning_space import Choices, Range

SPACE = {
    "lr": Range(low=1e-3, high=1.0, log=True),
    "epochs": Range(low=1, high=9, whole=True),
    "order": Choices(("a", None, 3)),
}


def search(count, seed, value):
    tried = []
    for _ in range(count):
        settings = suggest(SPACE, tried, seed)
        tried.append((settings, 0))
        order = sorted({value(one) for one, _ in tried})
        tried = [(one, order.index(value(one))) for one, _ in tried]
    return [settings for settings, _ in tried]


def test_a_suggestion_lies_in_the_space_in_its_own_type():
    for settings in search(12, 0, lambda one: one["lr"]):
        assert list(settings) == list(SPACE)
        assert 1e-3 <= settings["lr"] <= 1.0 and type(settings["lr"]) is float
        assert 1 <= settings["epochs"] <= 9 and type(settings["epochs"]) is int
        assert settings["order"] in ("a", None, 3)


def test_a_suggestion_is_a_function_of_the_seed_and_of_what_was_tried():
    once = search(11, 5, lambda one: one["lr"])
    assert once == search(11, 5, lambda one: one["lr"])
    assert once != search(11, 6, lambda one: one["lr"])
    assert once[:9] == search(9, 5, lambda one: one["lr"])
    other = search(11, 5, lambda one: -one["lr"])
    assert other[:NUM_RANDOM] == once[:NUM_RANDOM]  # drawn before anything is learnt
    assert other[-1] != once[-1]


def test_it_learns_where_to_look():
    def value(one):
        return abs(np.log(one["lr"] / 0.03))

    for seed in range(3):
        found = search(24, seed, value)
        late = np.mean([value(one) for one in found[-8:]])
        assert late < np.mean([value(one) for one in found[:NUM_RANDOM]])


def test_nothing_global_is_touched():
    log = logging.getLogger("optuna")
    suggest(SPACE, [], 0)  # imports what it needs
    log.setLevel(17)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    suggest(SPACE, [], 0)
    assert log.level == 17
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    assert after == before
    log.setLevel(logging.NOTSET)


def test_nothing_is_said(capfd):
    suggest(SPACE, [], 0)
    assert capfd.readouterr() == ("", "")


def test_without_optuna_the_message_is_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(errors.MissingExtra, match=r"tune needs Optuna to search.*pip install 'excise\[tune\]'"):
        suggest(SPACE, [], 0)
