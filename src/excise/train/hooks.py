"""What may watch a run: progress bars and traces. The base does nothing; override what is wanted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochTrace:
    """What happened in one epoch.

    Attributes:
        stage: what was being done, such as `Finetune`.
        epoch: counted from 0.
        loss: mean objective over the steps.
        lr: learning rate.
        num_steps: optimizer steps.
        seconds: wall time.
    """

    stage: str
    epoch: int
    loss: float
    lr: float
    num_steps: int
    seconds: float


class Hooks:
    """No-op base. A hook must not touch the network."""

    def on_stage(self, name: str, num_steps: int) -> None:
        """Hear that a stage of `num_steps` steps begins."""

    def on_step(self) -> None:
        """Hear that one step of the current stage is done."""

    def on_epoch(self, trace: EpochTrace) -> None:
        """Hear what an epoch came to."""

    def on_part(self, name: str) -> None:
        """Hear what the stages that follow are a part of."""

    def on_note(self, text: str) -> None:
        """Hear a sentence that people should know."""

    def on_resumption(self, text: str) -> None:
        """Hear how a run goes on from a checkpoint, or why it does not; a note, unless told apart."""
        self.on_note(text)

    def on_stage_end(self, name: str) -> None:
        """Hear that the stage is over."""


class Forwarding(Hooks):
    """Passes everything on to other hooks; override what is to be heard otherwise."""

    def __init__(self, inner: Hooks) -> None:
        self._inner = inner

    def on_stage(self, name: str, num_steps: int) -> None:
        """Pass it on."""
        self._inner.on_stage(name, num_steps)

    def on_step(self) -> None:
        """Pass it on."""
        self._inner.on_step()

    def on_epoch(self, trace: EpochTrace) -> None:
        """Pass it on."""
        self._inner.on_epoch(trace)

    def on_part(self, name: str) -> None:
        """Pass it on."""
        self._inner.on_part(name)

    def on_note(self, text: str) -> None:
        """Pass it on."""
        self._inner.on_note(text)

    def on_resumption(self, text: str) -> None:
        """Pass it on."""
        self._inner.on_resumption(text)

    def on_stage_end(self, name: str) -> None:
        """Pass it on."""
        self._inner.on_stage_end(name)
