"""Checks of the run itself: seeds, repetition, hooks, traces, and the object that describes the method."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import math
import random
import weakref
from collections.abc import Callable

import numpy as np
import torch

from excise.methods import FromFunction
from excise.testing import pictures
from excise.testing.problems import Problem
from excise.testing.subject import Subject, as_subject
from excise.testing.verdicts import require, skip_unless
from excise.train.hooks import EpochTrace, Hooks


def _require_same(one: dict[str, bytes], other: dict[str, bytes], where: str = "") -> None:
    moved = pictures.differing(one, other)
    require(not moved, "the same bytes", f"others{where}: {moved}")


def the_same_seed_gives_the_same_bytes(subject: Subject) -> None:
    """Run twice with the same seed, the same object gives the same bytes."""
    for name, problem in subject.networks().items():
        first = pictures.content(subject.run(name).result.model)
        _require_same(first, pictures.content(subject.unlearn(problem).model), f" on {name}")


def another_seed_is_allowed(subject: Subject) -> None:
    """It works with another seed, and says which it was."""
    _, problem = subject.home()
    for seed in (1, 2**31 + 5):
        found = subject.unlearn(problem, seed=seed)
        require(found.seed == seed, f"seed {seed} in the result", found.seed)


def the_callers_random_state_does_not_matter(subject: Subject) -> None:
    """`unlearn_` itself gives the same bytes for the same seed, whatever state the global generators are in."""
    _, problem = subject.home()
    found = []
    for _ in range(2):
        model = problem.make()
        subject.call_(problem, model, seed=4)
        found.append(pictures.content(model))
        torch.rand(7), np.random.rand(7), random.random()  # noqa: NPY002, S311 - moves the states, no more
    _require_same(found[0], found[1])


def gradient_mode_does_not_matter(subject: Subject) -> None:
    """It works under `torch.no_grad()`, at the front door and below it, and gives the same bytes."""
    name, problem = subject.home()
    plain = problem.make()
    subject.call_(problem, plain)
    model = problem.make()
    with torch.no_grad():
        inside = subject.unlearn(problem)
        subject.call_(problem, model)
    _require_same(pictures.content(subject.run(name).result.model), pictures.content(inside.model))
    _require_same(pictures.content(plain), pictures.content(model))


def mode_of_the_given_network_does_not_matter(subject: Subject) -> None:
    """A network in eval mode gives the same bytes as one in training mode."""
    skip_unless(not isinstance(subject.method, FromFunction), "a function is given the network in the mode it is in")
    for name, problem in subject.networks().items():
        found = subject.unlearn(problem, model=problem.make().eval())
        _require_same(pictures.content(subject.run(name).result.model), pictures.content(found.model), f" on {name}")


def gradients_left_over_do_not_matter(subject: Subject) -> None:
    """`unlearn_` itself gives the same bytes if the network carries gradients of earlier work."""
    skip_unless(not isinstance(subject.method, FromFunction), "a function is given a copy, which carries none")
    _, problem = subject.home()
    found = []
    for left_over in (False, True):
        model = problem.make()
        for value in model.parameters() if left_over else ():
            value.grad = torch.full_like(value, 10.0)
        subject.call_(problem, model)
        found.append(pictures.content(model))
    _require_same(found[0], found[1])


def the_object_is_not_changed_by_a_run(subject: Subject) -> None:
    """The method has the same fields and the same `repr` after a run."""
    _, problem = subject.home()
    before = repr(subject.given), pictures.plainly(subject.given)
    subject.unlearn(problem)
    subject.call_(problem, problem.make())
    after = repr(subject.given), pictures.plainly(subject.given)
    require(after == before, f"an object that a run does not change: {before[0]}", after[0])


def a_copy_of_the_object_does_the_same(subject: Subject) -> None:
    """A deep copy of the method, made after a run, gives the same bytes."""
    name, problem = subject.home()
    first = pictures.content(subject.run(name).result.model)
    twin = as_subject(copy.deepcopy(subject.given))
    _require_same(first, pictures.content(twin.unlearn(problem).model))


def repr_says_what_it_is(subject: Subject) -> None:
    """`repr` names the class and is the same each time."""
    text = repr(subject.method)
    require(type(subject.method).__name__ in text, f"text that names {type(subject.method).__name__}", repr(text))
    require(text == repr(subject.method), "the same text each time", repr(subject.method))


def nothing_is_printed(subject: Subject) -> None:
    """Nothing is written to standard output or standard error."""
    _, problem = subject.home()
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        subject.unlearn(problem)
    require(not heard.getvalue(), "silence", repr(heard.getvalue()[:80]))


def no_network_is_kept(subject: Subject) -> None:
    """After a run the method holds on to neither network."""
    _, problem = subject.home()
    given = problem.make()
    result = subject.unlearn(problem, model=given).model
    kept = [weakref.ref(given), weakref.ref(result)]
    del given, result
    if any(one() is not None for one in kept):  # in a cycle, they may be; to look for cycles takes long
        gc.collect()
    alive = [which for which, one in zip(("given", "resulting"), kept, strict=True) if one() is not None]
    require(not alive, "networks that can be freed", f"kept alive: the {' and the '.join(alive)} network")


class _Listening(Hooks):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, int]] = []
        self.steps: list[int] = []
        self.traced: list[int] = []
        self.open: list[str] = []
        self.closed: list[str] = []
        self.traces: list[EpochTrace] = []

    def on_stage(self, name: str, num_steps: int) -> None:
        self.announced.append((name, num_steps))
        self.open.append(name)
        self.steps.append(0)
        self.traced.append(0)

    def on_step(self) -> None:
        if not self.steps:
            self.steps.append(0)
        self.steps[-1] += 1

    def on_epoch(self, trace: EpochTrace) -> None:
        self.traces.append(trace)
        if self.traced:
            self.traced[-1] += trace.num_steps

    def on_stage_end(self, name: str) -> None:
        self.closed.append(name)


def _heard(subject: Subject, problem: Problem) -> _Listening:
    hooks = _Listening()
    subject.unlearn(problem, hooks=hooks)
    return hooks


def hooks_hear_the_steps_announced(subject: Subject) -> None:
    """A stage has at most the steps that it announced, one of epochs those of its epochs; none comes outside a stage.

    One of epochs may be ended early, after a whole epoch.
    """
    for name, problem in subject.networks().items():
        hooks = _heard(subject, problem)
        require(len(hooks.steps) == len(hooks.announced), f"steps within stages on {name}", "some before the first")
        epochs = {trace.stage for trace in hooks.traces}
        for (stage, announced), heard, traced in zip(hooks.announced, hooks.steps, hooks.traced, strict=True):
            wanted = traced if stage in epochs else announced
            fits = (heard == wanted or stage not in epochs) and heard <= announced
            require(fits, f"{wanted} steps in {stage} on {name}", heard)


def hooks_hear_the_end_of_each_stage(subject: Subject) -> None:
    """Every stage that begins ends, under the same name and in the same order."""
    _, problem = subject.home()
    hooks = _heard(subject, problem)
    require(sorted(hooks.closed) == sorted(hooks.open), f"the ends of {hooks.open}", hooks.closed)


def hooks_hear_the_trace(subject: Subject) -> None:
    """The trace of the result is what the hooks heard, epoch for epoch."""
    _, problem = subject.home()
    hooks = _Listening()
    found = subject.unlearn(problem, hooks=hooks)
    require(list(found.trace) == hooks.traces, "the epochs that the hooks heard", found.trace)


def hooks_do_not_matter(subject: Subject) -> None:
    """A run that is watched gives the same bytes as one that is not."""
    name, problem = subject.home()
    found = subject.unlearn(problem, hooks=_Listening())
    _require_same(pictures.content(subject.run(name).result.model), pictures.content(found.model))


def trace_is_sane(subject: Subject) -> None:
    """Epochs count up from 0 in each stage; losses are finite; rates, steps and times are not negative."""
    for name in subject.networks():
        trace = subject.run(name).result.trace
        for place, entry in enumerate(trace):
            previous = trace[place - 1] if place else None
            follows = previous is not None and entry.stage == previous.stage and entry.epoch == previous.epoch + 1
            require(entry.epoch == 0 or follows, "epochs that count up from 0", f"{entry} on {name}")
            require(math.isfinite(entry.loss), "a finite loss", f"{entry} on {name}")
            numbers = (entry.lr, entry.num_steps, entry.seconds)
            require(all(number >= 0 for number in numbers), "no negative number", f"{entry} on {name}")


def cost_is_sane(subject: Subject) -> None:
    """Seconds, bytes and rows of the result's cost are not negative, and are the same rows in each run."""
    name, problem = subject.home()
    cost, again = subject.run(name).result.cost, subject.unlearn(problem).cost
    numbers = (cost.trained_rows, cost.forward_rows, cost.seconds, cost.peak_bytes)
    require(all(number >= 0 for number in numbers), "no negative number", cost)
    rows = [(one.trained_rows, one.forward_rows) for one in (cost, again)]
    require(rows[0] == rows[1], f"the same rows in each run, {rows[0]}", rows[1])


CHECKS: tuple[Callable[[Subject], None], ...] = (
    the_same_seed_gives_the_same_bytes,
    another_seed_is_allowed,
    the_callers_random_state_does_not_matter,
    gradient_mode_does_not_matter,
    mode_of_the_given_network_does_not_matter,
    gradients_left_over_do_not_matter,
    the_object_is_not_changed_by_a_run,
    a_copy_of_the_object_does_the_same,
    repr_says_what_it_is,
    nothing_is_printed,
    no_network_is_kept,
    hooks_hear_the_steps_announced,
    hooks_hear_the_end_of_each_stage,
    hooks_hear_the_trace,
    hooks_do_not_matter,
    trace_is_sane,
    cost_is_sane,
)
