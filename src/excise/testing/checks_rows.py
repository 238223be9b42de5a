"""Checks of the rows: which are read, that none is written to, and that any number of them will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from excise import errors
from excise.methods import FromFunction
from excise.methods.base import NEEDS
from excise.testing import pictures
from excise.testing.problems import FORGET, NUM_ROWS, Problem
from excise.testing.subject import Subject
from excise.testing.verdicts import Skipped, fail, require, skip_unless
from excise.train.hooks import Hooks

RETAIN = frozenset(range(NUM_ROWS)) - frozenset(FORGET)


def needs_are_known(subject: Subject) -> None:
    """`needs` is a frozenset of words that the library knows."""
    needs = subject.method.needs
    require(isinstance(needs, frozenset), "a frozenset", type(needs).__name__)
    require(needs <= set(NEEDS), f"some of {', '.join(NEEDS)}", sorted(needs))


def _read(subject: Subject) -> tuple[set[int], set[int], set[int]]:
    """Give the training, holdout and test rows that a direct call reads."""
    return subject.once("the rows read", lambda: _watch(subject))


def _watch(subject: Subject) -> tuple[set[int], set[int], set[int]]:
    _, problem = subject.home()
    train, holdout, test = (pictures.Watched(*problem.arrays(*size)) for size in ((NUM_ROWS, 21), (16, 23), (12, 22)))
    subject.call_(problem, problem.make(), split=problem.split(train, holdout=holdout, test=test))
    return set(train.read), set(holdout.read), set(test.read)


def _reads_as_said(subject: Subject, need: str, rows: Iterable[int]) -> None:
    named = need in subject.method.needs
    require(
        bool(set(rows)) == named,
        f"{need} rows to be {'read' if named else 'left unread'}, as needs says",
        f"{len(set(rows))} of them read",
    )


def forget_rows_are_read_if_named(subject: Subject) -> None:
    """`unlearn_` reads forget rows if and only if `needs` names them."""
    _reads_as_said(subject, "forget", _read(subject)[0] & set(FORGET))


def retain_rows_are_read_if_named(subject: Subject) -> None:
    """`unlearn_` reads retain rows if and only if `needs` names them."""
    _reads_as_said(subject, "retain", _read(subject)[0] & RETAIN)


def holdout_rows_are_read_if_named(subject: Subject) -> None:
    """`unlearn_` reads holdout rows if and only if `needs` names them."""
    skip_unless(not isinstance(subject.method, FromFunction), "a function is given the holdout rows for validation")
    _reads_as_said(subject, "holdout", _read(subject)[1])


def rows_to_test_on_are_never_read(subject: Subject) -> None:
    """Neither `unlearn_` nor the front door reads a test row."""
    require(not _read(subject)[2], "no test row to be read", "some that were, by unlearn_")
    _, problem = subject.home()
    test = pictures.Watched(*problem.arrays(12, 22))
    subject.unlearn(problem, split=problem.split(test=test))
    require(not test.read, "no test row to be read", f"{len(set(test.read))} of them read")


def retain_rows_are_left_alone_at_the_front_door(subject: Subject) -> None:
    """A run reads retain rows if and only if the method or its place needs them."""
    _, problem = subject.home()
    watched = pictures.Watched(*problem.arrays())
    subject.unlearn(problem, split=problem.split(watched))
    read = set(watched.read) & RETAIN
    expected = subject.reads_retain
    require(
        bool(read) == expected,
        f"retain rows to be {'read' if expected else 'left unread'}",
        f"{len(read)} of them read",
    )


def fresh_network_is_built_if_named(subject: Subject) -> None:
    """An untrained network is built if and only if `needs` names it."""
    _, problem = subject.home()
    built = []

    def build() -> nn.Module:
        built.append(1)
        return problem.untrained()

    subject.unlearn(problem, fresh=build)
    named = "fresh" in subject.method.needs
    require(bool(built) == named, f"{'one' if named else 'no'} untrained network to be built", len(built))


def _arrays_keep(subject: Subject, place: int) -> None:
    for name, before, after in subject.once("the data", lambda: _data(subject)):
        require(after[place] == before[place], "data that nobody writes to", f"other values on {name}")


def _data(subject: Subject) -> list[tuple[str, list[list[bytes]], list[list[bytes]]]]:
    """Give network name, and the bytes of all inputs and of all labels before and after a run."""
    found = []
    for name, problem in subject.networks().items():
        for run in (
            lambda split, problem=problem: subject.unlearn(problem, split=split),
            lambda split, problem=problem: subject.call_(problem, problem.make(), split=split),
        ):
            for as_dataset in (False, True):
                sets = [problem.arrays(*size) for size in ((NUM_ROWS, 21), (12, 22), (16, 23))]
                before = _bytes(sets)
                train, test, holdout = (pictures.Watched(*one) if as_dataset else one for one in sets)
                run(problem.split(train, test=test, holdout=holdout))
                found.append((name, before, _bytes(sets)))
    return found


def _bytes(sets: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> list[list[bytes]]:
    return [[pictures.raw(one) for one in part] for part in zip(*sets, strict=True)]


def inputs_are_never_written_to(subject: Subject) -> None:
    """The inputs of every row keep their bytes, in arrays and in a data set."""
    _arrays_keep(subject, 0)


def labels_are_never_written_to(subject: Subject) -> None:
    """The labels of every row keep their bytes, in arrays and in a data set."""
    _arrays_keep(subject, 1)


def split_is_not_changed(subject: Subject) -> None:
    """The split names the same rows after the run."""
    _, problem = subject.home()
    split = problem.split()
    before = {name: getattr(split, name).ids.tolist() for name in split.__slots__}
    subject.call_(problem, problem.make(), split=split)
    after = {name: getattr(split, name).ids.tolist() for name in split.__slots__}
    require(after == before, "the same rows in each set", pictures.differing(before, after))


def arrays_and_a_dataset_give_the_same(subject: Subject) -> None:
    """Rows in arrays and the same rows in a map-style data set give the same bytes."""
    name, problem = subject.home()
    result = subject.unlearn(
        problem,
        split=problem.split(pictures.Watched(*problem.arrays()), holdout=pictures.Watched(*problem.arrays(16, 23))),
    )
    moved = pictures.differing(pictures.content(subject.run(name).result.model), pictures.content(result.model))
    require(not moved, "the same bytes", f"others: {moved}")


def _sound(
    subject: Subject, problem: Problem, arrays: object, forget: tuple[int, ...], hooks: Hooks | None = None
) -> None:
    model = subject.unlearn(problem, split=problem.split(arrays, forget=forget), hooks=hooks).model
    broken = [name for name, value in model.named_parameters() if not bool(value.isfinite().all())]
    require(not broken, "finite parameters", f"others in {broken}")


def one_forget_row_will_do(subject: Subject) -> None:
    """It works where one row is to be forgotten, or refuses with `errors.BadRequest` before any work."""
    _, problem = subject.home()
    hooks = _Telling()
    try:
        _sound(subject, problem, None, FORGET[:1], hooks)
    except errors.BadRequest as error:
        require(not hooks.stages, "no work before a refusal", f"{hooks.stages}, then {error}")
        raise Skipped(f"it refuses a single row: {error}") from error


def more_forget_rows_than_a_batch_will_do(subject: Subject) -> None:
    """It works where more rows are to be forgotten than a batch holds."""
    _, problem = subject.home()
    size = max((size for size in _batch_sizes(subject.method) if size <= 1024), default=1)
    _sound(subject, problem, problem.arrays(2 * size + 40), tuple(range(0, 2 * size + 10, 2)))


def _batch_sizes(value: object, depth: int = 4) -> Iterable[int]:
    """Give every batch size among a method's fields and theirs."""
    for holder in [value] if depth and not isinstance(value, tuple) else []:
        for name in (*getattr(holder, "__dataclass_fields__", ()), *getattr(holder, "__struct_fields__", ())):
            found = getattr(holder, name)
            if name.endswith("batch_size") and isinstance(found, int):
                yield found
            yield from _batch_sizes(found, depth - 1)
    for part in value if isinstance(value, tuple) and depth else ():
        yield from _batch_sizes(part, depth - 1)


def nearly_everything_can_be_forgotten(subject: Subject) -> None:
    """It works where fewer rows are retained than forgotten."""
    _, problem = subject.home()
    _sound(subject, problem, None, tuple(range(NUM_ROWS - 4)))


class _Telling(Hooks):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def on_stage(self, name: str, num_steps: int) -> None:
        self.stages.append(name)


def missing_holdout_is_refused_before_any_work(subject: Subject) -> None:
    """Where holdout rows are needed and not given, `errors.BadRequest` says so before any work."""
    skip_unless("holdout" in subject.method.needs, "the method needs no holdout rows")
    _, problem = subject.home()
    hooks = _Telling()
    try:
        subject.unlearn(problem, split=problem.split(with_holdout=False), hooks=hooks)
    except errors.BadRequest as error:
        require("holdout" in str(error), "a message that names the holdout", error)
        require(not hooks.stages, "no work before the refusal", hooks.stages)
        return
    fail("errors.BadRequest", "a result")


def holdout_that_is_not_needed_may_be_missing(subject: Subject) -> None:
    """Where `needs` does not name holdout rows, a split without them gives the same bytes."""
    skip_unless("holdout" not in subject.method.needs, "the method needs holdout rows")
    skip_unless(not isinstance(subject.method, FromFunction), "a function may look at the validation rows")
    name, problem = subject.home()
    result = subject.unlearn(problem, split=problem.split(with_holdout=False))
    moved = pictures.differing(pictures.content(subject.run(name).result.model), pictures.content(result.model))
    require(not moved, "the same bytes", f"others: {moved}")


def _counted(subject: Subject) -> tuple[int, int, int]:
    """Give distinct training rows read, and the rows that the engine counted forward and backward, and forward."""
    _, problem = subject.home()
    watched = pictures.Watched(*problem.arrays(), lists_labels=True)
    cost = subject.call_(problem, problem.make(), split=problem.split(watched)).cost
    probed = {0, NUM_ROWS // 2, NUM_ROWS - 1}  # looked at when a list of labels is believed
    return len(set(watched.read) - probed), cost.trained_rows, cost.forward_rows


def cost_covers_the_rows_read(subject: Subject) -> None:
    """The engine counts at least one pass for every training row that is read, and none where none is."""
    read, trained, forward = _counted(subject)
    require(trained >= 0 and forward >= 0, "counts that are not negative", (trained, forward))
    require(trained + forward >= read, f"at least {read} rows to be counted, as many as were read", trained + forward)
    needed = subject.method.needs & {"forget", "retain", "holdout"}
    require(bool(needed) or trained + forward == 0, "nothing counted where no rows are needed", trained + forward)


def random_augmentation_follows_the_seed(subject: Subject) -> None:
    """A data set that draws from the global generators gives the same bytes for the same seed."""
    _, problem = subject.home()
    found = [pictures.content(subject.unlearn(problem, split=problem.split(_Augmented(*problem.arrays()))).model)]
    torch.rand(3)  # another state of the world
    found.append(pictures.content(subject.unlearn(problem, split=problem.split(_Augmented(*problem.arrays()))).model))
    require(found[0] == found[1], "the same bytes", f"others: {pictures.differing(*found)}")


class _Augmented(pictures.Watched):
    """Draws noise from torch's global generator for each example."""

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        inputs, label = super().__getitem__(row)
        noise = torch.rand(())
        return (inputs * (1 + 0.1 * noise) if inputs.is_floating_point() else inputs), label


CHECKS: tuple[Callable[[Subject], None], ...] = (
    needs_are_known,
    forget_rows_are_read_if_named,
    retain_rows_are_read_if_named,
    holdout_rows_are_read_if_named,
    rows_to_test_on_are_never_read,
    retain_rows_are_left_alone_at_the_front_door,
    fresh_network_is_built_if_named,
    inputs_are_never_written_to,
    labels_are_never_written_to,
    split_is_not_changed,
    arrays_and_a_dataset_give_the_same,
    one_forget_row_will_do,
    more_forget_rows_than_a_batch_will_do,
    nearly_everything_can_be_forgotten,
    missing_holdout_is_refused_before_any_work,
    holdout_that_is_not_needed_may_be_missing,
    cost_covers_the_rows_read,
    random_augmentation_follows_the_seed,
)
