"""Checkpoints: what a run needs to go on where it was killed, and to end with the same bits as if it never had been.

What happens outside the loop (`fit_`) is a pure function of network, rows and seed, and is simply done again. What the
loop has done is kept on disk, stage by stage: one call of `fit_` is one stage of a run. The order of batches is a pure
function of seed, stream, epoch and round, so that a position in it is an epoch and a count of steps.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import torch
from torch import Tensor, nn

from excise import checks, errors, params, seeds
from excise.distributed import Processes
from excise.store.files import sweep
from excise.store.generations import Generation, Generations
from excise.train.hooks import EpochTrace, Hooks
from excise.version import __version__


@runtime_checkable
class Remembers(Protocol):
    """Something that carries a state from one step or epoch to the next, and can give and take it as tensors."""

    def remembered(self) -> Mapping[str, Tensor]:
        """Give the state; the tensors may be those in use."""

    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `remembered` gave; its tensors are on the CPU and may be kept, or there are none."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Carried:
    """All that carries a state from one step of a stage to the next, the generators of random numbers apart.

    Attributes:
        network: the coordinates that may change, and the buffers.
        sound: what is put back should the stage diverge; of no use at an epoch's end, where it is the network.
        optimizer: of no use at the stage's end.
        watch: who looks at the network after each epoch.
    """

    network: Remembers
    sound: Remembers
    optimizer: Remembers
    watch: Remembers | None = None

    def parts(self) -> dict[str, Remembers]:
        """Give them by name."""
        every = {"network": self.network, "sound": self.sound, "optimizer": self.optimizer, "watch": self.watch}
        return {name: part for name, part in every.items() if part is not None}


class Counts(Protocol):
    """What a run has spent so far, see `excise.train.engine.Cost`."""

    trained_rows: int
    forward_rows: int
    seconds: float


class Run(Protocol):
    """What of a run an engine holds."""

    @property
    def cost(self) -> Counts:
        """What was spent."""

    @property
    def trace(self) -> list[EpochTrace]:
        """What its epochs came to."""

    @property
    def hooks(self) -> Hooks:
        """Who watches."""

    @property
    def processes(self) -> Processes:
        """Who does it together."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a stage has come.

    Attributes:
        epoch: the one to go on in, counted from 0; the plan's number of epochs where all is done.
        step: of that epoch, the one to go on with, counted from 0.
        loss_sum: of the steps done in that epoch.
        epoch_seconds: wall time spent in that epoch.
        seconds: wall time spent in the stage.
        trained_rows: examples passed forward and backward in the stage.
        forward_rows: examples passed forward only in the stage.
        trace: of the epochs of the stage that are over.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    trained_rows: int = 0
    forward_rows: int = 0
    trace: tuple[EpochTrace, ...] = ()


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation says besides its tensors."""

    belongs: str
    threads: int
    position: Position


@dataclass
class _Switch:
    """Whether a stage is at work that can be kept, and what it is to stop with."""

    inside: bool = False
    error: BaseException | None = None

    def give_way(self) -> None:
        """Raise what it is to stop with, if anything, once."""
        error, self.error = self.error, None
        if error is not None:
            raise error


class Checkpoints:
    """The checkpoints of one run.

    Kept are the end of every stage and, of the stage at work, a step's or an epoch's end as soon as `seconds` have passed
    since the last was kept; of each stage two generations, see `excise.store.generations`. A checkpoint is used only where
    it was made: same number and name of stage, plan, mask, seed, fingerprints, network at the stage's start, kind of
    device, versions and number of threads. Any other is left unused, with a note to the hooks, and the stage starts anew.

    For the bits to be the same, an objective must follow from network, batch, epoch and step; what a data set draws must
    come from torch's, numpy's or Python's global generator; and what a module carries from step to step must be a
    parameter or a buffer, and no plain attribute.

    Of several processes the first writes, all read the same directory, and they must be as many as before.

    Args:
        directory: for this run alone. None for a run whose own stages keep nothing, and that lends `seconds` and `stop` to
            others, see `at`.
        seconds: as much work is lost at most; 0 to keep every step.
        fingerprint: of what the caller knows the result to depend on, such as the content of the rows.
        ends: keep the end of each stage; False where the result itself is kept at once.

    Raises:
        errors.BadRequest: `seconds` is no finite number from 0 on.
    """

    def __init__(
        self, directory: str | Path | None, seconds: float = 30.0, *, fingerprint: str = "", ends: bool = True
    ) -> None:
        self.seconds = checks.require_finite("checkpoint_seconds", seconds)
        self.directory = None if directory is None else Path(directory)
        self._generations = None if directory is None else Generations(directory)
        self.ends = ends
        self._fingerprint, self._about = fingerprint, ""
        self._switch = _Switch()
        self._stages = 0
        self._kept_at = time.perf_counter()

    def at(self, directory: str | Path, fingerprint: str, *, ends: bool = True) -> Checkpoints:
        """Give the checkpoints of another run within this one, kept as often elsewhere; `stop` stops both."""
        other = Checkpoints(directory, self.seconds, fingerprint=fingerprint, ends=ends)
        other._switch = self._switch
        return other

    @property
    def inside(self) -> bool:
        """Whether a stage is at work that `stop` would have kept."""
        return self._switch.inside

    def stop(self, error: BaseException) -> None:
        """Have the stage at work finish its step, keep a checkpoint, and raise `error`; may be called at any time.

        Meant for a signal handler in the thread of the run, which raises at once where not `inside`: there is nothing to
        keep then. Called outside a stage, it stops the next one after its first step.
        """
        self._switch.error = error

    def begin(self, about: str) -> None:
        """Begin the run, whose stages are counted from here; `about` is what else its result depends on.

        What writes that were broken off have left is removed.

        Raises:
            errors.DiskError: a file could not be removed.
        """
        self._about, self._stages = about, 0
        self._kept_at = time.perf_counter()
        if self.directory is not None:
            sweep([self.directory])

    def clear(self) -> None:
        """Remove every checkpoint: once the result is kept.

        Raises:
            errors.DiskError: a file could not be removed.
        """
        if self._generations is not None:
            self._generations.clear()

    @contextmanager
    def stage(
        self, name: str, model: nn.Module, facts: Mapping[str, Any], carried: Carried, run: Run
    ) -> Iterator[Stage | None]:
        """Enter the next stage of the run; gives None where stages keep nothing.

        Args:
            name: of the stage.
            model: as it is before the first step.
            facts: plain values that the stage depends on.
            carried: its state.
            run: cost, trace and hooks.
        """
        if self._generations is None:
            yield None
            return
        self._stages += 1
        self._switch.inside = True
        try:
            own: list[Any] = [self._stages, name, self._about, self._fingerprint, dict(facts), _surroundings(model)]
            own += [run.processes.size] if run.processes.several else []
            belongs = hashlib.sha256(msgspec.json.encode(own, order="deterministic")).hexdigest()
            yield Stage(self, self._generations, (self._stages, name, belongs), carried, run)
        finally:
            self._switch.inside = False
            self._switch.give_way()

    def due(self, processes: Processes) -> bool:
        """Say whether it is time to keep a checkpoint: to all at once, and where one is to stop, all are."""
        own = 2 if self._switch.error is not None else int(time.perf_counter() - self._kept_at >= self.seconds)
        joint = processes.largest(own)
        if joint > max(own, 1):
            self._switch.error = KeyboardInterrupt()
        return joint > 0

    def kept(self) -> None:
        """Note that a checkpoint was kept; raise what a stop asked for."""
        self._kept_at = time.perf_counter()
        self._switch.give_way()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do something that may take long and is not kept: a stop need not wait for it."""
        self._switch.inside = False
        self._switch.give_way()
        yield
        self._switch.inside = True


class Stage:
    """One stage of a run, whose state is kept. Made by `Checkpoints.stage`."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        generations: Generations,
        names: tuple[int, str, str],
        carried: Carried,
        run: Run,
    ) -> None:
        self._checkpoints, self._generations, self._carried, self._run = checkpoints, generations, carried, run
        self._number, self._name, self._belongs = names
        self._before = (run.cost.trained_rows, run.cost.forward_rows, len(run.trace))
        self._started = time.perf_counter()

    def resume_(self) -> Position:
        """Bring back what was kept last: the state, the generators of random numbers, cost and trace; give where to go on.

        The hooks hear of all that was done as if it were done now.
        """
        found, skipped = self._generations.newest(self._number)
        for sentence in skipped:
            self._tell(sentence)
        if found is None and skipped:
            self._tell("no checkpoint is left that is whole; the stage starts anew")
        known = None if found is None else self._usable(found)
        together = self._run.processes
        seen = {"checkpoint": "" if found is None else f"{found.path} {found.facts}"}
        together.require_same(seen, "all must see one directory of checkpoints", errors.BadRequest)
        if together.anywhere(fact=known is None) or found is None or known is None:
            return Position()
        for name, part in self._carried.parts().items():
            part.recall_(_part(name, found.tensors))
        position, cost, hooks = known.position, self._run.cost, self._run.hooks
        for done in position.trace:
            for _ in range(done.num_steps):
                hooks.on_step()
            self._run.trace.append(done)
            hooks.on_epoch(done)
        for _ in range(position.step):
            hooks.on_step()
        cost.trained_rows += position.trained_rows
        cost.forward_rows += position.forward_rows
        cost.seconds += position.seconds
        self._started -= position.seconds
        where = f"after {position.epoch} epochs" + (f" and {position.step} steps" if position.step else "")
        self._tell(f"goes on from its checkpoint {where}")
        seeds.restore_(_part(f"generators/{together.rank}" if together.several else "generators", found.tensors))
        return position

    def after_step(self, epoch: int, step: int, loss_sum: Callable[[], float], epoch_seconds: float) -> None:
        """Keep the state after the first `step` steps of an epoch if it is time to; raise if it is time to stop.

        The sum of the losses is asked for only then, and raises where one is not finite: such a state is not kept.
        """
        if self._checkpoints.due(self._run.processes):
            self._keep(Position(epoch=epoch, step=step, loss_sum=loss_sum(), epoch_seconds=epoch_seconds))

    def after_epoch(self, epochs: int, *, last: bool) -> None:
        """Keep the state after so many epochs if it is time to, or if they are all; raise if it is time to stop."""
        if self._checkpoints.due(self._run.processes) or (last and self._checkpoints.ends):
            self._keep(Position(epoch=epochs), without=("sound", "optimizer") if last else ("sound",))

    def looking(self) -> AbstractContextManager[None]:
        """Give the context in which the network is looked at, which may take long and is not kept."""
        return self._checkpoints.aside()

    def _keep(self, position: Position, without: tuple[str, ...] = ()) -> None:
        cost = self._run.cost
        trained, forward, epochs = self._before
        whole = msgspec.structs.replace(
            position,
            seconds=time.perf_counter() - self._started,
            trained_rows=cost.trained_rows - trained,
            forward_rows=cost.forward_rows - forward,
            trace=tuple(self._run.trace[epochs:]),
        )
        tensors = {f"generators/{name}": value for name, value in self._generators().items()}
        for name, part in self._carried.parts().items():
            if name not in without:
                tensors |= {f"{name}/{key}": value for key, value in part.remembered().items()}
        facts = _Facts(belongs=self._belongs, threads=torch.get_num_threads(), position=whole)
        if self._run.processes.is_first:
            self._generations.keep(tensors, facts, series=self._number)
        self._run.processes.barrier()
        self._checkpoints.kept()

    def _generators(self) -> dict[str, Tensor]:
        """Give the states of the generators of random numbers, those of all processes."""
        together = self._run.processes
        if not together.several:
            return seeds.states()
        every = {name: together.gathered(value) for name, value in seeds.states().items()}
        return {f"{rank}/{name}": value[rank] for name, value in every.items() for rank in range(together.size)}

    def _usable(self, found: Generation) -> _Facts | None:
        """Give what a generation says if it belongs to this very stage; else tell why it is not used."""
        try:
            known = msgspec.convert(found.facts, _Facts)
        except msgspec.ValidationError:
            known = None
        if known is None or known.belongs != self._belongs:
            self._tell(
                f"{found.path} was made for another request or network, or by another version, and is not used; "
                "the stage starts anew"
            )
            return None
        if known.threads != torch.get_num_threads():
            self._tell(
                f"{found.path} was made with {known.threads} threads and this run has {torch.get_num_threads()}; the two are "
                "not bit-comparable, so it is not used; the stage starts anew"
            )
            return None
        return known

    def _tell(self, sentence: str) -> None:
        self._run.hooks.on_resumption(f"{self._name}: {sentence}")


def _part(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of one part, by their names inside it."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def _surroundings(model: nn.Module) -> dict[str, str]:
    """Give what else the bits of a stage depend on: the network as it is, the device, what computes."""
    return {
        "start": params.digest([*model.named_parameters(), *model.named_buffers()]),
        "device": next(model.parameters()).device.type,
        "accelerators": str(torch.accelerator.device_count() if torch.accelerator.is_available() else 0),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "excise": __version__,
    }
