"""Several processes as one: rows shared, gradients summed, statistics taken over all; plain values in, plain values out."""

from excise.distributed import launch
from excise.distributed.processes import STRATEGIES, Processes, Strategy
from excise.distributed.statistics import JointStatistics, normalised_together

__all__ = ["STRATEGIES", "JointStatistics", "Processes", "Strategy", "launch", "normalised_together"]
