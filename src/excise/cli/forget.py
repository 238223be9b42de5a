"""`excise unlearn`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from excise import errors, store
from excise.cli import choices, show, tables
from excise.cli.ranks import several_of
from excise.cli.stopping import stoppable
from excise.data import Split
from excise.data.content import content_commitment
from excise.distributed import Processes
from excise.masks import Mask
from excise.oracles.retrain import TrainFunction
from excise.pipeline import unlearn
from excise.pipeline.audited import environment
from excise.recipes import Recipe
from excise.train.checkpoints import Checkpoints
from excise.train.machine import Machine
from excise.train.plan import TrainPlan


def run(
    *,
    model: str,
    weights: Path,
    data: str,
    forget: Path,
    out: Path,
    recipe: str,
    settings: list[str] | None,
    mask: Path | None,
    plan: str | None,
    holdout: str | None,
    keep_statistics: bool,
    data_root: Path | None,
    checkpoint_seconds: float,
    seed: int,
    device: str,
    precision: str,
    layout: str,
    compiled: str,
    workers: int,
    quiet: bool,
    processes: Processes,
) -> tuple[dict[str, Any], int]:
    """Forget rows and write the run directory; of several processes the first writes."""
    to = show.console(quiet=quiet)
    machine = choices.read_machine(precision=precision, layout=layout, compiled=compiled, workers=workers)
    trained_by = tables.read_plan(plan)
    how = choices.read_recipe(recipe, settings, trained_by)
    problem = tables.read_problem(
        model=model, weights=weights, data=data, forget=forget, device=device, holdout=holdout, data_root=data_root
    )
    allowed = None if mask is None else tables.read_mask(mask)
    request: dict[str, Any] = {
        "command": "unlearn",
        **problem.request,
        store.DATA: content_commitment(problem.split.train),
        "recipe": recipe,
        "set": sorted(settings or ()),
        "settings": choices.recipe_values(how),
        **choices.told_files(settings),
        "mask": None if allowed is None else allowed.digest,
        "plan": plan,
        "holdout": holdout,
        "plan_values": tables.plan_values(trained_by),
        "keep_statistics": keep_statistics,
        "seed": seed,
        "environment": environment() | several_of(processes),
        **choices.told_machine(machine),
    }
    directory = store.RunDirectory(out, request)
    record = directory.finished() if processes.is_first else None
    if not processes.anywhere(fact=record is not None):
        with store.lock(out) if processes.is_first else nullcontext():
            record = directory.finished() if processes.is_first else None
            if not processes.anywhere(fact=record is not None):
                record = _done(
                    directory,
                    problem,
                    how,
                    allowed=allowed,
                    seed=seed,
                    plan=trained_by,
                    recompute=not keep_statistics,
                    seconds=checkpoint_seconds,
                    machine=machine,
                    quiet=quiet,
                    processes=processes,
                )
    elif processes.is_first:
        if (out / store.CHECKPOINTS).exists() or (out / store.BEGUN).exists():  # killed after the last of its work
            with suppress(errors.InUse), store.lock(out):
                Checkpoints(out / store.CHECKPOINTS).clear()
                store.remove(out / store.BEGUN)
        store.tidy(out)
        show.say(to, f"{out} already holds this run, complete and unchanged; nothing was done.")
    if record is None:
        return {}, 0
    found = {"out": str(out), **record["result"]}
    _tell(to, found, problem.split, plan)
    return found, 0


def _done(
    directory: store.RunDirectory,
    problem: tables.Problem,
    how: Recipe,
    *,
    allowed: Mask | None,
    seed: int,
    plan: TrainPlan | TrainFunction | None,
    recompute: bool,
    seconds: float,
    machine: Machine,
    quiet: bool,
    processes: Processes,
) -> dict[str, Any] | None:
    """Do what is asked, from the last checkpoint on if there is one; the first process writes it down, and gives it."""
    out = directory.path
    kept = Checkpoints(out / store.CHECKPOINTS, seconds, fingerprint=processes.digest_from_first(directory.digest))
    with (
        _begun(directory) if processes.is_first else nullcontext(),
        stoppable(kept),
        show.progress(quiet=quiet) as hooks,
    ):
        done = unlearn(
            problem.model,
            problem.split,
            how,
            mask=allowed,
            fresh=problem.fresh,
            seed=seed,
            plan=plan,
            hooks=hooks,
            recompute=recompute,
            checkpoints=kept,
            machine=machine,
            processes=processes,
        )
    if not processes.is_first:
        return None
    record = directory.complete(done.save(out), done.summary())
    kept.clear()
    return record


@contextmanager
def _begun(directory: store.RunDirectory) -> Iterator[None]:
    """Begin a run that the block does; where it fails, what is left is in order."""
    directory.begin()
    with _freed_if_nothing_kept(directory.path), _last_finite_kept(directory.path):
        yield


@contextmanager
def _freed_if_nothing_kept(out: Path) -> Iterator[None]:
    """Where the block fails before there is anything to go on from, leave the directory to any request."""
    try:
        yield
    except BaseException:
        if not (out / store.CHECKPOINTS).exists():
            store.remove(out / store.BEGUN)
        raise


@contextmanager
def _last_finite_kept(out: Path) -> Iterator[None]:
    """Where the block diverges, write the last finite state beside what would have been the result."""
    try:
        yield
    except errors.Diverged as error:
        store.remove(out / store.BEGUN)  # the directory is free for a better try
        if error.last_finite is None:
            raise
        kept = out / store.LAST_FINITE
        store.write_tensors(kept, error.last_finite, {"kind": "excise-diverged-1"})
        raise errors.Diverged(f"{error}. It is in {kept}, and is no unlearned network") from error


def _tell(to: Console, found: dict[str, Any], split: Split, plan: str | None) -> None:
    share = found["retraining_share"]
    with_head = found["mask_fraction"] > found["localized_fraction"]
    chosen = (
        f" ({show.percent(found['localized_fraction'])} % chosen, the rest is trained besides)" if with_head else ""
    )
    show.say(
        to,
        f"{found['recipe']}: {show.percent(found['mask_fraction'])} % of the weights were allowed to change{chosen}; all "
        f"others are bit-identical (frozen digest {found['frozen_digest_after'][:16]}…, the same before and after).",
    )
    if found.get("recomputed"):
        show.say(to, "Batch normalisation's running statistics were recomputed from the retained rows.")
    of_retraining = "" if share is None else f", {show.percent(share)} % of a retraining"
    show.say(to, f"{found['seconds']:.1f} s, {found['trained_rows']:,} rows forward and backward{of_retraining}.")
    show.say(to, f"Wrote {found['out']}")
    if not len(split.retain):
        show.say(to, "Did it work? An audit cannot say: it reads the rows that stay, and none were given.")
        return
    words = [
        "excise audit",
        found["out"],
        *([] if plan else ["--plan pkg.mod:train"]),
        *([] if split.test else ["--test pkg.mod:test"]),
    ]
    show.say(to, f"Did it work? {' '.join(words)}")
