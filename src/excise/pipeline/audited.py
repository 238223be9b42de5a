"""`Audit`: what an audit found, with all that it rests on; as plain values, and as a page."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import structs

from excise import errors, store
from excise.data.split import Split
from excise.measure import Measure
from excise.pipeline import exhibits, pages, policy
from excise.pipeline.case import Twins
from excise.pipeline.evidence import Evidence, Oracles
from excise.pipeline.planning import AuditPlan
from excise.pipeline.policy import Verdict
from excise.pipeline.population import Population
from excise.pipeline.unlearned import Unlearned
from excise.report import Page, formats, render
from excise.train.engine import Spent
from excise.version import __version__


@dataclass(frozen=True, eq=False)
class SameCost:
    """A retraining from scratch that cost no more than the unlearning did: the row to beat.

    Attributes:
        evidence: what it says.
        outcome: PASS or FAIL, judged like the unlearned network and without controls.
        spent: its cost.
        epochs: of the training plan, cut short.
    """

    evidence: Evidence
    outcome: str
    spent: Spent
    epochs: int

    @property
    def sentence(self) -> str:
        """How it stands beside the recipe."""
        found = ", ".join(f"{100 * value:.1f}% of the {part} rows" for part, value in self.evidence.accuracy.items())
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        said = f"a retraining from scratch at the same cost ({epochs}), judged alike, comes to {self.outcome}"
        return f"{said}; it gets {found} right"


@dataclass(frozen=True, eq=False)
class Audit:
    """What `excise.audit` gives.

    Attributes:
        verdict: PASS, FAIL, INCONCLUSIVE or INVALID, see `excise.pipeline.policy.verdict`.
        reasons: why, in sentences, the weightiest first.
        controls: `nothing` (the original network, which must FAIL), `retrained` (oracles held against the others, which must
            PASS) and `plan` (oracles are as accurate as the original, which must PASS).
        measures: each with value, interval, null, p and least detectable difference; those with `decides` carry the verdict.
        own: the unlearned network's evidence.
        original: the original network's.
        oracles: the retrained networks and theirs; None at tier T0.
        unlearned: what was audited.
        split: on which rows.
        plan: what was to be measured and what decides, fixed and hashed before any network was observed.
        trace_seen: the smallest share of the rows' trace in the original that would have been noticed if left behind.
        population: many networks through the same recipe (tier T2), else None.
        same_cost: a retraining of the same cost; None where the training plan cannot be cut short to that.
        twins: test rows that the attacks set beside the forget rows; None where there are none.
        notes: what does not decide and should be known.
        spent: cost by part: `localize`, `unlearn`, `oracles`, `population`, `same cost` and `measuring`.
        seconds: wall time, oracles included.
    """

    verdict: Verdict
    reasons: Sequence[str]
    controls: Mapping[str, str]
    measures: Sequence[Measure]
    own: Evidence
    original: Evidence
    oracles: Oracles | None
    unlearned: Unlearned
    split: Split
    plan: AuditPlan
    seconds: float
    trace_seen: float | None = None
    population: Population | None = None
    same_cost: SameCost | None = None
    twins: Twins | None = None
    notes: Sequence[str] = ()
    spent: Mapping[str, Spent] = field(default_factory=dict)

    def __repr__(self) -> str:
        controls = ", ".join(f"{name} {outcome}" for name, outcome in self.controls.items())
        accuracies = "; ".join(
            f"{name} {'/'.join(f'{100 * value:.1f}' for value in found.values())}"
            for name, found in self.accuracies().items()
        )
        return (
            f"Audit({self.verdict} at {self.plan.tier}; accuracy in % on forget/retain/test: {accuracies}; "
            f"{self.plan.num_oracles} oracles; controls: {controls}; {self.seconds:.1f} s; {'; '.join(self.reasons)})"
        )

    def accuracies(self) -> dict[str, dict[str, float]]:
        """Give the accuracies on forget, retain and test rows: of the original, of the unlearned network, and oracles' mean."""
        found = {"original": dict(self.original.accuracy), "unlearned": dict(self.own.accuracy)}
        return found if self.oracles is None else {**found, "oracles": self.oracles.mean_accuracy}

    @property
    def audit_retrainings(self) -> float | None:
        """What this audit and the search for settings cost, in retrainings: rows trained on, over one retraining's.

        What a bank already held of them is counted as if it had been trained (but for the SWAP test's networks). None where
        rows are not counted (a training function) or nothing was retrained.
        """
        one = None if self.oracles is None else self.oracles.trained[0].trained_rows
        if not one or self.oracles is None:
            return None
        arms = [self.oracles, *(() if self.population is None else (self.population.held_out,))]
        kept = sum(network.trained_rows or 0 for arm in arms for network in arm.trained)
        originals = 0 if self.population is None else len(self.population.originals)
        kept += originals * one * len(self.split.train) // len(self.split.retain)
        spent = {name: found.trained_rows for name, found in self.spent.items() if name not in ("localize", "unlearn")}
        trained = max(kept, spent.pop("oracles", 0) + spent.pop("population", 0))
        return (trained + sum(spent.values())) / one

    @property
    def requests_until_paid(self) -> int | None:
        """After how many requests answered by this recipe its one audit has paid off, beside retraining for each.

        `n` requests cost `n` shares of a retraining and this audit with the search for settings; retraining costs `n`. None
        where unlearning costs no less than a retraining, or nothing was trained, or the costs are not known.
        """
        share, audit = self.unlearned.cost.retraining_share, self.audit_retrainings
        if share is None or share >= 1 or not audit:
            return None
        return int(np.ceil(audit / (1 - share) - 1e-9))

    def to_dict(self) -> dict[str, Any]:
        """Give verdict, reasons, controls and measures as plain values. Holds no row ids and no per-row number."""
        same = self.same_cost
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "controls": dict(self.controls),
            "measures": [msgspec.to_builtins(measure) for measure in self.measures],
            "tier": self.plan.tier,
            "trace_seen": self.trace_seen,
            "notes": list(self.notes),
            "left_out": list(self.plan.left_out),
            "accuracy": self.accuracies(),
            "num_oracles": self.plan.num_oracles,
            "num_rows": dict(self.plan.num_rows),
            "oracle_seconds": None if self.oracles is None else self.oracles.mean_seconds,
            "same_cost": None
            if same is None
            else {"accuracy": dict(same.evidence.accuracy), "outcome": same.outcome, "epochs": same.epochs},
            "cost": {name: msgspec.to_builtins(spent) for name, spent in self.spent.items()},
            "audit_retrainings": self.audit_retrainings,
            "requests_until_paid": self.requests_until_paid,
            "plan": msgspec.json.decode(msgspec.json.encode(self.plan)),  # lists, as they are read back
            "plan_digest": self.plan.digest,
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
    unlearned, num_forget = done.unlearned, done.plan.num_rows["forget"]
    num, them = done.plan.num_oracles, "it" if num_forget == 1 else "them"
    compared = (
        f"It was then held against {num} {'network' if num == 1 else 'networks'} retrained from scratch without {them}."
        if done.oracles is not None
        else "No network was retrained to compare it with (tier T0)."
    )
    told = set() if done.verdict == "INVALID" else {one.name for one in policy.rejects(done.measures)}
    parts: dict[str, Any] = {}
    if done.oracles is not None and done.own.seen is not None:
        parts = _exhibits(done, done.oracles)
    elif done.own.finite:
        compared += f" {_accuracies(done)}"
    return pages.page(
        f"Did the network forget {_count(num_forget)} {'row' if num_forget == 1 else 'rows'}?",
        f"The recipe {unlearned.recipe} was asked to make a network forget {_count(num_forget)} of its "
        f"{_count(len(done.split.train))} training rows. "
        f"{compared}",
        verdict=pages.verdict_of(done.verdict, done.reasons, done.controls, done.measures, done.notes),
        measures=pages.measure_rows(done.measures, told),
        untested=[*(f"Left out: {one}." for one in done.plan.left_out), *pages.untested(done.plan.tier, done.measures)],
        assumptions=pages.ASSUMPTIONS if done.oracles else (),
        facts=pages.facts(
            environment(),
            recipe=unlearned.recipe,
            seed=unlearned.seed,
            audit_seed=done.plan.seed,
            tier=done.plan.tier,
            frozen_digest_before=unlearned.frozen_digest_before,
            frozen_digest_after=unlearned.frozen_digest,
            mask_digest=unlearned.mask.digest,
            model_digest=unlearned.summary()["model_digest"],
            audit_plan=done.plan.digest,
        ),
        **parts,
    )


def _accuracies(done: Audit) -> str:
    """Say how many rows both networks get right, where no table does."""
    found = [
        f"{' and '.join(f'{formats.percent(one.accuracy[part], size)} %' for one in (done.original, done.own))} of the {part} "
        "rows"
        for part, size in done.plan.num_rows.items()
    ]
    return f"Before and now it gets these right: {', '.join(found)}."


def _count(number: int) -> str:
    return formats.fixed(number, 0)


def _exhibits(done: Audit, oracles: Oracles) -> dict[str, Any]:
    """Give the parts of the page that need oracles."""
    unlearned, same = done.unlearned, done.same_cost
    mask, cost = unlearned.mask, unlearned.cost
    own = pages.row(unlearned.recipe, done.own, oracles, cost.seconds, cost.retraining_share)
    rows = [pages.row("Original", done.original, oracles, 0.0, 0.0, "nothing done: must fail"), own]
    beside = [own]
    if same is not None:
        share = same.spent.trained_rows / (oracles.trained[0].trained_rows or same.spent.trained_rows)
        note = f"from scratch, {same.epochs} epochs; judged alike: {same.outcome}"
        beside.append(pages.row("SameCostRetrain", same.evidence, oracles, same.spent.seconds, share, note))
    kept = (
        f"{_count(mask.num_selected)} of {_count(mask.num_parameters)} weights were allowed to change; "
        "all others are equal to the original bit for bit (frozen digest below)."
        if mask.num_selected < mask.num_parameters
        else f"All {_count(mask.num_parameters)} weights were allowed to change."
    )
    request = ("request", "The forget request", kept)
    section = pages.section(*request, done.split, [*rows, *beside[1:]], oracles, done.original, done.own, mask)
    sentence = _worth(done, oracles)
    networks = (done.own, done.original, oracles.evidence)
    return {
        "sections": [structs.replace(section, histograms=[], histogram_edges=[])],
        "rocs": exhibits.rocs(*networks, done.population, done.twins, done.plan.seed),
        "distributions": exhibits.distributions(*networks),
        "classes": exhibits.classes(*networks),
        "strata": exhibits.strata(*networks, done.population, done.measures),
        "costs": exhibits.costs(done.spent, oracles, len(done.split.train), beside, done.plan.num_rows, sentence),
    }


def _worth(done: Audit, oracles: Oracles) -> str:
    """Say what the audit cost in retrainings, and after how many requests that has paid off."""
    audit, paid = done.audit_retrainings, done.requests_until_paid
    if audit is None:
        return "Rows that a training function of your own reads are not counted, so neither is what the audit cost."
    search = " and the search for settings" if "search" in done.spent else ""
    told = f"This audit{search} cost as much as {_count(round(audit))} retrainings."
    if done.verdict == "FAIL":
        told += " The recipe failed it, so there is nothing to reckon them against."
    elif paid is None:
        told += " Unlearning cost no less than retraining, so they never pay off."
    else:
        told += f" They have paid off after {_count(paid)} requests answered by this recipe instead of by retraining."
    if "oracles" in done.spent and done.spent["oracles"].trained_rows < sum(
        one.trained_rows or 0 for one in oracles.trained
    ):
        told += " Some networks were found in a bank; below stands only what was trained for this audit."
    return told
