"""The audit of an unlearned network against networks that never saw the forget rows."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from excise import checks, errors, seeds, store
from excise.data.split import Split
from excise.masks import Mask
from excise.measure import Measure
from excise.oracles.retrain import TrainFunction
from excise.pipeline import pages
from excise.pipeline.evidence import Evidence, Oracles, gather_oracles, observe
from excise.pipeline.fresh import fresh_builder, reinitialised
from excise.pipeline.policy import ALPHA, DECIDING, Verdict, verdict
from excise.pipeline.unlearned import Unlearned
from excise.report import Page, Timing, render
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.plan import TrainPlan
from excise.train.task import Forward, Loss, Task, cross_entropy, forward_pair
from excise.version import __version__


@dataclass(frozen=True, eq=False)
class Audit:
    """What `excise.audit` gives.

    Attributes:
        verdict: PASS, FAIL, INCONCLUSIVE or INVALID, see `excise.pipeline.policy.verdict`.
        reasons: why, in sentences.
        controls: `nothing` (the original network, which must FAIL) and `retrained` (each oracle held against the others,
            which must PASS).
        measures: each with value, interval, null, p and least detectable difference.
        own: the unlearned network's evidence.
        original: the original network's.
        oracles: the retrained networks and theirs.
        unlearned: what was audited.
        split: on which rows.
        plan_digest: SHA-256 of the deciding measures, their level, number of oracles, seed, training plan and numbers of rows,
            taken before any network was observed.
        seconds: wall time, oracles included.
    """

    verdict: Verdict
    reasons: Sequence[str]
    controls: Mapping[str, str]
    measures: Sequence[Measure]
    own: Evidence
    original: Evidence
    oracles: Oracles
    unlearned: Unlearned
    split: Split
    plan_digest: str
    seconds: float

    def __repr__(self) -> str:
        controls = ", ".join(f"{name} {outcome}" for name, outcome in self.controls.items())
        return (
            f"Audit({self.verdict}; {len(self.oracles.evidence)} oracles; controls: {controls}; {self.seconds:.1f} s)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Give verdict, reasons, controls and measures as plain values. Holds no row ids and no per-row number."""
        shown = {"forget": len(self.split.forget), "retain": len(self.split.retain), "test": len(self.split.test or ())}
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "controls": dict(self.controls),
            "measures": [msgspec.to_builtins(measure) for measure in self.measures],
            "accuracy": {
                "original": dict(self.original.accuracy),
                "unlearned": dict(self.own.accuracy),
                "oracles": self.oracles.mean_accuracy,
            },
            "num_oracles": len(self.oracles.evidence),
            "num_rows": shown,
            "oracle_seconds": self.oracles.mean_seconds,
            "plan_digest": self.plan_digest,
            "unlearned": self.unlearned.summary(),
            "environment": environment(),
        }

    def save(self, path: str | Path) -> Path:
        """Write the page (`.html`) or the numbers (`.json`).

        Raises:
            errors.BadRequest: another suffix.
            errors.DiskError: the file could not be written.
        """
        where = Path(path)
        if where.suffix == ".json":
            store.write_json(where, self.to_dict())
        elif where.suffix in (".html", ".htm"):
            store.write_bytes(where, render(audit_page(self)).encode())
        else:
            raise errors.BadRequest(f"expected a path ending in .html or .json, found {where.name!r}")
        return where


def audit(
    unlearned: Unlearned,
    split: Split,
    *,
    plan: TrainPlan | TrainFunction,
    fresh: Callable[[], nn.Module] | None = None,
    oracles: int = 8,
    original: nn.Module | None = None,
    seed: int = 0,
    forward: Forward = forward_pair,
    loss: Loss = cross_entropy,
    hooks: Hooks | None = None,
    cache: Path | None = None,
) -> Audit:
    """Say whether an unlearned network can be told from networks that never saw the forget rows.

    Retrains `oracles` networks on the retain rows, holds the unlearned network against them, and runs both controls.
    Cost: `oracles` trainings, and one forward pass over forget, retain and test for each network.

    Args:
        unlearned: from `excise.unlearn`.
        split: the same split; its `test` rows are needed.
        plan: how the original was trained: a `TrainPlan`, or `train(model, dataset, seed) -> model`.
        fresh: builds the untrained network; without it, modules' own `reset_parameters`.
        oracles: networks to retrain; fewer than 4 decide nothing.
        original: the network before unlearning; taken from the patch if None.
        seed: of the oracles' weights and batches.
        forward: as in `excise.unlearn`.
        loss: as in `excise.unlearn`.
        hooks: who watches.
        cache: directory to keep oracles in and find them again by content.

    Raises:
        errors.BadSplit: no test rows.
        errors.BadData: logits or labels that are not of classes.
        errors.BadRequest: no plan, or arguments that do not go together; before any training.
        errors.Diverged: an oracle's training did.
    """
    checks.require_positive_int("oracles", oracles)
    if not isinstance(unlearned, Unlearned):
        raise errors.BadRequest(f"unlearned: expected what excise.unlearn gives, found {type(unlearned).__name__}")
    if not isinstance(plan, TrainPlan) and not callable(plan):
        raise errors.BadRequest(
            "plan: expected how the network was trained, excise.TrainPlan(epochs=, lr=, ...) or a callable "
            f"train(model, dataset, seed) -> model; found {type(plan).__name__}"
        )
    if split.test is None:
        raise errors.BadSplit("test: an audit needs rows the network never saw; pass test= to Split")
    started = time.perf_counter()
    task = Task(forward, loss)
    before = original if original is not None else unlearned.patch.revert(unlearned.model)
    build = _builder(unlearned.model, fresh)
    engine = Engine(task, seed, Mask.empty(unlearned.model), hooks=hooks or Hooks())
    digest = _plan_digest(split, plan, oracles, seed)
    with seeds.isolated(seed, "audit"):  # rows may be augmented at random
        for network in (unlearned.model, before):
            task.require_fit(network, {"forget": split.forget, "retain": split.retain, "test": split.test})
        first = observe(before, split, engine)
        own = observe(unlearned.model, split, engine)
        found = gather_oracles(build, split, plan, oracles, engine, cache)
    outcome, reasons, controls, measures = verdict(own, first, found.evidence, split)
    share = unlearned.cost.retraining_share
    if share is None and found.trained[0].trained_rows:
        share = unlearned.cost.trained_rows / found.trained[0].trained_rows
    return Audit(
        verdict=outcome,
        reasons=reasons,
        controls=controls,
        measures=measures,
        own=own,
        original=first,
        oracles=found,
        unlearned=replace(unlearned, cost=replace(unlearned.cost, retraining_share=share)),
        split=split,
        plan_digest=digest,
        seconds=time.perf_counter() - started,
    )


def _builder(model: nn.Module, fresh: Callable[[], nn.Module] | None) -> Callable[[], nn.Module]:
    """Give a callable that draws new initial weights at each call, on the model's device, after checking that it can."""
    fresh_builder(model, fresh, 0)()
    first = next(model.parameters())

    def build() -> nn.Module:
        made = reinitialised(model) if fresh is None else fresh()
        return made.to(device=first.device, dtype=first.dtype)

    return build


def _plan_digest(split: Split, plan: TrainPlan | TrainFunction, oracles: int, seed: int) -> str:
    told = {
        "deciding": DECIDING,
        "alpha": ALPHA,
        "oracles": oracles,
        "seed": seed,
        "plan": msgspec.to_builtins(plan) if isinstance(plan, TrainPlan) else getattr(plan, "__qualname__", "callable"),
        "num_forget": len(split.forget),
        "num_retain": len(split.retain),
        "version": __version__,
    }
    return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()


def environment() -> dict[str, Any]:
    """Give what a result depends on besides its request: versions, machine, threads."""
    return {
        "excise": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def audit_page(done: Audit) -> Page:
    """Give the page of one audit."""
    unlearned, oracles = done.unlearned, done.oracles
    rows = [
        pages.row("Original", done.original, oracles, 0.0, 0.0, "nothing done: must fail"),
        pages.row(unlearned.recipe, done.own, oracles, unlearned.cost.seconds, unlearned.cost.retraining_share),
    ]
    num_forget = len(done.split.forget)
    return pages.page(
        f"Did the network forget {num_forget} {'row' if num_forget == 1 else 'rows'}?",
        f"{unlearned.recipe} was asked to make a network forget {num_forget} of its {len(done.split.train)} training rows. "
        f"It was then held against {len(oracles.evidence)} networks retrained from scratch without them.",
        verdict=pages.verdict_of(done.verdict, done.reasons, done.controls),
        measures=pages.measure_rows(done.measures),
        sections=[
            pages.section(
                "request",
                "The forget request",
                f"{unlearned.mask.num_selected:,} of {unlearned.mask.num_parameters:,} weights were allowed to change; "
                "all others are equal to the original bit for bit (frozen digest below).",
                done.split,
                rows,
                oracles,
                done.original,
                done.own,
                unlearned.mask,
            )
        ],
        timings=[
            Timing(what=f"{unlearned.recipe}", seconds=unlearned.cost.seconds),
            Timing(what=f"{len(oracles.trained)} retrainings", seconds=sum(one.seconds for one in oracles.trained)),
        ],
        facts=pages.facts(
            environment(),
            recipe=unlearned.recipe,
            seed=unlearned.seed,
            frozen_digest_before=unlearned.frozen_digest_before,
            frozen_digest_after=unlearned.frozen_digest,
            mask_digest=unlearned.mask.digest,
            model_digest=unlearned.summary()["model_digest"],
            audit_plan=done.plan_digest,
        ),
    )
