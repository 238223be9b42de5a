"""PGU on digits: what a request changes, and how far moments that are carried over it are from those taken anew.

`python -m benchmarks.moments` trains two networks for each request and seed, and writes benchmarks/results/moments.json and
docs/results/moments.md; a minute or two. With `--render`, it only writes the page.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.environment import environment
from excise import params, recipes, seeds, unlearn
from excise.curvature import second_moments
from excise.data import Split
from excise.data.sets import load
from excise.masks import Mask
from excise.oracles import retrain
from excise.pipeline.evidence import PARTS, observe
from excise.train import Engine, Task, TrainPlan

ROOT = Path(__file__).resolve().parent.parent
FOUND, PAGE = ROOT / "benchmarks" / "results" / "moments.json", ROOT / "docs" / "results" / "moments.md"
SEEDS = (0, 1, 2)
PLAN = TrainPlan(epochs=20, lr=0.1, batch_size=64, weight_decay=5e-4)
NUM_RANDOM, NUM_WRONG, NUM_HOLDOUT = 60, 30, 200
RULES = {"random rows": "samples", "wrong labels": "class"}
ARMS = {
    "gamma 0.95, stopped by a rule": {},
    "gamma 0.95, 50 epochs": {"epochs": 50, "stop": "none"},
    "gamma 0.8, 50 epochs": {"epochs": 50, "stop": "none", "gamma": 0.8},
}


def make():
    """Give two convolutions and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def problems(seed):
    """Give by name a network of all rows, its request, random rows or wrong labels, and a network of the rows that stay."""
    digits = load("digits")
    (inputs, labels), (unseen, theirs) = digits.train, digits.test
    held, test = (unseen[:NUM_HOLDOUT], theirs[:NUM_HOLDOUT]), (unseen[NUM_HOLDOUT:], theirs[NUM_HOLDOUT:])
    order = torch.randperm(len(labels), generator=seeds.generator(seed, "rows"))
    random, wrong = order[:NUM_RANDOM], order[NUM_RANDOM:][:NUM_WRONG]
    planted = labels.clone()
    planted[wrong] = (planted[wrong] + 1) % 10
    for name, told, forget in (("random rows", labels, random), ("wrong labels", planted, wrong)):
        split = Split((inputs, told), forget=forget.sort().values, test=test, holdout=held)
        with seeds.isolated(seed, "moments"):
            model = make()
        engine = Engine(Task(), seed, Mask.empty(model))
        both = [params.clone_model(model) for _ in range(2)]
        for network, rows in zip(both, (split.train, split.retain), strict=True):
            state = retrain(make, rows, PLAN, [seed], engine, stage="x")[0].state
            params.load_strictly_(network, state, "a network of the benchmark")
        yield name, *both, split, engine


def run(name, model, retrained, split, engine):
    """Answer a request in every arm; give accuracies, epochs, and by layer how far carried moments are from new ones."""
    moments = second_moments(model, split.train, engine)
    carried = moments.minus(second_moments(model, split.forget, engine))
    rows = [
        {"task": name, "arm": arm, "accuracy": observe(one, split, engine).accuracy}
        for arm, one in {"original": model, "retrained": retrained}.items()
    ]
    for arm, options in ARMS.items():
        recipe = recipes.PGU(moments=moments, **{"stop": RULES[name], **options})
        found = unlearn(model, split, recipe, seed=engine.seed)
        anew = second_moments(found.model, split.retain, engine).matrices
        away = [float((carried.matrices[one] - new).norm() / new.norm()) for one, new in anew.items()]
        accuracy = observe(found.model, split, engine).accuracy
        rows.append({"task": name, "arm": arm, "epochs": len(found.trace), "accuracy": accuracy, "carried": away})
    return rows


def measure():
    """Answer all requests on all seeds, and write what was found."""
    rows = [{"seed": seed, **row} for seed in SEEDS for problem in problems(seed) for row in run(*problem)]
    FOUND.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


def render(found):
    """Give the page."""
    where = ", ".join(f"{key} {value}" for key, value in found["environment"].items())
    seen = sorted({row["seed"] for row in found["rows"]})
    lines = [
        "# Projected-gradient unlearning on digits",
        "",
        "Written by `python -m benchmarks.moments`; do not edit. Digits of 8 x 8 pixels; two convolutions and two",
        f"linear layers, original and retrained alike. To forget: {NUM_RANDOM} random rows, or {NUM_WRONG} rows whose",
        "label was planted wrong. `PGU` with moments of the training rows, at its defaults but for what is named. The",
        'rule is `stop="samples"` for random rows, and `stop="class"` for wrong labels: the other one refuses them,',
        "which the network knows worse than unseen rows from the start.",
        "",
        f"Accuracies in percent and epochs, of seeds {', '.join(map(str, seen))}. *Carried* is how far moments that were",
        "carried over the request (forget rows subtracted, `Moments.carried_to`) are from moments of the retained rows in",
        "the new network: the Frobenius norm of the difference over that of the latter, in percent, layer by layer, the",
        "largest over the seeds.",
        f"Measured with {where}.",
    ]
    for task in RULES:
        lines += ["", f"## {task.capitalize()}", ""]
        lines += ["| | forget | retain | test | epochs | carried |", "|---|---:|---:|---:|---:|---:|"]
        for arm in ("original", "retrained", *ARMS):
            rows = [row for row in found["rows"] if (row["task"], row["arm"]) == (task, arm)]
            said = [", ".join(f"{100 * row['accuracy'][part]:.1f}" for row in rows) for part in PARTS]
            epochs = ", ".join(str(row["epochs"]) for row in rows if "epochs" in row)
            layers = zip(*(row["carried"] for row in rows if "carried" in row), strict=True)
            away = ", ".join(f"{100 * max(layer):.2g}" for layer in layers)
            lines.append(f"| {' | '.join([arm, *said, epochs, away])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--render" not in sys.argv:
        measure()
    PAGE.write_text(render(json.loads(FOUND.read_text())), encoding="utf-8")
    sys.stdout.write(PAGE.read_text(encoding="utf-8"))
