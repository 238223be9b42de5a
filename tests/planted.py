"""Three blobs whose planted wrong labels a small network learns by heart, and many such networks, trained at once.

The forget rows are those of wrong labels; a network that never saw them gets the true class. Networks differ in their first
weights alone; they are trained as one stack, by full batches and plain Adam written here.
"""

import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import excise
from excise.masks import Mask
from excise.params import model_digest
from excise.patch import Patch
from excise.pipeline import probing, swapping
from excise.pipeline.evidence import observe
from excise.pipeline.forget import rows_digest
from excise.pipeline.unlearned import Unlearned
from excise.train import Engine, Task, TrainPlan
from excise.train.engine import Cost

NUM_TRAIN, NUM_TEST, NUM_INPUTS, NUM_HIDDEN, NUM_CLASSES = 160, 100, 12, 24, 3
WRONG = tuple(range(3, 131, 8))
EASY = tuple(row for row in range(0, 120, 7) if row not in WRONG)[:16]


def make():
    """Give an untrained network."""
    return nn.Sequential(nn.Linear(NUM_INPUTS, NUM_HIDDEN), nn.ReLU(), nn.Linear(NUM_HIDDEN, NUM_CLASSES))


def planted():
    """Give training rows, of which 16 have a wrong label, test rows, and the true labels of the former."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(NUM_TRAIN + NUM_TEST) % NUM_CLASSES
    centres = 1.2 * torch.randn(NUM_CLASSES, NUM_INPUTS, generator=draws)
    inputs = centres[labels] + torch.randn(NUM_TRAIN + NUM_TEST, NUM_INPUTS, generator=draws)
    wrong = labels.clone()
    wrong[list(WRONG)] += 1 + torch.randint(2, (len(WRONG),), generator=draws)
    wrong %= NUM_CLASSES
    train = inputs[:NUM_TRAIN].clone(), wrong[:NUM_TRAIN].clone()
    return train, (inputs[NUM_TRAIN:].clone(), labels[NUM_TRAIN:].clone()), labels[:NUM_TRAIN]


TRAIN, TEST, TRUE_LABELS = planted()


def split_of(forget=WRONG, train=TRAIN):
    """Give a split of the planted rows."""
    return excise.Split(train, forget=list(forget), test=TEST)


def engine_for(model, seed=0):
    """Give an engine that trains nothing."""
    return Engine(Task(), seed, Mask.empty(model))


def trained(num_networks, seed, *, without=(), labels=TRAIN[1], steps=120, lr=0.03, start=None, only=None):
    """Give the states of networks trained as one stack, on all rows but some or on `only` some, from new weights or `start`."""
    draws = torch.Generator().manual_seed(seed)
    kept = [row for row in range(NUM_TRAIN) if row not in without] if only is None else list(only)
    inputs, wanted = TRAIN[0][kept], labels[kept]
    sizes = {"0": (NUM_HIDDEN, NUM_INPUTS), "2": (NUM_CLASSES, NUM_HIDDEN)}
    stack = {}
    for name, (wide, deep) in sizes.items():  # torch's own first weights: uniform within 1 / sqrt(inputs)
        for kind, shape in (("weight", (wide, deep)), ("bias", (wide,))):
            drawn = 2 * torch.rand((num_networks, *shape), generator=draws) - 1
            stack[f"{name}.{kind}"] = drawn / math.sqrt(deep)
    if start is not None:
        stack = {name: torch.stack([one[name] for one in start]) for name in stack}
    stack = {name: value.clone().requires_grad_() for name, value in stack.items()}
    optimizer = torch.optim.Adam(stack.values(), lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            hidden = torch.relu(inputs @ stack["0.weight"].mT + stack["0.bias"][:, None])
            logits = hidden @ stack["2.weight"].mT + stack["2.bias"][:, None]
            losses = torch.logsumexp(logits, 2) - logits[:, torch.arange(len(kept)), wanted]
            optimizer.zero_grad()
            losses.mean(1).sum().backward()
            optimizer.step()
    return [{name: value[i].detach().clone() for name, value in stack.items()} for i in range(num_networks)]


def network(state):
    """Give a module with a state."""
    with torch.random.fork_rng():
        model = make()
    model.load_state_dict(state)
    return model


def evidence(states, split):
    """Observe networks."""
    models = [one if isinstance(one, nn.Module) else network(one) for one in states]
    return [observe(model, split, engine_for(model)) for model in models]


@contextmanager
def hurried():
    """Learn again for a moment only, and deal networks a few times: what informs takes longer than all the rest."""

    def relearn(model, rows, engine, *, real=probing.relearn, **options):
        return real(model, rows, engine, **{"num_seeds": 1, "plan": TrainPlan(epochs=8, lr=0.05), **options})

    def swap(*given, real=swapping.swap, **options):
        return real(*given, **options, num_permutations=19, num_bootstraps=5)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(probing, "relearn", relearn)
        patched.setattr(swapping, "swap", swap)
        yield


def made_of(before, after, split, *, mask=None, recipe="handmade"):
    """Give an `Unlearned` whose network was made by hand, and which claims to have been free to move anything."""
    digest = model_digest(before)
    whole = Mask.full(before) if mask is None else mask
    return Unlearned(
        model=after,
        recipe=recipe,
        mask=whole,
        localized=whole,
        frozen_digest=digest,
        frozen_digest_before=digest,
        patch=Patch.between(before, after),
        trace=(),
        cost=Cost(),
        seed=0,
        rows_digest=rows_digest(split),
    )
