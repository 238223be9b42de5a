"""`excise localize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from excise import checks, store
from excise.cli import show, tables
from excise.pipeline.unlearned import MASK


def run(
    *,
    model: str,
    weights: Path,
    data: str,
    forget: Path,
    out: Path,
    criterion: str,
    budget: float,
    granularity: str,
    reduction: str,
    data_root: Path | None,
    seed: int,
    device: str,
    quiet: bool,
) -> tuple[dict[str, Any], int]:
    """Score, select, and write the mask."""
    to = show.console(quiet=quiet)
    localizer, reduce = tables.read_criterion(criterion), tables.read_reduction(reduction)
    unit = tables.read_granularity(granularity)
    checks.require_fraction("--budget", budget)
    problem = tables.read_problem(
        model=model, weights=weights, data=data, forget=forget, device=device, data_root=data_root
    )
    request = {
        "command": "localize",
        **problem.request,
        "criterion": criterion,
        "budget": budget,
        "granularity": granularity,
        "reduction": reduction,
        "seed": seed,
    }
    directory = store.RunDirectory(out, request)
    record = directory.finished()
    if record is None:
        scores = localizer(problem.model, problem.split)
        mask = scores.select(budget_fraction=budget, granularity=unit, reduction=reduce)
        mask.save(out / MASK)
        result = {"mask_fraction": mask.fraction, "mask_digest": mask.digest, "per_module": mask.per_module()}
        record = directory.complete([MASK], result)
    else:
        show.say(to, f"{out} already holds this run, complete and unchanged; nothing was done.")
    found = {"out": str(out), **record["result"]}
    to.print(show.modules_table(found["per_module"]))
    fractions = found["per_module"].values()
    where = f"in {sum(fraction > 0 for fraction in fractions)} of {len(fractions)} modules"
    show.say(to, f"{show.percent(found['mask_fraction'])} % of the weights, {where}.")
    show.say(to, f"Wrote {out / MASK}")
    return found, 0
