"""Soften: a soft mask, outside of which gradients are small rather than zero."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from excise import checks, errors
from excise.data.split import Split
from excise.localize.base import Region
from excise.localize.modules import Everything
from excise.masks import Mask
from excise.methods.base import Method, Need, OneShot, Wrapping
from excise.methods.within import foreseen, read_by, require_parts
from excise.train.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Soften(Wrapping):
    """Train what the recipe may train besides its mask as well, there with the gradient multiplied by `outside`.

    The method runs under the mask and `engine.besides` together, as under `Widened`. Of these, the coordinates of `among` that
    are not in the mask have their gradient multiplied before each step; the others, and all in the mask, train at full
    rate. A mask that the caller gives by hand is a promise: nothing is trained besides it, and all of it at full rate.

    The gradient is scaled and nothing else: weight decay acts in full, as published; clipping to a norm sees the scaled
    gradient; and Adam, which divides by the gradient's own size, undoes the scaling but for its epsilon. A stroke inside the
    method (`Reset` in a `Sequence`) has no gradient and is written in full wherever it may write.

    Reads and costs what the method does, and what `among` reads. Outside the two masks nothing moves. Buffers follow the
    method's rule under both together.

    References:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari, Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning", 2024
        (MSG: a tenth of the gradient on the weights of convolutions that were not redrawn, all of it everywhere else).

    Args:
        method: what to run: one that takes gradient steps.
        outside: what gradients outside the mask are multiplied by, in [0, 1]. 1 is `Widened`; 0 leaves decay alone there.
        among: where that is done; besides, outside of it, the gradient is left as it is.

    Raises:
        errors.BadRequest: a method at one stroke, or no region; before any work, one inside another, and what the method and
            a region that needs no pass refuse.
    """

    method: Method
    outside: float = 0.1
    among: Region = field(default_factory=Everything)

    def __post_init__(self) -> None:
        """Check the options."""
        require_parts("Soften", self.method, self.among)
        checks.require_fraction("outside", self.outside)
        if isinstance(self.method, OneShot):
            raise errors.BadRequest(
                f"Soften: {type(self.method).__name__} takes no gradient steps that could be softened; use Widened"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """What the method needs, and what the region reads."""
        return self.method.needs | read_by(self.among)

    @property
    def widens(self) -> bool:
        """Yes."""
        return True

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse one inside another, a region that is not there, and what the method refuses under the wider mask."""
        if engine.slow is not None:
            raise errors.BadRequest("Soften: gradients are softened already; put one Soften around the other's method")
        foreseen(self.among, model, split, engine)
        softened = replace(engine, slow=(Mask.empty(model), self.outside))
        self.method.require(model, split, mask | engine.besides, softened)

    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Run the method, in place, with `engine.besides` added to the mask and its gradients scaled there."""
        self.require(model, split, mask, engine)
        slow = self.among.locate(model, split, engine) - mask
        self.method.unlearn_(model, split, mask | engine.besides, replace(engine, slow=(slow, self.outside)))
