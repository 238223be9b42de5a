"""Twins: gradients row by row, the closed form of a linear network, and networks trained on the noise and not."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from excise import errors
from excise.data.sets import load
from excise.measure import canary_test, fresh_projections
from excise.observe import plant, projections
from excise.train import Task
from tests.cases import CASES
from tests.probes import LeftAlone, as_module, engine_for, touched


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[name for name in CASES if not CASES[name].tokens], ids=str)
def case(request):
    return CASES[request.param]


def moved_statistics(model, inputs):
    """Forward passes in training mode, so that running statistics differ from those of a batch."""
    with torch.no_grad():
        model.train()
        model(inputs)
    return model


def row_by_row(model, inputs, targets, noise, scale):
    model.eval()
    found = []
    for x, y, xi in zip(inputs, targets, noise, strict=True):
        leaf = x[None].clone().requires_grad_()
        (g,) = torch.autograd.grad(functional.cross_entropy(model(leaf), y[None]), leaf)
        found.append(float((g[0] * xi).sum() / (scale * g.norm())))
    return found


def test_projections_are_those_of_gradients_row_by_row(case):
    inputs, targets = case.data(9)
    model = moved_statistics(case.make(), inputs)
    noise = plant(inputs, seeded(), scale=0.3)[1]
    found = projections(model, inputs, targets, noise, engine_for(model), scale=0.3)
    assert found.dtype == np.float64
    # one row at a time against a batch: the order of sums differs
    np.testing.assert_allclose(found, row_by_row(model, inputs, targets, noise, 0.3), rtol=1e-9)


def test_a_linear_network_has_a_closed_form():
    model = nn.Linear(5, 3).double()
    inputs, targets = torch.randn(4, 5, generator=seeded(), dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    noise = plant(inputs, seeded(1), scale=2.0)[1]
    excess = torch.softmax(inputs @ model.weight.T + model.bias, 1) - functional.one_hot(targets, 3)
    g = excess @ model.weight
    wanted = ((g * noise).sum(1) / (2 * g.norm(dim=1))).detach().numpy()
    np.testing.assert_allclose(projections(model, inputs, targets, noise, engine_for(model), scale=2.0), wanted)


def test_many_draws_are_each_draw_by_itself_and_the_batch_size_does_not_matter(case):
    inputs, targets = case.data(7)
    model = case.make()
    engine = engine_for(model)
    noise = torch.stack([plant(inputs, seeded(seed), scale=1.0)[1] for seed in range(3)])
    found = projections(model, inputs, targets, noise, engine, scale=1.0)
    assert found.shape == (3, 7)
    for draw in range(3):
        alone = projections(model, inputs, targets, noise[draw], engine, scale=1.0, batch_size=2)
        np.testing.assert_allclose(alone, found[draw], rtol=1e-9)


def test_the_projection_of_fresh_noise_is_a_standard_normal_number(case):
    inputs, targets = case.data(5)
    model = case.make()
    noise = 0.7 * torch.randn((800, *inputs.shape), generator=seeded(), dtype=inputs.dtype)
    found = projections(model, inputs, targets, noise, engine_for(model), scale=0.7)
    assert stats.kstest(found.ravel(), "norm").pvalue > 0.001
    np.testing.assert_allclose(np.corrcoef(found.T) - np.eye(5), 0, atol=4 / math.sqrt(800))


def test_the_network_and_the_world_are_left_alone(case):
    inputs, targets = case.data(6)
    model = touched(case.make())
    watch, before = LeftAlone(model), (inputs.clone(), targets.clone())
    noise = plant(inputs, seeded(), scale=0.1)[1]
    with torch.no_grad():
        engine = engine_for(model)
        projections(model, inputs, targets, noise, engine, scale=0.1, batch_size=4)
        assert not torch.is_grad_enabled()
    watch.check()
    assert torch.equal(inputs, before[0]) and torch.equal(targets, before[1])
    assert not inputs.requires_grad
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (6, 0)


def test_frozen_parameters_do_not_matter(case):
    inputs, targets = case.data(6)
    model, noise = case.make(), plant(inputs, seeded(), scale=0.1)[1]
    found = projections(model, inputs, targets, noise, engine_for(model), scale=0.1)
    model.requires_grad_(False)
    np.testing.assert_array_equal(projections(model, inputs, targets, noise, engine_for(model), scale=0.1), found)


def test_a_gradient_that_is_zero_or_not_finite_points_nowhere():
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    factors = torch.tensor([[1.0], [0.0], [1e-200], [math.inf]], dtype=torch.float64)
    model = as_module(lambda inputs: weight * inputs, weight)
    # the logits are the inputs; a loss whose gradient by them is a factor, the same in every direction
    task = Task(loss=lambda logits, targets: (logits * factors[targets]).sum(1))
    inputs, targets = torch.ones(4, 2, dtype=torch.float64), torch.arange(4)
    noise = torch.tensor([[3.0, 1.0]] * 4, dtype=torch.float64)
    found = projections(model, inputs, targets, noise, engine_for(model, task=task), scale=2.0)
    np.testing.assert_allclose(found, [math.sqrt(2), 0.0, math.sqrt(2), 0.0], rtol=1e-12)


def test_a_half_precision_network_is_projected_in_its_own_precision():
    case = CASES["mlp"]
    inputs, targets = case.data(8)
    noise = plant(inputs, seeded(), scale=0.5)[1]
    exact, half = case.make(), case.make().bfloat16()
    wanted = projections(exact, inputs, targets, noise, engine_for(exact), scale=0.5)
    found = projections(half, inputs, targets, noise, engine_for(half), scale=0.5)
    np.testing.assert_allclose(found, wanted, atol=0.1)  # bfloat16 is good to 1e-2, a gradient to less


def test_planting_adds_noise_of_the_scale_and_clips_nothing():
    inputs = torch.full((200, 3, 5), 1.0)
    noisy, noise = plant(inputs, seeded(), scale=0.25)
    assert torch.equal(noisy, inputs + noise)
    assert noisy.dtype == noise.dtype == torch.float32
    assert noisy.max() > 1.5
    assert stats.kstest(noise.flatten().numpy() / 0.25, "norm").pvalue > 0.001
    assert torch.equal(plant(inputs, seeded(), scale=0.25)[1], noise)
    assert not torch.equal(plant(inputs, seeded(1), scale=0.25)[1], noise)
    assert torch.equal(inputs, torch.full((200, 3, 5), 1.0))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_none_is_refused(scale):
    model = CASES["mlp"].make()
    inputs, targets = CASES["mlp"].data(4)
    with pytest.raises(errors.BadRequest, match="scale: expected the noise's standard deviation, above 0"):
        plant(inputs, seeded(), scale=scale)
    with pytest.raises(errors.BadRequest, match="scale: expected the noise's standard deviation, above 0"):
        projections(model, inputs, targets, inputs, engine_for(model), scale=scale)


def test_tokens_are_refused():
    case = CASES["tied"]
    model = case.make()
    inputs, targets = case.data(4)
    with pytest.raises(
        errors.BadRequest, match=r"canaries: expected floating inputs to add noise to, found torch\.int64"
    ):
        plant(inputs, seeded(), scale=1.0)
    with pytest.raises(
        errors.BadRequest, match=r"canaries: expected floating inputs and noise of the same shape.*int64"
    ):
        projections(model, inputs, targets, inputs, engine_for(model), scale=1.0)


@pytest.mark.parametrize("shape", [(3, 6), (4, 5), (2, 3, 6), (1, 1, 4, 6), (6,)])
def test_noise_of_another_shape_is_refused(shape):
    model = CASES["mlp"].make()
    inputs, targets = CASES["mlp"].data(4)
    with pytest.raises(errors.BadRequest, match="expected floating inputs and noise of the same shape"):
        projections(model, inputs, targets, torch.zeros(shape), engine_for(model), scale=1.0)


def trained(inputs, labels, seed):
    """A small network on digits, by Adam."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(30):
            for places in torch.randperm(len(labels)).split(64):
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs[places]), labels[places]).backward()
                optimizer.step()
    return model


def test_a_network_trained_on_the_noise_is_told_from_one_that_was_not():
    """60 canaries with drawn labels among 640 digits; see benchmarks/canaries.py for a hundred networks of each kind."""
    inputs, labels = (part[:640] for part in load("digits").train)
    inputs, labels = inputs.flatten(1), labels.clone()
    labels[:60] = torch.randint(10, (60,), generator=seeded())
    for seed in range(5):
        noisy, noise = plant(inputs[:60], seeded(seed), scale=0.2)
        kinds = {
            "original": trained(torch.cat([noisy, inputs[60:]]), labels, seed),
            "retrained": trained(inputs[60:], labels[60:], seed + 100),
        }
        measures = {}
        for name, model in kinds.items():
            own = projections(model, inputs[:60], labels[:60], noise, engine_for(model), scale=0.2)
            measures[name] = canary_test(own, fresh_projections(own, np.random.default_rng(seed)))
        assert measures["original"].p < 1e-3
        assert measures["original"].value > 2 * measures["original"].least_detectable
        assert measures["retrained"].p > 1e-2
        assert measures["retrained"].value < measures["retrained"].least_detectable
