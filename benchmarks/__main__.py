"""Run every benchmark, keep what was found in benchmarks/results/cpu.json, and render docs/performance.md from it.

`python -m benchmarks steps growth` measures those parts alone and keeps the others; `--render` measures nothing.

A part is a module of this package with `measure() -> {name: row}`. A row says `what`, `ratio`, `lowest`, `highest` and
`goal`; it may say more. The module's `section(rows) -> [line]`, if it has one, writes the part's section of the page; else
its rows become a table under the part's title. GPU figures come from another machine and another file
(benchmarks/results/gpu.json, whose content `benchmarks.gpu.section` writes out).
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

import torch

from benchmarks.environment import environment

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "benchmarks" / "results" / "cpu.json"
GPU = ROOT / "benchmarks" / "results" / "gpu.json"
PAGE = ROOT / "docs" / "performance.md"
BUDGETS = {
    "startup": 10,
    "localization": 110,
    "steps": 110,
    "activations": 60,
    "data": 40,
    "memory": 40,
    "oracles": 80,
    "requests": 30,
    "growth": 110,
}
"""Parts in their order on the page, and the seconds that each may take on two cores: ten minutes together."""

TITLES = {
    "startup": "Start",
    "steps": "Masked steps",
    "activations": "Activations",
    "data": "Data",
    "memory": "Memory and disk",
    "requests": "Requests",
}


def parts():
    """Give the parts that are there: every one with a module of its name."""
    here = Path(__file__).parent
    return {name: importlib.import_module(f"benchmarks.{name}") for name in BUDGETS if (here / f"{name}.py").is_file()}


def main(told: list[str]) -> None:
    """Measure all parts or those chosen, write, render."""
    known, chosen = parts(), [word for word in told if word != "--render"]
    unknown = [word for word in chosen if word not in known]
    if unknown:
        sys.exit(f"expected some of {', '.join(known)}, or --render; found {unknown[0]!r}")
    torch.set_num_threads(int(os.environ.get("EXCISE_BENCH_THREADS", "2")))
    found = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    for name in [] if "--render" in told else chosen or known:
        found[name] = measured(name, known[name])
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(json.dumps({key: found[key] for key in BUDGETS if key in found}, indent=1) + "\n")
    PAGE.write_text(render(found))


def measured(name, part):
    """Measure one part, and tell what was found and how long it took."""
    started, load = time.perf_counter(), os.getloadavg()[0]
    rows = part.measure()
    took = time.perf_counter() - started
    for key, row in rows.items():
        tell(key, row)
    late = "" if took <= BUDGETS[name] else ", OVER its budget"
    sys.stdout.write(f"{name}: {took:.0f} s of {BUDGETS[name]} s{late}\n")
    sys.stdout.flush()
    return {"environment": environment(), "load": round(load, 1), "seconds": round(took, 1), "rows": rows}


def tell(name, row) -> None:
    """Write one row to people."""
    mark = "ok" if row["ratio"] <= row["goal"] else "MISSED"
    spread = f"({row['lowest']:.3f} to {row['highest']:.3f})"
    sys.stdout.write(f"{name:44} {row['ratio']:8.3f} {spread} goal {row['goal']:.3g} {mark}\n")


def render(found) -> str:
    """Give the page: a section a part, in order, each with what it was measured with."""
    lines = [
        "# Performance",
        "",
        "Written by `make bench`; do not edit. Two pieces of work are timed in turn in one run, and their ratio is what",
        "counts; absolute times on a shared machine mean little. Median of the rounds, lowest and highest beside it; where",
        "these straddle the goal, the run has not decided it. Networks are ResNet-18 (11,173,962 parameters) on rows of",
        "3 x 32 x 32, batches of 16, where nothing else is said.",
    ]
    for name, part in parts().items():
        kept = found.get(name)
        if kept is None:
            lines += [
                "",
                f"## {TITLES.get(name, name.capitalize())}",
                "",
                f"Not measured: `python -m benchmarks {name}`.",
            ]
            continue
        lines += part.section(kept["rows"]) if hasattr(part, "section") else table(TITLES[name], kept["rows"])
        told = ", ".join(f"{key} {value}" for key, value in kept["environment"].items())
        took = f"{kept['seconds']:.0f} s in all, " if "seconds" in kept else ""
        load = f", load of the machine at the start {kept['load']}" if "load" in kept else ""
        lines += ["", f"<small>{took}{told}{load}.</small>"]
    return "\n".join([*lines, *gpu()]) + "\n"


def table(title, rows):
    """Give the section of a part that writes none itself."""
    lines = ["", f"## {title}", "", "| what | figure | lowest to highest | goal |", "|---|---:|---:|---:|"]
    for row in rows.values():
        missed = "" if row["ratio"] <= row["goal"] else " (missed)"
        spread = f"{row['lowest']:.3g} to {row['highest']:.3g}"
        lines.append(f"| {row['what']} | {row['ratio']:.3g} | {spread} | {row['goal']:.3g}{missed} |")
    return lines


def gpu():
    """Give the section of the figures of a GPU, or say that there are none."""
    if not GPU.exists():
        return ["", "## GPU", "", "No GPU has been measured."]
    return importlib.import_module("benchmarks.gpu").section(json.loads(GPU.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
