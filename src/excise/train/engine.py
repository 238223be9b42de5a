"""`Engine`: what every method needs besides a network and rows, in one value; and `Cost`, what it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import nn

from excise import errors, params
from excise.distributed import Processes
from excise.masks import Mask
from excise.train.checkpoints import Checkpoints
from excise.train.hooks import EpochTrace, Hooks
from excise.train.machine import Machine
from excise.train.task import Task


@dataclass(frozen=True)
class Spent:
    """What one part of a run cost.

    Attributes:
        seconds: wall time.
        trained_rows: examples passed forward and backward.
        forward_rows: examples passed forward only.
        peak_bytes: growth of the process's peak resident memory in this part; 0 if something earlier took more.
    """

    seconds: float = 0.0
    trained_rows: int = 0
    forward_rows: int = 0
    peak_bytes: int = 0


@dataclass
class Cost:
    """What a run has spent so far.

    Attributes:
        trained_rows: examples passed forward and backward.
        forward_rows: examples passed forward only.
        seconds: wall time; that of a run that goes on from a checkpoint includes what had led there.
        peak_bytes: growth of the process's peak resident memory; 0 if something earlier in the process took more.
        retraining_share: rows passed forward and backward, as a fraction of a retraining's; None where the training plan
            is not known.
        parts: the same by part of the run: `localize` and `unlearn`.
    """

    trained_rows: int = 0
    forward_rows: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    retraining_share: float | None = None
    parts: dict[str, Spent] = field(default_factory=dict)

    def count(self, *, trained: int = 0, forward: int = 0) -> None:
        """Add examples."""
        self.trained_rows += trained
        self.forward_rows += forward


@dataclass(frozen=True)
class Kept:
    """How much may be kept of activations that are the same in every step, see `excise.train.activations`.

    Attributes:
        memory_bytes: in memory, in all.
        disk_bytes: in files without a name in the directory for temporary files, in all; never more than half of what is free.
        least_products: multiplications that must be saved for it to be worth the trouble; a billion take a tenth of a second or
            less on one core.
    """

    memory_bytes: int = 2**30
    disk_bytes: int = 2**34
    least_products: float = 1e9


KEPT = Kept()


@dataclass(frozen=True, eq=False)
class Engine:
    """Everything about a run that is not the network, the rows or the mask.

    Attributes:
        task: forward and loss.
        seed: every random number of the run follows from it.
        besides: what a method may train besides its mask (DEL's classifier head); empty where that is not wanted.
        fresh: gives an untrained network, the same one each time; None if there is no way to make one.
        original: the network as it was before the run, never written to; None where a method is run by hand.
        slow: coordinates whose gradient is multiplied by a factor before each step; None for no such.
        hooks: who watches.
        checkpoints: where the loop keeps what a killed run goes on from; None for nowhere.
        machine: how the work is done; on a CPU the default is plain PyTorch.
        processes: who shares the rows of every batch; costs are those of all of them together.
        keep: how much may be kept of activations that are the same in every step; None to compute them in every step. The
            result is the same to the bit.
        cost: what was spent; the only thing here that changes.
        trace: one entry an epoch, in order.
    """

    task: Task
    seed: int
    besides: Mask
    fresh: Callable[[], nn.Module] | None = None
    original: nn.Module | None = None
    slow: tuple[Mask, float] | None = None
    hooks: Hooks = field(default_factory=Hooks)
    checkpoints: Checkpoints | None = None
    machine: Machine = Machine()  # noqa: RUF009 - a frozen value
    processes: Processes = Processes.alone()  # noqa: RUF009 - frozen
    keep: Kept | None = KEPT
    cost: Cost = field(default_factory=Cost)
    trace: list[EpochTrace] = field(default_factory=list)

    def fresh_model(self) -> nn.Module:
        """Give an untrained network, the same one each time.

        Raises:
            errors.BadRequest: there is no way to make one.
        """
        if self.fresh is None:
            raise errors.BadRequest("this method needs an untrained network; pass fresh=, a callable that builds one")
        return self.fresh()

    def original_model(self) -> nn.Module:
        """Give the network as it was before the run, in eval mode and without gradients, to be looked at and not changed.

        A module of its own whose parameters lie in the memory of the original's: it costs no copy of them.

        Raises:
            errors.BadRequest: there is none.
        """
        if self.original is None:
            raise errors.BadRequest(
                "this method learns from the network as it was; run it through excise.unlearn, or give it a teacher"
            )
        return params.shadow_of(self.original)

    def record(self, trace: EpochTrace) -> None:
        """Keep an epoch's trace and tell the hooks."""
        self.trace.append(trace)
        self.hooks.on_epoch(trace)

    def reseeded(self, seed: int) -> Engine:
        """Give the same engine with another seed, sharing cost and trace."""
        return replace(self, seed=seed)
