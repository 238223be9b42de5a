"""A network through `torch.compile` for the length of one training: the same weights, hooks and names, another way to run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import TypeVar

import torch
from torch import nn

from excise.train.hooks import Hooks
from excise.train.machine import Way

Found = TypeVar("Found")


class Compiled:
    """A network and a compiled form of it that shares its modules, for batches of some sizes; others run as they are.

    So an odd last batch compiles nothing again. On an accelerator steps are replayed as graphs of kernels. What cannot be
    compiled (there is no compiler, the code does something that it does not know) runs as it is, with a note.

    Args:
        model: left as it is; what is compiled is its call.
        sizes: of batches that are worth it, few.
        hooks: hear why not, once.
        stage: for that note.
        backend: torch's name of what compiles.
        replayed: whether the device can replay steps.
    """

    def __init__(
        self,
        model: nn.Module,
        sizes: Collection[int],
        hooks: Hooks,
        stage: str,
        *,
        backend: str = "inductor",
        replayed: bool = False,
    ) -> None:
        self._model, self._sizes, self._hooks, self._stage = model, frozenset(sizes), hooks, stage
        options = {"mode": "reduce-overhead"} if replayed and backend == "inductor" else {}
        self._compiled: nn.Module | None = torch.compile(model, backend=backend, dynamic=False, **options)  # type: ignore[call-overload]

    def run(self, size: int, work: Callable[[nn.Module], Found]) -> Found:
        """Do `work` with the network as it is best run for a batch of `size` rows."""
        if self._compiled is None or size not in self._sizes:
            return work(self._model)
        try:
            return work(self._compiled)
        except Exception as error:
            if not _from_compiler(error):
                raise
            self._compiled = None
            reason = " ".join((str(error).strip() or type(error).__name__).split("\n")[:2])
            self._hooks.on_note(f"{self._stage}: runs without torch.compile, which failed ({reason})")
        return work(self._model)


def compiled(model: nn.Module, way: Way, sizes: Collection[int], hooks: Hooks, stage: str) -> Compiled | None:
    """Give the network compiled if `way` says so."""
    if not way.compiled:
        return None
    return Compiled(model, sizes, hooks, stage, replayed=way.kind != "cpu")


def _from_compiler(error: BaseException) -> bool:
    """Say whether an error is the compiler's own; its module takes seconds to import, and is there once it has run."""
    known = sys.modules.get("torch._dynamo.exc")
    return known is not None and isinstance(error, known.TorchDynamoException)
