"""`excise localize`."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from excise import store
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
    json: bool,
    quiet: bool,
) -> int:
    """Score, select, and write the mask."""
    to = show.console(quiet=quiet, json=json)
    localizer, reduce = tables.read_criterion(criterion), tables.read_reduction(reduction)
    problem = tables.read_problem(
        model=model, weights=weights, data=data, forget=forget, device=device, data_root=data_root
    )
    request = {
        "command": "localize",
        "model": model,
        "weights": str(weights),
        "weights_sha256": store.file_digest(weights),
        "data": data,
        "forget": str(forget),
        "forget_commitment": store.commitment(problem.split.forget.ids),
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
        mask = scores.select(budget_fraction=budget, granularity=granularity, reduction=reduce)  # type: ignore[arg-type]
        mask.save(out / MASK)
        found = {
            "out": str(out),
            "mask_fraction": mask.fraction,
            "mask_digest": mask.digest,
            "per_module": mask.per_module(),
        }
        record = directory.complete([MASK], found)
    found = record["result"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("module")
    table.add_column("chosen %", justify="right")
    table.add_column("")
    for name, fraction in found["per_module"].items():
        table.add_row(name, show.percent(fraction), "█" * round(30 * fraction))
    to.print(table)
    to.print(f"{show.percent(found['mask_fraction'])} % of the weights. Wrote {out / MASK}")
    if json:
        show.emit(found)
    return 0
