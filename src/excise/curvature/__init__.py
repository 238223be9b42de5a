"""The slope and the curvature of rows' losses: a network and rows in, gradients, products and solutions out."""

from excise.curvature.fisher import Importance, fisher_product, require_importance, squared_gradients
from excise.curvature.gradient import example_gradients, flat, mean_gradient, num_chunks, resting, trainable
from excise.curvature.solve import conjugate_gradient, published_woodfisher

__all__ = [
    "Importance",
    "conjugate_gradient",
    "example_gradients",
    "fisher_product",
    "flat",
    "mean_gradient",
    "num_chunks",
    "published_woodfisher",
    "require_importance",
    "resting",
    "squared_gradients",
    "trainable",
]
