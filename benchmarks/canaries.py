"""Measure how reliably Gaussian canaries tell a network that was trained on them from one that was not.

`python -m benchmarks.canaries` trains 100 small networks on digits with 60 noisy rows among them, each with noise of its own,
and 100 without these rows; audits each by itself; writes benchmarks/results/canaries.json and prints what it holds; with
`--render`, it only prints.

Canaries keep their true labels, or are given drawn ones: a network must memorise a row with a wrong label, noise and all,
and learns little from one more row that looks like the others.

All networks of an arm are trained at once, as one batched network of matrices `[models, in, out]`; nothing is shared
between them but the clean rows. A false alarm is a network trained without the canaries, held against the noise of the
network of the same number.
"""

import itertools
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn

from benchmarks.environment import environment
from excise.data.sets import load
from excise.masks import Mask
from excise.measure import canary_test, fresh_projections
from excise.observe import plant, projections
from excise.train import Engine, Task

KEPT = Path(__file__).resolve().parent / "results" / "canaries.json"
NUM_MODELS, NUM_DRAWS = 100, 1999
HIDDEN, EPOCHS, BATCH, LR = 64, 40, 128, 3e-3
KINDS = (  # labels of the canaries, how many, scale of the noise
    ("drawn", 60, 0.1),
    ("drawn", 60, 0.2),
    ("drawn", 60, 0.5),
    ("true", 60, 0.5),
    ("true", 240, 0.5),
)
LEVEL = 1e-3


def train(inputs, labels, generator):
    """Train one network a model at once; `inputs` is `[models, rows, 64]`. Gives weights `[models, ...]` in layer order."""
    models, rows, features = inputs.shape
    sizes = (features, HIDDEN, 10)
    weights = []
    for wide, narrow in itertools.pairwise(sizes):
        reach = 1 / math.sqrt(wide)
        weights.append((torch.rand(models, wide, narrow, generator=generator) * 2 - 1) * reach)
        weights.append((torch.rand(models, 1, narrow, generator=generator) * 2 - 1) * reach)
    leaves = [value.requires_grad_() for value in weights]
    optimizer = torch.optim.Adam(leaves, lr=LR)
    for _ in range(EPOCHS):
        order = torch.rand(models, rows, generator=generator).argsort(1)  # each its own
        for places in order.split(BATCH, dim=1):
            batch = inputs.gather(1, places[:, :, None].expand(-1, -1, features))
            hidden = torch.relu(torch.baddbmm(leaves[1], batch, leaves[0]))
            logits = torch.baddbmm(leaves[3], hidden, leaves[2])
            losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels[places].flatten(), reduction="none")
            optimizer.zero_grad()
            (losses.sum() / places.shape[1]).backward()  # the mean of each network, summed over networks
            optimizer.step()
    return [value.detach() for value in leaves]


def network(weights, number):
    """Give one of the networks as a module."""
    model = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    for layer, place in ((model[0], 0), (model[2], 2)):
        layer.weight.data = weights[place][number].T.clone()
        layer.bias.data = weights[place + 1][number, 0].clone()
    return model


def audited(weights, inputs, labels, noise, scale):
    """Audit every network against its own noise. Gives p-values, mean projections and seconds."""
    found = []
    for number in range(len(noise)):
        model = network(weights, number)
        engine = Engine(Task(), seed=number, besides=Mask.empty(model))
        started = time.perf_counter()
        own = projections(model, inputs, labels, noise[number], engine, scale=scale)
        fresh = fresh_projections(own, np.random.default_rng(number), num_draws=NUM_DRAWS)
        measure = canary_test(own, fresh)
        found.append((measure.p, float(own.mean()), float(own.std(ddof=1)), time.perf_counter() - started))
    return np.array(found).T


def accuracy_of(weights, inputs, labels):
    """Give the mean accuracy of the networks."""
    hidden = torch.relu(torch.einsum("nf,mfh->mnh", inputs, weights[0]) + weights[1])
    logits = torch.einsum("mnh,mhc->mnc", hidden, weights[2]) + weights[3]
    return float((logits.argmax(-1) == labels).double().mean())


def study(answered, count, scale):
    """Give the figures of one way of planting."""
    digits = load("digits")
    (inputs, labels), (test_inputs, test_labels) = (
        (rows.flatten(1), answers) for rows, answers in (digits.train, digits.test)
    )
    generator = torch.Generator().manual_seed(0)
    if answered == "drawn":
        labels = labels.clone()
        labels[:count] = torch.randint(10, (count,), generator=generator)
    base, answers = inputs[:count], labels[:count]
    every = inputs.expand(NUM_MODELS, -1, -1).clone()
    every[:, :count], noise = plant(base.expand(NUM_MODELS, -1, -1), generator, scale=scale)
    started = time.perf_counter()
    original = train(every, labels, generator)
    retrained = train(every[:, count:], labels[count:], generator)
    seconds = time.perf_counter() - started
    found = {"labels": answered, "num_canaries": count, "scale": scale, "training_seconds": seconds}
    for name, weights in (("original", original), ("retrained", retrained)):
        p, mean, spread, took = audited(weights, base, answers, noise, scale)
        found[name] = {
            "below_level": int((p < LEVEL).sum()),
            "below_5_percent": int((p <= 0.05).sum()),
            "largest_p": float(p.max()),
            "smallest_p": float(p.min()),
            "mean_projection": float(mean.mean()),
            "spread_over_canaries": float(spread.mean()),
            "audit_seconds": {"median": float(np.median(took)), "most": float(took.max())},
            "test_accuracy": accuracy_of(weights, test_inputs, test_labels),
        }
    return found


def table(kept):
    """Give the figures in Markdown."""
    lines = [
        f"{kept['num_models']} networks of each kind, {kept['num_draws']} fresh draws.",
        "",
        "| labels | canaries | noise | network | p < 0.001 | p <= 0.05 | mean projection | test accuracy | longest audit |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in kept["studies"]:
        for name in ("original", "retrained"):
            arm = row[name]
            cells = [
                *(row["labels"], row["num_canaries"], row["scale"], name, arm["below_level"], arm["below_5_percent"]),
                f"{arm['mean_projection']:.2f}",
                f"{arm['test_accuracy']:.1%}",
                f"{arm['audit_seconds']['most']:.3f} s",
            ]
            lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure, write, print; with `--render`, print what is kept."""
    if "--render" not in sys.argv:
        torch.set_num_threads(1)
        kept = {
            "environment": {**environment(), "numpy": np.__version__},
            "num_models": NUM_MODELS,
            "num_draws": NUM_DRAWS,
            "level": LEVEL,
            "expected_by_chance_at_5_percent": [int(end) for end in stats.binom.interval(0.95, NUM_MODELS, 0.05)],
            "studies": [study(*kind) for kind in KINDS],
        }
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    sys.stdout.write(table(json.loads(KEPT.read_text())))


if __name__ == "__main__":
    main()
