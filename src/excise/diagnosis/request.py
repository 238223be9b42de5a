"""What the request itself shows: how much is to be forgotten, whose rows they are, and how they were loaded."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from excise import errors
from excise.data.split import Split
from excise.diagnosis.findings import Finding, counted, placed

LARGE_FRACTION = 0.3
MOST_FRACTION = 0.5


def size(split: Split) -> list[Finding]:
    """Find a forget set so large that retraining is the right method. Reads nothing."""
    num_forget, num_rows = len(split.forget), len(split.train)
    share = num_forget / num_rows
    if share <= LARGE_FRACTION or not len(split.retain):  # of how many training rows they are a part is not known then
        return []
    most = share > MOST_FRACTION
    return [
        Finding(
            f"{100 * share:.0f} % of the training rows are to be forgotten. Retraining reads the other {100 - 100 * share:.0f} "
            f"% each epoch, so it costs {1 - share:.2f} of the first training and is exact"
            + (
                "; no recipe can be expected to do as well, and there is more to remove than to keep"
                if most
                else f"; a recipe saves at most that, and an audit with 8 oracles spends it {8 * (1 - share):.1f} trainings "
                "over"
            ),
            f"{num_forget} of {num_rows} training rows",
            "retrain on the retain rows" if most else "retrain on the retain rows, or forget fewer rows at a time",
            "warning",
        )
    ]


def as_groups(given: object, num_rows: int) -> list[object]:
    """Give one plain value a row.

    Raises:
        errors.BadRequest: not one value for each row, or values that are not plain.
    """
    if isinstance(given, Tensor | np.ndarray):
        values = list(given.tolist()) if given.ndim == 1 else None
    elif isinstance(given, Sequence) and not isinstance(given, str | bytes):
        values = [value.item() if isinstance(value, Tensor | np.generic) else value for value in given]
    else:
        values = None
    if values is None:
        raise errors.BadRequest(
            f"groups: expected one value a training row (list, array or tensor), found {type(given).__name__}"
        )
    if len(values) != num_rows:
        raise errors.BadRequest(
            f"groups: expected one value for each of the {num_rows} training rows, by id; found {len(values)}"
        )
    try:
        hash(tuple(values))
    except TypeError as error:
        raise errors.BadRequest(f"groups: expected plain values, numbers or texts ({error})") from error
    return values


def groups(split: Split, values: Sequence[object]) -> list[Finding]:
    """Find groups (one person's rows, one source's) that stand in forget and in retain. Reads nothing."""
    places = defaultdict(list)
    for place, row in enumerate(split.forget.ids.tolist()):
        places[values[row]].append(place)
    shared = set(places) & {values[row] for row in split.retain.ids.tolist()}
    if not shared:
        return []
    remaining = sum(values[row] in shared for row in split.retain.ids.tolist())
    return [
        Finding(
            f"{counted(len(shared), 'group')} with rows in forget and in retain: {counted(remaining, 'row')} of theirs would "
            "stay and go on teaching the network about them",
            placed("forget", (place for group in shared for place in places[group]), len(split.forget)),
            "forget every row of a group, as in excise.data.of_group(column, values), or let it be if only some of a "
            "person's rows were asked for",
            "warning",
        )
    ]


def loader(split: Split, given: DataLoader[object]) -> list[Finding]:
    """Find a training loader that does not give every row in an epoch.

    Reads no row; a sampler of the user's own is asked for one epoch of indices (a copy of it, with its own random numbers).
    """
    name = f"loader ({type(given).__name__})"
    if isinstance(given.dataset, IterableDataset):
        what = "the loader reads a stream, whose rows have no ids: which of them the network saw cannot be said"
        return [Finding(what, name, "give a map-style data set, with __len__ and __getitem__", "error")]
    num_rows = len(given.dataset)  # type: ignore[arg-type]
    found = []
    if num_rows != len(split.train):
        found.append(
            Finding(
                f"the loader reads {counted(num_rows, 'row')}, the split is of {len(split.train):,}: the network was trained "
                "on other rows than the split says",
                name,
                "make the split of the rows that the network was trained on",
                "warning",
            )
        )
    rest = 0 if given.batch_size is None else num_rows % given.batch_size
    if given.drop_last and rest:
        which = "the same in every epoch" if isinstance(given.sampler, SequentialSampler) else "others in every epoch"
        found.append(
            Finding(
                f"drop_last leaves out {counted(rest, 'row')} an epoch, {which}: the network may never have seen some",
                name,
                "say so in the plan (drop_last=true) when you audit, so that the oracles are trained alike",
                "warning" if isinstance(given.sampler, SequentialSampler) else "note",
            )
        )
    return found + _left_out(given, num_rows, name)


def _left_out(given: DataLoader[object], num_rows: int, name: str) -> list[Finding]:
    own = given.batch_size is None and given.batch_sampler is not None
    distinct = len(_an_epoch(given.batch_sampler if own else given.sampler, num_rows))
    if distinct >= num_rows:
        return []
    kind = type(given.batch_sampler if own else given.sampler).__name__
    return [
        Finding(
            f"{kind} gives {distinct:,} of {num_rows:,} rows in an epoch: some are seen more often than others, and some "
            "perhaps never; a row never seen has nothing to be forgotten",
            name,
            "shuffle without replacement; or audit with --plan pkg.mod:train, your own training, so that the oracles are "
            "trained alike",
            "warning",
        )
    ]


def _an_epoch(sampler: Iterable[object] | None, num_rows: int) -> set[object]:
    """Give the distinct ids of one epoch, without moving the sampler's own random numbers."""
    if sampler is None or isinstance(sampler, SequentialSampler):
        return set(range(num_rows))
    if isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples >= num_rows:
        return set(range(num_rows))
    held = _generator_states(sampler)
    try:
        epoch = itertools.islice(iter(copy.copy(sampler)), 4 * num_rows)  # a sampler may have no end
        return {row for one in epoch for row in (one if isinstance(one, list | tuple) else [one])}
    finally:
        for generator, state in held:
            generator.set_state(state)


def _generator_states(sampler: object) -> list[tuple[torch.Generator, Tensor]]:
    """Give the random numbers' places of a sampler and of the sampler that a batch sampler holds."""
    holders = (sampler, getattr(sampler, "sampler", None))
    generators = (getattr(holder, "generator", None) for holder in holders)
    return [(one, one.get_state()) for one in generators if isinstance(one, torch.Generator)]
