"""`excise localize`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from excise import errors, store
from excise.cli import choices, show, tables
from excise.cli.places import read_place
from excise.cli.ranks import several_of
from excise.distributed import Processes
from excise.localize import RandomLike
from excise.masks import Mask
from excise.pipeline import agreeing
from excise.pipeline.unlearned import MASK


def run(
    *,
    model: str,
    weights: Path,
    data: str,
    forget: Path,
    out: Path,
    criterion: str,
    budget: float | None,
    granularity: str | None,
    count: str | None,
    scope: str | None,
    lowest: bool,
    partial: bool,
    reduction: str | None,
    data_root: Path | None,
    seed: int,
    device: str,
    precision: str,
    layout: str,
    compiled: str,
    workers: int,
    quiet: bool,
    processes: Processes,
) -> tuple[dict[str, Any], int]:
    """Score, select, and write the mask; of several processes the first writes."""
    to = show.console(quiet=quiet)
    machine = choices.read_machine(precision=precision, layout=layout, compiled=compiled, workers=workers)
    place, options = read_place(
        criterion,
        budget=budget,
        granularity=granularity,
        count=count,
        scope=scope,
        reduction=reduction,
        lowest=lowest,
        partial=partial,
    )
    problem = tables.read_problem(
        model=model, weights=weights, data=data, forget=forget, device=device, data_root=data_root
    )
    request: dict[str, Any] = {
        "command": "localize",
        **problem.request,
        "criterion": criterion,
        "like": place.like.digest if isinstance(place, RandomLike) and isinstance(place.like, Mask) else None,
        **options,
        "seed": seed,
        **several_of(processes),
        **choices.told_machine(machine),
    }
    directory = store.RunDirectory(out, request)
    record = directory.finished() if processes.is_first else None
    if not processes.anywhere(fact=record is not None):
        with store.lock(out) if processes.is_first else nullcontext(), show.progress(quiet=quiet) as hooks:
            asked = f"{criterion} {request['like']} {sorted(options.items())} {seed}"
            agreeing.require_one_request(processes, problem.model, problem.split, asked)
            mask = place(problem.model, problem.split, seed=seed, hooks=hooks, machine=machine, processes=processes)
            processes.require_same({"mask": mask.digest}, agreeing.ALIKE, errors.Refused)
            if not processes.is_first:
                return {}, 0
            mask.save(out / MASK)
            result = {"mask_fraction": mask.fraction, "mask_digest": mask.digest, "per_module": mask.per_module()}
            record = directory.complete([MASK], result)
    elif processes.is_first:
        show.say(to, f"{out} already holds this run, complete and unchanged; nothing was done.")
    if record is None:
        return {}, 0
    found = {"out": str(out), **record["result"]}
    to.print(show.modules_table(found["per_module"]))
    fractions = found["per_module"].values()
    where = f"in {sum(fraction > 0 for fraction in fractions)} of {len(fractions)} modules"
    show.say(to, f"{show.percent(found['mask_fraction'])} % of the weights, {where}.")
    show.say(to, f"Wrote {out / MASK}")
    return found, 0
