"""Recipes after published systems."""

from __future__ import annotations

from typing import Literal

from excise.methods import Smooth
from excise.recipes.plans import constant
from excise.recipes.recipe import Recipe


def JiT(
    *,
    sigma: float = 0.5,
    lr: float = 3e-4,
    num_draws: int = 25,
    epochs: int = 1,
    batch_size: int = 128,
    clamp: bool = True,
    detach_noisy: bool = True,
    accumulate: bool = False,
    mode: Literal["eval", "train"] = "eval",
) -> Recipe:
    """Pull the outputs of forget rows to those of noisy copies of them, with the whole network. Reads forget only, no label.

    Defaults: one pass in the order of ids, 25 draws and 128 rows a step as published; `sigma` 0.5 and `lr` 3e-4 are those of
    the published runs that forget a class with VGG11. Both were tuned for each task and network, from 0.01 to 1.5 and from
    3e-4 to 1.5, and a rate three times too large ruins a network: tune them. The published code also leaves dropout on
    and adds up gradients over the pass: `mode="train"`, `accumulate=True`.

    Args:
        sigma: standard deviation of the noise, in units of the inputs as the network gets them.
        lr: learning rate, constant; of the sum over a batch.
        num_draws: noisy copies of each row a step.
        epochs: passes over forget, in the order of ids.
        batch_size: forget rows a step.
        clamp: keep noisy inputs within the range of the batch.
        detach_noisy: take outputs on noisy inputs as constants; see `methods.Smooth`.
        accumulate: step along the sum of all gradients so far, as the published code does, which never sets them to zero.
        mode: `eval`, or the published `train`, in which dropout acts.
    """
    momentum = 1.0 if accumulate else 0.0  # v <- v + g: the very sum
    plan = constant(epochs=epochs, lr=lr, batch_size=batch_size, momentum=momentum, shuffle=False)
    return Recipe(
        name="JiT",
        paper="Foster et al., An Information Theoretic Approach to Machine Unlearning, arXiv:2402.01401",
        year=2024,
        method=Smooth(plan=plan, sigma=sigma, num_draws=num_draws, clamp=clamp, detach_noisy=detach_noisy, mode=mode),
    )
