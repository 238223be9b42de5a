"""Checks of what is the caller's own: the network that was given, and everything that the process shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from excise.data.split import Split
from excise.testing import pictures
from excise.testing.problems import Problem
from excise.testing.subject import Subject
from excise.testing.verdicts import fail, require, skip_unless
from excise.train.hooks import EpochTrace, Hooks

_Pictures = tuple[dict[str, Any], dict[str, Any]]


def _network_keeps(subject: Subject, aspect: str) -> None:
    for name, (before, after) in subject.once("the given networks", lambda: _given_networks(subject)).items():
        require(after[aspect] == before[aspect], f"{aspect} of the given network as they were", f"others on {name}")


def _given_networks(subject: Subject) -> dict[str, _Pictures]:
    """Give pictures of each network before and after it was given away to be unlearned."""
    found = {}
    for name, problem in subject.networks().items():
        model = pictures.touched(problem.make())
        before = pictures.network(model)
        subject.unlearn(problem, model=model, recompute=False)
        found[name] = before, pictures.network(model)
    return found


def given_network_keeps_its_bytes(subject: Subject) -> None:
    """No parameter and no buffer of the given network changes."""
    _network_keeps(subject, "bytes")


def given_network_keeps_its_storages(subject: Subject) -> None:
    """Parameters and buffers of the given network stay where they lie in memory."""
    _network_keeps(subject, "storages")


def given_network_keeps_its_modes(subject: Subject) -> None:
    """Every module of the given network stays in training or eval mode as it was."""
    _network_keeps(subject, "modes")


def given_network_keeps_requires_grad(subject: Subject) -> None:
    """Every parameter of the given network asks for gradients as before."""
    _network_keeps(subject, "requires_grad")


def given_network_keeps_its_gradients(subject: Subject) -> None:
    """Gradients that the given network carries stay, the same tensors with the same bytes."""
    _network_keeps(subject, "gradients")


def given_network_keeps_its_hooks(subject: Subject) -> None:
    """No hook is added to the given network, and none is taken away."""
    _network_keeps(subject, "hooks")


def _process_keeps(subject: Subject, aspect: str) -> None:
    for before, after in subject.once("the process", lambda: _processes(subject)):
        require(after[aspect] == before[aspect], f"{aspect} as before", "another")


def _processes(subject: Subject) -> list[_Pictures]:
    """Give pictures of the process before and after a run at the front door, and one of `unlearn_` itself."""
    _, problem = subject.home()
    found = []
    for run in (lambda: subject.unlearn(problem), lambda: subject.call_(problem, problem.make())):
        before = pictures.process()
        run()
        found.append((before, pictures.process()))
    return found


def torchs_random_state_is_left_alone(subject: Subject) -> None:
    """Nothing is drawn from torch's global generator, and nothing seeds it."""
    _process_keeps(subject, "torch")


def numpys_random_state_is_left_alone(subject: Subject) -> None:
    """Nothing is drawn from numpy's global generator, and nothing seeds it."""
    _process_keeps(subject, "numpy")


def pythons_random_state_is_left_alone(subject: Subject) -> None:
    """Nothing is drawn from Python's global generator, and nothing seeds it."""
    _process_keeps(subject, "python")


def default_dtype_is_left_alone(subject: Subject) -> None:
    """Torch's default dtype is the same afterwards."""
    _process_keeps(subject, "dtype")


def gradient_mode_is_left_alone(subject: Subject) -> None:
    """Gradients are recorded afterwards if they were before."""
    _process_keeps(subject, "gradient mode")


def number_of_threads_is_left_alone(subject: Subject) -> None:
    """Torch computes on as many threads as before."""
    _process_keeps(subject, "threads")


class _Interrupting(Hooks):
    """Raises KeyboardInterrupt at the second thing that it hears."""

    def __init__(self) -> None:
        self.heard = 0

    def _hear(self) -> None:
        self.heard += 1
        if self.heard == 2:
            raise KeyboardInterrupt

    def on_stage(self, name: str, num_steps: int) -> None:
        self._hear()

    def on_step(self) -> None:
        self._hear()

    def on_epoch(self, trace: EpochTrace) -> None:
        self._hear()

    def on_part(self, name: str) -> None:
        self._hear()

    def on_note(self, text: str) -> None:
        self._hear()

    def on_stage_end(self, name: str) -> None:
        self._hear()


def _interrupted(run: Callable[[Hooks], Any]) -> None:
    hooks = _Interrupting()
    try:
        run(hooks)
    except KeyboardInterrupt:
        return
    skip_unless(hooks.heard >= 2, "it tells its hooks nothing that could be interrupted")
    fail("an interruption to reach the caller", "a run that went on")


def _require_alone(model: nn.Module, before: dict[str, Any], *aspects: str) -> None:
    after = {**pictures.network(model), **pictures.process()}
    changed = [aspect for aspect in pictures.differing(before, after) if not aspects or aspect in aspects]
    require(not changed, "everything of the caller's as it was", f"changed: {changed}")


def _everything(model: nn.Module) -> dict[str, Any]:
    return {**pictures.network(model), **pictures.process()}


def an_interrupted_run_leaves_everything_alone(subject: Subject) -> None:
    """After an interruption in the middle the given network and the process are as they were."""
    _, problem = subject.home()
    model = pictures.touched(problem.make())
    before = _everything(model)
    _interrupted(lambda hooks: subject.unlearn(problem, model=model, hooks=hooks))
    _require_alone(model, before)


_BORROWED = (
    "requires_grad",
    "gradients",
    "modes",
    "hooks",
    "torch",
    "numpy",
    "python",
    "dtype",
    "gradient mode",
    "threads",
)


def an_interrupted_call_gives_back_what_it_borrowed(subject: Subject) -> None:
    """After an interruption of `unlearn_` itself modes, flags, gradients, hooks and the process are as they were."""
    _, problem = subject.home()
    model = pictures.touched(problem.make())
    before = _everything(model)
    _interrupted(lambda hooks: subject.call_(problem, model, hooks=hooks))
    _require_alone(model, before, *_BORROWED)


def _failing_split(problem: Problem, run: Callable[[Split], Any]) -> Split | None:
    """Give a split whose rows can be read almost as often as a whole run does; None if a run reads none."""
    watched = pictures.Watched(*problem.arrays())
    run(problem.split(watched))
    if not watched.read:
        return None
    return problem.split(pictures.Watched(*problem.arrays(), fails_after=len(watched.read) - 1))


def rows_that_cannot_be_read_leave_everything_alone(subject: Subject) -> None:
    """After a data set raised in the middle the given network and the process are as they were, and the error is told."""
    _, problem = subject.home()
    split = _failing_split(problem, lambda split: subject.unlearn(problem, split=split))
    assert split is not None  # the front door looks at forget rows
    model = pictures.touched(problem.make())
    before = _everything(model)
    try:
        subject.unlearn(problem, model=model, split=split)
    except Exception:  # in whatever words
        _require_alone(model, before)
        return
    fail("the error of the data set to reach the caller", "a result")


def rows_that_cannot_be_read_give_back_what_was_borrowed(subject: Subject) -> None:
    """After a data set raised in `unlearn_` itself modes, flags, gradients, hooks and the process are as they were."""
    _, problem = subject.home()
    split = _failing_split(problem, lambda split: subject.call_(problem, problem.make(), split=split))
    skip_unless(split is not None, "the method reads no rows")
    model = pictures.touched(problem.make())
    before = _everything(model)
    try:
        subject.call_(problem, model, split=split)
    except Exception:  # in whatever words
        _require_alone(model, before, *_BORROWED)
        return
    fail("the error of the data set to reach the caller", "a run that went on")


CHECKS = (
    given_network_keeps_its_bytes,
    given_network_keeps_its_storages,
    given_network_keeps_its_modes,
    given_network_keeps_requires_grad,
    given_network_keeps_its_gradients,
    given_network_keeps_its_hooks,
    torchs_random_state_is_left_alone,
    numpys_random_state_is_left_alone,
    pythons_random_state_is_left_alone,
    default_dtype_is_left_alone,
    gradient_mode_is_left_alone,
    number_of_threads_is_left_alone,
    an_interrupted_run_leaves_everything_alone,
    an_interrupted_call_gives_back_what_it_borrowed,
    rows_that_cannot_be_read_leave_everything_alone,
    rows_that_cannot_be_read_give_back_what_was_borrowed,
)
