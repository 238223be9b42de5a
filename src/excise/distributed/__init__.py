"""Several processes as one: rows shared, gradients summed, statistics taken over all; plain values in, plain values out."""

from excise.distributed import launch
from excise.distributed.processes import STRATEGIES, Processes, Strategy
from excise.distributed.sharding import Shard, Twin, require_shardable, reshard_, shard_of, sharded
from excise.distributed.statistics import JointStatistics, normalised_together

__all__ = [
    "STRATEGIES",
    "JointStatistics",
    "Processes",
    "Shard",
    "Strategy",
    "Twin",
    "launch",
    "normalised_together",
    "require_shardable",
    "reshard_",
    "shard_of",
    "sharded",
]
