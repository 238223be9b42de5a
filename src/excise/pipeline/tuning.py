"""Choose a recipe's settings without any oracle: by rows that were never trained on and look like those to forget."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from excise import checks, errors, params, store
from excise.cluster import Fleet, Here, require_fleet
from excise.data.placing import placed
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.pipeline.row_results import secret_order
from excise.pipeline.tuning_alarms import Alarm, alarms_after, alarms_before
from excise.pipeline.tuning_journal import Journal, Margins, Trial
from excise.pipeline.tuning_ranking import Ranking, rank_by_oracles
from excise.pipeline.tuning_rounds import search
from excise.pipeline.tuning_search import require_optuna
from excise.pipeline.tuning_space import MakeRecipe, Space, read_space, recipe_name
from excise.pipeline.tuning_trials import Search, best_of
from excise.pipeline.tuning_yardstick import (
    RETAIN_WEIGHT,
    Features,
    HeldOut,
    held_out_rows,
    make_yardstick,
    value_of,
)
from excise.recipes import Recipe
from excise.train.engine import Cost, Engine
from excise.train.hooks import Hooks
from excise.train.machine import Machine, require_machine
from excise.train.plan import TrainPlan
from excise.train.running import without_autocast
from excise.train.task import Forward, Loss, Task, cross_entropy, device_of, forward_pair
from excise.version import __version__


@dataclass(frozen=True, eq=False)
class Tuning:
    """What `excise.tune` gives.

    Attributes:
        settings: what was chosen, of what was searched.
        recipe: with these settings; give it to `excise.unlearn` with the same seed.
        value: what was made small, of the chosen trial; `original_value` is the same of the network before.
        original_value: see there.
        utility_loss: of the chosen trial, on the held-out rows.
        trials: every trial in order.
        alarms: reasons to doubt the choice.
        cost: of the whole search: rows, seconds, and the share of a retraining where the plan is known.
        held_out: what the rows were that settings were chosen on: `holdout`, or `half of test`.
        held_out_ids: their ids in their own data set. Not written anywhere.
        audit_split: the split whose test rows were not used here: give it to `excise.audit`.
        num_twins: how many different rows are twins of the forget rows.
        seed: of the search, and of every unlearning in it.
        margins: by number of trial, the forget rows' margins and those of their twins.
    """

    settings: dict[str, Any]
    recipe: Recipe
    value: float
    original_value: float
    utility_loss: float
    trials: tuple[Trial, ...]
    alarms: tuple[Alarm, ...]
    cost: Cost
    held_out: str
    held_out_ids: Tensor
    audit_split: Split
    num_twins: int
    seed: int
    margins: Mapping[int, Margins]

    @property
    def chosen(self) -> Trial:
        """The chosen trial."""
        return best_of(self.trials)

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        alarms = f", alarms: {', '.join(alarm.name for alarm in self.alarms)}" if self.alarms else ""
        return (
            f"Tuning({self.recipe.name}({settings}); {self.value:.3g} from the twins, the original {self.original_value:.3g}; "
            f"{len(self.trials)} trials, {self.cost.seconds:.1f} s{alarms})"
        )

    def against(self, oracles: object) -> Ranking:
        """Say how the choice would have ranked by networks that never saw the forget rows. For afterwards only.

        Args:
            oracles: `[models, forget]` margins of the forget rows, in order of id; or what an audit holds of its oracles,
                anything with `evidence`, whose members have `margins`.

        Raises:
            errors.BadRequest: fewer than 3 oracles, or margins of other rows.
        """
        allowed = [trial for trial in self.trials if trial.state == "ok" and trial.repeats is None]
        return rank_by_oracles(allowed, {key: own["forget"] for key, own in self.margins.items()}, oracles)

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the rows as plain values. Holds no row id and no per-row number."""
        return {
            "recipe": self.recipe.name,
            "settings": dict(self.settings),
            "value": self.value,
            "original_value": self.original_value,
            "utility_loss": self.utility_loss,
            "alarms": [msgspec.to_builtins(alarm) for alarm in self.alarms],
            "trials": [msgspec.to_builtins(trial) for trial in self.trials],
            "held_out": self.held_out,
            "num_held_out": len(self.held_out_ids),
            "num_twins": self.num_twins,
            "seconds": self.cost.seconds,
            "trained_rows": self.cost.trained_rows,
            "forward_rows": self.cost.forward_rows,
            "retraining_share": self.cost.retraining_share,
            "seed": self.seed,
        }


@without_autocast()
def tune(
    model: nn.Module,
    split: Split,
    recipe: MakeRecipe,
    *,
    space: Mapping[str, object] | None = None,
    trials: int = 20,
    seed: int = 0,
    fresh: Callable[[], nn.Module] | None = None,
    max_utility_loss: float = 0.02,
    max_cost_share: float | None = None,
    plan: object = None,
    forward: Forward = forward_pair,
    loss: Loss = cross_entropy,
    features: Features | None = None,
    hooks: Hooks | None = None,
    directory: str | Path | None = None,
    machine: Machine = Machine(),  # noqa: B008 - a frozen value
    at_once: int = 1,
    fleet: Fleet | None = None,
) -> Tuning:
    """Choose a recipe's settings without any oracle.

    A setting is good if afterwards the forget rows look like rows that were never trained on. Each forget row has a twin, the
    held-out row nearest to it in input space, which is looked at under the forget row's own label: a wrong label's twin is a
    look-alike under the same wrong label. What is made small is the distance between the margins of the forget rows and of
    their twins (`excise.measure.twin_distance`), plus a tenth of how far the retain rows' margins are from the original's.
    A setting whose accuracy on the held-out rows falls too far is never chosen. docs/tuning.md shows how close to the best
    setting by true distance to oracles this comes, and what it cannot see.

    Held-out rows are the split's `holdout`, or else half of its `test`; the other test rows are never read. Cost: one
    unlearning a trial, one forward pass over forget, held-out and up to 1,000 retain rows each, and one over forget, held-out
    and retain rows by the original.

    Args:
        model: as in `excise.unlearn`; it is never changed.
        split: as there, with rows that were never trained on.
        recipe: a function that makes the recipe, such as `excise.recipes.DEL`; bind what is to stay with
            `functools.partial(excise.recipes.DEL, weight_decay=5e-4)`.
        space: for each setting a list of values, `(low, high)` or `(low, high, "log")`; None takes one from the recipe's own
            defaults, see `excise.pipeline.tuning_space.default_space`.
        trials: how many settings to try. The first is the recipe's own, if it lies in the space.
        seed: of the search, and of each unlearning; each trial is a pure function of it and of the trials before.
        fresh: as in `excise.unlearn`.
        max_utility_loss: how far accuracy on the held-out rows may fall below the original's.
        max_cost_share: what a trial may cost, as a share of a retraining; needs `plan`.
        plan: the `TrainPlan` the network was trained by, if known.
        forward: as in `excise.unlearn`.
        loss: as in `excise.unlearn`.
        features: from a batch to what rows are compared by, `[batch, ...]`; the inputs if None.
        hooks: who watches.
        directory: where to keep finished trials, so that a search that was stopped goes on where it was, and one that was
            finished can be prolonged.
        machine: how the work is done, as in `excise.unlearn`.
        at_once: trials that are suggested at a time, before what came of them is known. More let a fleet work on them side by
            side, and let each learn from fewer; what is tried follows from the seed and from this number alone.
        fleet: who tries them: this process if None, or the workers of a cluster, `excise.cluster.OnRay`.

    Raises:
        errors.BadRequest: settings that the recipe does not have or refuses, a directory with another search in it, and what
            else does not go together; before any work.
        errors.BadSplit: no rows that were never trained on.
        errors.MissingExtra: Optuna is not installed.
        errors.Refused: no setting kept the bounds.
    """
    checks.require_positive_int("at_once", at_once)
    _require(trials, max_utility_loss, max_cost_share, plan)
    require_machine(machine)
    require_fleet(fleet)
    params.require_parameters(model)
    given, device = split, device_of(params.unwrapped(model))
    split = placed(given, device, on_device=machine.on_device, workers=machine.workers)
    where = read_space(recipe, space)
    split.require_retain("a search for settings, which weighs what is kept against what is forgotten,")
    require_optuna()
    held_out = replace(held_out_rows(split, seed), audit_split=held_out_rows(given, seed).audit_split)
    task = Task(forward, loss)
    rows = {"forget": split.forget, "retain": split.retain, "holdout": held_out.rows}
    engine = Engine(task, seed, Mask.empty(params.unwrapped(model)), hooks=hooks or Hooks(), machine=machine)
    task.require_fit(params.shadow_of(params.unwrapped(model), trainable=True), rows)
    bounds = {"max_utility_loss": max_utility_loss, "max_cost_share": max_cost_share}
    request = (
        _request(model, rows, recipe, where, seed, bounds, plan, (features, forward, loss, fresh))
        if directory is not None
        else {}
    )
    if request and machine != Machine():  # else as earlier versions wrote it
        request["machine"] = msgspec.to_builtins(machine)
    if request and at_once != 1:
        request["at_once"] = at_once
    order = secret_order(split.forget.ids.tolist(), request["rows"]["forget"]) if request else None
    journal = Journal(None if directory is None else Path(directory), request, order)
    started = time.perf_counter()
    yardstick = make_yardstick(model, split, held_out.rows, engine, features)
    looked = replace(engine.cost, seconds=time.perf_counter() - started)
    run = Search(
        model,
        split,
        recipe,
        yardstick,
        engine,
        bounds,
        {"fresh": fresh, "plan": plan, "forward": forward, "loss": loss, "machine": machine},
    )
    search(run, journal, where, trials, at_once=at_once, fleet=fleet or Here())
    return _chosen(run, held_out, journal, journal.trials[:trials], looked)


def _require(trials: int, max_utility_loss: float, max_cost_share: float | None, plan: object) -> None:
    checks.require_positive_int("trials", trials)
    checks.require_finite("max_utility_loss", max_utility_loss)
    if max_cost_share is not None:
        checks.require_finite("max_cost_share", max_cost_share)
        if not isinstance(plan, TrainPlan):
            raise errors.BadRequest(
                "max_cost_share: expected plan, the excise.TrainPlan the network was trained by, to know what a retraining "
                f"costs; found {type(plan).__name__}"
            )


def _request(
    model: nn.Module,
    rows: Mapping[str, Rows],
    recipe: MakeRecipe,
    space: Space,
    seed: int,
    bounds: Mapping[str, float | None],
    plan: object,
    code: Sequence[object],
) -> dict[str, Any]:
    """Name everything a trial depends on. Of rows, ids and content, there are keyed digests only."""
    own = {key: one.default for key, one in inspect.signature(recipe).parameters.items()}
    told = {name: _committed(some) for name, some in rows.items()}
    return {
        "model": params.model_digest(model),
        "rows": told,
        "recipe": {"name": recipe_name(recipe), "settings": msgspec.to_builtins(own, enc_hook=_plain)},
        "space": {key: msgspec.to_builtins(place) for key, place in space.items()},
        "seed": seed,
        "bounds": dict(bounds),
        "retain_weight": RETAIN_WEIGHT,
        "plan": msgspec.to_builtins(plan) if isinstance(plan, TrainPlan) else None,
        "code": [getattr(one, "__qualname__", repr(type(one))) if one is not None else None for one in code],
        "versions": {"excise": __version__, "torch": str(torch.__version__), "optuna": require_optuna().__version__},
        "threads": torch.get_num_threads(),
    }


def _committed(rows: Rows) -> str:
    return store.commitment(torch.tensor(list(bytes.fromhex(rows.fingerprint())), dtype=torch.uint8))


def _plain(value: Any) -> str:
    return params.digest({"": value}) if isinstance(value, Tensor) else repr(value)


def _chosen(run: Search, held_out: HeldOut, journal: Journal, trials: Sequence[Trial], looked: Cost) -> Tuning:
    best = best_of(trials)
    assert best.value is not None and best.utility_loss is not None
    yardstick, plan = run.yardstick, run.options["plan"]
    cost = Cost(
        trained_rows=sum(trial.trained_rows for trial in trials),
        forward_rows=looked.forward_rows + sum(trial.forward_rows for trial in trials),
        seconds=looked.seconds + sum(trial.seconds for trial in trials),
    )
    if isinstance(plan, TrainPlan):
        cost.retraining_share = cost.trained_rows / (plan.epochs * len(run.split.retain))
    alarms = alarms_before(yardstick) + alarms_after(yardstick, journal.margins[best.number])
    return Tuning(
        settings=dict(best.settings),
        recipe=run.recipe(**best.settings),
        value=best.value,
        original_value=value_of(yardstick.distances(yardstick.original)),
        utility_loss=best.utility_loss,
        trials=tuple(trials),
        alarms=tuple(alarms),
        cost=cost,
        held_out=held_out.source,
        held_out_ids=held_out.rows.ids,
        audit_split=held_out.audit_split,
        num_twins=len(set(yardstick.places.tolist())),
        seed=run.engine.seed,
        margins={trial.number: journal.margins[trial.number] for trial in trials if trial.number in journal.margins},
    )
