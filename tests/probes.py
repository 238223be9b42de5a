"""What tests watch with: datasets that know who read them, states to the bit, and everything a run must leave alone."""

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

import excise.pipeline  # noqa: F401 - here, since the first import of sklearn.svm draws from Python's global generator
from excise.masks import Mask
from excise.train import Engine, Task


class Watched(Dataset):
    """Rows of arrays that write down every id that is read, and fail on the forbidden ones."""

    def __init__(self, inputs, labels, forbidden=()):
        self.inputs, self.answers = inputs, labels.tolist()  # a list named `labels` would be probed
        self.forbidden = {int(row) for row in forbidden}
        self.read = []

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        assert row not in self.forbidden, f"row {row} was read"
        self.read.append(row)
        return self.inputs[row], self.answers[row]


def engine_for(model, *, seed=0, besides=None, fresh=None, original=None, task=None, hooks=None):
    """Give an engine that lets the named module be trained besides the mask, or nothing."""
    chosen = Mask.empty(model) if besides is None else Mask.of_modules(model, [besides])
    extra = {} if hooks is None else {"hooks": hooks}
    return Engine(task or Task(), seed=seed, besides=chosen, fresh=fresh, original=original, **extra)


def raw(tensor):
    """Give a tensor's bytes, flat and copied, so that -0.0 differs from 0.0 and a NaN equals itself."""
    return tensor.detach().clone().contiguous().reshape(-1).view(torch.uint8)


def snapshot(model):
    """Copy every parameter (under all its names) and every buffer."""
    parameters = model.named_parameters(remove_duplicate=False)
    return {name: value.detach().clone() for name, value in (*parameters, *model.named_buffers())}


def same_bytes(one, other):
    """Say whether two snapshots agree to the bit."""
    return set(one) == set(other) and all(torch.equal(raw(one[name]), raw(other[name])) for name in one)


def moved(before, after):
    """Name the tensors that differ in a bit."""
    return {name for name in before if not torch.equal(raw(before[name]), raw(after[name]))}


class LeftAlone:
    """A picture of a network and of the world, and the assertion that neither has changed."""

    def __init__(self, model):
        self.model, self.before = model, self._picture(model)

    def _picture(self, model):
        numpy_state = np.random.get_state()  # noqa: NPY002 - the global state is what is watched
        return {
            "bytes": {name: raw(value).tolist() for name, value in snapshot(model).items()},
            "storages": [value.data_ptr() for value in model.parameters()],
            "requires_grad": [value.requires_grad for value in model.parameters()],
            "gradients": [
                None if value.grad is None else (id(value.grad), raw(value.grad).tolist())
                for value in model.parameters()
            ],
            "modes": [module.training for module in model.modules()],
            "hooks": [
                [
                    dict(hooks)
                    for key, hooks in vars(module).items()
                    if key.endswith("hooks") and isinstance(hooks, dict)
                ]
                for module in model.modules()
            ],
            "torch": torch.get_rng_state().tolist(),
            "numpy": (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
            "python": random.getstate(),
            "dtype": torch.get_default_dtype(),
            "grad mode": torch.is_grad_enabled(),
        }

    def check(self):
        after = self._picture(self.model)
        for what, value in self.before.items():
            assert after[what] == value, f"{what} changed"


def touched(model):
    """Give the network gradients, mixed modes and a hook, so that there is something to leave alone."""
    for value in model.parameters():
        value.grad = torch.full_like(value, 0.25)
    for place, module in enumerate(model.modules()):
        module.training = place % 2 == 0
    next(iter(model.modules())).register_forward_hook(lambda *_: None)
    return model


class Bag(nn.Module):
    """A bag of tokens, for the rows of the tied case; its embedding gives dense or sparse gradients of the same values."""

    def __init__(self, *, sparse):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6, sparse=sparse), nn.Linear(6, 11)
        draws = torch.Generator().manual_seed(3)
        for value in self.parameters():
            value.data = torch.randn(value.shape, generator=draws, dtype=torch.float64)

    def forward(self, inputs):
        return self.head(self.embed(inputs).mean(1))


def as_module(function, *parameters):
    """Make a network of a function of the batch, with parameters that it may close over."""

    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList(parameters)

        def forward(self, inputs):
            return function(inputs)

    return Made()


KINDS = ("rows", "weights", "mixed", "modules")


def spelled_out(model, kind, seed=5):
    """Give a mask of a kind as full-size booleans: rows, weights, modules, or all kinds in turn."""
    draws = torch.Generator().manual_seed(seed)
    first = next(
        name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None
    )
    tensors = {}
    for place, (name, value) in enumerate(model.named_parameters()):
        rows = torch.rand(value.shape[0], generator=draws) < 0.5
        rows[torch.randint(value.shape[0], (), generator=draws)] = True
        weights = torch.rand(value.shape, generator=draws) < 0.5
        kinds = {
            "rows": rows.reshape(-1, *(1,) * (value.ndim - 1)).expand(value.shape),
            "weights": weights,
            "modules": torch.full(value.shape, name.rpartition(".")[0] != first and place % 3 != 0),
            "nothing": torch.zeros(value.shape, dtype=torch.bool),
        }
        tensors[name] = kinds[kind if kind != "mixed" else ("rows", "nothing", "weights", "modules")[place % 4]].clone()
    return tensors


def plans_of(clip):
    """Give `(optimizer, implementation, clip_norm)`: every pair of the three, not every triple.

    An implementation is the optimizer's own, and clipping comes before either, so that no more than two meet.
    """
    for row, optimizer in enumerate(("sgd", "adam", "adamw")):
        for column, implementation in enumerate(("default", "foreach", "fused")):
            yield optimizer, implementation, clip if (row + column) % 2 else None
