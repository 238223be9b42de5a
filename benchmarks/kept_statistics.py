"""Is a network caught that was retrained without the rows, but for the original's running statistics?

`python -m benchmarks.kept_statistics` trains small networks on digits, judges 100 of them with their own statistics and with
the original's, writes benchmarks/results/kept_statistics.json and prints its table; with `--render`, it only prints what is
kept. Rows to forget: half of classes 2 and 5. Either all running statistics are exchanged, or, in a network that begins with
a normalisation of its 64 pixels, those of the pixels alone, which depend on no weight and leave the accuracies as they are.
"""

import json
import os
import platform
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.batchnorm import Pixels
from excise import params, seeds
from excise.data import Split, within_classes
from excise.data.rows import Rows
from excise.data.sets import load
from excise.masks import Mask
from excise.measure import clopper_pearson
from excise.oracles import retrain
from excise.patch import Patch
from excise.pipeline import policy, soundness
from excise.pipeline.case import Case
from excise.pipeline.evidence import Oracles, loaded, observe
from excise.pipeline.probing import prober_for
from excise.pipeline.unlearned import Unlearned
from excise.train import Engine, Task, TrainPlan
from excise.train.engine import Cost
from excise.version import __version__

KEPT = Path(__file__).resolve().parent / "results" / "kept_statistics.json"
SEEDS, NUM_ORACLES, NUM_JUDGED = range(25), 8, 4
PLAN = TrainPlan(epochs=14, lr=0.05, batch_size=64)


def plain():
    """Give a small network with two normalisations."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def fronted():
    """Give the same behind a normalisation of its pixels."""
    return nn.Sequential(Pixels(), plain())


NETWORKS = {"every layer's": (plain, ""), "those of the pixels alone": (fronted, "1.")}
"""The network, and where buffers are not exchanged."""


def judged(make, leaving, seed):
    """Give, for each network retrained without the rows, what is said with its own statistics and with the original's."""
    data = load("digits")
    split = Split(data.train, forget=within_classes([2, 5], fraction=0.1, seed=seed), test=data.test)
    with seeds.isolated(seed, "benchmark"):
        engine = Engine(Task(), seed, Mask.empty(make()))
    first = seeds.derive(seed, "original")
    before = loaded(make, retrain(make, Rows.all_of(data.train), PLAN, [first], engine)[0], "the original")
    numbers = [seeds.derive(seed, "oracle", number) for number in range(NUM_ORACLES + NUM_JUDGED)]
    trained = retrain(make, split.retain, PLAN, numbers, engine)
    networks = [loaded(make, one, "an oracle") for one in trained]
    evidence = [observe(one, split, engine) for one in networks]
    oracles = Oracles(trained[:NUM_ORACLES], evidence[:NUM_ORACLES])
    original = observe(before, split, engine)
    found = []
    for network in networks[NUM_ORACLES:]:
        both = (network, with_statistics(network, before, leaving))
        found.append([said(one, before, split, make, engine, original, oracles) for one in both])
    return found


def with_statistics(network, before, leaving):
    """Give a network with the buffers of another, but for those whose name begins with some word."""
    theirs = {
        name: one for name, one in params.named_buffers(before).items() if not leaving or not name.startswith(leaving)
    }
    swapped = params.clone_model(network)
    params.load_strictly_(swapped, params.state_of(network) | theirs, "the benchmark's own")
    return swapped


def said(network, before, split, make, engine, original, oracles):
    """Give the verdict without the look at statistics, whether that look objects, and the verdict with it."""
    whole = Mask.full(before)
    made = Unlearned(network, "handmade", whole, whole, "", "", Patch.between(before, network), (), Cost(), 0)
    case = Case(made, network, before, split, make, PLAN, engine, prober_for(network, split, engine, None))
    without = policy.verdict(observe(network, split, engine), original, oracles.evidence, split).verdict
    objects = bool(soundness.kept_statistics(case, oracles))
    return {"without": without, "objects": objects, "verdict": "FAIL" if objects and without != "INVALID" else without}


def table(kept):
    """Give the table in Markdown."""
    lines = ["| exchanged | statistics | judged | the look at statistics objects | FAIL without it | FAIL with it |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    for name, pairs in kept["networks"].items():
        for place, told in enumerate(("its own", "the original's")):
            some = [pair[place] for pair in pairs]
            counts = [
                sum(one["objects"] for one in some),
                *(sum(one[key] == "FAIL" for one in some) for key in ("without", "verdict")),
            ]
            cells = " | ".join(share(count, len(some)) for count in counts)
            lines.append(f"| {name} | {told} | {len(some)} | {cells} |")
    return "\n".join(lines) + "\n"


def share(count, total):
    """Give a count with the 95% interval of its share (Clopper-Pearson)."""
    low, high = clopper_pearson(count, total)
    return f"{count} ({100 * low:.0f} to {100 * high:.0f} %)"


def main():
    """Measure, keep, print."""
    if "--render" not in sys.argv:
        torch.set_num_threads(1)
        kept = {
            "environment": {
                "excise": __version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
                "machine": platform.machine(),
                "cores": os.cpu_count(),
            },
            "seeds": list(SEEDS),
            "num_oracles": NUM_ORACLES,
            "networks": {
                name: [pair for seed in SEEDS for pair in judged(*how, seed)] for name, how in NETWORKS.items()
            },
        }
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    sys.stdout.write(table(json.loads(KEPT.read_text())))


if __name__ == "__main__":
    main()
