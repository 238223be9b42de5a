"""Compositions: one method after another, and a method that may train more than its mask."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from excise import errors
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Method, Need, Wrapping, require_method
from excise.train.engine import Engine
from excise.train.masked import Statistics, most_permissive


@dataclass(frozen=True)
class Sequence(Method):
    """Run methods one after another, each under the same mask.

    Reads what its parts read; costs what they cost. What any part refuses is refused before the first one runs.

    Args:
        methods: at least one.
    """

    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        """Check that there is something to run."""
        several = isinstance(self.methods, tuple | list) and all(isinstance(method, Method) for method in self.methods)
        if not self.methods or not several:
            raise errors.BadRequest(f"Sequence: expected a tuple of at least one method, found {self.methods!r}")

    @property
    def needs(self) -> frozenset[Need]:
        """What any part needs."""
        return frozenset().union(*(method.needs for method in self.methods))

    @property
    def statistics(self) -> Statistics:
        """The rule of the part that moves most: adapt, then follow-mask, then hold."""
        return most_permissive(method.statistics for method in self.methods)

    @property
    def widens(self) -> bool:
        """Whether any part does."""
        return any(method.widens for method in self.methods)

    @property
    def reads_labels(self) -> bool:
        """Whether any part does."""
        return any(method.reads_labels for method in self.methods)

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse what any part refuses."""
        for method in self.methods:
            method.require(model, split, mask, engine)

    def for_network(self, model: nn.Module, split: Split, engine: Engine) -> Method:
        """Give the parts for another network."""
        return replace(self, methods=tuple(part.for_network(model, split, engine) for part in self.methods))

    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Run the parts in order, in place."""
        self.require(model, split, mask, engine)
        for method in self.methods:
            method.unlearn_(model, split, mask, engine)


@dataclass(frozen=True)
class Widened(Wrapping):
    """Run a method under its mask and, together with it, what the recipe may train besides.

    In DEL the head is reset only where the mask says so, and finetuned as a whole. A mask that the caller gives by hand is
    a promise and is never widened.

    Args:
        method: what to run.

    Raises:
        errors.BadRequest: no method.
    """

    method: Method

    def __post_init__(self) -> None:
        """Check that there is a method."""
        require_method("Widened", self.method)

    @property
    def needs(self) -> frozenset[Need]:
        """What the method needs."""
        return self.method.needs

    @property
    def widens(self) -> bool:
        """Yes."""
        return True

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse what the method refuses under the wider mask."""
        self.method.require(model, split, mask | engine.besides, engine)

    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Run the method, in place, with `engine.besides` added to the mask."""
        self.method.unlearn_(model, split, mask | engine.besides, engine)
