"""How far a network has come from its original over many unlearnings, and when a retraining is the better answer."""

from __future__ import annotations

import math

import msgspec
import torch
from torch import nn

from excise import errors, params

MOST_FORGOTTEN = 0.10
"""Share of the training rows after which a retraining is advised: the data are others than those it was trained on."""
MOST_SPENT = 1.0
"""Retrainings that all runs together may cost: after that, one retraining would have been cheaper."""
MOST_MOVED = 1.0
"""Relative distance after which weights have moved by their own length. Two networks trained apart lie about 1.4 apart."""
SHARE_OF_DROP = 0.5
"""Share of the allowed loss of accuracy that may be used up before a retraining is advised: the next run needs the rest."""
MOST_FAILURES = 2
"""Runs in which one request may fail."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """The distance from the original.

    Attributes:
        distance: L2 norm of the change of all parameters over that of the original's; None where the original is gone.
        forgotten_fraction: share of the training rows.
        retrainings: what all runs with a receipt cost, in retrainings, those that failed among them and those given up not;
            None where a run's share is not known.
        test_accuracy_change: now less the original's.
    """

    distance: float | None
    forgotten_fraction: float
    retrainings: float | None
    test_accuracy_change: float


@torch.no_grad()
def distance(original: nn.Module, current: nn.Module) -> float:
    """Give the relative L2 distance of two networks' parameters, each counted once, in double precision.

    Raises:
        errors.MaskMismatch: the networks have other parameters.
    """
    before, after = (params.named_parameters(params.unwrapped(model)) for model in (original, current))
    if {name: value.shape for name, value in before.items()} != {name: value.shape for name, value in after.items()}:
        raise errors.MaskMismatch(
            "expected two networks of one architecture, found other names or shapes of parameters"
        )
    moved = math.fsum(float((after[name].double() - value.double()).square().sum()) for name, value in before.items())
    length = math.fsum(float(value.double().square().sum()) for value in before.values())
    if length == 0:
        return 0.0 if moved == 0 else math.inf
    return math.sqrt(moved / length)


def fell_too_far(change: float, max_drop: float) -> bool:
    """Say whether test accuracy (now less the original's) fell by more than is allowed, rounding apart."""
    return -change > max_drop + 1e-12


def advice(drift: Drift, *, max_drop: float, failures: int) -> list[str]:
    """Give the reasons to retrain from scratch on what is left, in sentences; none while unlearning still serves.

    Args:
        drift: where the network stands.
        max_drop: how far accuracy may fall below the original's.
        failures: the most runs in which one request that still waits has failed.
    """
    found = []
    if drift.forgotten_fraction > MOST_FORGOTTEN:
        found.append(f"{drift.forgotten_fraction:.1%} of the training rows are forgotten (above {MOST_FORGOTTEN:.0%})")
    if drift.retrainings is not None and drift.retrainings > MOST_SPENT:
        found.append(f"all runs together cost {drift.retrainings:.2f} retrainings (above {MOST_SPENT:g})")
    if -drift.test_accuracy_change > SHARE_OF_DROP * max_drop:
        found.append(
            f"test accuracy is {-100 * drift.test_accuracy_change:.2f} percentage points below the original's (above "
            f"{SHARE_OF_DROP:.0%} of the {100 * max_drop:.2f} that are allowed)"
        )
    if drift.distance is not None and drift.distance > MOST_MOVED:
        found.append(f"the weights moved by {drift.distance:.2f} of their length (above {MOST_MOVED:g})")
    if failures >= MOST_FAILURES:
        found.append(f"a request has failed in {failures} runs")
    return found
