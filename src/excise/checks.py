"""Validators of plain arguments, each with one message: expected, found, what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from excise import errors


def require_fraction(name: str, value: float) -> float:
    """Give `value` if it lies in [0, 1], else refuse it."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise errors.BadRequest(f"{name}: expected a fraction between 0 and 1, found {value!r}")
    return float(value)


def require_positive_int(name: str, value: int) -> int:
    """Give `value` if it is an integer of at least 1, else refuse it."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise errors.BadRequest(f"{name}: expected an integer of at least 1, found {value!r}")
    return value


def require_finite(name: str, value: float, *, at_least: float = 0.0) -> float:
    """Give `value` if it is a finite number not below `at_least`, else refuse it."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < at_least:
        raise errors.BadRequest(f"{name}: expected a finite number of at least {at_least:g}, found {value!r}")
    return float(value)


def as_ids(name: str, given: object, num_rows: int) -> Tensor:
    """Turn row ids or a boolean mask into sorted unique ids.

    Args:
        name: what the rows are called in messages.
        given: integers (list, array, tensor) or booleans, one for each of `num_rows` rows.
        num_rows: rows in the data set.

    Returns:
        int64 `[rows]`, ascending.

    Raises:
        errors.BadSplit: negative, repeated, out of range, not integers, a mask of the wrong length. Offenders are named by
            their position in the list that was given, never by content.
    """
    array = _as_array(name, given)
    if array.dtype == bool:
        if len(array) != num_rows:
            raise errors.BadSplit(
                f"{name}: a boolean mask needs one value for each of the {num_rows} rows, found {len(array)}; "
                "give a mask of that length, or row ids"
            )
        return torch.from_numpy(np.flatnonzero(array))
    _refuse(name, array, array < 0, "ids that are negative", f"ids are counted from 0 to {num_rows - 1}")
    _refuse(name, array, array >= num_rows, "ids that are out of range", f"the data has rows 0 to {num_rows - 1}")
    ids, first = np.unique(array, return_index=True)
    repeated = np.ones(len(array), dtype=bool)
    repeated[first] = False
    _refuse(name, array, repeated, "ids that were given before", "give each row once")
    return torch.from_numpy(ids.astype(np.int64))


def _as_array(name: str, given: object) -> np.ndarray:
    wanted = f"{name}: expected row ids (integers), a boolean mask or a rule from excise.data"
    if isinstance(given, Tensor):
        if given.is_floating_point() and given.numel():  # numpy has no bfloat16
            kind = str(given.dtype).removeprefix("torch.")
            raise errors.BadSplit(f"{wanted}; found values of type {kind}; convert them to integers first")
        array = given.detach().cpu().numpy()
    elif isinstance(given, np.ndarray):
        array = given
    elif isinstance(given, Sequence | set | frozenset | range) and not isinstance(given, str | bytes):
        values = list(given)
        kinds = {isinstance(value, bool | np.bool_) for value in values}
        if len(kinds) > 1:
            raise errors.BadSplit(f"{wanted}; found integers and booleans mixed; give one or the other")
        try:
            array = np.asarray(values) if values else np.zeros(0, dtype=np.int64)
        except ValueError as error:
            raise errors.BadSplit(f"{wanted}, in one dimension; found rows of different lengths") from error
    else:
        raise errors.BadSplit(f"{wanted}; found {type(given).__name__}")
    if array.ndim != 1:
        raise errors.BadSplit(f"{wanted}, in one dimension; found shape {array.shape}")
    if array.size == 0 and array.dtype != bool:
        return np.zeros(0, dtype=np.int64)
    if array.dtype != bool and not np.issubdtype(array.dtype, np.integer):
        raise errors.BadSplit(f"{wanted}; found values of type {array.dtype}; convert them to integers first")
    return array


def _refuse(name: str, array: np.ndarray, wrong: np.ndarray, what: str, remedy: str) -> None:
    places = np.flatnonzero(wrong)
    if len(places):
        shown = ", ".join(str(place) for place in places[:5])
        raise errors.BadSplit(
            f"{name}: found {len(places)} {what} (at position{'s' if len(places) > 1 else ''} {shown} of {len(array)}); "
            f"{remedy}"
        )
