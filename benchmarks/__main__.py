"""Run every benchmark, write benchmarks/results/cpu.json, and render docs/performance.md from it.

`python -m benchmarks oracles` measures that part alone and keeps the other rows.
"""

import json
import os
import platform
import sys
from pathlib import Path

import torch

from benchmarks import activations, data, localization, memory, oracles, startup, steps
from excise.version import __version__

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "benchmarks" / "results" / "cpu.json"
PAGE = ROOT / "docs" / "performance.md"
PARTS = {
    "startup": startup.measure,
    "localization": localization.measure,
    "steps": steps.measure,
    "activations": activations.measure,
    "memory": memory.measure,
    "disk": memory.mask_on_disk,
    "data": data.measure,
    "oracles": oracles.measure,
}


def main(chosen: list[str]) -> None:
    """Measure all parts or those chosen, write, render."""
    torch.set_num_threads(int(os.environ.get("EXCISE_BENCH_THREADS", "2")))
    found = json.loads(TARGET.read_text())["rows"] if chosen else {}
    for part in chosen or PARTS:
        rows = PARTS[part]()
        found |= rows
        for name, row in rows.items():
            mark = "ok" if row["ratio"] <= row["goal"] else "MISSED"
            spread = f"({row['lowest']:.3f} to {row['highest']:.3f})"
            sys.stdout.write(f"{name:28} {row['ratio']:8.3f} {spread} goal {row['goal']} {mark}\n")
            sys.stdout.flush()
    result = {"environment": environment(), "rows": found}
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(render(result))


def environment() -> dict[str, object]:
    return {
        "excise": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def render(result: dict) -> str:
    """Give the page of the results."""
    told = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
    lines = [
        "# Performance",
        "",
        "Written by `make bench`; do not edit. Two pieces of work are timed in turn in one run, and their ratio is what",
        "counts; absolute times on a shared machine mean little. Median of the rounds, lowest and highest beside it; where",
        "these straddle the goal, the run has not decided it.",
        "",
        f"Measured with {told}; ResNet-18 (11,173,962 parameters), batches of 16 rows of 3 x 32 x 32.",
        "",
        "| what | figure | lowest to highest | goal |",
        "|---|---:|---:|---:|",
    ]
    for name, row in result["rows"].items():
        if name.startswith("oracles_"):
            continue
        missed = "" if row["ratio"] <= row["goal"] else " (missed)"
        lines.append(
            f"| {row['what']} | {row['ratio']:.3g} | {row['lowest']:.3g} to {row['highest']:.3g} | {row['goal']}{missed} |"
        )
    lines += oracles.section({name: row for name, row in result["rows"].items() if name.startswith("oracles_")})
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
