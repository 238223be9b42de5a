import math

import pytest
import torch
from torch import nn

from excise import errors, params
from excise.lifecycle.drift import Drift, advice, distance, fell_too_far

NONE = {"distance": 0.5, "forgotten_fraction": 0.05, "retrainings": 0.9, "test_accuracy_change": -0.005}


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def test_the_distance_is_that_of_all_parameters_as_one_vector():
    one, other = network(0), network(1)
    first, second = (torch.cat([p.detach().flatten().double() for p in m.parameters()]) for m in (one, other))
    assert distance(one, other) == pytest.approx(float((second - first).norm() / first.norm()), rel=1e-12)
    assert distance(one, params.clone_model(one)) == 0.0


def test_buffers_are_no_parameters_and_a_tied_weight_counts_once():
    one = network()
    other = params.clone_model(one)
    other[1].running_mean += 7
    assert distance(one, other) == 0.0
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    moved = params.clone_model(tied)
    with torch.no_grad():
        moved[0].weight *= 1.5
    assert distance(tied, moved) == pytest.approx(0.5)


def test_from_nothing_any_step_is_endless():
    zero = nn.Linear(2, 2)
    with torch.no_grad():
        zero.weight.zero_(), zero.bias.zero_()
    assert distance(zero, params.clone_model(zero)) == 0.0
    assert distance(zero, nn.Linear(2, 2)) == math.inf


def test_other_architectures_have_no_distance():
    with pytest.raises(errors.MaskMismatch, match="expected two networks of one architecture"):
        distance(nn.Linear(2, 2), nn.Linear(2, 3))


def test_a_fall_is_too_far_beyond_what_is_allowed_and_not_at_it():
    told = [fell_too_far(change, 0.02) for change in (0.5, 0.0, -0.02, 0.88 - 0.9, -0.0201, -1.0)]
    assert told == [False, False, False, False, True, True]
    assert not fell_too_far(0.0, 0.0)


def test_within_every_bound_nothing_is_advised():
    assert advice(Drift(**NONE), max_drop=0.02, failures=1) == []
    unknown = Drift(distance=None, forgotten_fraction=0.0, retrainings=None, test_accuracy_change=0.0)
    assert advice(unknown, max_drop=0.0, failures=0) == []


@pytest.mark.parametrize(
    ("name", "at", "beyond", "words"),
    [
        ("forgotten_fraction", 0.10, 0.101, "10.1% of the training rows are forgotten (above 10%)"),
        ("retrainings", 1.0, 1.01, "all runs together cost 1.01 retrainings (above 1)"),
        (
            "test_accuracy_change",
            -0.01,
            -0.0105,
            "test accuracy is 1.05 percentage points below the original's (above 50% of the 2.00 that",
        ),
        ("distance", 1.0, 1.25, "the weights moved by 1.25 of their length (above 1)"),
    ],
)
def test_each_bound_is_advised_on_beyond_it_and_not_at_it(name, at, beyond, words):
    assert advice(Drift(**{**NONE, name: at}), max_drop=0.02, failures=0) == []
    (said,) = advice(Drift(**{**NONE, name: beyond}), max_drop=0.02, failures=0)
    assert said.startswith(words)


def test_a_request_that_failed_twice_is_a_reason():
    assert advice(Drift(**NONE), max_drop=0.02, failures=2) == ["a request has failed in 2 runs"]
