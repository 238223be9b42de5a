"""What can be had from the forget rows alone: JiT in three readings, beside NegGrad and networks trained without the rows.

`python -m benchmarks.zero_shot` chooses noise and rate on seed 1, by the mean gap to one retrained network, and measures on
seeds 0 and 2; writes benchmarks/results/zero_shot.json and docs/results/zero-shot.md. With `--render`, it only writes the page.
"""

import itertools
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from benchmarks.environment import environment
from excise import errors, params, recipes, seeds, unlearn
from excise.data import Rows, Split, of_class, random_fraction
from excise.data.sets import load
from excise.masks import Mask
from excise.methods import Smooth
from excise.networks import tiny_resnet
from excise.oracles import retrain
from excise.pipeline.evidence import PARTS, observe
from excise.train import Engine, Task, TrainPlan

ROOT = Path(__file__).resolve().parent.parent
FOUND, PAGE = ROOT / "benchmarks" / "results" / "zero_shot.json", ROOT / "docs" / "results" / "zero-shot.md"
CHOOSING, MEASURING = 1, (0, 2)
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SIGMAS = (0.1, 0.5)
FORGOTTEN = 5


def convolutions():
    """Give a small network with dropout and without batch normalisation, as the published VGG."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(64, 10),
    )


NETWORKS = {
    "convolutions, dropout": (convolutions, TrainPlan(epochs=25, lr=0.05, batch_size=64, weight_decay=5e-4)),
    "tiny ResNet": (partial(tiny_resnet, width=12), TrainPlan(epochs=15, lr=0.1, weight_decay=5e-4)),
}
TASKS = {"a class": lambda seed: of_class(FORGOTTEN), "random rows": lambda seed: random_fraction(0.08, seed=seed)}
ARMS = {
    "JiT (default)": {},
    "JiT, slope truly minimised": {"detach_noisy": False},
    "JiT, as published (dropout on, gradients added up)": {"mode": "train", "accumulate": True},
    "NegGrad": None,
}


def recipe(arm, sigma, lr):
    """Give an arm's recipe; the published code's statistics drift, too."""
    if ARMS[arm] is None:
        return recipes.NegGrad(lr=lr)
    made = recipes.JiT(sigma=sigma, lr=lr, batch_size=32, **ARMS[arm])
    if "mode" not in ARMS[arm]:
        return made
    assert isinstance(made.method, Smooth)
    return replace(made, method=replace(made.method, buffers="adapt"))


def problems(seed):
    """Train each network, and another without the forget rows; test rows of a class that is forgotten are left out."""
    data = load("digits")
    for (name, (make, plan)), (task, rule) in itertools.product(NETWORKS.items(), TASKS.items()):
        inputs, labels = Rows.all_of(data.test).source.tensors
        stay = labels >= 0 if task == "random rows" else labels != FORGOTTEN
        split = Split(data.train, forget=rule(seed), test=(inputs[stay], labels[stay]))
        with seeds.isolated(seed, "zero-shot"):
            model = make()
        engine = Engine(Task(), seed, Mask.empty(model))
        states = [retrain(make, rows, plan, [seed], engine, stage="x")[0].state for rows in (split.train, split.retain)]
        oracle = params.clone_model(model)
        params.load_strictly_(model, states[0], "the original")
        params.load_strictly_(oracle, states[1], "the oracle")
        yield (name, task), model, split, engine, observe(oracle, split, engine).accuracy


def gap(found, oracle):
    """Give the mean distance of the accuracies on forget, retain and test rows."""
    return sum(abs(found[part] - oracle[part]) for part in PARTS) / len(PARTS)


def run(model, split, engine, how):
    """Give the accuracies of what forgot; None where it diverged."""
    try:
        return observe(unlearn(model, split, how, seed=engine.seed).model, split, engine).accuracy
    except errors.Diverged:
        return None


def choose():
    """Give by problem and arm the noise and the rate with the smallest gap on the choosing seed."""
    best = {}
    for key, model, split, engine, oracle in problems(CHOOSING):
        for arm, options in ARMS.items():
            tried = {}
            for sigma, lr in itertools.product(SIGMAS if options is not None else SIGMAS[:1], RATES):
                found = run(model, split, engine, recipe(arm, sigma, lr))
                tried[sigma, lr] = 1.0 if found is None else gap(found, oracle)
            best[(*key, arm)] = min(tried, key=lambda place: tried[place])
    return best


def measure():
    """Run every arm at its chosen settings on the measuring seeds; write and give the rows."""
    chosen, rows = choose(), {}
    for seed in MEASURING:
        for key, model, split, engine, oracle in problems(seed):
            every = {"original": observe(model, split, engine).accuracy, "retrained": oracle}
            every |= {arm: run(model, split, engine, recipe(arm, *chosen[(*key, arm)])) for arm in ARMS}
            for arm, found in every.items():
                rows.setdefault((*key, arm), []).append(found)
    table = [
        {
            "network": name,
            "task": task,
            "arm": arm,
            "settings": chosen.get((name, task, arm)),
            "accuracy": [None if one is None else {part: one[part] for part in PARTS} for one in found],
        }
        for (name, task, arm), found in rows.items()
    ]
    FOUND.write_text(json.dumps({"environment": environment(), "rows": table}, indent=1) + "\n")


def render(found):
    """Give the page."""
    where = ", ".join(f"{key} {value}" for key, value in found["environment"].items())
    lines = [
        "# From the forget rows alone",
        "",
        "Written by `python -m benchmarks.zero_shot`; do not edit. Digits of 8 x 8 pixels; to forget: every row of one class,",
        "or 8% of the rows drawn at random. Accuracies in percent, of seeds "
        f"{' and '.join(map(str, MEASURING))}; noise and rate were",
        f"chosen on seed {CHOOSING} for each line, by the mean gap to a network trained without the rows, from two sizes of",
        f"noise and seven rates. For a class, test rows are those of the others. Measured with {where}.",
    ]
    group = None
    for row in found["rows"]:
        if group != (row["network"], row["task"]):
            group = row["network"], row["task"]
            lines += ["", f"## {row['task'].capitalize()}, {row['network']}", ""]
            lines += ["| | sigma | rate | forget | retain | test |", "|---|---:|---:|---:|---:|---:|"]
        sigma, lr = row["settings"] or ("", "")
        settings = ["" if row["arm"] == "NegGrad" else f"{sigma}", f"{lr:g}" if row["settings"] else ""]
        said = [
            ", ".join("diverged" if one is None else f"{100 * one[part]:.1f}" for one in row["accuracy"])
            for part in PARTS
        ]
        lines.append(f"| {' | '.join([row['arm'], *settings, *said])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--render" not in sys.argv:
        measure()
    PAGE.write_text(render(json.loads(FOUND.read_text())), encoding="utf-8")
    sys.stdout.write(PAGE.read_text(encoding="utf-8"))
