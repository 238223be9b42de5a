"""What can be said of an unlearned network without any other: whether it is one, and keeps what its run promised."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from excise import params
from excise.pipeline.evidence import Evidence
from excise.pipeline.unlearned import Unlearned
from excise.train.statistics import running_statistics

FEWEST_PREDICTED = 2
"""A network that names fewer classes than this where the original names several has collapsed."""


def faults(unlearned: Unlearned, before: nn.Module, own: Evidence, original: Evidence) -> list[str]:
    """Give what is wrong with the network itself, in sentences; empty if nothing is.

    Looks for: values that are not finite; weights that moved outside the mask that the run recorded; outputs that no longer
    depend on the input; answers that are not those of its weights.
    """
    found = []
    inner, held = params.unwrapped(unlearned.model), params.unwrapped(before)
    moved = _moved_outside(unlearned, inner, held)
    if moved:
        found.append(f"{moved} differs from the original outside the mask of its run, which says that it cannot")
    if not own.finite:
        found.append("the network gives logits that are not finite")
    elif _collapsed(own, original):
        found.append("the network's output no longer depends on its input: every row gets the same class")
    if (
        own.finite
        and unchanged(unlearned, before)
        and not np.allclose(own.margins, original.margins, rtol=1e-3, atol=1e-3)
    ):
        found.append(
            "its weights are the original's, bit for bit, and its answers are not: something beside its weights answers (a "
            "hook, a replaced forward)"
        )
    return found


def unchanged(unlearned: Unlearned, before: nn.Module) -> list[str]:
    """Say so if the network is the original, bit for bit.

    No fault by itself: where rows left no trace, nothing can be told from something. Where they did, the measures fail it.
    """
    same = params.model_digest(params.unwrapped(unlearned.model)) == params.model_digest(params.unwrapped(before))
    return ["the network is the original, bit for bit: nothing was done"] if same else []


def warnings(unlearned: Unlearned, before: nn.Module) -> list[str]:
    """Give what does not fail a network and should be known: statistics that were computed with the forget rows."""
    inner, held = params.unwrapped(unlearned.model), params.unwrapped(before)
    old = held.state_dict()
    kept = [name for name in running_statistics(inner) if torch.equal(inner.state_dict()[name].cpu(), old[name].cpu())]
    if not kept:
        return []
    return [
        f"{len(kept)} running statistics of normalisation ({kept[0]} among them) are the original's, which were computed with "
        "the forget rows among the others and tell of them; unlearn with recompute=True, or use a method that reads retain rows"
    ]


def _moved_outside(unlearned: Unlearned, inner: nn.Module, before: nn.Module) -> str:
    """Give the name of a parameter that moved where the mask does not allow it; empty if none did."""
    old = params.named_parameters(before)
    for name, value in params.named_parameters(inner).items():
        changed = (value.detach().cpu() != old[name].detach().cpu()) & ~unlearned.mask.expand(name)
        if bool(changed.any()):
            return name
    return ""


def _collapsed(own: Evidence, original: Evidence) -> bool:
    if own.seen is None or original.seen is None:
        return False
    named = [np.unique(np.concatenate([*one.predicted.values()])) for one in (own.seen, original.seen)]
    return len(named[0]) < FEWEST_PREDICTED <= len(named[1])
