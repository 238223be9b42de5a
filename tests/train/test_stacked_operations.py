"""Twins: torch's own functions, network by network."""

import pytest
import torch
from torch.func import vmap
from torch.nn import functional

from excise.train.stacked_operations import StackedOperations


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stacked(function, *tensors):
    with StackedOperations():
        return vmap(function)(*tensors)


def each(function, *tensors):
    return torch.stack([function(*own) for own in zip(*tensors, strict=True)])


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 3, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_that_of_each_network(shape, training):
    values, weight, bias = drawn(3, *shape), drawn(3, 4, seed=1), drawn(3, 4, seed=2)
    means, variances = [[start.clone() for _ in range(2)] for start in (drawn(3, 4, seed=3), drawn(3, 4, seed=4).abs())]

    def norm(values, weight, bias, mean, variance):
        return functional.batch_norm(values, mean, variance, weight, bias, training, 0.3, 1e-3)

    for tensor in (values, weight, bias):
        tensor.requires_grad_()
    mine = stacked(norm, values, weight, bias, means[0], variances[0])
    theirs = each(norm, values, weight, bias, means[1], variances[1])
    assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)
    assert torch.allclose(means[0], means[1]) and torch.allclose(variances[0], variances[1])
    slope = drawn(3, *shape, seed=5)
    gradients = [torch.autograd.grad((found * slope).sum(), (values, weight, bias)) for found in (mine, theirs)]
    assert all(torch.allclose(one, other, rtol=0, atol=1e-11) for one, other in zip(*gradients, strict=True))


def test_batch_norm_without_weights_or_statistics():
    values = drawn(3, 6, 4)

    def norm(values):
        return functional.batch_norm(values, None, None, training=True)

    assert torch.allclose(stacked(norm, values), each(norm, values), rtol=0, atol=1e-12)


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_is_that_of_each_network(affine):
    values, weight, bias = drawn(3, 6, 4, 2, 2), drawn(3, 4, seed=1), drawn(3, 4, seed=2)

    def norm(values, weight, bias):
        return functional.group_norm(values, 2, *((weight, bias) if affine else ()), eps=1e-3)

    assert torch.allclose(stacked(norm, values, weight, bias), each(norm, values, weight, bias), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"ignore_index": 1}, {"label_smoothing": 0.1}, {"weight": drawn(4).abs()}])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_cross_entropy_is_that_of_each_network(options, scale):
    logits = (scale * drawn(3, 6, 4)).requires_grad_()
    targets = torch.arange(18).view(3, 6) % 4
    targets[0, 0] = options.get("ignore_index", 0)

    def loss(logits, targets):
        return functional.cross_entropy(logits, targets, reduction="none", **options)

    mine, theirs = stacked(loss, logits, targets), each(loss, logits, targets)
    assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(found.square().sum(), logits)[0] for found in (mine, theirs)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [1, (1, 1), 2])
def test_adaptive_pooling_is_that_of_each_network(size):
    images = drawn(3, 2, 4, 6, 6)
    found = stacked(lambda own: functional.adaptive_avg_pool2d(own, size), images)
    assert torch.allclose(
        found, each(lambda own: functional.adaptive_avg_pool2d(own, size), images), rtol=0, atol=1e-12
    )


def test_a_constant_of_the_code_is_no_networks_own():
    values, constant = drawn(3, 6, 4), drawn(6, 4, seed=1)
    statistics = drawn(4).abs()

    def norm(values):
        return values + functional.batch_norm(constant, statistics, statistics)

    assert torch.allclose(stacked(norm, values), each(norm, values), rtol=0, atol=1e-12)
