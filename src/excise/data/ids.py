"""Data whose batches carry the rows' ids: `(inputs, ids, labels)`, for networks that treat each row in its own way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from excise import errors
from excise.data.rows import ArraySource, DatasetSource, as_source


class _Numbered(Dataset[tuple[Any, int, Any]]):
    """The examples `(input, label)` of a map-style dataset as `(input, id, label)`."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Any, int, Any]:
        example = self.dataset[index]
        if not (isinstance(example, tuple | list) and len(example) == 2):
            raise errors.BadData(
                f"expected examples of the form (input, label) to put ids into, found {type(example).__name__}; "
                "have the dataset give (input, id, label) itself"
            )
        return example[0], index, example[1]


def with_ids(data: object) -> tuple[Tensor, Tensor, Tensor] | Dataset[tuple[Any, int, Any]]:
    """Give the same data with each row's id between input and label.

    A row's id is its place in `data`. So give the whole training set, and make the `Split`, or any `Subset`, of what comes
    out: then the ids in the batches are those of the split. For `forward=excise.networks.tied_forward`.

    Nothing is read or copied. Rules about labels, such as `of_class`, work on arrays; for a map-style dataset take the ids
    from a split of the dataset itself.

    Args:
        data: a pair of arrays or tensors, or a map-style dataset of `(input, label)`.

    Returns:
        For arrays three tensors `(inputs, ids, labels)`; for a dataset one of `(input, id, label)`.

    Raises:
        errors.BadData: data of another shape; for a dataset when a row is read.

    >>> [part.tolist() for part in with_ids((torch.ones(2, 1), torch.tensor([4, 5])))]
    [[[1.0], [1.0]], [0, 1], [4, 5]]
    """
    source = as_source(data)
    if isinstance(source, ArraySource) and len(source.tensors) == 2:
        inputs, labels = source.tensors
        return inputs, torch.arange(len(source)), labels
    if isinstance(source, DatasetSource):
        return _Numbered(source.dataset)
    raise errors.BadData("expected a pair of arrays or a map-style dataset to put ids into, found rows of another form")
