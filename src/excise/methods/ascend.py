"""Ascend: gradient ascent on the forget rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from excise import errors
from excise.methods.base import Iterative, Need, require_forget_batch_size
from excise.train.masked import Statistics, require_statistics
from excise.train.plan import TrainPlan
from excise.train.step import Step


@dataclass(frozen=True, kw_only=True)
class Ascend(Iterative):
    """Maximise the loss over the forget rows, inside the mask: theta <- theta + lr * grad CE(forget).

    Reads forget only (and the length of retain, if `pace` is `retain`). The objective has no bound: keep the steps few.
    Cost: `plan.epochs` passes over forget; with `pace="retain"`, as many steps as retain has batches.

    Departs from published codes: running statistics are held by default, since statistics of the forget rows alone (one row,
    perhaps) wreck a network with batch normalisation; `buffers="adapt"` is what those codes do.

    References:
        Graves, Nagisetty, Ganesh, "Amnesiac Machine Learning", AAAI 2021; Thudi et al., "Unrolling SGD", EuroS&P 2022.

    Args:
        plan: epochs, optimizer, schedule, batches.
        pace: `forget` (one pass over forget an epoch) or `retain` (as many steps an epoch as retain has batches,
            cycling over forget). The published DEL code does the latter and also runs each retain batch forward, which
            moves the running statistics and nothing else; so does this unless they are held.
        forget_batch_size: forget rows a step, the plan's batch size if None.
        buffers: rule for running statistics, see `excise.train.masked`.
    """

    plan: TrainPlan
    pace: Literal["forget", "retain"] = "forget"
    forget_batch_size: int | None = None
    buffers: Statistics = "hold"
    streams: ClassVar[tuple[Need, ...]] = ("forget",)

    def __post_init__(self) -> None:
        """Check the options."""
        require_statistics(self.buffers)
        if self.pace not in ("forget", "retain"):
            raise errors.BadRequest(f"pace: expected forget or retain, found {self.pace!r}")
        require_forget_batch_size(self.forget_batch_size)

    @property
    def needs(self) -> frozenset[Need]:
        """Forget rows; retain rows too where they pace the steps."""
        return frozenset(self.paced_streams())

    @property
    def statistics(self) -> Statistics:
        """As given."""
        return self.buffers

    def paced_streams(self) -> tuple[Need, ...]:
        """Put the pacing stream first."""
        return ("retain", "forget") if self.pace == "retain" else ("forget",)

    def objective(self, step: Step) -> Tensor:
        """Minus the mean loss of the forget batch."""
        if self.pace == "retain" and self.buffers != "hold":
            step.observe("retain")
        return -step.mean_loss("forget")
