"""Slope and curvature of rows' losses, moments of layers' inputs: a network and rows in, gradients, sums, solutions out."""

from excise.curvature.fisher import (
    Importance,
    fisher_product,
    forget_and_all_importances,
    require_importance,
    squared_gradients,
)
from excise.curvature.gradient import (
    Accumulate,
    example_gradients,
    flat,
    num_chunks,
    require_accumulate,
    resting,
    shard_gradient,
    summed_gradient,
    trainable,
)
from excise.curvature.moments import Moments, layers_of, second_moments, weights_of
from excise.curvature.solve import conjugate_gradient, published_woodfisher

__all__ = [
    "Accumulate",
    "Importance",
    "Moments",
    "conjugate_gradient",
    "example_gradients",
    "fisher_product",
    "flat",
    "forget_and_all_importances",
    "layers_of",
    "num_chunks",
    "published_woodfisher",
    "require_accumulate",
    "require_importance",
    "resting",
    "second_moments",
    "shard_gradient",
    "squared_gradients",
    "summed_gradient",
    "trainable",
    "weights_of",
]
