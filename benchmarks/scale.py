"""What large things cost, worked out from measured constants: the tables of docs/scale.md.

`python -m benchmarks.scale` writes them between their marks. Nothing is measured here; what is assumed stands on the page.
"""

import json
import re
import sys
from pathlib import Path

from benchmarks import growth
from benchmarks.problems import NUM_FORGET

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scale.md"
CPU = ROOT / "benchmarks" / "results" / "cpu.json"

EPOCHS = 10
"""Of DEL, its default."""
BYTES = 4
"""A weight in float32."""
SHARE = 0.3
"""Of the weights in the mask."""
NETWORK_BYTES = 25e9
"""A second between two machines, assumed: 200 Gbit/s."""
ACCELERATOR_FLOPS = 3e14
"""A second, assumed: some two fifths of what a large accelerator of 2024 promises in bfloat16."""


def constants():
    """Give what was measured, by name, in seconds and seconds a row or weight."""
    cpu, kept = json.loads(CPU.read_text()), json.loads(growth.RESULTS.read_text())
    rows = {name: row for part in cpu.values() for name, row in part["rows"].items()}
    lines = kept["lines"]
    many, weights = lines.get("more rows", lines["rows"]), lines["weights"]
    later, first = rows["request_later"]["ratio"], rows["request_first"]["ratio"]
    return {
        "row": rows["localization"]["seconds_of_reference"] / NUM_FORGET,
        "step": rows["step_sgd_channel"]["ratio"],
        "weight": weights["values"]["whole request"][-1] / weights["sizes"][-1],
        "order": many["values"]["order of an epoch"][-1] / many["sizes"][-1],
        "split": many["values"]["split by random"][-1] / many["sizes"][-1],
        "request": first,
        "request growth": (later - first) / 1000,
        "paper": kept["paper"],
    }


def one_request(known):
    """Give the table of one request on two cores: ResNet-18, 50,000 rows of 3 x 32 x 32, 5,000 to forget."""
    retain, forget, num_weights = 45_000, 5_000, 11_173_962
    parts = {
        "localize: the forget rows once, forward and backward": forget * known["row"],
        f"finetune: {EPOCHS} epochs over the retained, masked steps": EPOCHS * retain * known["row"] * known["step"],
        "running statistics: the retained once, forward": retain * known["row"] / 3,
        "copies, digests, patch": num_weights * known["weight"],
    }
    total = sum(parts.values())
    lines = ["| part | minutes | share |", "|---|---:|---:|"]
    lines += [f"| {name} | {seconds / 60:,.1f} | {seconds / total:.1%} |" for name, seconds in parts.items()]
    lines += [f"| **all** | **{total / 60:,.0f}** | |"]
    for epochs in (30, 100, 200):
        theirs = epochs * retain * known["row"]
        lines += [
            f"| a retraining of {epochs} epochs | {theirs / 60:,.0f} | forgetting is {total / theirs:.1%} of it |"
        ]
    return lines


def weights(known):
    """Give the table of memory and traffic of a thousand million weights."""
    paper = known["paper"]["a thousand million weights"]
    count = paper["num_weights"]
    phases = {name: sum(parts.values()) for name, parts in paper["phases"].items()}
    lines = [f"| {count:,} weights, float32, SGD with momentum, mask 30% | |", "|---|---:|"]
    lines += [f"| one process, {name} | {held / 2**30:.1f} GiB |" for name, held in phases.items()]
    fewest = known["paper"]["the largest in 24 GiB"]["num_weights"]
    lines += [f"| the largest of the family in 24 GiB | {fewest:,} weights |"]
    ours, whole = SHARE * count * BYTES, count * BYTES
    for size in (8, 64):
        ring = 2 * (size - 1) / size
        lines += [
            f"| `ddp`, {size} processes: sent by each in a step | {ring * ours / 1e9:.1f} GB "
            f"({ring * whole / 1e9:.1f} by DDP's own wrapper), {1e3 * ring * ours / NETWORK_BYTES:.0f} ms at 25 GB/s |"
        ]
    ring = 2 * ours / NETWORK_BYTES
    tokens = ring * ACCELERATOR_FLOPS / (6 * count * (2 + SHARE) / 3)
    lines += [f"| tokens a process and step from which on computing takes longer than sending | {tokens:,.0f} |"]
    return lines


def rows(known):
    """Give the table of a thousand million rows."""
    count = 10**9
    per_second = 20_000
    retrain = 200 * count / per_second / 3600
    ours = (EPOCHS * known["step"] + 1 / 3) * count / per_second / 3600
    return [
        "| 1,000,000,000 rows | in each process | |",
        "|---|---:|---|",
        f"| ids, of all and of the retained, one order of an epoch | {3 * 8 * count / 1e9:.0f} GB | 8 bytes an id |",
        f"| making the split | {known['split'] * count / 60:.1f} min | measured at 30 million |",
        f"| order of an epoch | {known['order'] * count / 60:.1f} min | measured at 30 million |",
        f"| a ledger's manifest | {32 * count / 1e9:.0f} GB of disk | 32 bytes a row; its digests take about "
        f"{73 * count / 1e9:.0f} GB of memory |",
        f"| unlearning, {EPOCHS} epochs | {ours:,.0f} device hours | at 20,000 rows a second and device, assumed |",
        f"| a retraining of 200 epochs | {retrain:,.0f} device hours | the same; the share is {ours / retrain:.1%} |",
    ]


def requests(known):
    """Give the table of ten thousand requests a day."""
    count = 10_000
    taking = count * known["request"] + known["request growth"] * count**2 / 2
    last = known["request"] + known["request growth"] * count
    retain = 45_000
    run = EPOCHS * retain * known["row"] * known["step"]
    oracles = 8 * 30 * retain * known["row"]
    return [
        "| a day of 10,000 requests | on two cores |",
        "|---|---:|",
        f"| taking them, one process | {taking / 60:.0f} min (the last one {1e3 * last:.0f} ms) |",
        f"| one run for all of them, ResNet-18 and 50,000 rows | {run / 3600:.1f} h |",
        f"| a run for each | {count * run / 3600:,.0f} h |",
        f"| the audit T1 of one run: 8 retrainings of 30 epochs | {oracles / 3600:.0f} h, "
        f"{oracles / run:.0f} times the run |",
    ]


TABLES = {"one request": one_request, "weights": weights, "rows": rows, "requests": requests}


def rendered(page, known):
    """Give a page with its tables written anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- worked out: {name} -->", "<!-- until here -->"
        pattern = f"({re.escape(begin)}\n).*?({re.escape(end)})"
        page, found = re.subn(
            pattern, lambda at, t=table: at[1] + "\n".join(t(known)) + "\n" + at[2], page, flags=re.DOTALL
        )
        if found != 1:
            sys.exit(f"expected one block {begin} in {PAGE.name}, found {found}")
    return page


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(), constants()))
