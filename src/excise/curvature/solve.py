"""Solutions of damped linear systems from products alone, and the published recursion that was meant to be one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from excise import errors


@torch.no_grad()
def conjugate_gradient(
    product: Callable[[Tensor], Tensor], target: Tensor, *, damping: float, tolerance: float, max_iterations: int
) -> Tensor:
    """Solve (A + damping I) x = b for a symmetric positive semi-definite A known by its products, from x = 0.

    Letters as in Nocedal and Wright: r the residual, p the direction, rho = r . r.

    References:
        Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952; Nocedal, Wright, "Numerical
        Optimization", 2006, algorithm 5.2.

    Args:
        product: gives A v for v `[params]`.
        target: b, `[params]`.
        damping: added to the diagonal.
        tolerance: stop when |r| <= tolerance |b|.
        max_iterations: products at most.

    Returns:
        x, `[params]`.

    Raises:
        errors.Refused: the tolerance was not met, or A + damping I is not positive along a direction.
    """
    x, r = torch.zeros_like(target), target.clone()
    p, rho = r.clone(), float(target @ target)
    enough = tolerance**2 * rho
    for iteration in range(max_iterations):
        if rho <= enough:
            return x
        along = product(p) + damping * p
        curvature = float(p @ along)
        if not curvature > 0:
            raise errors.Refused(
                f"the solve met a direction of curvature {curvature:.3g} in iteration {iteration + 1}; nothing was changed; "
                f"raise damping (now {damping:g})"
            )
        step = rho / curvature
        x += step * p
        r -= step * along
        before, rho = rho, float(r @ r)
        p = r + (rho / before) * p
    if rho <= enough:
        return x
    left = (rho / float(target @ target)) ** 0.5
    raise errors.Refused(
        f"the solve stopped after {max_iterations} iterations at a relative residual of {left:.3g}, above the tolerance "
        f"{tolerance:g}; nothing was changed; raise damping (now {damping:g}), max_iterations or tolerance"
    )


def published_woodfisher(gradients: Iterable[Tensor], target: Tensor, num_examples: int) -> Tensor:
    """Give what the published unlearning codes compute for "(I + F)^-1 v" from one example's gradient after another.

    Letters as in the code: k starts as v and is the result; o starts as the first gradient g_0. Each further gradient g gives
    t = o . g, k <- k - (k . g) / (N + t) o, and o <- o - t / (N + t) o. Since o is only ever rescaled, k moves along g_0
    alone: the result is v - c g_0 for some number c. In WoodFisher itself o is the current inverse times the new gradient.

    References:
        Singh, Alistarh, "WoodFisher: Efficient Second-Order Approximation for Neural Network Compression", NeurIPS 2020,
        for the recursion meant; the codes of Jia et al. 2023 and Fan et al. 2024 for the one computed.

    Args:
        gradients: `[params]`, one for each example, in order.
        target: v, `[params]`.
        num_examples: N.
    """
    k, o = target.clone(), None
    for g in gradients:
        if o is None:
            o = g.clone()
            continue
        t = o @ g
        k -= (k @ g) / (num_examples + t) * o
        o -= t / (num_examples + t) * o
    return k
