"""Regions that need no scores: everything, named modules, all convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from excise import errors, params
from excise.data.split import Split
from excise.localize.base import Region
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.masked import effective


@dataclass(frozen=True)
class Everything(Region):
    """Every parameter that the user did not freeze. Reads no rows."""

    def __str__(self) -> str:
        return "everywhere"

    @property
    def reads_forget(self) -> bool:
        """No."""
        return False

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the mask."""
        return effective(Mask.full(model), model)


@dataclass(frozen=True)
class Modules(Region):
    """The named modules with all inside them, or the named single parameters. Reads no rows.

    Args:
        names: as `named_modules` and `named_parameters` give them; at least one.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that something is named."""
        several = isinstance(self.names, tuple | list) and all(isinstance(name, str) for name in self.names)
        if not self.names or not several:
            raise errors.BadRequest(f"names: expected at least one module's name in a tuple, found {self.names!r}")
        object.__setattr__(self, "names", tuple(self.names))

    def __str__(self) -> str:
        return f"in {', '.join(self.names)}"

    @property
    def reads_forget(self) -> bool:
        """No."""
        return False

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the mask of the named modules."""
        return Mask.of_modules(model, self.names)


@dataclass(frozen=True)
class Convolutions(Region):
    """The kernels (not the biases) of all convolutions, transposed ones included. Reads no rows; empty without any."""

    def __str__(self) -> str:
        return "the convolutions"

    @property
    def reads_forget(self) -> bool:
        """No."""
        return False

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the mask of the kernels."""
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        kernels = {id(module.weight) for module in model.modules() if isinstance(module, kinds)}
        chosen = {name for name, value in params.named_parameters(model).items() if id(value) in kernels}
        return Mask.where(model, lambda name: name in chosen)
