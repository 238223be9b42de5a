"""Tiny networks, one of each kind that a user may bring, as a table of zero-argument constructors.

Everything is float64 and seeded inside a fork of the random state: two calls give the same bytes and nothing global
moves.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NUM_TOKENS = 11


@dataclass(frozen=True)
class Case:
    """A network and data that it can be trained on.

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
        with torch.random.fork_rng():
            torch.manual_seed(20)
            return self.build().double()

    def data(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Give inputs and int64 labels; the classes take turns, and differ in mean or in their first token."""
        draws = torch.Generator().manual_seed(21)
        labels = torch.arange(num_rows) % self.num_classes
        shape = (num_rows, *self.input_shape)
        if self.tokens:
            inputs = torch.randint(NUM_TOKENS, shape, generator=draws)
            inputs[:, 0] = labels
            return inputs, labels
        inputs = torch.randn(shape, generator=draws, dtype=torch.float64)
        centres = torch.randn((self.num_classes, *self.input_shape), generator=draws, dtype=torch.float64)
        return inputs + centres[labels], labels


class Transformer(nn.Module):
    """Two encoder layers over a sequence of vectors, a parameter of its own at the root, mean pool, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 5, 8) / 8)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs + self.position
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden.mean(1))


class Tied(nn.Module):
    """A bag of tokens whose output head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_TOKENS, 6)
        self.middle = nn.Linear(6, 6)
        self.head = nn.Linear(6, NUM_TOKENS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.embed(inputs).mean(1))))


def _mlp(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, num_classes))


def _separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 8, 1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def _normalised() -> nn.Module:
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


CASES: dict[str, Case] = {
    "mlp": Case(lambda: _mlp(4), (6,), 4),
    "separable": Case(_separable, (2, 5, 5), 4),
    "transformer": Case(Transformer, (5, 8), 4),
    "tied": Case(Tied, (4,), NUM_TOKENS, tokens=True),
    "three-classes": Case(lambda: _mlp(3), (6,), 3),
    "batchnorm": Case(_normalised, (1, 6, 6), 4),
}
