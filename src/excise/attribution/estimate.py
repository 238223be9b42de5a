"""`estimate`: a datamodel from networks trained on random halves of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from torch import nn

from excise import errors, params, seeds
from excise.attribution.datamodel import Datamodel
from excise.attribution.means import difference_in_means, shrinkage
from excise.attribution.observed import Observed, observe, parts_of
from excise.attribution.origin import Made, network_digest
from excise.attribution.parts import TRAIN
from excise.attribution.sparse import require_folds, sparse_regression
from excise.cluster import Fleet
from excise.data.content import content_commitment
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.oracles import Bank, train_halves
from excise.oracles.retrain import TrainFunction
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.machine import Machine, require_machine
from excise.train.plan import TrainPlan
from excise.train.task import Forward, Loss, Task, cross_entropy, forward_pair

By = Literal["means", "sparse"]


def estimate(
    fresh: Callable[[], nn.Module],
    rows: Split | Rows | Mapping[str, Rows],
    plan: TrainPlan | TrainFunction,
    num_models: int = 64,
    *,
    by: By = "means",
    shrink: bool = True,
    seed: int = 0,
    bank: Bank | str | Path | None = None,
    together: bool | None = None,
    fleet: Fleet | None = None,
    forward: Forward = forward_pair,
    loss: Loss = cross_entropy,
    hooks: Hooks | None = None,
    machine: Machine = Machine(),  # noqa: B008 - a frozen value
) -> Datamodel:
    """Estimate what each training row adds to a network's outputs, once for all later requests.

    Cost: `num_models` trainings on half of the rows, by far the most; a forward pass of each over all rows; the estimate,
    seconds by `means`. Networks are kept in the bank: a killed call begun again trains only those that are missing. The bank's
    networks of kind `half` HAVE seen rows that a request may want forgotten, and so has the datamodel.

    How many networks: effects of rows on themselves show with 32 to 64; those on other rows need about as many networks as
    there are training rows, and are shrunk towards nothing with fewer, see `attribution.shrinkage` and `attribution.score`.

    Args:
        fresh: builds an untrained network, a new one at each call.
        rows: a split, whose train, test and holdout rows are observed (its forget rows play no part); or rows by name, with
            `train` among them; or training rows alone.
        plan: how the network that is to forget was trained.
        num_models: even; each row is in half of the networks.
        by: `means`, difference in means, with errors; or `sparse`, a LASSO for each row and class with its penalty by
            cross-validation: a fit of all rows for each row and class, for toy sizes.
        shrink: multiply effects by what noise leaves of them; of `means` only.
        seed: halves and networks follow from it.
        bank: directory or URL where networks are kept and found again.
        together: train them as one where that pays (None), always or never; see `oracles.retrain`.
        fleet: who trains them, see there.
        forward: as in `excise.unlearn`.
        loss: as in `excise.unlearn`.
        hooks: who watches.
        machine: as in `excise.unlearn`.

    Raises:
        errors.BadRequest: rows, plan and numbers that do not go together; before any training.
        errors.Diverged: a training did.
    """
    if require_by(by) == "sparse":
        require_folds(num_models)
    engine = engine_for(fresh, Task(forward, loss), seed, hooks, machine)
    observed = observe_halves(fresh, rows, plan, num_models, engine, bank=bank, together=together, fleet=fleet)
    engine.hooks.on_note(
        f"datamodel: {observed.num_models} networks on halves, {observed.trained_rows:,} rows forward and backward in "
        f"{observed.seconds:.0f} s, of which {engine.cost.trained_rows:,} now"
    )
    network = network_digest(_built(fresh))
    found = from_observed(observed, by=by, shrink=shrink, seed=seed, network=network, plan=plain(plan))
    _tell_of_noise(found, engine.hooks)
    return found


def _tell_of_noise(found: Datamodel, hooks: Hooks) -> None:
    """Say where shrinking leaves no effect, so that a request would change nothing."""
    gone = [name for name, kept in (("themselves", found.shrink.own), ("others", found.shrink.other)) if kept == 0]
    if gone:
        hooks.on_note(
            f"datamodel: effects of rows on {' and on '.join(gone)} cannot be told from noise with {found.made.num_models} "
            "networks, and count as none; train more, or take them as they are found (shrink=False, --as-found)"
        )


def plain(plan: TrainPlan | TrainFunction) -> dict[str, Any]:
    """Give a plan as a file has it; nothing of a user's own code."""
    return dict(msgspec.json.decode(msgspec.json.encode(plan))) if isinstance(plan, TrainPlan) else {}


def require_by(by: str) -> By:
    """Give the name of a way to estimate, or refuse what is none."""
    for known in get_args(By):
        if by == known:
            return known  # type: ignore[no-any-return]
    raise errors.BadRequest(f"by: expected one of {', '.join(get_args(By))}, found {by!r}")


def observe_halves(
    fresh: Callable[[], nn.Module],
    rows: Split | Rows | Mapping[str, Rows],
    plan: TrainPlan | TrainFunction,
    num_models: int,
    engine: Engine,
    *,
    bank: Bank | str | Path | None = None,
    together: bool | None = None,
    fleet: Fleet | None = None,
) -> Observed:
    """Train networks on random halves, or find them, and ask each of every row; see `estimate` and `attribution.observe`.

    Halves and networks follow from the engine's seed; of another seed they are others, to judge a datamodel by.
    """
    parts = parts_of(rows)
    _require_fit(fresh, parts, engine, labelled=isinstance(plan, TrainPlan) and engine.task.loss is cross_entropy)
    held = bank_of(bank, parts[TRAIN])
    halves = train_halves(fresh, parts[TRAIN], plan, num_models, engine, bank=held, together=together, fleet=fleet)
    data = (held.data if held is not None else None) or ""
    return replace(observe(fresh, halves, parts, engine), data=data)


def bank_of(bank: Bank | str | Path | None, train: Rows) -> Bank | None:
    """Give a bank that keeps networks with the keyed digest of the training rows, by which `excise copies` knows them."""
    place = bank.place if isinstance(bank, Bank) else bank
    return None if place is None else Bank(place, data=content_commitment(train))


def from_observed(
    observed: Observed,
    *,
    by: By = "means",
    shrink: bool = True,
    seed: int = 0,
    network: str = "",
    plan: Mapping[str, Any] | None = None,
) -> Datamodel:
    """Estimate a datamodel from what networks say; see `estimate`.

    Args:
        observed: networks on halves, and what they say.
        by: as in `estimate`.
        shrink: as in `estimate`.
        seed: what the halves followed from.
        network: `network_digest` of the architecture; empty for any.
        plan: of the training, as plain values.
    """
    made = Made(
        by=by,
        num_models=observed.num_models,
        seed=seed,
        data=observed.data,
        network=network,
        plan=dict(plan or {}),
        seconds=observed.seconds,
        trained_rows=observed.trained_rows,
        forward_rows=observed.forward_rows,
    )
    if by == "sparse":
        return sparse_regression(observed, made)
    found = difference_in_means(observed, made)
    return replace(found, shrink=shrinkage(found, seed)) if shrink else found


def _require_fit(fresh: Callable[[], nn.Module], parts: Mapping[str, Rows], engine: Engine, *, labelled: bool) -> None:
    """Refuse rows that the networks cannot take, before the first of them is trained."""
    model = params.shadow_of(_built(fresh), trainable=True)
    with seeds.isolated(engine.seed, "fit"):
        for name, some in parts.items():
            engine.task.require_fit(model, {name: some}, labelled=labelled and name == TRAIN)


def engine_for(fresh: Callable[[], nn.Module], task: Task, seed: int, hooks: Hooks | None, machine: Machine) -> Engine:
    """Give the engine that networks on halves are trained and observed with.

    Raises:
        errors.BadRequest: no callable that builds a network, or no machine.
    """
    require_machine(machine)
    return Engine(task, seed, Mask.empty(_built(fresh)), hooks=hooks or Hooks(), machine=machine)


def _built(fresh: Callable[[], nn.Module]) -> nn.Module:
    """Build one network, to see its form; the caller's random numbers are left as they were."""
    if isinstance(fresh, nn.Module) or not callable(fresh):
        raise errors.BadRequest(
            f"fresh: expected a callable that builds an untrained network, found {type(fresh).__name__}; pass make_model, not "
            "make_model()"
        )
    with seeds.isolated(0, "fresh"):
        model = fresh()
    params.require_parameters(model)
    return params.unwrapped(model)
