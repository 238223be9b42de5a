"""Until: run a method of gradient steps until a rule says that it is enough."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from excise import errors
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, Phased, Wrapping
from excise.methods.stopping import StopRule
from excise.train.engine import Engine


@dataclass(frozen=True)
class Until(Wrapping):
    """Run a method of gradient steps until a rule says that it is enough, for as many epochs as its plan has at most.

    The rule looks at the network after each epoch; the epochs before are those of the method alone, to the bit. It may put
    an earlier epoch back in the end. A schedule is that of the plan's epochs, whenever the run ends.

    Reads what the method reads and what the rule looks at. Outside the mask nothing moves. Cost: what the epochs that are
    run cost, and the rule's looks.

    Args:
        method: what to run, such as `Attract`.
        rule: when to end it, such as `BelowAccuracy(0.01)`.

    Raises:
        errors.BadRequest: no such method, no rule.
    """

    method: Phased
    rule: StopRule

    def __post_init__(self) -> None:
        """Check that there are epochs to stop after, and a rule."""
        if not isinstance(self.method, Phased):
            raise errors.BadRequest(
                f"Until: expected a method of gradient steps, such as Finetune, found {type(self.method).__name__}"
            )
        if not isinstance(self.rule, StopRule):
            raise errors.BadRequest(
                f"Until: expected a rule such as BelowAccuracy(0.01), found {type(self.rule).__name__}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """What the method needs, and what the rule looks at."""
        return self.method.needs | self.rule.needs

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse what the method refuses, and what the rule could not judge."""
        super().require(model, split, mask, engine)
        self.rule.require(model, split, mask, engine)

    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Run the method, in place, until the rule ends it."""
        self.rule.require(model, split, mask, engine)
        watch = self.rule.watch(model, split, mask, engine, self.method.plan)
        self.method.run_(model, split, mask, engine, after_epoch=watch)
        watch.end_()
