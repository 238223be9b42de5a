"""`excise unlearn`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from excise import errors, store
from excise.cli import show, tables
from excise.masks import Mask
from excise.pipeline import unlearn
from excise.pipeline.auditing import environment


def run(
    *,
    model: str,
    weights: Path,
    data: str,
    forget: Path,
    out: Path,
    recipe: str,
    set: list[str] | None,
    mask: Path | None,
    plan: str | None,
    data_root: Path | None,
    seed: int,
    device: str,
    json: bool,
    quiet: bool,
) -> int:
    """Forget rows and write the run directory."""
    to = show.console(quiet=quiet, json=json)
    how, trained_by = tables.read_recipe(recipe, set), tables.read_plan(plan)
    problem = tables.read_problem(
        model=model, weights=weights, data=data, forget=forget, device=device, data_root=data_root
    )
    allowed = None if mask is None else Mask.load(mask)
    request: dict[str, Any] = {
        "command": "unlearn",
        "model": model,
        "weights": str(weights),
        "weights_sha256": store.file_digest(weights),
        "data": data,
        "data_root": None if data_root is None else str(data_root),
        "forget": str(forget),
        "forget_commitment": store.commitment(problem.split.forget.ids),
        "num_forget": len(problem.split.forget),
        "recipe": recipe,
        "settings": sorted(set or ()),
        "mask": None if allowed is None else allowed.digest,
        "plan": plan,
        "seed": seed,
        "device": device,
        "environment": environment(),
    }
    directory = store.RunDirectory(out, request)
    record = directory.finished()
    if record is None:
        try:
            with show.progress(to) as hooks:
                done = unlearn(
                    problem.model,
                    problem.split,
                    how,
                    mask=allowed,
                    fresh=problem.fresh,
                    seed=seed,
                    plan=trained_by,
                    hooks=hooks,
                )
        except errors.Diverged as error:
            if error.last_finite is None:
                raise
            kept = out / "last-finite.safetensors"
            store.write_tensors(kept, error.last_finite, {"kind": "excise-diverged-1"})
            raise errors.Diverged(f"{error} (in {kept}; it is no unlearned network)", error.last_finite) from error
        record = directory.complete(done.save(out), {"out": str(out), **done.summary()})
    else:
        to.print(f"{out} already holds this run, complete and unchanged; nothing was done.")
    found = record["result"]
    share = found["retraining_share"]
    to.print(
        f"{found['recipe']}: {show.percent(found['mask_fraction'])} % of the weights were allowed to change; all others are "
        f"bit-identical (frozen digest {found['frozen_digest_after'][:16]}…, the same before and after)."
    )
    to.print(
        f"{found['seconds']:.1f} s, {found['trained_rows']:,} rows forward and backward"
        + ("" if share is None else f", {show.percent(share)} % of a retraining")
        + f". Wrote {out}/"
    )
    to.print(f"Did it work? excise audit {out} --plan PLAN.toml")
    if json:
        show.emit(found)
    return 0
