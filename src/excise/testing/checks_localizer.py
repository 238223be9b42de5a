"""Checks of every answer to "where": localizers, which give scores, and regions, which give a mask."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from excise import errors, params
from excise.data.split import Split
from excise.localize import Localizer, Region, Scores
from excise.masks import Mask
from excise.methods import Nothing
from excise.pipeline.forget import unlearn
from excise.recipes import Recipe
from excise.testing import pictures
from excise.testing.problems import FORGET, NUM_ROWS, PROBLEMS, Problem
from excise.testing.subject import region_of
from excise.testing.verdicts import Once, Skipped, require, skip_unless
from excise.train.engine import Engine
from excise.train.task import Task

RETAIN = frozenset(range(NUM_ROWS)) - frozenset(FORGET)


@dataclass
class Place:
    """A localizer or region under check.

    Attributes:
        where: the object.
        once: keeps what was seen in runs that several checks judge.
    """

    where: Localizer | Region
    once: Once = field(default_factory=Once, repr=False)
    _refused: dict[str, bool] = field(default_factory=dict)

    def find(
        self, problem: Problem, model: nn.Module | None = None, split: Split | None = None, seed: int = 0
    ) -> Scores | Mask:
        """Ask the object itself, on the problem's own network and rows unless others are given."""
        return self.where(
            problem.make() if model is None else model, problem.split() if split is None else split, seed=seed
        )

    def find_directly(self, problem: Problem, model: nn.Module, split: Split) -> Scores | Mask:
        """Call `score` or `locate` without the looks and loans that come before it."""
        engine = Engine(Task(), 0, Mask.empty(model))
        if isinstance(self.where, Localizer):
            return self.where.score(model, split, engine)
        return self.where.locate(model, split, engine)

    def networks(self) -> dict[str, Problem]:
        """Give the problems that it can work on: those it does not refuse with `MaskMismatch` or `UnsupportedModel`."""
        return {name: make() for name, make in PROBLEMS.items() if not self._refuses(name)}

    def home(self) -> Problem:
        """Give the first problem that it can work on."""
        found = list(self.networks().values())
        if not found:
            raise Skipped("it refuses every network of the problems")
        return found[0]

    def _refuses(self, name: str) -> bool:
        if name not in self._refused:
            try:
                self.find(PROBLEMS[name]())
                self._refused[name] = False
            except (errors.UnsupportedModel, errors.MaskMismatch):
                self._refused[name] = True
            except Exception:  # the checks tell of it
                self._refused[name] = False
        return self._refused[name]


def _plain(found: Scores | Mask) -> dict[str, bytes]:
    if isinstance(found, Mask):
        return {name: pictures.raw(found.expand(name)) for name in found.names}
    return {name: pictures.raw(found[name]) for name in found.names}


def _require_same(one: Scores | Mask, other: Scores | Mask) -> None:
    moved = pictures.differing(_plain(one), _plain(other))
    require(not moved, "the same answer to the bit", f"others for {moved}")


def works_on_some_network(place: Place) -> None:
    """It gives an answer on at least one of the networks."""
    found = place.networks()
    require(bool(found), "a network that it can work on", f"all of {', '.join(PROBLEMS)} refused")
    for problem in found.values():
        place.find(problem)


def gives_scores_or_a_mask(place: Place) -> None:
    """A localizer gives `Scores`, a region a `Mask`."""
    kind = Scores if isinstance(place.where, Localizer) else Mask
    for problem in place.networks().values():
        found = place.find(problem)
        require(isinstance(found, kind), kind.__name__, type(found).__name__)


def fits_the_network(place: Place) -> None:
    """The answer has the names and shapes of the network's parameters, a tied one once."""
    for name, problem in place.networks().items():
        model = problem.make()
        found = place.find(problem, model)
        own = {key: tuple(value.shape) for key, value in params.named_parameters(model).items()}
        if isinstance(found, Mask):
            require(found.shapes == own, f"the shapes of {name}", found.shapes)
        else:
            shapes = {key: tuple(found[key].shape) for key in found.names}
            require(shapes == own, f"a score for each weight of {name}", shapes)


def scores_are_finite_and_not_negative(place: Place) -> None:
    """Scores are finite, at least 0, and carry no graph."""
    skip_unless(isinstance(place.where, Localizer), "a region gives no scores")
    for name, problem in place.networks().items():
        found = place.find(problem)
        assert isinstance(found, Scores)
        for key in found.names:
            sound = bool(found[key].isfinite().all()) and bool((found[key] >= 0).all()) and not found[key].requires_grad
            require(sound, "finite scores of at least 0 without a graph", f"others for {key} on {name}")


def the_answer_is_its_own_in_memory(place: Place) -> None:
    """No score lies in memory of the network, so that changing the network later changes no score."""
    problem = place.home()
    model = problem.make()
    found = place.find(problem, model)
    before = _plain(found)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1.0)
    moved = pictures.differing(before, _plain(found))
    require(not moved, "an answer of its own", f"one that follows the network: {moved}")


def asked_twice_says_the_same(place: Place) -> None:
    """Asked twice with one seed it gives the same answer to the bit."""
    for problem in place.networks().values():
        _require_same(place.find(problem), place.find(problem))


def the_callers_random_state_does_not_matter(place: Place) -> None:
    """`score` or `locate` itself gives the same answer whatever state the global generators are in."""
    problem = place.home()
    found = []
    for _ in range(2):
        found.append(place.find_directly(problem, problem.make(), problem.split()))
        torch.rand(7), np.random.rand(7)  # noqa: NPY002 - moves the states, no more
    _require_same(*found)


def _network_keeps(place: Place, aspect: str) -> None:
    for name, before, after in place.once("the networks", lambda: _networks(place)):
        require(after[aspect] == before[aspect], f"{aspect} as they were", f"others on {name}")


def _networks(place: Place) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Give network name, and pictures of it before and after it was looked at."""
    found = []
    for name, problem in place.networks().items():
        for ask in (lambda model, problem=problem: place.find(problem, model), _directly(place, problem)):
            model = pictures.touched(problem.make())
            before = pictures.network(model)
            ask(model)
            found.append((name, before, pictures.network(model)))
    return found


def _directly(place: Place, problem: Problem) -> Callable[[nn.Module], Any]:
    return lambda model: place.find_directly(problem, model, problem.split())


def network_keeps_its_bytes(place: Place) -> None:
    """No parameter and no buffer of the network changes."""
    _network_keeps(place, "bytes")


def network_keeps_its_storages(place: Place) -> None:
    """Parameters and buffers of the network stay where they lie in memory."""
    _network_keeps(place, "storages")


def network_keeps_its_modes(place: Place) -> None:
    """Every module stays in training or eval mode as it was."""
    _network_keeps(place, "modes")


def network_keeps_requires_grad(place: Place) -> None:
    """Every parameter asks for gradients as before."""
    _network_keeps(place, "requires_grad")


def network_keeps_its_gradients(place: Place) -> None:
    """Gradients that the network carries stay, the same tensors with the same bytes."""
    _network_keeps(place, "gradients")


def network_keeps_its_hooks(place: Place) -> None:
    """No hook is added, and none is taken away."""
    _network_keeps(place, "hooks")


def _process_keeps(place: Place, *aspects: str) -> None:
    problem = place.home()
    before = pictures.process()
    place.find(problem)
    place.find_directly(problem, problem.make(), problem.split())
    changed = [aspect for aspect in pictures.differing(before, pictures.process()) if aspect in aspects]
    require(not changed, f"{', '.join(aspects)} as before", f"changed: {changed}")


def random_states_are_left_alone(place: Place) -> None:
    """Nothing is drawn from the global generators of torch, numpy and Python."""
    _process_keeps(place, "torch", "numpy", "python")


def settings_of_the_process_are_left_alone(place: Place) -> None:
    """Default dtype, gradient mode and number of threads are the same afterwards."""
    _process_keeps(place, "dtype", "gradient mode", "threads")


def _read(place: Place) -> tuple[set[int], int]:
    """Give the training rows that a direct call reads, and how many reads test and holdout rows had."""
    return place.once("the rows read", lambda: _watch(place))


def _watch(place: Place) -> tuple[set[int], int]:
    problem = place.home()
    train, holdout, test = (pictures.Watched(*problem.arrays(*size)) for size in ((NUM_ROWS, 21), (16, 23), (12, 22)))
    place.find_directly(problem, problem.make(), problem.split(train, holdout=holdout, test=test))
    return set(train.read), len(holdout.read) + len(test.read)


def retain_rows_are_read_as_said(place: Place) -> None:
    """Retain rows are read if and only if `reads_retain` says so."""
    read, said = bool(_read(place)[0] & RETAIN), place.where.reads_retain
    require(read == said, f"retain rows to be {'read' if said else 'left unread'}", f"read={read}")


def forget_rows_are_read_as_said(place: Place) -> None:
    """Forget rows are read if and only if `reads_forget` says so."""
    read, said = bool(_read(place)[0] & set(FORGET)), place.where.reads_forget
    require(read == said, f"forget rows to be {'read' if said else 'left unread'}", f"read={read}")


def rows_never_trained_on_are_not_read(place: Place) -> None:
    """No test row and no holdout row is read."""
    require(_read(place)[1] == 0, "no test or holdout row to be read", "some were")


def rows_are_never_written_to(place: Place) -> None:
    """Inputs and labels keep their bytes."""
    for name, problem in place.networks().items():
        arrays = problem.arrays()
        before = [pictures.raw(one) for one in arrays]
        place.find_directly(problem, problem.make(), problem.split(arrays))
        require([pictures.raw(one) for one in arrays] == before, "data that nobody writes to", f"others on {name}")


def frozen_parameters_are_not_chosen(place: Place) -> None:
    """Parameters whose `requires_grad` is False get no score."""
    skip_unless(isinstance(place.where, Localizer), "frozen parameters are taken out of a region's mask later")
    for name, problem in place.networks().items():
        model = problem.make()
        own = params.named_parameters(model)
        frozen = list(own)[::2]
        for key in frozen:
            own[key].requires_grad = False
        scored = set(place.find(problem, model).names) & set(frozen)
        require(not scored, "no score for what the user froze", f"scores on {name} for {sorted(scored)}")


def no_budget_chooses_nothing_and_all_of_it_everything(place: Place) -> None:
    """A budget of 0 cuts an empty mask and a budget of 1 a full one."""
    problem = place.home()
    model = problem.make()
    found = place.find(problem, model)
    skip_unless(isinstance(found, Scores), "a region has no budget")
    assert isinstance(found, Scores)
    for granularity in ("weight", "channel"):
        none, every = (found.select(budget_fraction=share, granularity=granularity) for share in (0.0, 1.0))
        require(none == Mask.empty(model), f"an empty mask by {granularity}", none)
        require(every == Mask.full(model), f"a full mask by {granularity}", every)


def gradient_mode_does_not_matter(place: Place) -> None:
    """Under `torch.no_grad()` the answer is the same."""
    problem = place.home()
    plain = place.find(problem), place.find_directly(problem, problem.make(), problem.split())
    with torch.no_grad():
        inside = place.find(problem), place.find_directly(problem, problem.make(), problem.split())
    for one, other in zip(plain, inside, strict=True):
        _require_same(one, other)


def float32_will_do(place: Place) -> None:
    """It works in single precision."""
    for problem in place.networks().values():
        place.find(problem, problem.make().float())


def one_forget_row_will_do(place: Place) -> None:
    """It works where one row is to be forgotten."""
    for problem in place.networks().values():
        place.find(problem, split=problem.split(forget=FORGET[:1]))


def the_object_is_not_changed(place: Place) -> None:
    """The object has the same fields and the same `repr` afterwards."""
    before = repr(place.where), pictures.plainly(place.where)
    place.find(place.home())
    after = repr(place.where), pictures.plainly(place.where)
    require(after == before, f"an object that is not changed: {before[0]}", after[0])


def text_says_what_it_is(place: Place) -> None:
    """`repr` names the class; `str` of a region, which stands in tables, is words without an address in memory."""
    name = type(place.where).__name__
    require(name in repr(place.where), f"text that names {name}", repr(place.where))
    if isinstance(place.where, Region):
        words = str(place.where)
        require(bool(words) and " at 0x" not in words and "\n" not in words, "words for a table", repr(words))


def no_network_is_kept(place: Place) -> None:
    """Neither the object nor the answer holds on to the network."""
    problem = place.home()
    for ask in (lambda model: place.find(problem, model), _directly(place, problem)):
        model = problem.make()
        found = ask(model)
        kept = weakref.ref(model)
        del model
        if kept() is not None:  # in a cycle, it may be; to look for cycles takes as long as all the rest
            gc.collect()
        require(kept() is None, "a network that can be freed", f"one kept alive beside {found!r}")


def it_works_as_a_place_of_a_recipe(place: Place) -> None:
    """A recipe whose method does nothing runs there, and moves nothing."""
    where = region_of(place.where)
    for name, problem in place.networks().items():
        model = problem.make()
        recipe = Recipe(name="place", paper="", year=0, method=Nothing(), where=where)
        found = unlearn(model, problem.split(), recipe, fresh=problem.untrained)
        moved = pictures.differing(pictures.content(model), pictures.content(found.model))
        require(not moved, "the same bytes", f"others on {name}: {moved}")


CHECKS: tuple[Callable[[Place], None], ...] = (
    works_on_some_network,
    gives_scores_or_a_mask,
    fits_the_network,
    scores_are_finite_and_not_negative,
    the_answer_is_its_own_in_memory,
    asked_twice_says_the_same,
    the_callers_random_state_does_not_matter,
    network_keeps_its_bytes,
    network_keeps_its_storages,
    network_keeps_its_modes,
    network_keeps_requires_grad,
    network_keeps_its_gradients,
    network_keeps_its_hooks,
    random_states_are_left_alone,
    settings_of_the_process_are_left_alone,
    retain_rows_are_read_as_said,
    forget_rows_are_read_as_said,
    rows_never_trained_on_are_not_read,
    rows_are_never_written_to,
    frozen_parameters_are_not_chosen,
    no_budget_chooses_nothing_and_all_of_it_everything,
    gradient_mode_does_not_matter,
    float32_will_do,
    one_forget_row_will_do,
    the_object_is_not_changed,
    text_says_what_it_is,
    no_network_is_kept,
    it_works_as_a_place_of_a_recipe,
)
