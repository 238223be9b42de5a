"""Checks of what comes out: a sound network of the same class, its own in memory, with a patch that says what changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from excise import params
from excise.testing import pictures
from excise.testing.problems import PROBLEMS
from excise.testing.subject import Subject
from excise.testing.verdicts import require


def runs_on_some_network(subject: Subject) -> None:
    """It works on at least one of the networks, and refuses others by `UnsupportedModel` or `MaskMismatch` only."""
    found = subject.networks()
    require(bool(found), "a network that it can work on", f"all of {', '.join(PROBLEMS)} refused")
    for name in found:
        subject.run(name)


def result_is_another_module(subject: Subject) -> None:
    """The result is a module of the same class as the given one, and not the given one."""
    for name in subject.networks():
        run = subject.run(name)
        model = run.result.model
        require(model is not run.given, "another module than the given one", f"the same on {name}")
        kinds = [[type(module) for module in one.modules()] for one in (run.given, model)]
        require(kinds[0] == kinds[1], "modules of the same classes", f"others on {name}")


def _extents(model: nn.Module) -> dict[int, str]:
    held = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    return {value.untyped_storage().data_ptr(): name for name, value in held}


def result_shares_no_storage(subject: Subject) -> None:
    """No parameter or buffer of the result lies in memory of the given network, nor does a module."""
    for name in subject.networks():
        run = subject.run(name, recompute=False)
        given, own = _extents(run.given), _extents(run.result.model)
        shared = [own[place] for place in set(given) & set(own)]
        require(not shared, "memory of its own", f"shared with the given network on {name}: {shared}")
        modules = {id(module) for module in run.given.modules()} & {id(module) for module in run.result.model.modules()}
        require(not modules, "modules of its own", f"{len(modules)} shared with the given network on {name}")


def result_has_the_same_parameters_and_buffers(subject: Subject) -> None:
    """The result has the given network's parameters and buffers: names, shapes, dtypes."""
    for name in subject.networks():
        run = subject.run(name)
        kinds = [_kinds(model) for model in (run.given, run.result.model)]
        require(kinds[0] == kinds[1], "the same names, shapes and dtypes", f"others on {name}")


def _kinds(model: nn.Module) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    return [(name, tuple(value.shape), value.dtype) for name, value in model.state_dict().items()]


def _after_touching(subject: Subject, aspect: str) -> list[tuple[str, Any, Any]]:
    """Give network name, and an aspect of the given network and of the result, for a network with something to keep."""
    seen = subject.once("the results", lambda: _results(subject))
    return [(name, given[aspect], result[aspect]) for name, given, result in seen]


def _results(subject: Subject) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    found = []
    for name, problem in subject.networks().items():
        model = pictures.touched(problem.make())
        next(model.parameters()).requires_grad = False
        result = subject.unlearn(problem, model=model, recompute=False).model
        found.append((name, pictures.network(model), pictures.network(result)))
    return found


def result_has_the_given_modes(subject: Subject) -> None:
    """Each module of the result is in training or eval mode as its twin in the given network is."""
    for name, given, found in _after_touching(subject, "modes"):
        require(found == given, "the modes of the given network", f"others on {name}")


def result_has_the_given_requires_grad(subject: Subject) -> None:
    """Each parameter of the result asks for gradients as its twin in the given network does."""
    for name, given, found in _after_touching(subject, "requires_grad"):
        require(found == given, "the flags of the given network", f"others on {name}")


def result_has_no_gradients(subject: Subject) -> None:
    """No parameter of the result carries a gradient."""
    for name, _, found in _after_touching(subject, "gradients"):
        require(not any(found), "no gradient left over", f"some on {name}")


def result_has_no_new_hooks(subject: Subject) -> None:
    """The result has the hooks of the given network and no other."""
    for name, given, found in _after_touching(subject, "hooks"):
        counts = [[[kind for kind, _ in held] for held in one] for one in (given, found)]
        require(counts[0] == counts[1], "the hooks of the given network", f"others on {name}")


def unlearn_in_place_gives_nothing_and_restores(subject: Subject) -> None:
    """`unlearn_` itself returns None and leaves modes, flags, gradients and hooks of its network as they were."""
    for name, problem in subject.networks().items():
        model = pictures.touched(problem.make())
        next(model.parameters()).requires_grad = False
        before = pictures.network(model)
        subject.call_(problem, model)
        require(subject.returned is None, "None from unlearn_, which works in place", type(subject.returned).__name__)
        aspects = ("modes", "requires_grad", "gradients", "hooks", "storages")
        changed = [aspect for aspect in pictures.differing(before, pictures.network(model)) if aspect in aspects]
        require(not changed, "only values to change", f"on {name} also: {changed}")


def result_is_finite(subject: Subject) -> None:
    """Every parameter and buffer of the result is a finite number."""
    for name in subject.networks():
        state = subject.run(name).result.model.state_dict()
        broken = [key for key, value in state.items() if not bool(value.isfinite().all())]
        require(not broken, "finite values", f"others on {name}: {broken}")


def result_computes(subject: Subject) -> None:
    """The result gives finite logits of the given network's shape."""
    for name, problem in subject.networks().items():
        run = subject.run(name)
        inputs, _ = problem.arrays(8)
        with torch.no_grad(), params.untouched(run.result.model):
            logits = run.result.model.eval()(inputs)
        require(tuple(logits.shape) == (8, problem.num_classes), f"logits [8, {problem.num_classes}]", logits.shape)
        require(bool(logits.isfinite().all()), "finite logits", f"others on {name}")


def state_loads_into_the_class(subject: Subject) -> None:
    """The result's state dict loads into a new network of the class, which then has the same bytes."""
    for name, problem in subject.networks().items():
        state = params.state_of(subject.run(name).result.model)
        other = problem.make()
        other.load_state_dict(state)
        moved = pictures.differing(pictures.content(subject.run(name).result.model), pictures.content(other))
        require(not moved, "the same bytes after loading", f"others on {name}: {moved}")


def patch_applies(subject: Subject) -> None:
    """The patch turns the given network into the result, to the bit."""
    for name in subject.networks():
        run = subject.run(name)
        made = run.result.patch.apply(run.given)
        moved = pictures.differing(pictures.content(made), pictures.content(run.result.model))
        require(not moved, "the bytes of the result", f"others on {name}: {moved}")


def patch_reverts(subject: Subject) -> None:
    """The patch turns the result back into the given network, to the bit."""
    for name in subject.networks():
        run = subject.run(name)
        made = run.result.patch.revert(run.result.model)
        moved = pictures.differing(pictures.content(made), pictures.content(run.given))
        require(not moved, "the bytes of the given network", f"others on {name}: {moved}")


def patch_lists_what_moved(subject: Subject) -> None:
    """The patch names the tensors that differ between the given network and the result, and no other."""
    for name in subject.networks():
        run = subject.run(name)
        moved = set(pictures.differing(pictures.content(run.given), pictures.content(run.result.model)))
        listed = set(run.result.patch.num_changed)
        require(listed == moved, f"{sorted(moved)} on {name}", sorted(listed))


def float32_will_do(subject: Subject) -> None:
    """It works in single precision, and the result is in single precision."""
    for name, problem in subject.networks().items():
        model = problem.make().float()
        split = problem.split(_single(problem.arrays()), holdout=_single(problem.arrays(16, 23)))
        result = subject.unlearn(
            problem, model=model, split=split, fresh=lambda problem=problem: problem.untrained().float()
        )
        require(_kinds(result.model) == _kinds(model), "the precision of the given network", f"another on {name}")
        broken = [key for key, value in result.model.named_parameters() if not bool(value.isfinite().all())]
        require(not broken, "finite values", f"others on {name}: {broken}")


def _single(arrays: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    inputs, labels = arrays
    return (inputs.float() if inputs.is_floating_point() else inputs), labels


CHECKS = (
    runs_on_some_network,
    result_is_another_module,
    result_shares_no_storage,
    result_has_the_same_parameters_and_buffers,
    result_has_the_given_modes,
    result_has_the_given_requires_grad,
    result_has_no_gradients,
    result_has_no_new_hooks,
    unlearn_in_place_gives_nothing_and_restores,
    result_is_finite,
    result_computes,
    state_loads_into_the_class,
    patch_applies,
    patch_reverts,
    patch_lists_what_moved,
    float32_will_do,
)
