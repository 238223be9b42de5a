"""A plain function `unlearn(net, retain, forget, validation) -> net` as a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from excise import errors, params, seeds
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Method, Need
from excise.train.engine import Engine
from excise.train.masked import effective, held_modules, write_

UnlearnFunction = Callable[[nn.Module, Any, Any, Any], nn.Module]


class _Counted(Dataset[Any]):
    """A dataset that counts each example it gives, so that a function's cost is measured and not guessed."""

    def __init__(self, inner: Dataset[Any], engine: Engine) -> None:
        self._inner, self._engine = inner, engine

    def __len__(self) -> int:
        return len(self._inner)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        self._engine.cost.count(trained=1)
        return self._inner[index]


@dataclass(frozen=True)
class FromFunction(Method):
    """Run a plain function on a copy of the network, and take over what it changed inside the mask.

    The function is given DataLoaders of retain, forget and validation rows (the split's holdout, else retain rows again) of
    `batch_size`, shuffled from the run's seed, and gives a network of the same parameters. It does not know the mask:
    what it changes outside is dropped afterwards. Buffers are taken over from modules that are not frozen.
    Cost: each example it reads counts as one forward and backward.

    Args:
        function: `unlearn(net, retain, forget, validation) -> net`, as in the NeurIPS 2023 unlearning challenge.
        batch_size: examples a batch of the loaders.
    """

    function: UnlearnFunction
    batch_size: int = 128

    @property
    def needs(self) -> frozenset[Need]:
        """Forget and retain rows."""
        return frozenset({"forget", "retain"})

    @torch.enable_grad()
    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Call the function on a copy and write its result inside the mask, in place."""
        name = getattr(self.function, "__name__", "the function")
        loaders = [self._loader(rows, engine) for rows in (split.retain, split.forget, split.holdout or split.retain)]
        with seeds.isolated(engine.seed, "function"):
            result = self.function(params.clone_model(model), *loaders)
        if not isinstance(result, nn.Module):
            raise errors.BadRequest(f"{name}: expected it to return the network, found {type(result).__name__}")
        values = {key: value.detach() for key, value in params.named_parameters(result).items()}
        own, buffers = params.named_buffers(model), params.named_buffers(result)
        if set(values) != set(mask.names) or _shapes(buffers) != _shapes(own):
            raise errors.MaskMismatch(
                f"{name}: the network it returned has other parameters or buffers than the one it was given"
            )
        broken = [key for key, value in values.items() if not value.isfinite().all()]
        if broken:
            raise errors.Diverged(
                f"{name}: {broken[0]!r} is not finite in the network it returned", params.state_of(model)
            )
        write_(model, values, mask)
        held = set(held_modules(model, effective(mask, model), self.statistics))
        for key, buffer in buffers.items():
            if key.rpartition(".")[0] not in held:
                own[key].copy_(buffer)

    def _loader(self, rows: Rows, engine: Engine) -> DataLoader[Any]:
        shuffle = seeds.generator(engine.seed, "function", len(rows))
        counted = _Counted(rows.as_dataset(), engine)
        return DataLoader(counted, batch_size=self.batch_size, shuffle=True, generator=shuffle)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
