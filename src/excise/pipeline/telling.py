"""What people should know of a run: the notes of all its parts, kept with the result."""

from __future__ import annotations

from torch import nn

from excise.masks import Mask
from excise.methods import Until
from excise.recipes import Recipe
from excise.train.hooks import Forwarding, Hooks
from excise.train.statistics import running_statistics


class Noted(Forwarding):
    """Passes on what a run tells, and keeps its notes in order, each once.

    How a run goes on from a checkpoint is passed on and not kept: a run that was killed has the result of one that was not.

    Attributes:
        notes: what was told so far.
    """

    def __init__(self, inner: Hooks) -> None:
        super().__init__(inner)
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        """Keep it, and pass it on."""
        if text not in self.notes:
            self.notes.append(text)
        super().on_note(text)


def tell_of_unseen(how: Recipe, allowed: Mask, model: nn.Module, hooks: Hooks, *, anew: bool) -> None:
    """Say what the run itself cannot see: retained rows that were not read, statistics that stay or are made after a stop."""
    if not allowed.num_selected or "forget" not in how.method.needs:
        return
    if "retain" not in how.method.needs:
        hooks.on_note(
            f"{how.name} read no row that stays, and cannot tell whether the network still gets such rows right: "
            "look at rows that it never saw"
        )
        if running_statistics(model):
            hooks.on_note(
                "running statistics of batch normalisation are the original's: they were computed with the forget rows among "
                "others, and tell of them (docs/batchnorm.md)"
            )
    if anew and isinstance(how.method, Until):
        hooks.on_note(
            "running statistics were recomputed after the last look of the rule that ended the run; what the network gets "
            "right may differ a little from what the rule saw"
        )
