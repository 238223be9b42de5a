"""A run under way, as a value: what was asked, of which network, and where it is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from excise.cluster import Fleet
from excise.ledger.commitments import Key
from excise.ledger.entries import Life, Request, Run
from excise.lifecycle.papers import Papers
from excise.lifecycle.subject import Subject
from excise.pipeline.policy import EFFECT
from excise.recipes import Recipe
from excise.train.checkpoints import Checkpoints
from excise.train.hooks import Hooks

NUMBERS, PAGE, PLAN = "audit.json", "report.html", "audit-plan.json"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a run is made and audited.

    Attributes:
        seed: of the unlearning and of the audit.
        tier: of the audit, see `excise.audit`.
        oracles: as there.
        effect: as there.
        recompute: as in `excise.unlearn`.
        words: what was typed to name the recipe, for the command line.
    """

    seed: int = 0
    tier: str | None = None
    oracles: int | None = None
    effect: float = EFFECT
    recompute: bool = True
    words: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """A run under way with all it needs.

    Attributes:
        papers: of the ledger.
        subject: network and rows.
        recipe: how to unlearn.
        options: how to run and audit.
        run: from the book.
        life: from the book.
        key: of the ledger.
        hooks: who watches.
        bank: where the audit keeps networks.
        fleet: who trains them; this process if None.
        checkpoint_seconds: as much work is lost at most.
        watched: holds the run's checkpoints while it trains.
    """

    papers: Papers
    subject: Subject
    recipe: Recipe
    options: Options
    run: Run
    life: Life
    key: Key
    hooks: Hooks
    bank: Path | None
    fleet: Fleet | None
    checkpoint_seconds: float
    watched: Callable[[Checkpoints], AbstractContextManager[object]]

    @property
    def directory(self) -> Path:
        """Where the run is kept."""
        return self.papers.run_directory(self.run.number)

    def requests(self) -> list[Request]:
        """Give the batch."""
        return [one for one in self.papers.book.requests() if one.id in self.run.requests]
