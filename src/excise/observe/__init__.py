"""From a network and rows to arrays on the CPU."""

from excise.observe.outputs import Outputs, collect

__all__ = ["Outputs", "collect"]
