"""One trial after another: what is tried, what came of it, which was best."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from msgspec.structs import replace as struct_replace
from torch import nn

from excise import errors
from excise.data.split import Split
from excise.pipeline.forget import unlearn
from excise.pipeline.tuning_journal import Journal, Margins, Trial
from excise.pipeline.tuning_space import MakeRecipe
from excise.pipeline.tuning_yardstick import Yardstick, value_of
from excise.train.engine import Cost, Engine

_ROUNDING = 1e-9  # a loss of exactly the bound keeps it: accuracies are quotients of whole numbers


def ranked(trials: Sequence[Trial]) -> list[tuple[Trial, int]]:
    """Give every trial with its rank: by value where the bounds were kept, then by how far they were broken, then failures."""
    places = {"ok": 0, "over": 1, "failed": 2}

    def standing(trial: Trial) -> tuple[int, float]:
        worse = {"ok": trial.value, "over": trial.utility_loss, "failed": 0.0}[trial.state]
        return places[trial.state], float(worse or 0.0)

    order = sorted({standing(trial) for trial in trials})
    return [(trial, order.index(standing(trial))) for trial in trials]


def best_of(trials: Sequence[Trial]) -> Trial:
    """Give the trial of the lowest value among those that kept the bounds; of equal ones the first.

    Raises:
        errors.Refused: there is none.
    """
    allowed = [trial for trial in trials if trial.state == "ok"]
    if allowed:
        return min(allowed, key=lambda trial: (trial.value, trial.number))
    finished = [trial for trial in trials if trial.state == "over"]
    if not finished:
        raise errors.Refused(
            f"none of {len(trials)} settings gave a network to judge; the first, {trials[0].settings}, failed: "
            f"{trials[0].reason}; search other settings"
        )
    near = min(finished, key=lambda trial: float(trial.utility_loss or 0.0))
    raise errors.Refused(
        f"none of {len(trials)} settings kept the bounds ({len(trials) - len(finished)} failed); the nearest, "
        f"{near.settings}: {near.reason}; search gentler settings, or allow more"
    )


def repeated(number: int, settings: Mapping[str, Any], journal: Journal) -> tuple[Trial, Margins | None] | None:
    """Give again what came of settings before; None if they were not tried."""
    before = next((one for one in journal.trials if one.settings == settings and one.repeats is None), None)
    if before is None:
        return None
    again = struct_replace(before, number=number, repeats=before.number, trained_rows=0, forward_rows=0, seconds=0.0)
    return again, journal.margins.get(before.number)


@dataclass(frozen=True, eq=False)
class Search:
    """One search: what stays the same from trial to trial."""

    model: nn.Module
    split: Split
    recipe: MakeRecipe
    yardstick: Yardstick
    engine: Engine
    bounds: Mapping[str, float | None]
    options: Mapping[str, Any]

    def trial(self, number: int, settings: dict[str, Any]) -> tuple[Trial, Margins | None]:
        """Try settings."""
        started = time.perf_counter()
        try:
            made = self.recipe(**settings)
            done = unlearn(self.model, self.split, made, seed=self.engine.seed, hooks=self.engine.hooks, **self.options)
        except (errors.DiskError, errors.OutOfMemory):
            raise
        except errors.ExciseError as error:
            failed = Trial(number=number, settings=settings, state="failed", reason=str(error))
            return struct_replace(failed, seconds=time.perf_counter() - started), None
        own = replace(self.engine, cost=Cost())
        look = self.yardstick.look(done.model, own)
        tried = Trial(
            number=number,
            settings=settings,
            state="failed",
            trained_rows=done.cost.trained_rows,
            forward_rows=done.cost.forward_rows + own.cost.forward_rows,
            seconds=time.perf_counter() - started,
            retraining_share=done.cost.retraining_share,
        )
        distances = self.yardstick.distances(look)
        if not (look.finite and np.isfinite(value_of(distances))):
            reason = "margins that are not finite" if not look.finite else "twins of which all margins are one number"
            return struct_replace(tried, reason=f"the network gives {reason}"), None
        lost = self.yardstick.original.accuracy - look.accuracy
        reason = self._over(lost, done.cost.retraining_share)
        trial = struct_replace(
            tried,
            state="over" if reason else "ok",
            reason=reason,
            value=value_of(distances),
            twin_distance=distances[0],
            retain_distance=distances[1],
            accuracy=look.accuracy,
            utility_loss=lost,
        )
        return trial, {"forget": look.forget, "twins": look.twins}

    def _over(self, lost: float, share: float | None) -> str:
        """Say which bound was broken, or nothing."""
        most, dearest = self.bounds["max_utility_loss"], self.bounds["max_cost_share"]
        if most is not None and lost > most + _ROUNDING:
            return f"accuracy on the held-out rows fell by {lost:.1%}, more than max_utility_loss {most:.1%}"
        if dearest is not None and share is not None and share > dearest + _ROUNDING:
            return f"it costs {share:.1%} of a retraining, more than max_cost_share {dearest:.1%}"
        return ""
