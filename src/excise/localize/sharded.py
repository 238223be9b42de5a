"""Scores of a network whose parameters lie in parts: each process scores its own rows, and all cut by one number a channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from excise import errors, params
from excise.curvature import Accumulate, shard_gradient
from excise.data.batches import num_batches
from excise.data.rows import Rows
from excise.distributed import Processes, require_shardable
from excise.distributed.sharding import whole_of
from excise.localize.granularity import Reduction, channel_scores
from excise.localize.scores import Scores, are_scores
from excise.train.engine import Engine


class ShardedScores(Scores):
    """Scores of which each process holds the rows that it holds of each parameter.

    A cut by channel gathers one number a channel. Any other question (single weights, modules, a score by name) gathers whole
    scores, a parameter at a time. Every question is to be asked by all processes.

    Args:
        shards: the scores of this process's rows, by parameter.
        shapes: of all the network's parameters.
        processes: who hold the others.

    Raises:
        errors.BadRequest: scores that are negative or not finite, in any process.
    """

    __slots__ = ("_processes",)

    def __init__(
        self, shards: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], processes: Processes
    ) -> None:
        if processes.anywhere(fact=not all(are_scores(value) for value in shards.values())):
            raise errors.BadRequest(
                "scores are negative or not finite; check that the network's weights and its loss on these rows are finite"
            )
        self._held, self._shapes, self._ranking = dict(shards), dict(shapes), None
        self._processes = processes

    def __getitem__(self, name: str) -> Tensor:
        return whole_of(self._held[name], self._shapes[name][0], self._processes)

    @property
    def _values(self) -> Mapping[str, Tensor]:
        return {name: self[name] for name in self._held}

    def _only(self, names: Sequence[str]) -> Scores:
        return ShardedScores({name: self._held[name] for name in names}, self._shapes, self._processes)

    def _by_channel(self, reduction: Reduction) -> dict[str, Tensor]:
        if not reduction.by_row:
            return super()._by_channel(reduction)
        here = {name: channel_scores(value, reduction) for name, value in self._held.items()}
        return {name: whole_of(own, self._shapes[name][0], self._processes).cpu() for name, own in here.items()}


def sharded_scores(
    model: nn.Module,
    rows: Rows,
    engine: Engine,
    accumulate: Accumulate,
    batch_size: int,
    score: Callable[[Tensor, Tensor], Tensor],
) -> ShardedScores:
    """Give the scores that a function makes of gradient and weights, each process of its own rows, as a stage of its own."""
    require_shardable(model, engine.processes)
    engine.hooks.on_stage("localize", num_batches(len(rows), batch_size))
    found = shard_gradient(model, rows, engine, batch_size=batch_size, accumulate=accumulate)
    engine.hooks.on_stage_end("localize")
    shapes = {name: tuple(value.shape) for name, value in params.named_parameters(model).items()}
    return ShardedScores({name: score(*both) for name, both in found.items()}, shapes, engine.processes)
