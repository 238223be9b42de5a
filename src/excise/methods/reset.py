"""Reset: put chosen coordinates back to untrained values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from excise import errors, params
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, OneShot
from excise.train.engine import Engine
from excise.train.masked import effective


@dataclass(frozen=True, kw_only=True, eq=False)
class Reset(OneShot):
    """Write untrained values into the mask: theta <- theta * (1 - m) + theta_0 * m, parameters only.

    Reads no rows. Buffers stay; a later `Finetune` moves them. Cost: none over the data.

    The published DEL code takes theta_0 from a new random network in each process; here it comes from `fresh` and the
    run's seed, so the same seed resets to the same values. Give `to` for the values training started from.

    References:
        Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of Memorization", TMLR 2025.

    Args:
        to: values by parameter name, of at least the parameters with coordinates in the mask; None for a fresh network's.

    Raises:
        errors.BadRequest: values that are no tensors by name; before any work, none for a parameter in the mask.
        errors.MaskMismatch: before any work, a value for an unknown parameter, or of another shape.
        errors.BadData: before any work, values that are not finite where the network's own are.
    """

    to: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        """Check that values are tensors by name."""
        if self.to is None:
            return
        wanted = "to: expected tensors by parameter name, such as dict(model.named_parameters()), or None; found"
        if not isinstance(self.to, Mapping):
            raise errors.BadRequest(f"{wanted} {type(self.to).__name__}")
        for name, value in self.to.items():
            if not isinstance(value, Tensor):
                raise errors.BadRequest(f"{wanted} {type(value).__name__} under {name!r}")

    @property
    def needs(self) -> frozenset[Need]:
        """A fresh network, unless values are given."""
        return frozenset() if self.to is not None else frozenset({"fresh"})

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse values that do not fit, that are not finite, or that leave out a parameter in the mask."""
        if self.to is None:
            return
        own = params.named_parameters(model)
        for name, value in self.to.items():
            if name not in own or own[name].shape != value.shape:
                raise errors.MaskMismatch(
                    f"to: new value for {name!r} of shape {tuple(value.shape)}: the network has "
                    f"{tuple(own[name].shape) if name in own else 'no such parameter'}"
                )
            if bool((~value.isfinite().cpu() & own[name].isfinite().cpu()).any()):
                raise errors.BadData(f"to: the values for {name!r} are not all finite; give untrained values")
        allowed = effective(mask, model)
        lacking = [name for name in own if allowed.count(name) and name not in self.to]
        if lacking:
            shown = ", ".join(lacking[:10]) + (f" and {len(lacking) - 10} more" if len(lacking) > 10 else "")
            raise errors.BadRequest(
                f"to: expected a value for every parameter in the mask, found none for {shown}; add them, or run Reset "
                "Within(..., Modules(...)) of those given"
            )

    def edit(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> Mapping[str, Tensor]:
        """Give the untrained values."""
        return self.to if self.to is not None else params.named_parameters(engine.fresh_model())
