"""Tiny problems to check methods on: one network of each kind that a user may bring, with rows, test and holdout.

Everything is float64 and seeded in a loan of the random state: two calls give the same bytes and nothing global moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from excise import params, seeds
from excise.data.split import Split
from excise.masks import Mask

NUM_TOKENS = 11
NUM_ROWS = 32
FORGET = (0, 3, 8, 11, 14, 15, 18)

MaskKind = Literal["rows", "weights", "modules", "mixed"]


@dataclass(frozen=True)
class Problem:
    """A network and rows that it can be trained on.

    Attributes:
        build: gives the network, drawing from the global generator.
        input_shape: of one example.
        num_classes: width of the head.
        tokens: inputs are int64 tokens below `NUM_TOKENS` rather than float64 numbers.
    """

    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    num_classes: int
    tokens: bool = False

    def make(self) -> nn.Module:
        """Give the network: float64, the same bytes in every call, in training mode."""
        with seeds.isolated(20, "problem"):
            return self.build().double()

    def untrained(self) -> nn.Module:
        """Give another network of the architecture, its weights drawn from the global generator."""
        return self.build().double()

    def arrays(self, num_rows: int = NUM_ROWS, seed: int = 21) -> tuple[Tensor, Tensor]:
        """Give inputs and int64 labels; the classes take turns, and differ in mean or in their first token."""
        draws = seeds.generator(seed, "rows")
        labels = torch.arange(num_rows) % self.num_classes
        shape = (num_rows, *self.input_shape)
        if self.tokens:
            inputs = torch.randint(NUM_TOKENS, shape, generator=draws)
            inputs[:, 0] = labels
            return inputs, labels
        centres = torch.randn(
            (self.num_classes, *self.input_shape), generator=seeds.generator(20, "centres"), dtype=torch.float64
        )
        return torch.randn(shape, generator=draws, dtype=torch.float64) + centres[labels], labels

    def split(
        self,
        train: object = None,
        *,
        forget: tuple[int, ...] = FORGET,
        test: object = None,
        holdout: object = None,
        with_holdout: bool = True,
    ) -> Split:
        """Give the rows as a split, any of its sets replaced by another."""
        unseen = self.arrays(16, 23) if holdout is None else holdout
        return Split(
            self.arrays() if train is None else train,
            forget=list(forget),
            test=self.arrays(12, 22) if test is None else test,
            holdout=unseen if with_holdout else None,
        )


class _Transformer(nn.Module):
    """An encoder layer over a sequence of vectors, a parameter of its own at the root, mean pool, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.empty(1, 5, 8))
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)])
        self.head = nn.Linear(8, 4)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.position, std=0.125)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs + self.position
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.head(hidden.mean(1))
        return logits


class _Tied(nn.Module):
    """A bag of tokens whose output head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_TOKENS, 6)
        self.middle = nn.Linear(6, 6)
        self.head = nn.Linear(6, NUM_TOKENS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.middle(self.embed(inputs).mean(1))))
        return logits


def _layers() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def mlp() -> Problem:
    """Give three linear layers over six numbers."""
    return Problem(_layers, (6,), 4)


def batchnorm() -> Problem:
    """Give two convolutions with batch normalisation over 6 x 6 pixels."""
    return Problem(_convolutions, (1, 6, 6), 4)


def transformer() -> Problem:
    """Give an encoder layer over five vectors."""
    return Problem(_Transformer, (5, 8), 4)


def tied() -> Problem:
    """Give a bag of tokens whose head and embedding are one parameter."""
    return Problem(_Tied, (4,), NUM_TOKENS, tokens=True)


PROBLEMS: dict[str, Callable[[], Problem]] = {made.__name__: made for made in (mlp, batchnorm, transformer, tied)}
"""By name, in the order in which checks that need only one network look for one that the method can work on."""


def booleans(model: nn.Module, kind: MaskKind) -> dict[str, Tensor]:
    """Give a mask of a kind as full-size booleans: rows, weights, modules, or all of these in turn."""
    draws = seeds.generator(5, "mask")
    names = params.named_parameters(model)
    first = next(iter(names)).rpartition(".")[0]
    found = {}
    for place, (name, value) in enumerate(names.items()):
        rows = torch.rand(value.shape[0], generator=draws) < 0.5
        rows[torch.randint(value.shape[0], (), generator=draws)] = True
        weights = torch.rand(value.shape, generator=draws) < 0.5
        kinds = {
            "rows": rows.reshape(-1, *(1,) * (value.ndim - 1)).expand(value.shape),
            "weights": weights,
            "modules": torch.full(value.shape, name.rpartition(".")[0] != first and place % 3 != 0),
            "nothing": torch.zeros(value.shape, dtype=torch.bool),
        }
        turn = ("rows", "nothing", "weights", "modules")[place % 4]
        found[name] = kinds[turn if kind == "mixed" else kind].clone()
    return found


def mask_of(model: nn.Module, kind: MaskKind) -> Mask:
    """Give the same as a mask."""
    return Mask.from_tensors(booleans(model, kind))
