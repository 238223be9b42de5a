"""How long `excise --help` takes as a process, against a bare Python."""

import statistics
import subprocess
import sys
import time
from pathlib import Path


def measure(rounds: int = 9):
    """Time the two in turn; the goal is in seconds, since that is what a user feels."""
    command = [str(Path(sys.executable).with_name("excise")), "--help"]
    bare = [sys.executable, "-c", "pass"]
    took = [[_seconds(command), _seconds(bare)] for _ in range(rounds)]
    ours = [row[0] for row in took]
    return {
        "help": {
            "ratio": statistics.median(ours),
            "lowest": min(ours),
            "highest": max(ours),
            "seconds_of_reference": statistics.median(row[1] for row in took),
            "goal": 0.3,
            "what": "`excise --help`, seconds (a bare Python beside it)",
        }
    }


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - started
