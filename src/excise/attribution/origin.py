"""Where a datamodel comes from: how it was made, of which network and which rows."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from excise import params, seeds
from excise.data.rows import Rows, Source
from excise.version import __version__


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """How a datamodel came to be.

    Attributes:
        by: `means`, `sparse`, or the name of a way of one's own.
        num_models: networks observed, each trained on a random half of the rows.
        seed: from which halves and networks follow.
        data: keyed digest of the training rows (`data.content`), by which `excise copies` knows them; empty where it was not
            recorded.
        network: `network_digest` of the architecture; empty for any.
        plan: the training plan as plain values; empty where it is not known.
        seconds: what the trainings took, also of networks that were found in a bank.
        trained_rows: examples passed forward and backward for it, in all.
        forward_rows: examples passed forward only.
        excise: version that made it.
    """

    by: str
    num_models: int = 0
    seed: int = 0
    data: str = ""
    network: str = ""
    plan: dict[str, Any] = {}
    seconds: float = 0.0
    trained_rows: int = 0
    forward_rows: int = 0
    excise: str = __version__


class Shrink(msgspec.Struct, frozen=True, kw_only=True):
    """Factors from 0 to 1 that estimated effects are multiplied by, for they are noisy (`attribution.shrinkage`).

    Attributes:
        own: of the effect of a row on itself.
        other: of the effect of a row on another.
    """

    own: float = 1.0
    other: float = 1.0


def network_digest(model: nn.Module) -> str:
    """Give the SHA-256 of names and shapes of a network's parameters."""
    told = {name: list(value.shape) for name, value in params.named_parameters(params.unwrapped(model)).items()}
    return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()


def row_digests(rows: Rows) -> Tensor:
    """Give the first 8 bytes of the SHA-256 of each row's id and content, int64 `[rows]`; zeros where rows change as they are
    read. Random numbers of transforms are lent, from a seed of each row's own, so that a row has one digest among whatever
    others it is read. Cost: one reading of every row, and of the first eight once more.
    """

    def digest(source: Source, one: Tensor) -> int:
        with seeds.isolated(0, "row digests", int(one)):
            return int.from_bytes(bytes.fromhex(Rows(source, one).fingerprint())[:8], "big", signed=True)

    def read(some: Rows) -> list[int]:
        return [digest(some.source, one) for one in torch.split(some.ids, 1)] if len(some) else []

    if read(rows.head(8)) != read(rows.head(8)):
        return torch.zeros(len(rows), dtype=torch.int64)
    return torch.tensor(read(rows), dtype=torch.int64)
