"""What the rows show, each read once: rows that cannot be read or computed with, and digests and distances for copies."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from excise import params
from excise.data.rows import ArraySource, Rows, Source, as_labels
from excise.data.split import Split
from excise.diagnosis.findings import Finding, counted, listed, placed, theirs
from excise.diagnosis.neighbours import (
    MAX_OTHERS,
    MAX_QUERIES,
    MAX_REFERENCES,
    MIN_REFERENCES,
    Neighbours,
    drawn,
    features,
)
from excise.train.hooks import Hooks

NUM_TWICE = 64
CHUNK_BYTES = 1 << 24
LABEL_KEYS = ("label", "labels", "target", "targets")


@dataclass(frozen=True, eq=False)
class Heard(Source):
    """A source whose labels were heard when its rows were read, so that nobody reads the rows again for them."""

    inner: Source
    known: dict[int, Any]

    def __len__(self) -> int:
        return len(self.inner)

    def read(self, ids: Tensor) -> Any:
        """Read the rows."""
        return self.inner.read(ids)

    def labels(self, ids: Tensor) -> Tensor:
        """Give the labels that were heard; what is no number is left to the source to refuse."""
        wanted = ids.tolist()
        if not all(row in self.known for row in wanted):
            return self.inner.labels(ids)
        return as_labels(torch.tensor([self.known[row] for row in wanted]))


@dataclass
class Census:
    """What reading every row once came to.

    Attributes:
        sizes: by part, how many rows.
        digests: of the inputs of each forget row, in order of id.
        answers: of each forget row, the label; None where the content is no pair `(inputs, label)`.
        labels: by part, each row's label by id, of those that have one.
        infinite: by part, positions of rows that hold a NaN or an infinity.
        copies: by part, positions of forget rows that stand there again, each with whether a copy has another label.
        near: distances to the nearest rows elsewhere; None where inputs are not numbers to be compared.
    """

    sizes: dict[str, int]
    digests: list[bytes] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    labels: dict[str, dict[int, Any]] = field(default_factory=dict)
    infinite: dict[str, list[int]] = field(default_factory=dict)
    copies: dict[str, dict[int, bool]] = field(default_factory=dict)
    near: Neighbours | None = None


def parts(split: Split) -> dict[str, Rows]:
    """Give forget, and (where there are any) retain and test."""
    every = {"forget": split.forget, "retain": split.retain, "test": split.test}
    return {name: rows for name, rows in every.items() if rows}


def census(split: Split, seed: int, hooks: Hooks) -> Census:
    """Read every forget, retain and test row once, and at most 500 retain rows once more.

    Raises:
        errors.BadData: a row that cannot be read.
    """
    named = parts(split)
    found = Census({name: len(rows) for name, rows in named.items()})
    shown: list[Tensor] = []
    chosen = drawn(split.forget.ids, MAX_QUERIES, seed, "forget")

    def keep(inputs: list[Any], ids: Tensor) -> None:
        numbers = features(inputs[0]) if len(inputs) == 1 else None
        shown.extend([] if numbers is None else [numbers[torch.isin(ids, chosen)]])

    _pass_over("forget", split.forget, found, keep, hooks)
    if shown and len(split.retain) > MIN_REFERENCES:
        found.near = _neighbours(split, torch.isin(split.forget.ids, chosen), torch.cat(shown), seed)
    where = defaultdict(list)
    for place, digest in enumerate(found.digests):
        where[digest].append(place)
    for name in [name for name in named if name != "forget"]:
        others = drawn(named[name].ids, MAX_OTHERS, seed, name)
        _pass_over(name, named[name], found, _meeting(found.near, name, others), hooks, where)
    return found


def _meeting(near: Neighbours | None, name: str, others: Tensor) -> Callable[[list[Any], Tensor], None]:
    def meet(inputs: list[Any], ids: Tensor) -> None:
        numbers = features(inputs[0]) if near is not None and len(inputs) == 1 else None
        if near is not None and numbers is not None and numbers.shape[1] == near.forget.shape[1]:
            among = torch.isin(ids, others)
            near.meet(name, numbers[among], ids[among])

    return meet


def _pass_over(
    name: str,
    rows: Rows,
    found: Census,
    also: Callable[[list[Any], Tensor], None],
    hooks: Hooks,
    where: dict[bytes, list[int]] | None = None,
) -> None:
    """Read a part once, into the census: forget rows themselves (`where` is None), or what of them stands here again."""
    found.labels[name], found.infinite[name], found.copies[name] = {}, [], {}
    first, size = 0, _chunk_size(name, rows)
    hooks.on_stage(f"reading {name} rows", -(-len(rows) // size))
    for ids in torch.split(rows.ids, size):
        content = read(name, rows, ids)
        inputs, labels = _inputs(content), _labels(content)
        found.infinite[name] += [first + place for place in _not_finite(inputs, len(ids))]
        digests = _digests(inputs, len(ids))
        answers = [None] * len(ids) if labels is None else labels
        if labels is not None:
            found.labels[name].update(zip(ids.tolist(), labels, strict=True))
        if where is None:
            found.digests += digests
            found.answers += answers
        else:
            for digest, answer in zip(digests, answers, strict=True):
                for original in where.get(digest, ()):
                    other = found.answers[original] != answer
                    found.copies[name][original] = found.copies[name].get(original, False) or other
        also(inputs, ids)
        first += len(ids)
        hooks.on_step()
    hooks.on_stage_end(f"reading {name} rows")


def _neighbours(split: Split, chosen: Tensor, shown: Tensor, seed: int) -> Neighbours | None:
    """Give the search for near copies, with at most 500 retain rows for comparison, read here."""
    reference = drawn(split.retain.ids, MAX_REFERENCES, seed, "reference")
    size = _chunk_size("retain", split.retain)
    own = [features(_inputs(read("retain", split.retain, ids))[0]) for ids in torch.split(reference, size)]
    if any(one is None or one.shape[1] != shown.shape[1] for one in own):
        return None
    numbers = torch.cat([one for one in own if one is not None])
    if not bool(numbers.isfinite().all()):
        return None  # told as an error of the data; distances would be told besides it
    return Neighbours(chosen.nonzero().flatten().tolist(), shown, reference, numbers)


def read(name: str, rows: Rows, ids: Tensor) -> Any:
    """Read rows by id.

    Raises:
        errors.BadData: the data set raises, or its examples cannot be put together in a batch.
    """
    with theirs(f"{name} rows could not be read", "correct the data set, or leave those rows out of it"):
        return rows.source.read(ids)


def _chunk_size(name: str, rows: Rows) -> int:
    """Give how many rows to read at a time. Arrays say how large a row is; other data are read in small batches."""
    if not isinstance(rows.source, ArraySource):
        return 64
    return max(1, min(1024, CHUNK_BYTES // max(1, sum(t[:1].numel() * t.element_size() for t in rows.source.tensors))))


def _labels(content: Any) -> list[Any] | None:
    pair = isinstance(content, tuple | list) and len(content) == 2
    return content[1].tolist() if pair and isinstance(content[1], Tensor) else None


def _inputs(content: Any) -> list[Any]:
    """Give what a network is shown of collated examples, one entry a row along the first axis: all but the label."""
    if isinstance(content, dict):
        return [leaf for key in sorted(content) if key not in LABEL_KEYS for leaf in _leaves(content[key])]
    if isinstance(content, tuple | list) and len(content) > 1:
        return [leaf for part in content[:-1] for leaf in _leaves(part)]
    return list(_leaves(content))


def _leaves(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        for key in sorted(content):
            yield from _leaves(content[key])
    elif isinstance(content, tuple | list) and not all(isinstance(part, str | bytes) for part in content):
        for part in content:
            yield from _leaves(part)
    else:
        yield content  # a tensor, or the texts of a batch


def _digests(inputs: list[Any], num_rows: int) -> list[bytes]:
    """Give one digest a row, of the bytes of its inputs."""
    running = [hashlib.blake2b(digest_size=16) for _ in range(num_rows)]
    for leaf in inputs:
        if isinstance(leaf, Tensor):
            kind = f"{leaf.dtype}{tuple(leaf.shape[1:])}".encode()
            content, step = params.raw_bytes(leaf), leaf[0].numel() * leaf.element_size()
            for place, one in enumerate(running):
                one.update(kind)
                one.update(content[place * step : (place + 1) * step])
        else:
            for one, part in zip(running, leaf, strict=True):
                one.update(repr(part).encode())
    return [one.digest() for one in running]


def _not_finite(inputs: list[Any], num_rows: int) -> list[int]:
    """Give the places of rows with a NaN or an infinity."""
    broken = torch.zeros(num_rows, dtype=torch.bool)
    for leaf in inputs:
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
            broken |= ~leaf.isfinite().reshape(num_rows, -1).all(1)
    return broken.nonzero().flatten().tolist()


def infinite(found: Census) -> list[Finding]:
    """Find inputs that hold a NaN or an infinity."""
    broken = {name: places for name, places in found.infinite.items() if places}
    if not broken:
        return []
    return [
        Finding(
            "inputs that are not finite (NaN or infinity), on which no loss and no gradient is",
            "; ".join(placed(name, places, found.sizes[name]) for name, places in broken.items()),
            "correct or leave out those rows, or scale the inputs without dividing by zero",
            "error",
        )
    ]


def one_label(found: Census) -> list[Finding]:
    """Find training rows that all have one label."""
    known = [value for name in ("forget", "retain") for value in found.labels.get(name, {}).values()]
    if not known or any(isinstance(value, list) for value in known) or len(set(known)) > 1:
        return []
    return [
        Finding(
            "all training rows have the same label, so a network that says it always is right: accuracies and margins "
            "cannot tell forgetting from anything",
            f"{sum(found.sizes.get(name, 0) for name in ('forget', 'retain'))} training rows",
            "give the labels the network was trained on; for other targets pass forward= and loss=",
            "warning",
        )
    ]


def read_twice(split: Split, seed: int) -> list[Finding]:
    """Find data that differ between two reads. Reads at most 64 rows of each data set twice; arrays in memory not at all.

    Raises:
        errors.BadData: a row that cannot be read.
    """
    found, num_read = {}, 0
    for name, rows in (("training", split.train), ("test", split.test)):
        if (
            rows is None
            or isinstance(rows.source, ArraySource)
            or (name == "test" and rows.source is split.train.source)
        ):
            continue
        sample = drawn(rows.ids, NUM_TWICE, seed, "twice")
        first, second = ([_row_digest(name, rows, row) for row in torch.split(sample, 1)] for _ in range(2))
        found[name] = sum(one != other for one, other in zip(first, second, strict=True))
        num_read = max(num_read, len(sample))
    differing = {name: number for name, number in found.items() if number}
    if not differing:
        return []
    return [
        Finding(
            "data that differ between two reads (augmentation, or a random crop): scores and audits would be of other rows "
            "in every pass, and copies of forget rows cannot be found reliably",
            listed(
                [f"{counted(number, f'{name} row')} of a sample of {num_read}" for name, number in differing.items()]
            ),
            "give the data set without augmentation to localize, doctor and audit; keep it in the training plan, and leave "
            "random transforms out of the test set",
            "warning",
        )
    ]


def _row_digest(name: str, rows: Rows, row: Tensor) -> bytes:
    return _digests(list(_leaves(read(name, rows, row))), 1)[0]
