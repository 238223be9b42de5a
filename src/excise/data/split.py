"""`Split`: the training rows, parted into what is to be forgotten and what is kept, beside rows never trained on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from excise import checks, errors, seeds
from excise.data.forget import Rule
from excise.data.rows import ArraySource, DatasetSource, Rows, as_source


class _Every(Rule):
    """Every training row, for `Split.of_forget`."""

    def ids(self, train: Rows) -> Tensor:
        return train.ids


_EVERY = _Every()


class Split:
    """Which rows to forget, which to retain, which to test on. Immutable.

    Who holds the rows to forget alone, and not the rest of what the network was trained on, makes one by `Split.of_forget`.

    Args:
        train: the data the network was trained on: a map-style dataset of `(input, label)`, or a pair of arrays or tensors.
        forget: row ids, a boolean mask over the rows, or a rule such as `excise.data.of_class(5)`.
        test: rows the network never saw, as another data set; or as ids of rows of `train` that were held out.
        holdout: a second set of rows never seen, for choosing settings; like `test`.

    Attributes:
        train: `Rows` the network was trained on (forget and retain together).
        forget: `Rows` to forget.
        retain: `Rows` of `train` that stay; none if made by `of_forget`.
        test: `Rows` for measuring, or None.
        holdout: `Rows` for choosing, or None.

    Raises:
        errors.BadSplit: ids that are negative, repeated, out of range or not integers; a mask of the wrong length; nothing to
            forget or nothing to retain; test or holdout rows that were trained on.
        errors.BadData: data of another shape than the above.

    >>> split = Split((torch.zeros(5, 2), torch.arange(5)), forget=[3, 1])
    >>> split.forget.ids.tolist(), split.retain.ids.tolist()
    ([1, 3], [0, 2, 4])
    """

    __slots__ = ("forget", "holdout", "retain", "test", "train")

    def __init__(self, train: object, *, forget: object, test: object = None, holdout: object = None) -> None:
        source = as_source(train)
        if len(source) == 0:
            raise errors.BadSplit("expected training rows, found an empty data set")
        every = Rows(source, torch.arange(len(source)))
        kept_out = torch.zeros(len(source), dtype=torch.bool)
        seen = {}
        for name, given in (("test", test), ("holdout", holdout)):
            seen[name] = _unseen(name, given, every, train)
            inside = _ids_inside(seen[name], every)
            if _is_id_list(given):
                kept_out[inside] = True
            elif len(inside):
                raise errors.BadSplit(
                    f"{name}: {len(inside)} of its rows are rows of the training data (the same objects in memory); "
                    f"give rows the network was not trained on, or their ids as {name}=[...]"
                )
        if seen["test"] and seen["holdout"] and _share_rows(seen["test"], seen["holdout"]):
            raise errors.BadSplit(
                "holdout: shares rows with test; settings chosen on test rows make the test worthless"
            )
        trained = Rows(source, every.ids[~kept_out])
        chosen = forget.ids(trained) if isinstance(forget, Rule) else checks.as_ids("forget", forget, len(source))
        overlap = int(kept_out[chosen].sum())
        if overlap:
            raise errors.BadSplit(f"forget: {overlap} of its rows are test or holdout rows, which were not trained on")
        rest = ~kept_out
        rest[chosen] = False
        if len(chosen) == 0:
            raise errors.BadSplit("forget: expected at least one row, found none; name the rows to forget")
        if not bool(rest.any()) and forget is not _EVERY:
            raise errors.BadSplit(
                f"forget: all {len(chosen)} training rows; nothing is left to retain; a network trained on nothing is "
                "an untrained one; if there are others, which are not at hand, call Split.of_forget(rows)"
            )
        self.train: Rows = trained
        self.forget: Rows = Rows(source, chosen)
        self.retain: Rows = Rows(source, every.ids[rest])
        self.test: Rows | None = seen["test"]
        self.holdout: Rows | None = seen["holdout"]

    @classmethod
    def of_forget(cls, rows: object, *, test: object = None, holdout: object = None) -> Split:
        """Give the split of somebody who holds the rows to forget, and not those that stay: there are no retain rows.

        For methods that read none, such as those of `recipes.JiT` and `recipes.NegGrad`. What reads some, an audit too, says so
        before any work.

        Args:
            rows: to forget, all of them: data as for `Split`.
            test: as for `Split`.
            holdout: as for `Split`.

        Raises:
            errors.BadSplit: as `Split`.
            errors.BadData: as `Split`.

        >>> Split.of_forget((torch.zeros(2, 3), torch.arange(2)))
        Split(forget 2, retain 0)
        """
        return cls(rows, forget=_EVERY, test=test, holdout=holdout)

    def require_retain(self, what: str, remedy: str = "") -> None:
        """Refuse a split made by `of_forget`, for the sake of `what`.

        Raises:
            errors.BadSplit: there are no retain rows.
        """
        if len(self.retain) == 0:
            raise errors.BadSplit(
                f"retain: {what} reads rows that stay, and this split has none: it is of rows to forget alone "
                f"(Split.of_forget, --forget all); give all training rows, as Split(train, forget=...){remedy}"
            )

    def narrowed(self, forget: Tensor, *, gone: Tensor) -> Split:
        """Give the split in which only some of the forget rows are to be forgotten now, and others were before.

        Those named in neither stay among the retained until their turn comes.

        Args:
            forget: ids, of this split's forget rows.
            gone: ids of forget rows that are no training rows any more.
        """
        stays = ~torch.isin(self.train.ids, gone)
        kept = stays & ~torch.isin(self.train.ids, forget)
        made = object.__new__(Split)
        made.train = Rows(self.train.source, self.train.ids[stays])
        made.forget = Rows(self.train.source, forget.sort().values)
        made.retain = Rows(self.train.source, self.train.ids[kept])
        made.test, made.holdout = self.test, self.holdout
        return made

    def over(self, rows: Mapping[str, Rows | None]) -> Split:
        """Give the split with every part, by name, read from elsewhere: the same rows under the same ids."""
        made = object.__new__(Split)
        for name in self.__slots__:
            setattr(made, name, rows[name])
        return made

    def smaller(self, num_rows: int, seed: int) -> Split:
        """Give a split of fewer training rows drawn at random, in the same proportion: at least one to forget, two to retain.

        Args:
            num_rows: of the training rows, from 3 (from 1 where none is retained) to all of them.
            seed: of the draw; a smaller draw of one seed is a part of a larger one.

        Raises:
            errors.BadRequest: another number.
        """
        least = 2 if len(self.retain) else 0
        if not 1 + least <= num_rows <= len(self.train) or len(self.retain) < least:
            raise errors.BadRequest(f"num_rows: expected {1 + least} to {len(self.train)}, found {num_rows}")
        num_forget = max(1, round(num_rows * len(self.forget) / len(self.train)))
        num_forget = min(num_forget, num_rows - least, len(self.forget))
        num_retain = min(num_rows - num_forget, len(self.retain))
        forget, retain = (
            rows.ids[torch.randperm(len(rows), generator=seeds.generator(seed, "smaller", name))[:count]].sort().values
            for name, rows, count in (("forget", self.forget, num_forget), ("retain", self.retain, num_retain))
        )
        made = object.__new__(Split)
        made.forget, made.retain = Rows(self.train.source, forget), Rows(self.train.source, retain)
        made.train = Rows(self.train.source, torch.cat([forget, retain]).sort().values)
        made.test, made.holdout = self.test, self.holdout
        return made

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, name):
            raise AttributeError(f"a Split does not change, but {name!r} was set; make another one")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        unseen = f", test {len(self.test)}" if self.test else ""
        return f"Split(forget {len(self.forget)}, retain {len(self.retain)}{unseen})"


def _is_id_list(given: object) -> bool:
    """Say whether `given` names rows of the training data rather than being data of its own."""
    if isinstance(given, Tensor) or (hasattr(given, "dtype") and hasattr(given, "ndim")):
        return True
    return isinstance(given, list | tuple | range | set | frozenset) and all(
        isinstance(value, int | float | str) or getattr(value, "ndim", None) == 0 for value in given
    )


def _unseen(name: str, given: object, every: Rows, train: object) -> Rows | None:
    if given is None:
        return None
    if _is_id_list(given):
        rows = Rows(every.source, checks.as_ids(name, given, len(every)))
    elif given is train:
        rows = every
    else:
        rows = Rows.all_of(given)
    if len(rows) == 0:
        raise errors.BadSplit(f"{name}: expected at least one row, found none; leave it out or give rows")
    return rows


def _ids_inside(rows: Rows | None, every: Rows) -> Tensor:
    """Give the ids of `every` that `rows` would read too: same dataset object, or same memory."""
    if rows is None:
        return torch.zeros(0, dtype=torch.int64)
    if rows.source is every.source:
        return every.ids[torch.isin(every.ids, rows.ids)]
    (inner, its), (outer, ours) = _origin(rows), _origin(every)
    if isinstance(inner, Tensor) and isinstance(outer, Tensor):
        return every.ids[torch.isin(_addresses(outer)[ours], _addresses(inner)[its])]
    return every.ids[torch.isin(ours, its)] if inner is outer else every.ids[:0]


def _share_rows(one: Rows, other: Rows) -> bool:
    return len(_ids_inside(one, other)) > 0


def _origin(rows: Rows) -> tuple[object, Tensor]:
    """Give what rows are read from in the end, a dataset object or the memory of the inputs, and their ids in it."""
    if isinstance(rows.source, ArraySource):
        return rows.source.tensors[0], rows.ids
    if not isinstance(rows.source, DatasetSource):
        return rows.source, rows.ids
    dataset, ids = _base(rows.source.dataset)
    return dataset.tensors[0] if isinstance(dataset, TensorDataset) else dataset, ids[rows.ids]


def _base(dataset: Dataset[object]) -> tuple[object, Tensor]:
    """Give the dataset under any number of `Subset`s, and the ids of it that are read."""
    if isinstance(dataset, Subset):
        inner, ids = _base(dataset.dataset)
        return inner, ids[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    return dataset, torch.arange(len(dataset))  # type: ignore[arg-type]


def _addresses(tensor: Tensor) -> Tensor:
    """Give the address at which each row begins. (Views of one numpy array are different storages of the same memory.)"""
    return tensor.data_ptr() + torch.arange(len(tensor)) * tensor.stride(0) * tensor.element_size()
