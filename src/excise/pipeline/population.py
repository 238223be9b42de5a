"""Populations of networks: the recipe put to many originals, beside oracles and held-out oracles (tier T2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec import structs
from torch import nn

from excise import errors
from excise.cluster import Fleet
from excise.data.split import Split
from excise.measure import Measure, klom, ulira
from excise.measure.ulira import LEAST_MODELS
from excise.oracles import Bank, originals
from excise.oracles.retrain import TrainFunction
from excise.pipeline.evidence import Evidence, Oracles, gather_oracles, loaded, observe
from excise.pipeline.forget import again
from excise.pipeline.policy import POPULATION, SINGLE, Arms
from excise.pipeline.unlearned import Unlearned
from excise.train.engine import Engine
from excise.train.plan import TrainPlan

AMONG = len(SINGLE) + len(POPULATION)
"""Measures that a verdict at tier T2 rests on."""


@dataclass(frozen=True, eq=False)
class Population:
    """What many networks say, one original each.

    Attributes:
        originals: trained on every row.
        unlearned: each of them after the recipe; networks that broke are left out.
        held_out: oracles of another family of seeds than those that an audit compares with.
        broken: how many broke: diverged, or gave values that are not finite.
    """

    originals: Sequence[Evidence]
    unlearned: Sequence[Evidence]
    held_out: Oracles
    broken: int


def gather_population(
    unlearned: Unlearned,
    split: Split,
    build: Callable[[], nn.Module],
    plan: TrainPlan | TrainFunction,
    num_networks: int,
    engine: Engine,
    bank: Bank | None = None,
    *,
    fleet: Fleet | None = None,
) -> Population:
    """Train originals, put the recipe to each, and train held-out oracles; observe them all. A fleet trains; all else is here.

    Cost: `2 * num_networks` trainings and `num_networks` unlearnings. Originals have seen the forget rows: what a bank keeps
    of them is one more copy to be purged when the request is done.

    Raises:
        errors.BadRequest: the recipe is not known, so that it cannot be put to other networks.
        errors.Diverged: a training did.
    """
    if unlearned.how is None:
        raise errors.BadRequest(
            "tier T2 puts the recipe to many networks, and it is not known how this one was made; give what excise.unlearn "
            "gave in this process, or a run directory of excise unlearn"
        )
    trained = originals(build, split.train, plan, num_networks, engine, bank=bank, together=None, fleet=fleet)
    first, done, broken = [], [], 0
    engine.hooks.on_stage(f"{unlearned.recipe} on {num_networks} originals", num_networks)
    for number, network in enumerate(trained):
        model = loaded(build, network, "a network of the population")
        first.append(replace(observe(model, split, engine), seen=None))  # margins are all that populations need
        try:
            found = observe(again(unlearned, model, split, build, engine, number), split, engine)
        except errors.Diverged:
            found = None
        if found is None or not found.finite:
            broken += 1
        else:
            done.append(replace(found, seen=None))
        engine.hooks.on_step()
    engine.hooks.on_stage_end(f"{unlearned.recipe} on {num_networks} originals")
    held_out = gather_oracles(build, split, plan, num_networks, engine, bank, held_out=True, together=None, fleet=fleet)
    slim = [replace(one, seen=None) for one in held_out.evidence]
    stateless = [replace(one, state={}) for one in held_out.trained]
    return Population(first, done, Oracles(stateless, slim), broken)


def arms_of(population: Population, oracles: Sequence[Evidence], generator: np.random.Generator) -> Arms:
    """Measure the populations: the recipe, doing nothing, and held-out oracles, each against the same oracles.

    The control arm is one half of the held-out oracles against the other; the others are held against all of them.
    """
    reference, held_out = margins_of(oracles), margins_of(population.held_out.evidence)
    half = len(held_out) // 2
    own = margins_of(population.unlearned) if len(population.unlearned) >= LEAST_MODELS else None
    return Arms(
        unlearned=[] if own is None else _measures(own, reference, held_out, generator),
        nothing=_measures(margins_of(population.originals), reference, held_out, generator),
        retrained=_measures(held_out[:half], reference, held_out[half:], generator),
        broken=population.broken,
    )


def _measures(
    own: np.ndarray, oracles: np.ndarray, held_out: np.ndarray, generator: np.random.Generator
) -> list[Measure]:
    found = [
        ulira(own, oracles, held_out, generator, among=AMONG),
        klom(own, oracles, held_out, generator=generator, among=AMONG),
    ]
    return [structs.replace(one, decides=one.name in POPULATION) for one in found]


def margins_of(networks: Sequence[Evidence]) -> np.ndarray:
    """Give the margins of the forget rows, `[models, forget]`."""
    return np.stack([one.margins for one in networks])
