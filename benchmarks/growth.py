"""How time and memory grow: with rows, with weights, with the share to forget, with the mask. Goal: at most in proportion.

`python -m benchmarks growth` measures into benchmarks/results/growth.json and draws docs/images/growth-*.svg. Of each line
the exponent between its two largest sizes is told: time ~ size^exponent, so 1 is in proportion, and what does not depend
on the size has stopped to count by then. A thousand million weights are told on paper (`excise.train.footprint`).
"""

import json
import math
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks import growth_plots
from benchmarks.environment import environment
from benchmarks.oracles import threads
from benchmarks.problems import engine
from excise import unlearn
from excise.cli.tables import read_ids
from excise.data import Split, of_class, of_group, random_fraction
from excise.data.batches import in_batches, order_of
from excise.localize import WeightGradient
from excise.methods import Finetune
from excise.oracles.keys import fingerprints
from excise.patch import Patch
from excise.pipeline.forget import rows_digest
from excise.recipes import DEL
from excise.train import TrainPlan, footprint, frozen_digest

RESULTS = Path(__file__).parent / "results" / "growth.json"
ROWS = (1_000, 10_000, 100_000, 1_000_000)
MORE_ROWS = (10_000_000, 30_000_000)
WEIGHTS = (100_000, 1_000_000, 10_000_000, 100_000_000)
SHARES = (0.001, 0.005, 0.02, 0.1, 0.5)
BUDGETS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
LINEAR = 1.1
LARGEST_BYTES = 24 * 2**30


def measure():
    """Measure everything, keep it, draw it; give the exponents as rows."""
    with threads(1):
        lines = _lines()
    kept = {"environment": environment(), "lines": lines, "paper": on_paper()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    growth_plots.draw(lines)
    return {f"growth_{axis}_{name}": row for axis, some in lines.items() for name, row in _rows(axis, some).items()}


def _lines():
    return {
        "rows": _over(ROWS, _with_rows),
        "more rows": _over(MORE_ROWS, _with_many_rows),
        "weights": _over(WEIGHTS, _with_weights),
        "forget share": _over(SHARES, _with_share),
        "mask budget": _over(BUDGETS, _with_budget),
    }


def slope(sizes, values):
    """Give the exponent between the two largest sizes."""
    (low, high), (first, last) = sizes[-2:], values[-2:]
    return math.log(last / first) / math.log(high / low)


def _rows(axis, some):
    return {
        name: {
            **dict.fromkeys(("ratio", "lowest", "highest"), slope(some["sizes"], values)),
            "goal": LINEAR,
            "what": f"{name}, by {axis}",
        }
        for name, values in some["values"].items()
    }


def _over(sizes, work):
    """Give what each part of a piece of work takes at each size; the smallest goes first once, unmeasured."""
    work(sizes[0])
    found: dict[str, list[float]] = {}
    for size in sizes:
        for name, value in work(size).items():
            found.setdefault(name, []).append(value)
    return {"sizes": list(sizes), "values": found, "load": round(os.getloadavg()[0], 1)}


def _seconds(work):
    """Give the seconds of the processor on one thread: a machine busy with other work does not lengthen them."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def _with_rows(count):
    """Time the bookkeeping of so many rows: a network of 30 weights, so that it is the rows that are seen."""
    draws = torch.Generator().manual_seed(0)
    data = torch.randn(count, 4, generator=draws), torch.randint(0, 6, (count,), generator=draws)
    groups = [f"person {row % 1000}" for row in range(count)]
    chosen = list(range(0, count, 10))
    model = nn.Linear(4, 6)
    took = {}
    took["split by ids"], split = _seconds(partial(Split, data, forget=chosen))
    rules = {"class": of_class(3), "random": random_fraction(0.1), "group": of_group(groups, ["person 7"])}
    for name, rule in rules.items():
        took[f"split by {name}"], _ = _seconds(partial(Split, data, forget=rule))
    took["order of an epoch"], _ = _seconds(partial(_order, split))
    took["digest of the request"], _ = _seconds(partial(rows_digest, split))
    took["content of all rows"], _ = _seconds(split.train.fingerprint)
    took["content by row, twice"], _ = _seconds(partial(fingerprints, [split.train, split.retain]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ids.txt"
        path.write_text("\n".join(map(str, chosen)) + "\n")
        took["file of ids"], _ = _seconds(partial(read_ids, path, count))
    localizer = WeightGradient(batch_size=1024)
    took["score and select"], scores = _seconds(partial(localizer, model, split))
    method = Finetune(plan=TrainPlan(epochs=1, lr=1e-3, batch_size=1024))
    mask = scores.select(budget_fraction=0.5)
    took["epoch under a mask"], _ = _seconds(partial(method.unlearn_, model, split, mask, engine(model)))
    return took


def _with_many_rows(count):
    """Time what draws a permutation, where none of it lies in a processor's cache at either size."""
    data = torch.zeros(count, 1), torch.zeros(count, dtype=torch.int8)
    took = {}
    took["split by random"], split = _seconds(partial(Split, data, forget=random_fraction(0.1)))
    took["order of an epoch"], _ = _seconds(partial(_order, split))
    return took


def _order(split):
    return in_batches(order_of(split.retain, torch.Generator().manual_seed(0)), 128)


def perceptron(num_weights, depth=2):
    """Give a perceptron of about so many weights."""
    width = round(math.sqrt(num_weights / depth))
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def _few_rows(width, count=24, num_forget=8):
    draws = torch.Generator().manual_seed(0)
    data = torch.randn(count, width, generator=draws), torch.randint(0, 4, (count,), generator=draws)
    return Split(data, forget=range(num_forget))


def _with_weights(count):
    """Time a whole request on a network of so many weights: 8 rows to forget, 16 to retain, one epoch."""
    model = perceptron(count)
    split = _few_rows(model[0].in_features)
    took, done = _seconds(lambda: unlearn(model, split, DEL(epochs=1, lr=1e-3, batch_size=8)))
    again, _ = _seconds(lambda: Patch.between(model, done.model))
    finding, _ = _seconds(lambda: WeightGradient(batch_size=8)(model, split).select(budget_fraction=0.3))
    digesting, _ = _seconds(partial(frozen_digest, model, done.mask))
    return {"whole request": took, "score and select": finding, "frozen digest": digesting, "patch": again}


def _with_share(share, count=20_000):
    draws = torch.Generator().manual_seed(0)
    data = torch.randn(count, 16, generator=draws), torch.randint(0, 4, (count,), generator=draws)
    split = Split(data, forget=random_fraction(share))
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    took, _ = _seconds(lambda: unlearn(model, split, DEL(epochs=1, lr=1e-3, batch_size=256)))
    finding, _ = _seconds(lambda: WeightGradient(batch_size=256)(model, split).select(budget_fraction=0.3))
    return {"whole request": took, "score and select": finding}


def _with_budget(budget):
    model = perceptron(4_000_000)
    split = _few_rows(model[0].in_features)
    took, done = _seconds(lambda: unlearn(model, split, DEL(budget_fraction=budget, epochs=1, lr=1e-3, batch_size=8)))
    with tempfile.TemporaryDirectory() as folder:
        saving, _ = _seconds(partial(done.patch.save, Path(folder) / "patch.safetensors"))
        size = (Path(folder) / "patch.safetensors").stat().st_size
        done.mask.save(Path(folder) / "mask.safetensors")
        mask = (Path(folder) / "mask.safetensors").stat().st_size
    return {
        "whole request": took,
        "saving the patch": saving,
        "patch on disk, MB": size / 1e6,
        "mask on disk, MB": mask / 1e6,
    }


def blocks(width, depth=24, num_classes=1000):
    """Give a stack of torch's own transformer blocks over sequences of vectors, on the `meta` device."""
    with torch.device("meta"):
        block = nn.TransformerEncoderLayer(width, 16, 4 * width, dropout=0.0, batch_first=True)
        return nn.Sequential(
            nn.TransformerEncoder(block, depth, enable_nested_tensor=False), _First(), nn.Linear(width, num_classes)
        )


class _First(nn.Module):
    """The first token of each sequence."""

    def forward(self, tokens):
        return tokens[:, 0]


def paper(width, batch_size=8, tokens=64):
    """Give the footprint of the stack at a width: batches of 8 sequences of 64 vectors, SGD with momentum, a mask of 30%."""
    batch = (
        torch.empty(batch_size, tokens, width, device="meta"),
        torch.empty(batch_size, dtype=torch.int64, device="meta"),
    )
    return footprint(blocks(width), batch, 0.3)


def on_paper(limit=LARGEST_BYTES):
    """Give the memory of a thousand million weights, and the largest network of the family in 24 GiB (by bisection)."""
    low, high, step = 512, 8192, 64
    while high - low > step:
        middle = (low + high) // 2 // step * step
        low, high = (middle, high) if paper(middle).peak <= limit else (low, middle)
    told = {"a thousand million weights": paper(1856), f"the largest in {limit / 2**30:.0f} GiB": paper(low)}
    return {
        name: {
            "num_weights": held.num_weights,
            "peak": held.peak,
            "phases": {k: dict(v) for k, v in held.phases.items()},
        }
        for name, held in told.items()
    }


def section(rows):
    """Give the lines of the page, from the file that holds the whole."""
    if not RESULTS.exists():
        return ["", "## Growth", "", "Not measured yet: `python -m benchmarks growth`."]
    kept = json.loads(RESULTS.read_text())
    lines = [
        "",
        "## Growth",
        "",
        "The exponent is that between the two largest sizes: 1 is in proportion. What reads rows in a random order lies above",
        "it while its tables leave the processor's caches, which the second picture shows by sizes at which none fits.",
    ]
    for axis, some in kept["lines"].items():
        lines += ["", f"![{axis}](images/growth-{growth_plots.name_of(axis)}.svg)", ""]
        heads = [f"{size:g}" if size <= 1 else f"{size:,}" for size in some["sizes"]]
        lines += [f"| by {axis} | {' | '.join(heads)} | exponent | |", f"|---|{'---:|' * (len(heads) + 1)}---|"]
        for name, values in some["values"].items():
            found = slope(some["sizes"], values)
            cells = " | ".join(f"{value:.2g}" for value in values)
            lines.append(f"| {name} | {cells} | {found:.2f} | {'' if found <= LINEAR else 'more than in proportion'} |")
        lines.append(
            f"\nSeconds of the processor, where nothing else is said; load of the machine meanwhile {some['load']}."
        )
    return lines + _paper_lines(kept["paper"])


def _paper_lines(told):
    lines = [
        "",
        "### On paper",
        "",
        "`excise.train.footprint` of 24 transformer blocks, batches of 8 sequences of 64 vectors, SGD with momentum, a mask of",
        "30% in channels; GiB in the fullest moment of each phase.",
    ]
    for name, held in told.items():
        lines += [
            "",
            f"{name[0].upper()}{name[1:]}: {held['num_weights']:,} weights, peak {held['peak'] / 2**30:.1f} GiB.",
            "",
        ]
        parts = list(dict.fromkeys(part for phase in held["phases"].values() for part in phase))
        lines += [f"| | {' | '.join(held['phases'])} |", f"|---|{'---:|' * len(held['phases'])}"]
        for part in parts:
            cells = [f"{phase[part] / 2**30:.2f}" if part in phase else "" for phase in held["phases"].values()]
            if any(cell not in ("", "0.00") for cell in cells):
                lines.append(f"| {part} | {' | '.join(cells)} |")
        totals = " | ".join(f"{sum(phase.values()) / 2**30:.2f}" for phase in held["phases"].values())
        lines.append(f"| **together** | {totals} |")
    return lines
