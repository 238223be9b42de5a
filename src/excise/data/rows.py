"""`Rows`: some rows of a data set, by id, and the one way to read them.

A data set is a pair of arrays or tensors, or any map-style dataset. Arrays are read by index; map-style datasets one
example at a time, put together by torch's default collation. Two data sets of one kind of example can be read as one.
"""

from __future__ import annotations

import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, default_collate

from excise import errors, params
from excise.data.moving import gathered, moved

_CPU = torch.device("cpu")


class Source(ABC):
    """Where rows come from: a length, and the content of a batch of ids."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def workers(self) -> int:
        """How many processes read ahead; 0 where it is done as it comes."""
        return 0

    @abstractmethod
    def read(self, ids: Tensor) -> Any:
        """Give the collated examples of `ids` (int64 `[batch]`), on the CPU."""

    def read_to(self, ids: Tensor, device: torch.device) -> Any:
        """Give the same on a device, where sequences are tuples."""
        return moved(self.read(ids), device)

    @abstractmethod
    def labels(self, ids: Tensor) -> Tensor:
        """Give the labels of `ids` as int64 `[rows]`, on the CPU."""


@dataclass(frozen=True, eq=False)
class ArraySource(Source):
    """Rows of tensors that lie in memory, the processor's or an accelerator's, the last of them the labels."""

    tensors: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def read(self, ids: Tensor) -> tuple[Tensor, ...]:
        """Index every tensor by `ids`."""
        return gathered(self.tensors, ids, _CPU)

    def read_to(self, ids: Tensor, device: torch.device) -> Any:
        """Index every tensor where it lies."""
        return self.read(ids) if device == _CPU else gathered(self.tensors, ids, device)

    def labels(self, ids: Tensor) -> Tensor:
        """Index the last tensor by `ids`."""
        return gathered((as_labels(self.tensors[-1]),), ids, _CPU)[0]


@dataclass(frozen=True, eq=False)
class DatasetSource(Source):
    """Rows of a map-style dataset of `(input, label)`, or of whatever the user's `forward` understands."""

    dataset: Dataset[Any]
    num_workers: int = 0

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @property
    def workers(self) -> int:
        """As many as were asked for."""
        return self.num_workers

    def read(self, ids: Tensor) -> Any:
        """Read each example once and collate them."""
        return default_collate([self.dataset[index] for index in ids.tolist()])

    def labels(self, ids: Tensor) -> Tensor:
        """Read the labels from the dataset's own list of them (`targets` or `labels`), else row by row.

        No row but those asked for is read.
        """
        listed = _listed_labels(self.dataset, ids)
        if listed is not None:
            return listed.index_select(0, ids)
        return torch.tensor([self._label(index) for index in ids.tolist()], dtype=torch.int64)

    def _label(self, index: int) -> int:
        example = self.dataset[index]
        if not _is_pair(example):
            raise errors.BadData(
                f"expected examples of the form (input, label) to read labels from, found {type(example).__name__}; "
                "give row ids instead of a rule about labels, and forward= for other shapes of example"
            )
        label = _integer(example[1])
        if label is None:
            kind = getattr(example[1], "dtype", type(example[1]).__name__)
            raise errors.BadData(_NO_LABEL.format(f"{kind} in row {index}"))
        return label


@dataclass(frozen=True, eq=False)
class JoinedSource(Source):
    """Rows of two sources read as one data set: the ids of the second follow those of the first.

    Nothing is copied. A batch is read from both, each row once, and put together in the order asked for.

    Attributes:
        first: its ids stay.
        second: `len(first)` is added to its ids.

    Raises:
        errors.BadData: a source without rows, or whose examples hold something else than tensors and numbers; or two whose
            examples differ in form, type or shape, going by the first row of each.
    """

    first: Source
    second: Source

    def __post_init__(self) -> None:
        """Read one row of each to see that they are of one kind."""
        if not (len(self.first) and len(self.second)):
            raise errors.BadData(
                f"expected rows in both data sets to join, found {len(self.first)} and {len(self.second)}; leave out the "
                "empty one"
            )
        first, second = (_kind(source.read(torch.tensor([0]))) for source in (self.first, self.second))
        if first != second:
            raise errors.BadData(
                f"expected data sets of one kind of example to join, found {first} and {second}; give both in one type and "
                "shape"
            )

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @property
    def workers(self) -> int:
        """As many as either has."""
        return max(self.first.workers, self.second.workers)

    def read(self, ids: Tensor) -> Any:
        """Read from each source what is its own, and put it in order."""
        return self._each(ids, lambda source, own: source.read(own))

    def read_to(self, ids: Tensor, device: torch.device) -> Any:
        """Read from each what is its own, and put it in order there."""
        return self._each(ids, lambda source, own: source.read_to(own, device))

    def labels(self, ids: Tensor) -> Tensor:
        """Ask each source for the labels of its own rows."""
        found: Tensor = self._each(ids, lambda source, own: source.labels(own))
        return found

    def _each(self, ids: Tensor, ask: Callable[[Source, Tensor], Any]) -> Any:
        border = len(self.first)
        inside = ids < border
        if bool(inside.all()):
            return ask(self.first, ids)
        if not bool(inside.any()):
            return ask(self.second, ids - border)
        parts = [ask(self.first, ids[inside]), ask(self.second, ids[~inside] - border)]
        return _merged(parts, torch.cat([inside.nonzero(), (~inside).nonzero()]).flatten().argsort())


def _kind(content: Any) -> str:
    """Say what a batch is made of: the form, and of each tensor its type and the shape of one row."""
    if isinstance(content, Tensor) and content.ndim:
        return f"{content.dtype}{list(content.shape[1:])}".removeprefix("torch.")
    if isinstance(content, dict):
        return f"{{{', '.join(f'{key!r}: {_kind(content[key])}' for key in sorted(content))}}}"
    if isinstance(content, tuple | list) and not any(isinstance(part, str | bytes) for part in content):
        return f"({', '.join(_kind(part) for part in content)})"
    raise errors.BadData(
        "expected examples of tensors and numbers to join two data sets, found text or other objects; have both data sets "
        "give tensors"
    )


def _merged(parts: Sequence[Any], order: Tensor) -> Any:
    """Put batches of one kind one after another and take their rows in an order; sequences become tuples."""
    if isinstance(parts[0], Tensor):
        whole = torch.cat(list(parts))
        return whole.index_select(0, moved(order, whole.device))
    if isinstance(parts[0], dict):
        return {key: _merged([part[key] for part in parts], order) for key in parts[0]}
    return tuple(_merged(some, order) for some in zip(*parts, strict=True))


def _dataset_of(source: Source) -> Dataset[Any]:
    """Give a source as a map-style dataset; of two arrays joined a new array, since the user's code may want its tensors."""
    if isinstance(source, ArraySource):
        return TensorDataset(*source.tensors)
    if isinstance(source, DatasetSource):
        return source.dataset
    if isinstance(source, JoinedSource):
        both = [_dataset_of(source.first), _dataset_of(source.second)]
        if all(isinstance(one, TensorDataset) for one in both):
            return TensorDataset(*(torch.cat(parts) for parts in zip(*(one.tensors for one in both), strict=True)))  # type: ignore[attr-defined]
    return _OneByOne(source)


class _OneByOne(Dataset[Any]):
    """The examples of a source, each by itself, all of them of tensors."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        return _only(self._source.read(torch.tensor([index])))


def _only(content: Any) -> Any:
    """Give the one example of a batch of one."""
    if isinstance(content, Tensor):
        return content[0]
    if isinstance(content, dict):
        return {key: _only(part) for key, part in content.items()}
    return tuple(_only(part) for part in content) if isinstance(content, tuple | list) else content


def _listed_labels(dataset: Dataset[Any], ids: Tensor) -> Tensor | None:
    """Give a dataset's own list of labels, if it has one that agrees with the first, middle and last example of some."""
    if isinstance(dataset, Subset):
        indices = torch.as_tensor(dataset.indices)
        inner = _listed_labels(dataset.dataset, indices[ids])
        return None if inner is None else inner[indices]
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if not isinstance(values, Tensor | np.ndarray | Sequence):
            continue
        try:
            listed = torch.as_tensor(values)
        except (TypeError, ValueError):  # names, or several labels a row
            continue
        if listed.shape != (len(dataset),) or listed.is_floating_point() or listed.dtype == torch.bool:  # type: ignore[arg-type]
            continue
        probed = {int(ids[place]) for place in (0, len(ids) // 2, -1)} if len(ids) else set()
        if all(_agrees(dataset, index, listed) for index in sorted(probed)):
            return listed.to(torch.int64)
    return None


def _agrees(dataset: Dataset[Any], index: int, listed: Tensor) -> bool:
    example = dataset[index]
    return _is_pair(example) and _integer(example[1]) == int(listed[index])


def _is_pair(example: object) -> bool:
    return isinstance(example, tuple | list) and len(example) == 2


def _integer(label: Any) -> int | None:
    """Give a label as an int if it is an integer of any kind: Python's, numpy's, or a tensor without axes."""
    if isinstance(label, bool) or getattr(label, "dtype", None) == torch.bool or getattr(label, "ndim", 0):
        return None
    try:
        return operator.index(label)
    except TypeError:
        return None


_NO_LABEL = (
    "expected one integer label a row, found {}; "
    "class labels are integers from 0; other targets need forward= and loss="
)


def as_labels(values: Tensor) -> Tensor:
    """Give class labels as int64 `[rows]`, or refuse what are none."""
    if values.ndim != 1 or values.is_floating_point() or values.dtype == torch.bool:
        raise errors.BadData(_NO_LABEL.format(f"{values.dtype} of shape {tuple(values.shape)}"))
    return values.to(torch.int64)


def as_source(data: object) -> Source:
    """Turn what a user has (a pair of arrays or tensors, or a map-style dataset) into a source of rows.

    Raises:
        errors.BadData: arrays of different length, an iterable-style dataset, or something else entirely.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, TensorDataset):
        return _array_source(data.tensors)
    if isinstance(data, tuple | list) and data and all(isinstance(part, Tensor | np.ndarray) for part in data):
        return _array_source([as_tensor(part) for part in data])
    other = (Tensor, np.ndarray, dict, str, bytes, IterableDataset)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, other):
        return DatasetSource(data)  # type: ignore[arg-type]
    raise errors.BadData(
        "expected a pair of arrays or tensors (inputs, labels), or a map-style dataset with __len__ and __getitem__; "
        f"found {type(data).__name__}"
    )


def as_tensor(values: Any) -> Tensor:
    """Give numbers as a tensor, sharing their memory where that is possible, or refuse what are none."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError) as error:
        kind = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise errors.BadData(f"expected arrays of numbers, found {kind} ({error})") from error


def _array_source(parts: Sequence[Tensor]) -> ArraySource:
    lengths = [len(part) if part.ndim else 0 for part in parts]
    if len(parts) < 2 or len(set(lengths)) > 1 or not all(part.ndim for part in parts):
        raise errors.BadData(f"expected inputs and labels of one length, found arrays of lengths {lengths}")
    *inputs, labels = (part.detach() for part in parts)
    if labels.dtype in (torch.uint16, torch.uint32, torch.uint64):  # torch cannot index them
        labels = labels.to(torch.int64)
    return ArraySource((*inputs, labels))


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a source, in ascending order of id.

    Attributes:
        source: where they are read.
        ids: int64 `[rows]`, stable ids into the source, never positions in this set. A list to train on may hold an id
            several times; each is a row of it.
    """

    source: Source
    ids: Tensor

    @classmethod
    def all_of(cls, data: object) -> Rows:
        """Give every row of a data set."""
        source = as_source(data)
        return cls(source, torch.arange(len(source)))

    def __len__(self) -> int:
        return len(self.ids)

    def labels(self) -> Tensor:
        """Give the labels as int64 `[rows]`."""
        return self.source.labels(self.ids)

    def head(self, count: int) -> Rows:
        """Give the first `count` rows."""
        return Rows(self.source, self.ids[:count])

    def as_dataset(self) -> Dataset[Any]:
        """Give the rows as a map-style dataset, for code that wants one."""
        return Subset(_dataset_of(self.source), self.ids.tolist())

    def fingerprint(self) -> str:
        """Give the SHA-256 of the rows' ids and content. Reads every row once."""
        running = hashlib.sha256(params.raw_bytes(self.ids))
        for chunk in torch.split(self.ids, 1024) if len(self) else ():
            for leaf in _leaves(self.source.read(chunk)):
                running.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode() + bytes(params.raw_bytes(leaf)))
        return running.hexdigest()


def _leaves(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        for key in sorted(content):
            yield from _leaves(content[key])
    elif isinstance(content, tuple | list):
        for part in content:
            yield from _leaves(part)
    else:
        yield torch.frombuffer(bytearray(repr(content).encode()), dtype=torch.uint8)
