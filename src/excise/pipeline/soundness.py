"""What can be said of an unlearned network without any other: whether it is one, and keeps what its run promised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from excise import params
from excise.measure import against_oracles
from excise.observe import held_statistics
from excise.pipeline.case import Case
from excise.pipeline.evidence import Evidence, Oracles
from excise.pipeline.planning import MOST_PROBED
from excise.pipeline.policy import FEWEST_ORACLES
from excise.pipeline.unlearned import Unlearned
from excise.train.hooks import Hooks
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


KEPT_SHARE = 0.5
"""Share of the original's running statistics from which on a module is said to hold them still."""

KEPT_ALPHA = 1e-3
"""Chance of saying so of any module of one more oracle, at most."""

KEPT_ROUNDING = 1e-3
"""Statistics so close to the original's, measured by how far these lie from those of the retain rows, are the original's."""

KEPT_STEP = 0.04
"""Shares closer than half of this are taken for equal, and so are distances closer than 2%."""


def kept_statistics(case: Case, oracles: Oracles) -> list[str]:
    """Say so if a network that was changed still holds the original's running statistics, where retrained ones do not.

    These were computed with the forget rows among the others. Looked at is, module by module, how far they lie from those that
    the retain rows give under the network's own weights towards the original's (`excise.observe.held_statistics`), beside the
    same of oracles; and either they are the original's but for rounding, or they lie further off than oracles' do.
    Statistics that no training moves are the same in oracles, and accuse nobody.

    Cost: one forward pass over retain; one for each oracle besides, where the network gives reason to.
    """
    inner, held, retain = params.unwrapped(case.model), params.unwrapped(case.before), case.split.retain
    num_oracles, engine = min(len(oracles.trained), MOST_PROBED), replace(case.engine, hooks=Hooks())
    few = num_oracles < FEWEST_ORACLES or len(retain) < 2
    if few or not running_statistics(inner) or unchanged(case.unlearned, held):
        return []
    looked = held_statistics(inner, held, retain, engine)
    own = {name: one for name, one in looked.items() if one.share >= KEPT_SHARE}
    if not own:
        return []
    others = [held_statistics(oracles.model(case.build, i), held, retain, engine) for i in range(num_oracles)]
    level = 2 * KEPT_ALPHA / len(looked)  # of a two-sided p, of which one side counts
    kept = [
        name
        for name, one in own.items()
        if _more(one.share, [other[name].share for other in others], level)
        and (
            one.apart <= KEPT_ROUNDING
            or _more(_log(one.distance), [_log(other[name].distance) for other in others], level)
        )
    ]
    if not kept:
        return []
    share, most = max(own[name].share for name in kept), max(other[name].share for other in others for name in kept)
    return [
        f"the running statistics of {len(kept)} of {len(looked)} normalisation layers ({kept[0] or 'the network itself'} among "
        f"them) are up to {min(share, 1):.0%} the original's, which were computed with the forget rows among the others, where "
        f"retrained networks hold at most {max(most, 0):.0%}; unlearn with recompute=True to have them computed anew"
    ]


def _more(own: float, others: list[float], level: float) -> bool:
    found = against_oracles("statistics", own, others, resolution=KEPT_STEP)
    return found.value > 0 and found.p <= level


def _log(distance: float) -> float:
    return float(np.log(max(distance, 1e-12)))


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
