"""Axes: where a number stands on a line, and which numbers are written along it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A line on which equal differences are equally far apart.

    Attributes:
        low: the number at 0 per cent of the line.
        high: the number at 100 per cent of the line, above `low`.
    """

    low: float
    high: float

    def position(self, value: float) -> float:
        """Give the place of a number on the line: `100 (value - low) / (high - low)`, in per cent.

        Examples:
            >>> Linear(low=0.25, high=0.75).position(0.5)
            50.0
        """
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 4) -> list[float]:
        """Give about `count` round numbers on the line, a multiple of 1, 2 or 5 times a power of ten apart.

        Examples:
            >>> Linear(low=0.03, high=1.04).ticks()
            [0.2, 0.4, 0.6, 0.8, 1.0]
        """
        step = self.step(count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step)))
        return [round(index * step, digits) for index in range(first, last + 1)]

    def step(self, count: int = 4) -> float:
        """Give the distance between two ticks.

        Examples:
            >>> Linear(low=0.97, high=1.0).step()
            0.01
        """
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        return min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))


@dataclass(frozen=True, kw_only=True)
class Log:
    """A line on which equal ratios are equally far apart.

    Attributes:
        low: the number at 0 per cent of the line, above zero.
        high: the number at 100 per cent of the line, above `low`.
    """

    low: float
    high: float

    def position(self, value: float) -> float:
        """Give the place of a number on the line: `100 log(value / low) / log(high / low)`, in per cent.

        Examples:
            >>> Log(low=0.01, high=100.0).position(1.0)
            50.0
        """
        return 100 * math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, count: int = 8) -> list[float]:
        """Give the powers of ten on the line, thinned to about `count`; on a short line also 2 and 5 times these.

        Examples:
            >>> Log(low=0.002, high=20.0).ticks()
            [0.01, 0.1, 1.0, 10.0]
            >>> Log(low=0.1, high=1.0).ticks()
            [0.1, 0.2, 0.5, 1.0]
        """
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        every = max(1, math.ceil((last - first + 1) / count))
        decades = [_power(exponent) for exponent in range(first, last + 1) if exponent % every == 0]
        if last - first >= 2:
            return decades
        between = (factor * _power(exponent) for exponent in range(first - 1, last + 1) for factor in (1, 2, 5))
        return [tick for tick in between if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]


def _power(exponent: int) -> float:
    """Give the float nearest to a power of ten, which `10.0 ** -5` is not on every platform."""
    return float(f"1e{exponent}")
