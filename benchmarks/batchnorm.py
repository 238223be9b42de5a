"""Measure what the original's running statistics do to a network that is to forget, and what recomputing them changes.

`python -m benchmarks.batchnorm` trains small networks on digits, writes benchmarks/results/batchnorm.json, and prints its
tables; with `--render`, it only prints them from what is kept. Rows to forget: half of classes 2 and 5.

The first table is of the demo's tiny ResNet. Statistics are compared under the same weights: with those that the retain
rows give (another draw of batches than the one that is judged), channel by channel in standard deviations, root mean
square; and the cosine of that difference with the direction from the retain rows' statistics to the forget rows'.

The last is of the same network behind a normalisation of its 64 pixels, whose running mean is a picture that does not
depend on weights, so that networks can be compared with one another: its distance, in grey levels of 16, from the mean over
other retrained networks.
"""

import json
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import scipy
import torch
from scipy import stats
from torch import nn

import excise
from benchmarks.environment import environment
from excise import params, recipes, seeds
from excise.data import Split, within_classes
from excise.data.rows import Rows
from excise.data.sets import load
from excise.masks import Mask
from excise.measure import accuracy
from excise.methods import Reset
from excise.networks import tiny_resnet
from excise.observe import collect
from excise.oracles import retrain
from excise.pipeline.demo import FORGET_FRACTION, PLAN, SHORT_EPOCHS, WIDTH
from excise.train import Engine, Task
from excise.train.statistics import recompute_statistics_

KEPT = Path(__file__).resolve().parent / "results" / "batchnorm.json"
SEEDS = (0, 1, 2)
NUM_RETRAINED = 4  # the first from the original's own seed, so from its initial weights
PARTS = ("forget", "retain", "test")
ARMS = {
    "original": "original, as it is",
    "own": "retrained, its own statistics",
    "anew": "retrained, recomputed",
    "same": "retrained from the original's initial weights, the original's statistics",
    "other": "retrained from other initial weights, the original's statistics",
    "reset": "reset alone (30% by DEL), the original's statistics",
    "reset-anew": "reset alone (30% by DEL), recomputed",
    "del": "DEL, as finetuning left them (`recompute=False`)",
    "del-anew": "DEL, recomputed (the default)",
}


class Pixels(nn.Module):
    """Normalise each of the 64 pixels; the wide eps keeps those that are nearly always white from being blown up."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(64, eps=0.01, affine=False)

    def forward(self, images):
        return self.norm(images.flatten(1)).reshape(images.shape)


def plain():
    """Give the demo's network."""
    return tiny_resnet(width=WIDTH)


def fronted():
    """Give the same behind a normalisation of its pixels."""
    return nn.Sequential(Pixels(), plain())


def problem(make, seed):
    """Give the original, the split, the retrained networks and an engine."""
    found = load("digits")
    split = Split(found.train, forget=within_classes([2, 5], fraction=FORGET_FRACTION, seed=seed), test=found.test)
    with seeds.isolated(seed, "benchmark"):
        empty = make()
    engine = Engine(Task(), seed, Mask.empty(empty))
    own = seeds.derive(seed, "original")
    others = [seeds.derive(seed, "oracle", number) for number in range(1, NUM_RETRAINED)]
    original = retrain(make, Rows.all_of(found.train), PLAN, [own], engine)[0]
    retrained = retrain(make, split.retain, PLAN, [own, *others], engine)
    return built(make, original.state), split, [built(make, one.state) for one in retrained], engine


def built(make, state):
    """Give a network of a state."""
    with torch.random.fork_rng():
        model = make()
    params.load_strictly_(model, state, "the benchmark's own training")
    return model


def with_statistics_of(model, other):
    """Give the weights of one network with the buffers of another."""
    return built(lambda: params.clone_model(model), params.state_of(model) | params.named_buffers(other))


def anew(model, rows, engine, seed=None):
    """Give a copy whose statistics are of `rows` alone."""
    copied = params.clone_model(model)
    recompute_statistics_(copied, rows, engine if seed is None else engine.reseeded(seed))
    return copied


def means(model, scale=None):
    """Give all running means as one vector, in the standard deviations of another network if one is given."""
    found = {name: value.double() for name, value in params.named_buffers(model).items()}
    names = [name for name in found if name.endswith("running_mean")]
    if scale is None:
        return torch.cat([found[name] for name in names])
    wide = params.named_buffers(scale)
    return torch.cat([found[n] / wide[n.replace("_mean", "_var")].double().add(1e-5).sqrt() for n in names])


def standing(model, split, engine):
    """Give a network's accuracies, and how far its running means lie from the retain rows', and in which direction."""
    found = {}
    for part in PARTS:
        outputs = collect(model, getattr(split, part), engine)
        found[part] = accuracy(outputs.logits, outputs.targets)
    reference = anew(model, split.retain, engine, seeds.derive(engine.seed, "reference"))
    towards = means(anew(model, split.forget, engine), reference) - means(reference, reference)
    off = means(model, reference) - means(reference, reference)
    found["distance"] = float(off.square().mean().sqrt())
    found["cosine"] = cosine(off, towards)
    return found


def cosine(one, other):
    """Give the cosine of two directions."""
    return float(nn.functional.cosine_similarity(one, other, dim=0))


def mean_of(rows):
    """Give the mean of each figure over networks."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def accuracies(seed):
    """Give the figures of the first table for one seed, by arm."""
    original, split, retrained, engine = problem(plain, seed)
    at = partial(standing, split=split, engine=engine)
    found = {
        "original": at(original),
        "own": mean_of([at(model) for model in retrained]),
        "anew": mean_of([at(anew(model, split.retain, engine)) for model in retrained]),
        "same": at(with_statistics_of(retrained[0], original)),
        "other": mean_of([at(with_statistics_of(model, original)) for model in retrained[1:]]),
    }
    how = recipes.DEL(epochs=SHORT_EPOCHS, lr=0.1, weight_decay=PLAN.weight_decay)
    forget = partial(excise.unlearn, original, split, fresh=plain, seed=seed)
    done = {"del": forget(how, recompute=False), "del-anew": forget(how)}
    reset = forget(Reset(), mask=done["del"].localized, recompute=False).model
    found |= {"reset": at(reset), "reset-anew": at(anew(reset, split.retain, engine))}
    return found | {name: at(one.model) for name, one in done.items()}


def differences(row):
    """Give what making the statistics anew changes of the accuracies, within one seed."""
    pairs = {"retrained": ("anew", "own"), "reset alone": ("reset-anew", "reset"), "DEL": ("del-anew", "del")}
    return {name: {part: row[one][part] - row[two][part] for part in PARTS} for name, (one, two) in pairs.items()}


def pictures(seed):
    """Give the figures of the last table for one seed."""
    original, split, retrained, engine = problem(fronted, seed)
    drawn = [means(model[0]) * 16 for model in retrained]
    again = [means(anew(model, split.retain, engine.reseeded(n))[0]) * 16 for n, model in enumerate(retrained)]
    pixels = {
        part: load("digits").train[0][getattr(split, part).ids].double().flatten(1) * 16
        for part in ("forget", "retain")
    }
    towards = pixels["forget"].mean(0) - pixels["retain"].mean(0)
    places = range(len(drawn))
    centres = [torch.stack([drawn[j] for j in places if j != i]).mean(0) for i in places]
    theirs = means(original[0]) * 16
    swapped = [nn.Sequential(params.clone_model(original[0]), model[1]) for model in retrained]
    found = {}
    for name, vectors, models in (
        ("own", drawn, retrained),
        ("anew", again, [anew(model, split.retain, engine) for model in retrained]),
        ("original's", [theirs] * len(drawn), swapped),
    ):
        off = [vector - centre for vector, centre in zip(vectors, centres, strict=True)]
        found[name] = {
            "distance": float(np.mean([float(one.norm()) for one in off])),
            "cosine": float(np.mean([cosine(one, towards) for one in off])),
            "exact": float(np.mean([float((vector - pixels["retain"].mean(0)).norm()) for vector in vectors])),
            "forget": float(np.mean([standing(model, split, engine)["forget"] for model in models])),
        }
    return found


def interval(values):
    """Give the mean of a figure over seeds, with a 95% t-interval."""
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": [float(value) for value in values]}


def over_seeds(rows):
    """Give each arm's figures over the seeds."""
    return {
        name: {figure: interval([row[name][figure] for row in rows]) for figure in rows[0][name]} for name in rows[0]
    }


def cell(figure, factor=1.0, digits=1):
    """Give a mean and half the width of its interval."""
    half = (figure["high"] - figure["low"]) / 2
    return f"{factor * figure['mean']:.{digits}f} ± {factor * half:.{digits}f}"


def table(kept):
    """Give the tables in Markdown."""
    lines = ["| weights, statistics | forget | retain | test | distance | cosine |", "|---|---:|---:|---:|---:|---:|"]
    for name, told in ARMS.items():
        row = kept["resnet"][name]
        cells = [cell(row[part], 100) for part in PARTS] + [
            cell(row["distance"], digits=3),
            cell(row["cosine"], digits=2),
        ]
        lines.append(f"| {told} | {' | '.join(cells)} |")
    lines += ["", "| recomputed, less the same weights without | forget | retain | test |", "|---|---:|---:|---:|"]
    for name, row in kept["differences"].items():
        lines.append(f"| {name} | {' | '.join(cell(row[part], 100) for part in PARTS)} |")
    lines += [
        "",
        "| pixel statistics of retrained networks | distance from others | cosine | distance from retain | forget |",
    ]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, row in kept["pixels"].items():
        cells = [cell(row[what], digits=2) for what in ("distance", "cosine", "exact")] + [cell(row["forget"], 100)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure, keep, print."""
    if "--render" not in sys.argv:
        torch.set_num_threads(1)
        found = [accuracies(seed) for seed in SEEDS]
        kept = {
            "environment": {**environment(), "numpy": np.__version__, "scipy": scipy.__version__},
            "seeds": list(SEEDS),
            "num_retrained": NUM_RETRAINED,
            "interval": "95%, Student's t over seeds",
            "resnet": over_seeds(found),
            "differences": over_seeds([differences(row) for row in found]),
            "pixels": over_seeds([pictures(seed) for seed in SEEDS]),
        }
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    sys.stdout.write(table(json.loads(KEPT.read_text())))


if __name__ == "__main__":
    main()
