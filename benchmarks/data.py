"""Reading rows: what map-style data cost against arrays, with and without workers, and how long a step waits for its batch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.data import Dataset

from benchmarks.paired import paired_ratio
from excise.data import Split
from excise.data.placing import placed
from excise.masks import Mask
from excise.methods import Finetune
from excise.train import Engine, Hooks, Task, TrainPlan
from excise.train.feeding import Feed

NUM_ROWS, NUM_FORGET = 2048, 128
PLAN = TrainPlan(epochs=1, lr=1e-3, batch_size=64)


class Images(Dataset):
    """Images one by one, as a data set of files gives them once decoded: to floats, scaled, shifted, mirrored."""

    def __init__(self, images, labels):
        self.images, self.targets = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        image = self.images[row].float().div(255)
        image = torch.nn.functional.pad(image, (4, 4, 4, 4))[:, 2:34, 3:35]
        return (image - 0.5).div(0.25).flip(2), int(self.targets[row])


def network():
    """A network whose step takes about as long as reading its batch one by one."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def measure(rounds: int = 5, num_rows: int = NUM_ROWS):
    """Time epochs of finetuning in turn, and what share of them goes by before a batch is there."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network()
        images, labels = torch.randint(0, 256, (num_rows, 3, 32, 32), dtype=torch.uint8), torch.arange(num_rows) % 10
    data = Images(images, labels)
    arrays = Split((torch.stack([data[row][0] for row in range(num_rows)]), labels), forget=range(NUM_FORGET))
    listed = Split(data, forget=range(NUM_FORGET))
    ways = {"arrays": arrays, "none": listed}
    ways |= {f"{count}": placed(listed, torch.device("cpu"), workers=count) for count in (1, 2)}
    found = {}
    for name, goal in (("none", 2.0), ("1", 1.25), ("2", 1.25)):
        ratio = paired_ratio(lambda own=ways[name]: _epoch(model, own), lambda: _epoch(model, arrays), rounds)
        who = "without workers" if name == "none" else f"with {name} worker{'s' if name != '1' else ''}"
        found[f"data_map_{name}"] = {
            **ratio,
            "goal": goal,
            "what": f"epoch over a map-style set {who}, against the same rows as arrays",
        }
    for name, who in (("arrays", "arrays"), ("2", "a map-style set with 2 workers")):
        shares = sorted(_waiting(model, ways[name]) for _ in range(rounds))
        found[f"data_waiting_{name}"] = {
            "ratio": shares[len(shares) // 2],
            "lowest": shares[0],
            "highest": shares[-1],
            "goal": 0.1,
            "what": f"share of an epoch spent waiting for batches, {who}",
        }
    return found


def _epoch(model, split, hooks=None):
    engine = Engine(Task(), 0, Mask.empty(model), hooks=hooks or Hooks())
    Finetune(plan=PLAN).unlearn_(model, split, Mask.full(model), engine)
    return engine.trace[-1].seconds


def _waiting(model, split):
    """Give the share of an epoch's seconds in which the loop waits for a batch."""
    with waits_timed() as waited:
        seconds = _epoch(model, split)
    return sum(waited) / seconds


@contextmanager
def waits_timed() -> Iterator[list[float]]:
    """Have every batch of the loop note how long it was waited for."""
    plain, waited = Feed.read, []

    def read(self, *asked):
        started = time.perf_counter()
        found = plain(self, *asked)
        waited.append(time.perf_counter() - started)
        return found

    Feed.read = read
    try:
        yield waited
    finally:
        Feed.read = plain
