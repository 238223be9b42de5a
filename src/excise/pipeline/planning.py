"""The plan of an audit: what will be measured and what decides, fixed and hashed before any score exists; and the tiers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
from torch import nn

from excise import errors, seeds
from excise.data.batches import num_batches
from excise.data.split import Split
from excise.oracles.retrain import TrainFunction, retrain
from excise.pipeline.policy import ALPHA, CANARY_ALPHA, FEWEST_ORACLES
from excise.pipeline.swapping import NUM_PAIRS
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.plan import TrainPlan
from excise.version import __version__

TIERS = {
    "T0": "trains nothing: looks at the network itself; can find fault, and never passes anything",
    "T1": "a few retrained networks (8 unless told otherwise): one network against oracles, the probes, the SWAP test",
    "T2": "64 networks an arm: the recipe put to 64 originals, against 64 oracles and 64 held-out ones, row by row",
}
NUM_ORACLES = 8
NUM_PER_ARM = 64
TIMED_STEPS = 4
SWAP_TRAININGS = 2 * NUM_PAIRS
"""Networks that the SWAP test trains, beside the oracles."""
MOST_PROBED = 8
"""Oracles that are probed, of however many there are."""


class AuditPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an audit will do, as a value that is hashed before any network is observed.

    Attributes:
        version: of excise.
        tier: T0, T1 or T2.
        deciding: measures that the verdict rests on.
        informing: measures that are reported beside them.
        failing: what fails a network by itself, outside the level of the deciding measures.
        audited: SHA-256 of the network under audit.
        alpha: chance of failing an oracle, over all deciding measures.
        effect: share of the original's trace that a pass promises to have seen.
        num_oracles: networks retrained without the rows.
        num_per_arm: networks in each further arm (tier T2), else 0.
        seed: of all that is random.
        training: the training plan, or the name of the user's own function.
        num_rows: of forget, retain and test.
        left_out: what a budget of seconds left out, in sentences.
    """

    version: str = __version__
    tier: str
    deciding: tuple[str, ...]
    informing: tuple[str, ...]
    failing: tuple[str, ...] = ()
    audited: str = ""
    alpha: float = ALPHA
    effect: float
    num_oracles: int
    num_per_arm: int
    seed: int
    training: dict[str, Any] | str
    num_rows: dict[str, int]
    left_out: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the plan as canonical JSON."""
        return _digest(msgspec.to_builtins(self))


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """What of a measure is checked against the plan."""

    name: str
    decides: bool = False
    p: float | None = None


def _digest(told: object) -> str:
    return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()


def require_planned(numbers: dict[str, Any]) -> AuditPlan:
    """Give the plan in an audit's numbers, after checking that it is the hashed one and that they keep to it.

    Raises:
        errors.Corrupt: the plan was changed after it was hashed, measures were added, dropped or made to decide, or it passes
            beside a measure that alone fails it.
    """
    try:
        plan = msgspec.convert(numbers.get("plan"), AuditPlan)
        rows = msgspec.convert(numbers.get("measures", []), list[_Row])
    except (msgspec.ValidationError, TypeError) as error:
        raise errors.Corrupt(
            f"the audit holds no plan that can be read ({error}), or no measures; it was changed, or made by another version; "
            "run the audit again"
        ) from error
    digest = _digest(numbers.get("plan"))  # of what stands there: a later version may know more fields
    if digest != numbers.get("plan_digest"):
        raise errors.Corrupt(
            f"the audit's plan is not the one that was hashed before its scores existed (hash {digest[:12]}…, recorded "
            f"{str(numbers.get('plan_digest'))[:12]}…); run the audit again"
        )
    found = {one.name: one.decides for one in rows}
    decided = sorted(name for name, decides in found.items() if decides)
    beyond = sorted(set(found) - {*plan.deciding, *plan.informing})
    if beyond or (found and not set(decided) <= set(plan.deciding)):
        strange = beyond or sorted(set(decided) - set(plan.deciding))
        raise errors.Corrupt(
            f"the audit reports {strange[0]!r}, which its plan does not name; measures are chosen before scores exist; "
            "run the audit again"
        )
    rejected = [one.name for one in rows if one.decides and _tells_apart(one, plan)]
    if numbers.get("verdict") == "PASS" and rejected:
        raise errors.Corrupt(
            f"the audit passes although {rejected[0]!r}, which decides, tells the network apart; run the audit again"
        )
    dropped = sorted(set(plan.deciding) - set(decided))
    if dropped and numbers.get("verdict") == "PASS":
        raise errors.Corrupt(
            f"the audit passes without {dropped[0]!r}, which its plan says decides; run the audit again"
        )
    return plan


def _tells_apart(measure: _Row, plan: AuditPlan) -> bool:
    """Say whether a deciding measure alone fails a network, whatever the others say; so does one that says no p."""
    sharing = [name for name in plan.deciding if name != "canaries"]
    level = CANARY_ALPHA if measure.name == "canaries" else plan.alpha / max(len(sharing), 1)
    return measure.p is None or measure.p <= level


def seconds_of_training(
    fresh: Callable[[], nn.Module], split: Split, plan: TrainPlan | TrainFunction | None, engine: Engine
) -> float:
    """Estimate how long one retraining takes, from a few timed steps on a throw-away network.

    Raises:
        errors.BadRequest: the user's own training function, of which nobody can know beforehand how long it takes.
    """
    if not isinstance(plan, TrainPlan):
        raise errors.BadRequest(
            "budget_seconds: expected a TrainPlan, whose steps can be timed beforehand; a training function cannot be; "
            "give tier= or oracles= instead"
        )
    few = split.retain.head(min(len(split.retain), TIMED_STEPS * plan.batch_size))
    steps = num_batches(len(few), plan.batch_size)
    short = msgspec.structs.replace(plan, epochs=1, schedule="constant", milestones=())
    quiet = replace(engine, hooks=Hooks(), seed=seeds.derive(engine.seed, "timing"))
    retrain(fresh, few, short, [0], quiet, stage="timing")  # warms up
    started = time.perf_counter()
    retrain(fresh, few, short, [1], quiet, stage="timing")
    return (time.perf_counter() - started) / steps * num_batches(len(split.retain), plan.batch_size) * plan.epochs


def seconds_of(work: Callable[[], object]) -> float:
    """Give how long a piece of work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fitted(
    budget_seconds: float, one_training: float, one_unlearning: float, one_probe: float
) -> tuple[str, int, list[str]]:
    """Give the tier and the number of oracles that fit a budget, and what is left out for it, in sentences.

    Trainings are reckoned one at a time, the SWAP test, the same-cost retraining and the probes of up to `MOST_PROBED` + 3
    networks with them, and a fifth of the budget is kept for measuring, so that it is kept rather than used up.
    """
    left = 0.8 * budget_seconds
    fixed = SWAP_TRAININGS * (one_training + one_unlearning) + one_unlearning + 3 * one_probe
    full = 3 * NUM_PER_ARM * one_training + NUM_PER_ARM * one_unlearning + fixed + MOST_PROBED * one_probe
    few = int((left - fixed) / max(one_training + one_probe, 1e-9))
    told = f"a budget of {budget_seconds:g} s, at {one_training:.2g} s a retraining and {one_probe:.2g} s to probe a network"
    if full <= left:
        return "T2", NUM_PER_ARM, []
    population = (
        f"populations of {NUM_PER_ARM} networks (U-LiRA, KLoM, epsilon, strata by memorisation): {told}, has no room for "
        f"about {full:.0f} s"
    )
    if few >= FEWEST_ORACLES:
        num = min(few, NUM_ORACLES)
        fewer = [f"{NUM_ORACLES - num} of {NUM_ORACLES} oracles: {told}"] if num < NUM_ORACLES else []
        return "T1", num, [population, *fewer]
    return (
        "T0",
        0,
        [
            population,
            f"every comparison with retrained networks: {told}, has room for {max(few, 0)}, and 4 are the least",
        ],
    )


def named(plan: TrainPlan | TrainFunction | None) -> dict[str, Any] | str:
    """Give a training plan as plain values, or the name of a function."""
    if plan is None:
        return "none"
    if isinstance(plan, TrainPlan):
        told: dict[str, Any] = msgspec.to_builtins(plan)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}
    return str(getattr(plan, "__qualname__", "callable"))


def require_tier(tier: object) -> None:
    """Refuse what is no tier."""
    if tier is not None and not (isinstance(tier, str) and tier in TIERS):
        told = "; ".join(f"{name} {what}" for name, what in TIERS.items())
        raise errors.BadRequest(f"tier: expected one of {', '.join(TIERS)}, found {tier!r} ({told})")
