"""What workers do in these tests; a module, so that they find it."""

import os
import signal
import threading
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from excise import errors
from excise.data.rows import Rows
from excise.masks import Mask
from excise.train import Engine, Task, TrainPlan
from tests.cases import CASES

PLAN = TrainPlan(epochs=3, lr=0.1, batch_size=8, weight_decay=1e-3)
ROWS = 30


def mlp():
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).double()


def rows():
    return Rows.all_of(CASES["mlp"].data(ROWS))


def engine_for(**options):
    return Engine(Task(), seed=0, besides=Mask.empty(mlp()), **options)


def square(shared, item):
    return item * item + shared


def surroundings(shared, item):
    return os.getpid(), torch.get_num_threads(), os.environ.get("RAY_USAGE_STATS_ENABLED")


def sleeps(shared, seconds):
    for _ in range(100 * seconds):  # in steps, as a training works: an interrupt is heard between two of them
        time.sleep(0.01)


def beside(folder, item):
    """Say how many are in this job at once, oneself included."""
    own = Path(folder) / str(item)
    own.touch()
    time.sleep(0.1)
    count = len(list(Path(folder).iterdir()))
    own.unlink()
    return count


def dies(folder, item):
    """Die on the first attempts; the item says how many."""
    number, deaths = item
    for attempt in range(deaths):
        marker = Path(folder) / f"{number}-{attempt}"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return number


def raises(shared, item):
    if item == "ours":
        raise errors.Diverged("the loss is no number", {"weight": torch.ones(2)})
    if item == "theirs":
        raise ZeroDivisionError("by their own code")
    if item == "unsendable":
        return threading.Lock()
    return item


class Deadly(Dataset):
    """Rows that note which process read them, and kill the first process but their maker's after so many reads."""

    def __init__(self, folder, after):
        self.inputs, labels = CASES["mlp"].data(ROWS)
        self.answers, self.maker = labels.tolist(), os.getpid()
        self.folder, self.after, self.reads = str(folder), after, 0

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        if os.getpid() != self.maker:
            with (Path(self.folder) / "reads").open("a") as file:
                file.write(f"{os.getpid()}\n")
            self.reads += 1
            marker = Path(self.folder) / "died"
            if self.reads > self.after and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.inputs[row], self.answers[row]
