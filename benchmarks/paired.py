"""Two pieces of work timed in turn, A B A B, so that a machine whose speed drifts drifts for both."""

import statistics
import time
from collections.abc import Callable


def paired_ratio(a: Callable[[], object], b: Callable[[], object], rounds: int) -> dict[str, float]:
    """Give the median, lowest and highest ratio of A's time to B's over the rounds, after one warm-up of each."""
    a(), b()
    ratios, seconds = [], []
    for _ in range(rounds):
        took = [_seconds(work) for work in (a, b)]
        ratios.append(took[0] / took[1])
        seconds.append(took)
    return {
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "seconds": statistics.median(row[0] for row in seconds),
        "seconds_of_reference": statistics.median(row[1] for row in seconds),
        "rounds": rounds,
    }


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
