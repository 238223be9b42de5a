"""Map-style data read ahead by processes, in our own order: which process reads a batch changes nothing.

Without workers what a data set draws at random comes from the global generators of the run, one example after another. A
worker seeds its own generators for each batch instead, by what the batch is of; so the results are the same with one worker
and with eight, and those of a data set that draws nothing are the same without any.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from excise import seeds
from excise.data.moving import moved, pins
from excise.data.rows import Source

AHEAD = 2
"""Batches that each worker has ready or in work."""

Wanted = tuple[int, Tensor]
"""A seed for what the data set draws, and the ids of one batch."""


class _Examples(Dataset[Any]):
    """A source as torch's loader asks for it: a batch at a time, with its seed."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, index: Wanted) -> tuple[Tensor, Any]:
        return self.__getitems__(index)[0]

    def __getitems__(self, wanted: Wanted) -> list[tuple[Tensor, Any]]:
        seed, ids = wanted
        seeds.seed_own_process_(seed)
        return [(ids, self._source.read(ids))]


def read_by_workers(source: Source, wanted: Iterable[Wanted], device: torch.device) -> Iterator[tuple[Tensor, Any]]:
    """Give ids and content, on a device, of each batch in turn. To be closed: the workers end with the generator.

    An interrupt from the keyboard reaches workers too; they leave it to the process that they work for.

    Args:
        source: its `workers` says how many processes read.
        wanted: read a few batches ahead.
        device: where the content goes.
    """
    loader = DataLoader(
        _Examples(source),
        batch_sampler=_Sequence(wanted),  # type: ignore[arg-type]
        num_workers=source.workers,
        collate_fn=_only,
        pin_memory=pins(device),
        worker_init_fn=_begin,
        prefetch_factor=AHEAD,
        generator=torch.Generator(),  # else it would draw from the global one
    )
    running: Any = iter(loader)
    try:
        for ids, content in running:
            yield ids, moved(content, device)
    finally:
        running._shutdown_workers()  # a traceback may keep the loader alive


class _Sequence:
    """Batches in a given order, each asked for once."""

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        self._wanted = wanted

    def __iter__(self) -> Iterator[Wanted]:
        return iter(self._wanted)


def _only(examples: list[tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
    return examples[0]


def _begin(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
