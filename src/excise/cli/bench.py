"""`excise bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Column, Table

from excise import errors
from excise.cli import choices, show, tables
from excise.pipeline.costing import Bench, Projection, bench
from excise.pipeline.planning import NUM_ORACLES
from excise.train.plan import TrainPlan


def run(
    *,
    model: str,
    weights: Path,
    data: str,
    forget: Path,
    recipe: str,
    settings: list[str] | None,
    mask: Path | None,
    plan: str | None,
    holdout: str | None,
    budget_seconds: float,
    precision: str,
    layout: str,
    compiled: str,
    workers: int,
    data_root: Path | None,
    seed: int,
    device: str,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    """Time the request on few rows, and say what it would cost on all; nothing is written."""
    to = show.console(quiet=quiet)
    trained_by = tables.read_plan(plan)
    if trained_by is not None and not isinstance(trained_by, TrainPlan):
        raise errors.BadRequest(f"--plan: {plan} is code of your own, which cannot be cut short; give a TrainPlan")
    machine = choices.read_machine(precision=precision, layout=layout, compiled=compiled, workers=workers)
    how = choices.read_recipe(recipe, settings, trained_by)
    problem = tables.read_problem(
        model=model, weights=weights, data=data, forget=forget, device=device, holdout=holdout, data_root=data_root
    )
    allowed = None if mask is None else tables.read_mask(mask)
    with show.progress(quiet=quiet) as hooks:
        found = bench(
            problem.model,
            problem.split,
            how,
            mask=allowed,
            fresh=problem.fresh,
            plan=trained_by,
            budget_seconds=budget_seconds,
            seed=seed,
            hooks=hooks,
            machine=machine,
        )
    to.print(_table(found))
    show.say(to, _told(found))
    return found.to_dict(), 0


def _table(found: Bench) -> Table:
    table = Table(
        Column("rows", justify="right"),
        Column("unlearning, s", justify="right"),
        Column("retraining, s", justify="right"),
    )
    for run in found.runs:
        theirs = "" if run.retraining_seconds is None else f"{run.retraining_seconds:,.2f}"
        table.add_row(f"{run.num_rows:,}", f"{run.seconds:,.2f}", theirs)
    return table


def _told(found: Bench) -> str:
    ours = _seconds(found.unlearning)
    sentence = (
        f"{found.recipe} on all {found.num_rows:,} rows: {ours} and {found.starting_seconds:.1f} s once, for starting; "
        f"{found.passes:.2f} passes forward and backward"
    )
    if found.retraining is not None and found.share is not None:
        sentence += f"; a retraining: {_seconds(found.retraining)}. The share is {found.share:.1%}. An "
        sentence += (
            f"audit at T1 retrains {NUM_ORACLES} networks: {NUM_ORACLES * found.retraining.seconds:,.1f} s besides."
        )
    else:
        sentence += ". Give --plan to see the share of a retraining."
    if found.extrapolated:
        sentence += " Times for all rows are read off a line through the short runs; a busy machine bends it."
    return sentence


def _seconds(found: Projection) -> str:
    if found.low == found.high:
        return f"{found.seconds:,.1f} s"
    return f"{found.seconds:,.1f} s ({found.low:,.1f} to {found.high:,.1f})"
