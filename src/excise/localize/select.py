"""From scores to a mask: the highest units that the budget pays for, over all layers at once.

Ties are broken by the order of the parameters in the network, then by index, so equal scores give equal masks on any
machine. Weights are cut at an exact threshold found by counting (no sort of all weights); channels are few and sorted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from excise import errors

_DIGIT_BITS = 16


def select_weights(scores: Mapping[str, Tensor], budget: int, *, lowest: bool = False) -> dict[str, Tensor]:
    """Give full-size booleans that choose exactly the `budget` highest weights, or lowest.

    Args:
        scores: nonnegative and finite, by parameter.
        budget: how many weights to choose.
        lowest: choose the lowest instead.

    Returns:
        Booleans of each parameter's shape, `budget` of them True.
    """
    if budget <= 0:
        return {name: torch.zeros_like(value, dtype=torch.bool) for name, value in scores.items()}
    total = sum(value.numel() for value in scores.values())
    threshold = kth_largest(list(scores.values()), total + 1 - budget if lowest else budget)
    beyond = torch.lt if lowest else torch.gt
    chosen = {name: beyond(value, threshold).contiguous() for name, value in scores.items()}  # not so in channels_last
    left = budget - sum(int(mask.sum()) for mask in chosen.values())
    for name, value in scores.items():
        if left == 0:
            break
        ties = (value == threshold).reshape(-1).nonzero().flatten()[:left]
        chosen[name].view(-1)[ties] = True
        left -= len(ties)
    return chosen


class Remainder(NamedTuple):
    """The one channel that the budget ran out in, and how many of its weights it still paid for."""

    name: str
    row: int
    num_weights: int


@dataclass(frozen=True, eq=False)
class Ranked:
    """The channels of several parameters in the order in which budgets buy them; one ranking serves any number of budgets.

    Attributes:
        counts: channels of each parameter.
        order: places of the channels, counted through the parameters one after another; the first to be bought stands first.
        owner: which parameter each of these channels is of.
    """

    counts: Mapping[str, int]
    order: Tensor
    owner: Tensor


def rank_channels(channels: Mapping[str, Tensor], *, lowest: bool = False) -> Ranked:
    """Rank channels from the highest score down, or from the lowest up: one stable sort of the channels.

    Args:
        channels: `[channels]` scores by parameter.
        lowest: from the lowest up.
    """
    counts = {name: len(values) for name, values in channels.items()}
    order = torch.cat(list(channels.values())).argsort(descending=not lowest, stable=True)
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(list(counts.values())))
    return Ranked(counts, order, owner[order])


def select_channels(
    ranked: Ranked, sizes: Mapping[str, int], budget: int
) -> tuple[dict[str, Tensor], Remainder | None]:
    """Choose ranked channels for as long as each fits whole into what is left of the budget. No score is looked at.

    Stops at the first channel that does not fit, so that a larger budget always gives a superset.

    Args:
        ranked: the channels in their order.
        sizes: weights in one channel of each parameter.
        budget: weights to choose at most.

    Returns:
        Booleans `[channels]` by parameter; and the channel that did not fit, with what was left for it, if anything was.
    """
    names, order = list(ranked.counts), ranked.order
    spent = torch.tensor([sizes[name] for name in names])[ranked.owner].cumsum(0)
    whole = int(torch.searchsorted(spent, budget, right=True))
    chosen = torch.zeros(len(order), dtype=torch.bool)
    chosen[order[:whole]] = True
    rows = dict(zip(names, torch.split(chosen, list(ranked.counts.values())), strict=True))
    left = budget - (int(spent[whole - 1]) if whole else 0)
    if whole == len(order) or left == 0:
        return rows, None
    place = int(ranked.owner[whole])
    before = sum(list(ranked.counts.values())[:place])
    return rows, Remainder(names[place], int(order[whole]) - before, left)


def kth_largest(tensors: list[Tensor], k: int) -> float:
    """Give the exact k-th largest of all elements together, counted from 1, without sorting or concatenating them.

    Nonnegative floats order as their bit patterns do, so the value is found 16 bits at a time by counting: two passes over
    float32, four over float64.

    Raises:
        errors.BadRequest: k is not between 1 and the number of elements.

    >>> kth_largest([torch.tensor([3.0, 1.0]), torch.tensor([2.0])], 2)
    2.0
    """
    total = sum(tensor.numel() for tensor in tensors)
    if not 1 <= k <= total:
        raise errors.BadRequest(f"k: expected 1 to {total}, found {k}")
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    integers, bits = (torch.int64, 64) if dtype == torch.float64 else (torch.int32, 32)
    patterns = [tensor.to(dtype).contiguous().reshape(-1).view(integers) for tensor in tensors]
    prefix, remaining = 0, k
    for shift in range(bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        counts = torch.zeros(1 << _DIGIT_BITS, dtype=torch.int64)
        known = (1 << max(bits - 1 - _DIGIT_BITS - shift, 0)) - 1  # without the sign: -0.0 is 0.0
        for pattern in patterns:
            above = pattern[((pattern >> (shift + _DIGIT_BITS)) & known) == prefix] if known else pattern
            digits = (above >> shift) & ((1 << (_DIGIT_BITS if known else _DIGIT_BITS - 1)) - 1)
            counts += torch.bincount(digits.cpu(), minlength=1 << _DIGIT_BITS)
        from_top = counts.flip(0).cumsum(0)
        place = int(torch.searchsorted(from_top, remaining))
        digit = (1 << _DIGIT_BITS) - 1 - place
        remaining -= int(from_top[place] - counts[digit])
        prefix = (prefix << _DIGIT_BITS) | digit
    return float(torch.tensor([prefix], dtype=integers).view(dtype))


def budget_in_weights(budget_fraction: float, num_weights: int) -> int:
    """Give floor(budget * weights); a fraction that is a whole number of weights up to rounding counts as whole."""
    exact = budget_fraction * num_weights
    nearest = round(exact)
    return nearest if math.isclose(exact, nearest, rel_tol=1e-12, abs_tol=1e-9) else math.floor(exact)
