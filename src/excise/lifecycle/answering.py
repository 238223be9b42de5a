"""One run: every open request as one batch, unlearned from the network in use, audited, entered in the log.

Each step leaves something whole behind (the batch in the book, the run's record, the audit in it, the receipt, the book
again), so that the same call goes on after a kill, with the same batch and to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from excise import errors, params, store
from excise.cluster import Fleet, require_fleet
from excise.data import Split
from excise.data.content import content_commitment
from excise.lifecycle.beginning import begun, give_up, require_auditable
from excise.lifecycle.drift import fell_too_far
from excise.lifecycle.entering import drift_of, entered
from excise.lifecycle.papers import opened
from excise.lifecycle.requesting import require_life
from excise.lifecycle.settings import recipe_values
from excise.lifecycle.subject import Subject
from excise.lifecycle.work import NUMBERS, PAGE, PLAN, Options, Work
from excise.masks import Mask
from excise.patch import Patch
from excise.pipeline import audit, unlearn
from excise.pipeline.audited import audit_page
from excise.pipeline.planning import AuditPlan, named, require_planned
from excise.pipeline.unlearned import MASK, Made, Unlearned, read_unlearned
from excise.recipes import Recipe
from excise.report import render
from excise.train.checkpoints import Checkpoints
from excise.train.hooks import Hooks


def answer(
    directory: str | Path,
    subject: Subject,
    recipe: Recipe,
    options: Options,
    *,
    accept_drop: bool = False,
    anew: bool = False,
    bank: Path | None = None,
    fleet: Fleet | None = None,
    hooks: Hooks | None = None,
    checkpoint_seconds: float = 30.0,
    watched: Callable[[Checkpoints], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Any]:
    """Answer all open requests in one run; give what came of it, as plain values.

    Args:
        directory: of the ledger.
        subject: network and rows.
        recipe: how to unlearn.
        options: how to run and audit.
        accept_drop: adopt the network although its accuracy fell further than the ledger allows.
        anew: give up the run that was begun with other settings, and begin again with everything that is open.
        bank: directory in which the audit keeps networks and finds them again.
        fleet: who trains the audit's networks, see `excise.audit`.
        hooks: who watches.
        checkpoint_seconds: as much work is lost at most when a run is killed.
        watched: holds the checkpoints of the run, then of its audit, while it trains, so that somebody can stop it with one.

    Raises:
        errors.InUse: another run is under way.
        errors.BadRequest: nothing is open; a run was begun with other settings; or there is no plan to audit by.
        errors.Refused: test accuracy fell too far; the run waits for `accept_drop` or `anew`.
        errors.Corrupt: data, network or files are not those of the ledger.
        errors.Diverged: as `excise.unlearn`; the run waits for `anew` and another recipe.
    """
    where = Path(directory)
    require_auditable(subject, options, bank, checkpoint_seconds)
    require_fleet(fleet)
    with opened(where):  # refused where there is none, before a lock would make a directory
        pass
    with store.lock(where), opened(where) as papers:
        life, key = require_life(papers, subject.trained)
        before = subject.in_use(papers, life)
        run, note = begun(papers, _asked(subject, before, recipe, options), anew=anew)
        watching = hooks or Hooks()
        if note:
            watching.on_note(note)
        work = Work(
            papers=papers,
            subject=subject,
            recipe=recipe,
            options=options,
            run=run,
            life=life,
            key=key,
            hooks=watching,
            bank=bank,
            fleet=fleet,
            checkpoint_seconds=checkpoint_seconds,
            watched=watched,
        )
        split = _split(work)
        done, record = _unlearned(work, before, split)
        accuracy = _guarded(work, done.model, accept_drop=accept_drop)
        numbers = _audited(work, done, before, split, record)
        share = record["result"]["retraining_share"]
        drift = drift_of(work, done.model, accuracy, share)
        entry = entered(work, split, record, numbers, drift)
        return {
            "run": run.number,
            "out": str(work.directory),
            "verdict": numbers["verdict"],
            "reasons": numbers["reasons"],
            "adopted": next(one for one in papers.book.runs() if one.number == run.number).found["adopted"],
            "requests": list(run.requests),
            "seq": entry["seq"],
            "receipt": entry["hash"],
            "test_accuracy": accuracy,
            "retraining_share": share,
            "drift": msgspec.to_builtins(drift),
            "report": str(work.directory / PAGE),
        }


def _asked(subject: Subject, before: nn.Module, recipe: Recipe, options: Options) -> dict[str, Any]:
    asked = {
        "model_before": params.model_digest(before),
        "recipe": recipe.name,
        "settings": recipe_values(recipe),
        "plan": named(subject.plan),
        "options": options,
        "environment": subject.environment(),
        "model_code": subject.model_code(),
    }
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(asked))
    return found


def _has_files(directory: Path | None) -> bool:
    return directory is not None and directory.is_dir() and any(directory.iterdir())


def _split(work: Work) -> Split:
    """Give the rows: the batch is to be forgotten, what was answered before is gone, all else stays."""
    states = {one.id: one.state for one in work.papers.book.requests()}
    rows = work.papers.book.rows()
    batch = [digest for digest, request in rows.items() if request in work.run.requests]
    gone = [digest for digest, request in rows.items() if request is None or states[request] == "answered"]
    trained = work.subject.trained
    return trained.split(trained.ids_of(batch, work.key), trained.ids_of(gone, work.key))


def _unlearned(work: Work, before: nn.Module, split: Split) -> tuple[Unlearned, dict[str, Any]]:
    """Unlearn and keep the result, or take what an earlier call has kept."""
    roots = {one.id: one.root for one in work.requests()}
    data = content_commitment(split.train)
    request = {"command": "ledger", "run": work.run.id, "requests": roots, store.DATA: data, **work.run.asked}
    store.sweep([work.directory, work.directory / store.CHECKPOINTS])
    directory = store.RunDirectory(work.directory, request)
    kept = Checkpoints(directory.path / store.CHECKPOINTS, work.checkpoint_seconds, fingerprint=directory.digest)
    record = directory.finished()
    if record is not None:
        kept.clear()
        return read_unlearned(work.directory, msgspec.convert(record["result"], Made), before, work.recipe), record
    try:
        with work.watched(kept):
            done = unlearned_again(work.subject, before, split, work.recipe, work.options, work.hooks, checkpoints=kept)
    except errors.BadRequest:
        if not _has_files(
            kept.directory
        ):  # nothing was done: the words are to be corrected, no run is to be gone on with
            give_up(work.papers, work.run)
        raise
    record = directory.complete(done.save(directory.path), done.summary())
    kept.clear()
    return done, record


def unlearned_again(
    subject: Subject,
    before: nn.Module,
    split: Split,
    recipe: Recipe,
    options: Options,
    hooks: Hooks,
    *,
    checkpoints: Checkpoints | None = None,
) -> Unlearned:
    """Put a recipe to a network as a run of a ledger does: the same values give the same bits."""
    return unlearn(
        before,
        split,
        recipe,
        fresh=subject.fresh,
        seed=options.seed,
        plan=subject.plan,
        forward=subject.forward,
        loss=subject.loss,
        recompute=options.recompute,
        hooks=hooks,
        checkpoints=checkpoints,
    )


def _guarded(work: Work, model: nn.Module, *, accept_drop: bool) -> float:
    """Give the test accuracy, unless it fell too far and nobody has accepted that."""
    found, original = work.subject.test_accuracy(model), work.life.test_accuracy
    if fell_too_far(found - original, work.life.max_drop) and not accept_drop:
        store.amend_record(work.directory, refused={"test_accuracy": found})
        raise errors.Refused(
            f"run {work.run.number}: test accuracy is {found:.2%}, and the original's {original:.2%}: it fell by more than the "
            f"{work.life.max_drop:.2%} that this ledger allows, so the network is not adopted. Its requests stay open. Give "
            "`--accept-drop` (accept_drop=True) to adopt it all the same, or `--anew` (anew=True) with another recipe"
        )
    store.amend_record(work.directory, refused=None)
    return found


def _since_the_original(work: Work, done: Unlearned, before: nn.Module) -> tuple[Unlearned, nn.Module]:
    """Give what is audited, and the network beside which it is: the original, and all that changed since.

    The network in use is no yardstick: it is not what the training plan gives, and holds less of the rows than the original.
    """
    original = work.subject.original(work.life)
    if original is None or original is before:
        return done, before
    mask = done.mask
    for run in work.papers.book.runs():
        if run.found.get("adopted"):
            mask |= Mask.load(work.papers.run_directory(run.number) / MASK)
    return replace(done, mask=mask, patch=Patch.between(original, done.model)), original


def _audited(work: Work, done: Unlearned, before: nn.Module, split: Split, record: dict[str, Any]) -> dict[str, Any]:
    """Audit and keep the numbers, or take those that an earlier call has kept."""
    directory, subject, options = work.directory, work.subject, work.options

    def keep(plan: AuditPlan) -> None:
        planned = {**msgspec.to_builtins(plan), "digest": plan.digest}
        store.amend_record(directory, {PLAN: store.json_bytes(planned)})

    if not {NUMBERS, PAGE} <= record["files"].keys():
        since, yardstick = _since_the_original(work, done, before)
        lent = Checkpoints(None, work.checkpoint_seconds)
        with work.watched(lent):
            made = audit(
                since,
                split,
                plan=subject.plan,
                fresh=subject.fresh,
                tier=options.tier,
                oracles=options.oracles,
                effect=options.effect,
                original=yardstick,
                seed=options.seed,
                forward=subject.forward,
                loss=subject.loss,
                bank=work.bank,
                fleet=work.fleet,
                hooks=work.hooks,
                checkpoints=lent,
                on_plan=keep,
            )
        page = audit_page(made)
        numbers = {**made.to_dict(), "unlearned": record["result"], "page": msgspec.to_builtins(page)}
        store.amend_record(
            directory,
            {NUMBERS: store.json_bytes(numbers), PAGE: render(page).encode()},
            audit={"verdict": made.verdict, "plan_digest": numbers["plan_digest"]},
        )
    found: dict[str, Any] = store.read_json(directory / NUMBERS)
    require_planned(found)
    return found
