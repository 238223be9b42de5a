"""What is being checked: a method in any of the forms in which it may be given, and the runs of it that checks share."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from excise import errors, params
from excise.data.split import Split
from excise.localize import Cut, Everything, Localizer, Random, Region
from excise.masks import Mask
from excise.methods import FromFunction, Method
from excise.pipeline.forget import unlearn
from excise.pipeline.fresh import fresh_builder
from excise.pipeline.unlearned import Unlearned
from excise.recipes import Recipe
from excise.testing.problems import PROBLEMS, Problem
from excise.testing.verdicts import Once, Skipped
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.task import Task

REFUSALS = (errors.UnsupportedModel, errors.MaskMismatch)


@dataclass
class Run:
    """One run through the front door, and the network that it was given."""

    given: nn.Module
    result: Unlearned


@dataclass
class Subject:
    """A method or a recipe under check.

    Attributes:
        given: what `excise.unlearn` is called with.
        method: what changes the network.
        where: where, if no mask is given.
        name: for messages.
        returned: what the last `unlearn_` gave back.
        once: keeps what was seen in runs that several checks judge.
    """

    given: Recipe | Method
    method: Method
    where: Region
    name: str
    returned: object = None
    once: Once = field(default_factory=Once, repr=False)
    _runs: dict[tuple[str, bool], Run | errors.ExciseError] = field(default_factory=dict)

    @property
    def localizes(self) -> bool:
        """Whether it looks for a place itself."""
        return not isinstance(self.where, Everything)

    @property
    def reads_retain(self) -> bool:
        """Whether it reads retain rows, to find a place or to change the network."""
        return "retain" in self.method.needs or self.where.reads_retain

    def unlearn(
        self,
        problem: Problem,
        *,
        model: nn.Module | None = None,
        split: Split | None = None,
        mask: Mask | None = None,
        **options: Any,
    ) -> Unlearned:
        """Run it through the front door, on the problem's own network and rows unless others are given."""
        return unlearn(
            problem.make() if model is None else model,
            problem.split() if split is None else split,
            self.given,
            mask=mask,
            **{"fresh": problem.untrained, **options},
        )

    def run(self, name: str, *, recompute: bool = True) -> Run:
        """Give the run on a problem without a mask and with seed 0, made once; it is not to be changed."""
        key = (name, recompute)
        if key not in self._runs:
            problem = PROBLEMS[name]()
            model = problem.make()
            try:
                self._runs[key] = Run(model, self.unlearn(problem, model=model, recompute=recompute))
            except REFUSALS as error:
                if not self._refuses(problem):
                    raise
                self._runs[key] = error
        found = self._runs[key]
        if isinstance(found, errors.ExciseError):
            raise found
        return found

    def call_(
        self,
        problem: Problem,
        model: nn.Module,
        *,
        split: Split | None = None,
        mask: Mask | None = None,
        seed: int = 0,
        besides: Mask | None = None,
        hooks: Hooks | None = None,
    ) -> Engine:
        """Call `unlearn_` itself on `model`, which is changed in place, without the front door's loans."""
        original = params.clone_model(model)
        engine = Engine(
            Task(),
            seed,
            Mask.empty(model) if besides is None else besides,
            fresh_builder(original, problem.untrained, seed),
            original,
            hooks=hooks or Hooks(),
        )
        rows, allowed = problem.split() if split is None else split, Mask.full(model) if mask is None else mask
        self.returned = self.method.unlearn_(model, rows, allowed, engine)
        return engine

    def networks(self) -> dict[str, Problem]:
        """Give the problems that it can work on: those it does not refuse (`REFUSALS`)."""
        for name in PROBLEMS:
            with contextlib.suppress(Exception):  # the check that asks for this network tells of it
                self.run(name)
        refused = [name for (name, _), found in self._runs.items() if isinstance(found, errors.ExciseError)]
        return {name: make() for name, make in PROBLEMS.items() if name not in refused}

    def _refuses(self, problem: Problem) -> bool:
        """Say whether the method itself refuses a network; if not, it was the front door that refused its result."""
        try:
            self.call_(problem, problem.make())
            self.where.locate(problem.make(), problem.split(), Engine(Task(), 0, Mask.empty(problem.make())))
        except REFUSALS:
            return True
        return False

    def home(self) -> tuple[str, Problem]:
        """Give the first problem that it can work on, for checks that need only one."""
        found = self.networks()
        if not found:
            raise Skipped("it refuses every network of the problems as unsupported")
        return next(iter(found.items()))


def as_subject(what: object) -> Subject:
    """Give the subject that a method, its class, a recipe, a factory of these, or a plain function stands for.

    Raises:
        errors.BadRequest: none of these; or a class that has no defaults for all its fields.
    """
    name = getattr(what, "__name__", type(what).__name__)
    found = made(what, Method) if _is_class_or_factory(what) else what
    if isinstance(found, Recipe):
        return Subject(found, found.method, found.where, found.name)
    if not isinstance(found, Method) and callable(found) and not isinstance(found, type):
        found = FromFunction(found)
    if isinstance(found, Method):
        return Subject(found, found, Everything(), name)
    raise errors.BadRequest(
        "method: expected a method, its class, a recipe, a callable without arguments that gives one of these, or a "
        f"function unlearn(net, retain, forget, validation) -> net; found {type(found).__name__}"
    )


def as_region_or_localizer(what: object) -> Localizer | Region:
    """Give the localizer or region that itself, its class or a factory stands for; scores stay scores.

    Raises:
        errors.BadRequest: none of these; or a class that has no defaults for all its fields.
    """
    found = made(what, (Localizer, Region)) if _is_class_or_factory(what) else what
    if isinstance(found, Localizer | Region):
        return found
    raise errors.BadRequest(
        "localizer: expected a localizer, a region, the class of one, or a callable without arguments that gives one; "
        f"found {type(found).__name__}"
    )


def region_of(where: Localizer | Region) -> Region:
    """Give a region: itself, or the highest 40 % of the weights (of the units that are drawn, if they are drawn)."""
    if isinstance(where, Region):
        return where
    return Cut(where, 0.4, granularity=where.unit if isinstance(where, Random) else "weight")


def _is_class_or_factory(what: object) -> bool:
    return isinstance(what, type) or (
        callable(what) and not isinstance(what, Method | Localizer | Region) and not _required(what)
    )


def made(what: Any, kinds: type | tuple[type, ...]) -> Any:
    """Call a class or a factory that takes no arguments.

    Raises:
        errors.BadRequest: a class of another kind, or one with required fields.
    """
    if isinstance(what, type) and not issubclass(what, kinds):
        names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise errors.BadRequest(f"{what.__name__}: expected a subclass of {names}; found a class of another kind")
    needed = _required(what)
    if needed:
        raise errors.BadRequest(
            f"{what.__name__}: expected defaults for all its fields, found none for {', '.join(needed)}; "
            f"check an instance, or a function that makes one: lambda: {what.__name__}({needed[0]}=...)"
        )
    return what()


def _required(what: Callable[..., Any]) -> list[str]:
    """Name the parameters that a callable cannot be called without."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = inspect.signature(what).parameters.values()
    return [one.name for one in found if one.default is one.empty and one.kind not in variadic]
