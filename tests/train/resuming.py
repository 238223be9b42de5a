"""Runs broken off wherever one can be, and gone on with: each must end like the run that never stopped."""

import random
from dataclasses import asdict

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

import excise
from excise import methods, params
from excise.masks import Mask
from excise.train import Hooks, TrainPlan
from excise.train.checkpoints import Checkpoints

PLANS = {
    "sgd with momentum": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "schedule": "constant"},
    "adamw with a schedule": {"lr": 0.01, "optimizer": "adamw", "weight_decay": 1e-2, "clip_norm": 1.0},
}


class Killed(BaseException):
    """The end of a process, as far as its files can tell."""


class Killing(Hooks):
    """Ends the run at the n-th thing it hears: the end of a step, before it is kept, or of an epoch."""

    def __init__(self, number=None):
        self.heard, self.number, self.notes = 0, number, []

    def on_step(self):
        self._hear()

    def on_epoch(self, trace):
        self._hear()

    def on_note(self, text):
        self.notes.append(text)

    def _hear(self):
        self.heard += 1
        if self.heard == self.number:
            raise Killed


class Asking(Killing):
    """Asks the run to stop, as the handler of a signal does."""

    def __init__(self, number, checkpoints):
        super().__init__(number)
        self.checkpoints = checkpoints

    def _hear(self):
        try:
            super()._hear()
        except Killed as error:
            if not self.checkpoints.inside:
                raise
            self.checkpoints.stop(error)


class Augmented(Dataset):
    """Rows to which each reading adds noise from all three global generators."""

    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels.tolist()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        noise = 0.1 * torch.randn(self.inputs[row].shape, dtype=torch.float64)
        shift = np.random.normal() + random.gauss(0, 1)  # noqa: NPY002 - what a user's augmentation may do
        return self.inputs[row] + noise + 0.1 * shift, self.labels[row]


class Network(nn.Module):
    """Running statistics, dropout, and a buffer of its own that every batch moves."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(9, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs):
        if self.training:
            self.seen += len(inputs)
        return self.head(self.body(inputs))


def fresh():
    return Network().double()


def start():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return fresh()


def elsewhere():
    """Give the network with another head: what an oracle might say."""
    oracle = start()
    with torch.no_grad():
        oracle.head.weight.mul_(1.5)
    return oracle


def split(num_rows=28, *, augmented=True):
    draws = torch.Generator().manual_seed(6)
    labels = torch.arange(num_rows) % 3
    inputs = torch.randn((num_rows, 6), generator=draws, dtype=torch.float64) + labels[:, None]
    forget, held = num_rows // 5, num_rows // 4
    data = Augmented(inputs, labels) if augmented else (inputs, labels)
    return excise.Split(data, forget=list(range(forget)), holdout=list(range(num_rows - held, num_rows)))


def some_methods(name, *, epochs=2, batch_size=7):
    """Give a method of each kind that carries something from step to step or from stage to stage."""
    plan = TrainPlan(epochs=epochs, batch_size=batch_size, **PLANS[name])
    finetune = methods.Finetune(plan=plan)
    relabel = methods.Relabel(plan=plan, redraw="batch", order="mixed", buffers="adapt")
    return {
        "one stream": finetune,
        "a cycled stream": methods.Contrast(plan=plan, alpha=0.8, forget_batch_size=2, buffers="adapt"),
        "two passes an epoch": methods.Distill(plan=plan, max_epochs=1, buffers="adapt"),
        "a reset before": methods.Sequence((methods.Reset(), relabel)),
        "three stages": methods.Partition(methods=(methods.Nothing(), finetune, relabel)),
        "a list with repeats": methods.Match(
            plan=plan, targets=methods.OracleMean([elsewhere()]), retain_multiplier=1, forget_multiplier=2.5, anchor=0.1
        ),
        "noise for each row": methods.Smooth(plan=plan, sigma=0.5, num_draws=2, mode="train", buffers="adapt"),
        "a look after each epoch": methods.ClosestEpoch(finetune),
        "batches that are repeated": methods.Attract(plan=plan, repeats=3, forget_batch_size=3, buffers="adapt"),
        "a rule that ends it": methods.Until(finetune, methods.BelowAccuracy(0.9)),
    }


def unlearning(method, data, *, seed=0, part=True):
    """Give a run, from checkpoints and hooks to its result: of a method on some of the weights, or of a recipe."""
    model = start()
    mask = Mask.where(model, lambda name: name != "body.0.bias") if part else None

    def go(checkpoints, hooks):
        return excise.unlearn(
            model, data, method, mask=mask, fresh=fresh, seed=seed, hooks=hooks, checkpoints=checkpoints
        )

    return go


def picture(done):
    """Give all that a run leaves, but for times."""
    return {
        "model": params.model_digest(done.model),
        "patch": params.digest(done.patch.after),
        "trace": [{**asdict(one), "seconds": None} for one in done.trace],
        "rows": (done.cost.trained_rows, done.cost.forward_rows),
        "parts": {name: (one.trained_rows, one.forward_rows) for name, one in done.cost.parts.items()},
    }


def events(go):
    """Give how often a run that is not broken off can be killed, and what it leaves."""
    ear = Killing()
    return ear, picture(go(None, ear))


def resume_at_every_step(go, directory):
    """Kill a run at its first event, go on, kill it at the second, and so on; give how often.

    Every checkpoint that there can be is gone on from, one after another, so that a bit lost in any shows in the end.
    """
    ear, expected = events(go)
    for number in range(1, ear.heard + 1):
        killing = Killing(number)
        try:
            go(Checkpoints(directory, 0), killing)
        except Killed:
            assert killing.heard == number
            continue
        raise AssertionError(
            f"{number} of {ear.heard} events were not heard: a run that goes on tells of what was done"
        )
    last = Killing()
    assert picture(go(Checkpoints(directory, 0), last)) == expected
    assert last.heard == ear.heard
    assert any("goes on" in note for note in last.notes)
    return ear.heard


def resume_everywhere(go, directory, points=None, *, signal=False):
    """Break a run off at each of some events (all of them if None), each time from its beginning, and go on once.

    By a kill, with every step kept before; or as a signal does, with nothing kept before but the ends of stages.
    """
    ear, expected = events(go)
    seconds = 1e6 if signal else 0
    for number in range(1, ear.heard + 1) if points is None else sorted(set(points)):
        own = Checkpoints(directory, seconds)
        try:
            go(own, Asking(number, own) if signal else Killing(number))
        except Killed:
            pass
        else:
            raise AssertionError(f"the run was not broken off at event {number} of {ear.heard}")
        own = Checkpoints(directory, seconds)
        assert picture(go(own, Hooks())) == expected, f"broken off at event {number} of {ear.heard}"
        own.clear()
    return ear.heard
