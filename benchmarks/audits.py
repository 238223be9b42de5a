"""The audit of the audit: how often it errs, what it notices, what it costs, on networks whose history is known.

`python -m benchmarks.audits` trains pools of small networks once and audits draws from them; writes
benchmarks/results/audits.json and docs/results/audits.md. `--bank DIR` keeps the networks, so that a second run does not train.
`--only NAME,NAME` measures some parts again and keeps the others. `--few` tries everything out at small counts and prints
what it found. `--render` only renders; `--budget` measures only what an
audit costs, alone on the machine, and keeps the rest.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import scipy
import sklearn
import torch

from benchmarks import audit_budget, audit_degenerate, audit_orders, audit_page, audit_pools, audit_rates
from benchmarks.environment import environment
from excise.oracles import Bank

ROOT = Path(__file__).resolve().parent.parent
FOUND, PAGE = ROOT / "benchmarks" / "results" / "audits.json", ROOT / "docs" / "results" / "audits.md"
render = audit_page.render


def parts(pools, bank, few):
    """Give what can be measured, by name; `few` divides the counts."""
    fewer = min(few, 4)
    return {
        "networks": lambda: networks(pools),
        "one_network": lambda: audit_rates.null_of_one_network(pools, 200 // few),
        "populations": lambda: audit_rates.null_of_populations(pools, 200 // few),
        "nothing": lambda: audit_rates.nothing_done(pools, 100 // few),
        "left_behind": lambda: audit_rates.left_behind(pools, 200 // few),
        "effects": lambda: audit_rates.effects(pools, 200 // few),
        "population_attack": lambda: audit_rates.population_attack(pools, 100 // few),
        "membership": lambda: audit_orders.cheap_membership(pools, 32 // fewer),
        "relearning": lambda: audit_orders.relearnt(pools, 16 // min(few, 2)),
        "degenerate": lambda: audit_degenerate.of_one_network(pools),
        "degenerate_populations": lambda: audit_degenerate.of_populations(pools),
        "partial": lambda: audit_orders.partial_unlearning(range(1, 1 + 10 // fewer), 16, bank),
        "partial_wide": lambda: audit_orders.partial_unlearning(range(1, 1 + 10 // fewer), 32, bank),
    }


def measure(only=(), bank=None, few=1):
    """Take every figure but the cost, or only some; and what each took."""
    clock, found = {}, {}

    def take(name, work):
        wall, processor = time.perf_counter(), time.process_time()
        taken = work()
        clock[name] = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        sys.stderr.write(f"{name}: {clock[name]['wall']:.0f} s, {clock[name]['processor']:.0f} s of one core\n")
        return taken

    alone = only and set(only) <= {"partial", "partial_wide"}  # which have pools of their own
    pools = None if alone else take("pools", lambda: audit_pools.pools(bank, min(few, 4)))
    for name, work in parts(pools, bank, few).items():
        if not only or name in only:
            found[name] = take(name, work)
    told = {
        **environment(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
        "processor": processor_name(),
    }
    return {"environment": told, "seconds": clock, **found}


def networks(pools):
    """Say what the pools are."""
    found = {}
    for name in ("wrong", "half", "fifth", "easy", "clean"):
        pool = getattr(pools, name)
        found[name] = {
            "num_forget": len(pool.split.forget),
            "num_retain": len(pool.split.retain),
            "num_test": len(pool.split.test),
            "originals": {"count": len(pool.originals), **_accuracies(pool.originals)},
            "oracles": {"count": len(pool.oracles), **_accuracies(pool.oracles)},
        }
    return found


def _accuracies(networks):
    return {part: audit_pools.mean_accuracy(networks, part) for part in ("forget", "retain", "test")}


def processor_name():
    """Give the processor's name, where the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main(words):
    """Measure, keep what was not measured again, and render."""
    torch.set_num_threads(1)
    if "--few" in words:
        few = measure([name for name in _after(words, "--only").split(",") if name], _bank(words), 10)
        sys.stdout.write(json.dumps(few, indent=1) + "\n")
        return
    if "--budget" in words:
        audit_budget.measure(lambda rows: _keep({"budget": rows}))
    elif "--render" not in words:
        _keep(measure([name for name in _after(words, "--only").split(",") if name], _bank(words)))
    PAGE.write_text(render(json.loads(FOUND.read_text())))


def _keep(found):
    kept = json.loads(FOUND.read_text()) if FOUND.is_file() else {}
    seconds = {**kept.get("seconds", {}), **found.get("seconds", {})}
    FOUND.write_text(json.dumps({**kept, **found, "seconds": seconds}, indent=1) + "\n")


def _after(words, option):
    return words[words.index(option) + 1] if option in words else ""


def _bank(words):
    return Bank(Path(_after(words, "--bank"))) if "--bank" in words else None


if __name__ == "__main__":
    main(sys.argv[1:])
