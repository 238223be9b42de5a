"""Networks trained together against one at a time by `fit_`, in models an hour, on one thread and on two.

`python -m benchmarks oracles` measures these alone and renders the page anew; under two minutes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from benchmarks.paired import paired_ratio
from excise.data import Rows
from excise.data.sets import load
from excise.masks import Mask
from excise.networks import tiny_resnet
from excise.params import clone_model
from excise.train import Engine, Pass, Task, TrainPlan, fit_, fit_together_

THREADS = (1, 2)


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn():
    images = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*images, nn.Flatten(), nn.Linear(256, 10))


# name: what is built, networks together, networks one by one (the rest of them would take as long), epochs, goal
CASES = {
    "mlp": ("an MLP 64-64-10", mlp, 64, 4, 12, 1 / 5),
    "resnet": ("a residual network (width 8)", lambda: tiny_resnet(width=8), 16, 2, 1, 1 / 2),
    "wide_resnet": ("a residual network (width 12)", lambda: tiny_resnet(width=12), 16, 2, 1, 1 / 2),
    "cnn": ("a small convolutional network", cnn, 16, 2, 2, 1 / 1.3),
}


def measure(rounds: int = 4, threads_of: tuple[int, ...] = THREADS):
    """Time both ways in turn, a network: the ratio is how many of its seconds one network takes together."""
    found = {}
    rows = Rows.all_of(load("digits").train)
    for name, (what, make, together, alone, epochs, goal) in CASES.items():
        plan = TrainPlan(epochs=epochs, lr=0.05)
        for count in threads_of:
            with threads(count), torch.random.fork_rng():
                torch.manual_seed(0)
                many, few = ([make() for _ in range(number)] for number in (together, alone))
                row = paired_ratio(
                    lambda some=many, how=plan: _together(some, rows, how),
                    lambda some=few, how=plan: _one_by_one(some, rows, how),
                    rounds,
                )
            share = together / alone
            hours = {"together": together / row["seconds"], "one by one": alone / row["seconds_of_reference"]}
            found[f"oracles_{name}_{count}"] = {
                **row,
                **{key: row[key] / share for key in ("ratio", "lowest", "highest")},
                "goal": goal,
                "models_per_hour": {key: round(3600 * value) for key, value in hours.items()},
                "threads": count,
                "load": round(os.getloadavg()[0], 1),
                "networks": together,
                "what": f"{what}: a network trained together with {together - 1} others, against by itself, "
                f"{count} thread{'s' if count > 1 else ''}",
            }
    return found


def _engine(model):
    return Engine(Task(), seed=0, besides=Mask.empty(model))


def _together(models, rows, plan):
    copies = [clone_model(model) for model in models]
    fit_together_(copies, [rows] * len(copies), plan, range(len(copies)), _engine(copies[0]), stage="train")


def _one_by_one(models, rows, plan):
    only = Pass(lambda step: step.mean_loss("retain"), ("retain",))
    for seed, model in enumerate(clone_model(model) for model in models):
        engine, everything = _engine(model).reseeded(seed), Mask.full(model)
        fit_(model, lambda _: (only,), {"retain": rows}, plan, everything, engine, stage="train", statistics="adapt")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def section(rows: dict) -> list[str]:
    """Give the lines of the page: how many times as many networks an hour."""
    if not rows:
        return []
    loads = [row["load"] for row in rows.values() if "load" in row]
    told = (
        f"Load of the machine meanwhile {min(loads)} to {max(loads)}." if loads else "Load of the machine not recorded."
    )
    lines = [
        "",
        "## Networks trained together",
        "",
        "Oracles of one kind trained as one (`excise.train.fit_together_`) and one by one (`fit_`), in turn: digits of 8 x 8,",
        "batches of 128. The figure is how many times as many networks an hour; median, lowest and highest of the rounds.",
        f"{told} Load beyond its cores slows the two ways unevenly.",
        "",
        "| network | together | threads | an hour, one by one | an hour, together | times as many | lowest to highest | goal |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows.values():
        times = {key: 1 / row[key] for key in ("ratio", "lowest", "highest", "goal")}
        hour = row["models_per_hour"]
        lines.append(
            f"| {row['what'].partition(':')[0]} | {row['networks']} | {row['threads']} | {hour['one by one']:,} | "
            f"{hour['together']:,} | {times['ratio']:.2f} | {times['highest']:.2f} to {times['lowest']:.2f} | "
            f"{times['goal']:.2g}{'' if times['ratio'] >= times['goal'] else ' (missed)'} |"
        )
    return lines
