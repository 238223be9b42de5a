"""What the doctor finds and does not find: false alarms about running statistics, and copies under noise.

`python -m benchmarks.doctor` writes benchmarks/results/doctor.json and prints it in words; about two minutes.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.environment import environment
from excise import Split
from excise.data.sets import load
from excise.diagnosis import buffers
from excise.diagnosis.neighbours import NEAR_FRACTION
from excise.train import Hooks, Task

FOUND = Path(__file__).resolve().parent / "results" / "doctor.json"
SEEDS, EPOCHS, BATCH = range(4), 8, 64


def _network():
    convolutions = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    convolutions += [nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    convolutions += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32, 10))


def _trained(inputs, labels, ids, seed, *, falling):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _network()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        for _ in range(EPOCHS):
            for some in ids[torch.randperm(len(ids))].split(BATCH):
                if len(some) > 1:
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(inputs[some]), labels[some]).backward()
                    optimizer.step()
            if falling:
                schedule.step()
    return model


def statistics():
    """Ask of original and retrained networks whether their statistics remember five kinds of forget rows."""
    inputs, labels = load("digits").train
    inputs = inputs.float()
    of_three, draws = (labels == 3).nonzero().flatten(), torch.Generator().manual_seed(1)
    kinds = {
        "a class": of_three,
        "half a class": of_three[::2],
        "20 rows of a class": of_three[:20],
        "a random tenth": torch.randperm(len(labels), generator=draws)[: len(labels) // 10],
        "a random fiftieth": torch.randperm(len(labels), generator=draws)[: len(labels) // 50],
    }
    rows = []
    for falling in (False, True):
        for seed in SEEDS:
            original = _trained(inputs, labels, torch.arange(len(labels)), seed, falling=falling)
            for kind, forget in kinds.items():
                split = Split((inputs, labels), forget=forget)
                again = _trained(inputs, labels, split.retain.ids, seed + 50, falling=falling)
                for who, model in (("original", original), ("retrained", again)):
                    leans = buffers.measured(model, split, Task(), 0, Hooks())
                    finest = min(leans, key=lambda lean: lean.resolution)
                    share, resolution = float(finest.share), float(finest.resolution)
                    rows.append(
                        {
                            "network": who,
                            "falling_rate": falling,
                            "seed": seed,
                            "forget": kind,
                            "share": share,
                            "resolution": resolution,
                            "said": share > resolution,
                            "said_at_two": share > resolution / 2,
                        }
                    )
    return rows


def copies():
    """Give the share of noisy copies of 200 digits that the rule takes for copies, and the nearest natural pair."""
    inputs = load("digits").train[0].float().flatten(1)
    apart = torch.cdist(inputs, inputs)
    apart.fill_diagonal_(float("inf"))
    median = apart.min(1).values.median()
    draws = torch.Generator().manual_seed(0)

    def share(changed):
        return float((torch.cdist(changed, inputs).min(1).values < NEAR_FRACTION * median).float().mean())

    noisy = {
        str(size): share(inputs[:200] + size * torch.randn(200, 64, generator=draws))
        for size in (0.005, 0.01, 0.013, 0.02)
    }
    return {
        "nearest_natural_pair": float(apart.min() / median),
        "noise": noisy,
        "8-bit rounding": share((inputs[:200] * 255).round() / 255),
        "2% brighter": share(inputs[:200] * 1.02),
    }


def counted(rows, **wanted):
    """Count rows of a kind, and those of which the doctor said that the forget rows show."""
    some = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return len(some), sum(row["said"] for row in some), sum(row["said_at_two"] for row in some)


def main():
    """Measure, write, tell."""
    torch.set_num_threads(1)
    found = {"environment": environment(), "statistics": statistics(), "copies": copies()}
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
    rows = found["statistics"]
    sys.stdout.write(f"retrained: {counted(rows, network='retrained')} (networks, said, said at two standard errors)\n")
    for kind in dict.fromkeys(row["forget"] for row in rows):
        for falling in (False, True):
            told = counted(rows, network="original", forget=kind, falling_rate=falling)
            sys.stdout.write(f"original, {kind}, falling rate {falling}: {told}\n")
    sys.stdout.write(json.dumps(found["copies"], indent=1) + "\n")


if __name__ == "__main__":
    main()
