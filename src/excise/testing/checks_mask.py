"""Checks of the promise: what is outside the mask stays, bit for bit, and buffers follow the stated rule."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from excise import params
from excise.data.batches import batches
from excise.masks import Mask
from excise.testing import pictures
from excise.testing.problems import MaskKind, Problem, booleans, mask_of
from excise.testing.subject import Subject
from excise.testing.verdicts import require, skip_unless
from excise.train.engine import Engine
from excise.train.masked import STATISTICS, effective, frozen_digest, held_modules
from excise.train.statistics import recompute_statistics_, running_statistics
from excise.train.task import Task

KINDS: tuple[MaskKind, ...] = ("rows", "weights", "modules", "mixed")


def _leaks(given: nn.Module, found: nn.Module, chosen: Mapping[str, Tensor]) -> list[str]:
    """Name the parameters that differ outside a mask."""
    before, after = params.named_parameters(given), params.named_parameters(found)
    return [
        name
        for name, entry in chosen.items()
        if pictures.raw(before[name].detach()[~entry]) != pictures.raw(after[name].detach()[~entry])
    ]


def _keeps_outside(subject: Subject, kind: MaskKind) -> None:
    for name, problem in subject.networks().items():
        given = problem.make()
        result = subject.unlearn(problem, model=given, mask=mask_of(given, kind))
        leaks = _leaks(given, result.model, booleans(given, kind))
        require(not leaks, "every coordinate outside the mask equal to the bit", f"others on {name}: {leaks}")


def keeps_outside_a_mask_of_rows(subject: Subject) -> None:
    """Outside a mask of whole rows every coordinate stays equal, bit for bit."""
    _keeps_outside(subject, "rows")


def keeps_outside_a_mask_of_weights(subject: Subject) -> None:
    """Outside a mask of single weights every coordinate stays equal, bit for bit."""
    _keeps_outside(subject, "weights")


def keeps_outside_a_mask_of_modules(subject: Subject) -> None:
    """Outside a mask of whole parameters every coordinate stays equal, bit for bit."""
    _keeps_outside(subject, "modules")


def keeps_outside_a_mixed_mask(subject: Subject) -> None:
    """Outside a mask of rows, weights and modules in turn every coordinate stays equal, bit for bit."""
    _keeps_outside(subject, "mixed")


def keeps_outside_when_called_directly(subject: Subject) -> None:
    """`unlearn_` itself writes inside its mask only, whoever calls it."""
    for (name, problem), kind in itertools.product(subject.networks().items(), KINDS):
        model, given = problem.make(), problem.make()
        subject.call_(problem, model, mask=mask_of(given, kind))
        leaks = _leaks(given, model, booleans(given, kind))
        require(
            not leaks, "every coordinate outside the mask equal to the bit", f"others on {name} under {kind}: {leaks}"
        )


def keeps_outside_what_may_be_trained_besides(subject: Subject) -> None:
    """Where the engine allows more than the mask, nothing outside the two together moves."""
    name, problem = subject.home()
    model, given = problem.make(), problem.make()
    last = list(booleans(given, "rows"))[-1]
    besides = Mask.where(given, lambda key: key == last)
    subject.call_(problem, model, mask=mask_of(given, "mixed") - besides, besides=besides)
    allowed = mask_of(given, "mixed") | besides
    leaks = _leaks(given, model, {key: allowed.expand(key) for key in allowed.names})
    require(not leaks, "every coordinate outside mask and besides equal to the bit", f"others on {name}: {leaks}")


def keeps_every_byte_under_an_empty_mask(subject: Subject) -> None:
    """Under an empty mask the result has the same bytes, buffers included, and an empty patch."""
    for name, problem in subject.networks().items():
        given = problem.make()
        result = subject.unlearn(problem, model=given, mask=Mask.empty(given))
        moved = pictures.differing(pictures.content(given), pictures.content(result.model))
        require(not moved, "the same bytes", f"others on {name}: {moved}")
        require(not result.patch.num_changed, "an empty patch", result.patch)


def keeps_every_byte_under_an_empty_mask_when_called_directly(subject: Subject) -> None:
    """`unlearn_` itself keeps every byte under an empty mask, buffers included."""
    for name, problem in subject.networks().items():
        model, given = problem.make(), problem.make()
        subject.call_(problem, model, mask=Mask.empty(given))
        moved = pictures.differing(pictures.content(given), pictures.content(model))
        require(not moved, "the same bytes", f"others on {name}: {moved}")


def full_mask_is_no_mask(subject: Subject) -> None:
    """A full mask gives the same bytes as none."""
    skip_unless(not subject.localizes, f"the recipe works {subject.where} if no mask is given")
    for name, problem in subject.networks().items():
        result = subject.unlearn(problem, mask=Mask.full(problem.make()))
        moved = pictures.differing(pictures.content(subject.run(name).result.model), pictures.content(result.model))
        require(not moved, "the same bytes with a full mask and with none", f"others on {name}: {moved}")


def keeps_outside_its_own_place(subject: Subject) -> None:
    """Without a given mask nothing moves outside the mask that the result reports."""
    for name in subject.networks():
        run = subject.run(name)
        mask = run.result.mask
        leaks = _leaks(run.given, run.result.model, {key: mask.expand(key) for key in mask.names})
        require(not leaks, "every coordinate outside the reported mask equal to the bit", f"others on {name}: {leaks}")


def reports_the_given_mask(subject: Subject) -> None:
    """The result reports the mask that was given, which the run does not change."""
    _, problem = subject.home()
    given = problem.make()
    mask = mask_of(given, "mixed")
    digest = mask.digest
    result = subject.unlearn(problem, model=given, mask=mask)
    require(result.mask == result.localized == mask, "the given mask", result.mask)
    require(mask.digest == digest, "the mask as it was given", "another one in the same object")


def frozen_digest_is_equal(subject: Subject) -> None:
    """The digest of all that must not move is the same before and after, and is that of the result."""
    _, problem = subject.home()
    given = problem.make()
    mask = mask_of(given, "mixed")
    result = subject.unlearn(problem, model=given, mask=mask, recompute=False)
    require(result.frozen_digest == result.frozen_digest_before, "equal digests", "a digest that changed with the run")
    own = frozen_digest(result.model, mask, subject.method.statistics)
    require(result.frozen_digest == own, f"the digest of the result, {own}", result.frozen_digest)


def frozen_parameters_never_move(subject: Subject) -> None:
    """Parameters whose `requires_grad` is False keep every bit, also under a full mask."""
    for name, problem in subject.networks().items():
        for full in (False, True):
            given = problem.make()
            own = params.named_parameters(given)
            frozen = list(own)[::2]
            for key in frozen:
                own[key].requires_grad = False
            result = subject.unlearn(problem, model=given, mask=Mask.full(given) if full else None)
            before, after = pictures.content(given), pictures.content(result.model)
            moved = [key for key in frozen if before[key] != after[key]]
            require(not moved, "what the user froze to stay", f"others on {name}: {moved}")
            inside = [key for key in frozen if result.mask.count(key)]
            require(not inside, "no frozen parameter in the reported mask", inside)


def frozen_parameters_never_move_when_called_directly(subject: Subject) -> None:
    """`unlearn_` itself keeps parameters whose `requires_grad` is False."""
    name, problem = subject.home()
    model = problem.make()
    own = params.named_parameters(model)
    frozen = list(own)[::2]
    for key in frozen:
        own[key].requires_grad = False
    before = pictures.content(model)
    subject.call_(problem, model)
    after = pictures.content(model)
    moved = [key for key in frozen if before[key] != after[key]]
    require(not moved, "what the user froze to stay", f"others on {name}: {moved}")


def tied_weights_stay_tied(subject: Subject) -> None:
    """Two names of one parameter still name one parameter afterwards."""
    skip_unless("tied" in subject.networks(), "it refuses the network with tied weights")
    problem = subject.networks()["tied"]
    for model in (
        subject.run("tied").result.model,
        subject.unlearn(problem, mask=mask_of(problem.make(), "weights")).model,
    ):
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        first, second = model.get_parameter("head.weight"), model.get_parameter("embed.weight")
        require(first is second, "head.weight and embed.weight to be one parameter", f"two, in {names}")


def statistics_is_a_known_rule(subject: Subject) -> None:
    """The rule for buffers is one of those that `excise.train.masked` describes."""
    rule = subject.method.statistics
    require(rule in STATISTICS, f"one of {', '.join(STATISTICS)}", repr(rule))


def _buffers_moved(problem: Problem, subject: Subject, mask: Mask | None, *, direct: bool) -> list[str]:
    given = problem.make()
    own = set(dict(given.named_buffers()))
    if direct:
        model = problem.make()
        subject.call_(problem, model, mask=mask)
    else:
        model = subject.unlearn(problem, model=given, mask=mask, recompute=False).model
    return [name for name in pictures.differing(pictures.content(given), pictures.content(model)) if name in own]


def buffers_follow_the_stated_rule(subject: Subject) -> None:
    """Buffers of modules that the stated rule holds do not move, with masks of any kind."""
    skip_unless("batchnorm" in subject.networks(), "it refuses the network with buffers")
    problem = subject.networks()["batchnorm"]
    given = problem.make()
    for mask in (Mask.of_modules(given, ["4", "8"]), Mask.of_modules(given, ["0"]), mask_of(given, "mixed")):
        held = set(held_modules(given, effective(mask, given), subject.method.statistics))
        for direct in (False, True):
            moved = _buffers_moved(problem, subject, mask, direct=direct)
            wrong = [name for name in moved if name.rpartition(".")[0] in held]
            require(not wrong, f"still buffers under {subject.method.statistics!r}", f"others: {wrong}")


def statistics_are_made_anew_by_default(subject: Subject) -> None:
    """Running statistics are those of the retain rows alone under any mask, if the method reads retain rows."""
    skip_unless("batchnorm" in subject.networks(), "it refuses the network with running statistics")
    problem = subject.networks()["batchnorm"]
    expected = "retain" in subject.method.needs
    plain, anew = subject.run("batchnorm", recompute=False).result, subject.run("batchnorm").result
    require(anew.recomputed == expected and not plain.recomputed, f"recomputed={expected}", anew.recomputed)
    moved = pictures.differing(pictures.content(plain.model), pictures.content(anew.model))
    others = [name for name in moved if name not in running_statistics(plain.model)]
    require(not others, "running statistics alone to differ from a run without", others)
    skip_unless(expected, "the method reads no retain row")
    wanted = _first_mean(anew.model, problem)
    torch.testing.assert_close(anew.model.get_buffer("1.running_mean"), wanted, rtol=1e-9, atol=1e-12)
    given = problem.make()
    for mask in (Mask.of_modules(given, ["0"]), Mask.of_modules(given, ["8"]), mask_of(given, "mixed")):
        _require_made_anew(subject.unlearn(problem, mask=mask).model, problem, f"under {mask}")
    _require_made_anew(anew.model, problem, "without a mask")


def _require_made_anew(model: nn.Module, problem: Problem, where: str) -> None:
    """Let the check fail unless a second recomputation from the retain rows, by the same seed, gives the same bytes."""
    again = params.clone_model(model)
    recompute_statistics_(again, problem.split().retain, Engine(Task(), 0, Mask.empty(again)))
    moved = pictures.differing(pictures.content(model), pictures.content(again))
    require(not moved, "the statistics of the retain rows, to the bit", f"others {where}: {moved}")


@torch.no_grad()
def _first_mean(model: nn.Module, problem: Problem) -> Tensor:
    """Give the mean, by hand, of what the first normalisation layer is given on the retain rows."""
    retain = problem.split().retain
    batch = next(iter(batches(retain, len(retain), torch.device("cpu"))))
    found: Tensor = model.get_submodule("0")(batch.content[0])
    return found.mean(dim=(0, 2, 3))


CHECKS = (
    keeps_outside_a_mask_of_rows,
    keeps_outside_a_mask_of_weights,
    keeps_outside_a_mask_of_modules,
    keeps_outside_a_mixed_mask,
    keeps_outside_when_called_directly,
    keeps_outside_what_may_be_trained_besides,
    keeps_every_byte_under_an_empty_mask,
    keeps_every_byte_under_an_empty_mask_when_called_directly,
    full_mask_is_no_mask,
    keeps_outside_its_own_place,
    reports_the_given_mask,
    frozen_digest_is_equal,
    frozen_parameters_never_move,
    frozen_parameters_never_move_when_called_directly,
    tied_weights_stay_tied,
    statistics_is_a_known_rule,
    buffers_follow_the_stated_rule,
    statistics_are_made_anew_by_default,
)
