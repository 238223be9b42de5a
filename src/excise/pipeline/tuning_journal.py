"""The trials of a search, and the directory that keeps them: each written whole as soon as it is finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from msgspec.structs import replace as struct_replace

from excise import errors, params, store

RECORD = "tuning.json"
FORMAT = 1

Margins = Mapping[str, np.ndarray]
"""`forget` and `twins`, `[forget]` each, in order of the forget rows' ids."""


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One setting that was tried.

    Attributes:
        number: counted from 0.
        settings: what was searched.
        state: `ok`; `over` where a bound was broken; `failed` where there is no network to judge.
        reason: why it is not `ok`.
        value: what is made small: `twin_distance` plus a tenth of `retain_distance`; None where it failed.
        twin_distance: how far the forget rows' margins lie from their twins', see `excise.measure.twin_distance`.
        retain_distance: how far the retain rows' margins lie from the original's, by the same formula.
        accuracy: on the held-out rows.
        utility_loss: the original's accuracy there minus this one's; below 0 it gained.
        trained_rows: rows passed forward and backward.
        forward_rows: rows passed forward only, those of looking at the result among them.
        seconds: wall time.
        retraining_share: rows passed forward and backward, as a fraction of a retraining's; None without a plan.
        margins_digest: SHA-256 of the margins kept beside the record.
        file_digest: SHA-256 of the file that keeps them, in which they lie in another order.
        repeats: the number of an earlier trial of the same settings, whose outcome this is; it was not run again.
    """

    number: int
    settings: dict[str, Any]
    state: Literal["ok", "over", "failed"]
    reason: str = ""
    value: float | None = None
    twin_distance: float | None = None
    retain_distance: float | None = None
    accuracy: float | None = None
    utility_loss: float | None = None
    trained_rows: int = 0
    forward_rows: int = 0
    seconds: float = 0.0
    retraining_share: float | None = None
    margins_digest: str | None = None
    file_digest: str | None = None
    repeats: int | None = None


class Journal:
    """Finished trials, in memory and, where a directory is given, on disk.

    `tuning.json` names the request and lists the trials; it is written anew, whole, after each of them. The margins of a
    trial lie in a file of their own, which is written before, without the rows' ids and in an order that says nothing of
    them. So whenever the process is killed, the directory holds some first trials, complete. (Optuna's own storages keep a
    trial that was killed as one that runs, which its sampler then steers away from, and no state of the sampler: such a
    search cannot go on as if it had not been stopped.)

    Args:
        directory: where; None to keep nothing.
        request: plain values that name everything a trial depends on.
        order: int64 `[forget]`, the order in which rows lie in the files, see `excise.pipeline.row_results.secret_order`;
            None for that of the ids, where nothing is written.

    Raises:
        errors.BadRequest: the directory holds another request's search, or something else; or it is a file.
        errors.Corrupt: a file is not what the record says, or the record cannot be read.
    """

    def __init__(self, directory: Path | None, request: Mapping[str, Any], order: np.ndarray | None = None) -> None:
        self.directory = directory
        self._order = order
        self.request = msgspec.json.decode(msgspec.json.encode(dict(request)))
        self.trials: list[Trial] = []
        self.margins: dict[int, Margins] = {}
        if directory is not None and directory.exists():
            self._read(directory)

    def add(self, trial: Trial, margins: Margins | None) -> None:
        """Keep one more trial; once this returns it is on disk."""
        if margins is not None:
            trial = struct_replace(trial, margins_digest=_digest(margins))
            self.margins[trial.number] = margins
            if self.directory is not None:
                path = self.directory / _name(trial.number)
                store.write_tensors(path, _tensors(_ordered(margins, self._order)), {"kind": "excise-margins-1"})
                trial = struct_replace(trial, file_digest=store.file_digest(path))
        self.trials.append(trial)
        if self.directory is not None:
            kept = {"format": FORMAT, "request": self.request, "trials": self.trials}
            store.write_sealed(self.directory / RECORD, kept)

    def _read(self, directory: Path) -> None:
        if not directory.is_dir():
            raise errors.BadRequest(f"expected a directory for the search, found a file at {directory}; choose another")
        path = directory / RECORD
        if not path.exists():
            strange = [one.name for one in directory.iterdir() if one.name[0] != "." and not _is_margins(one.name)]
            if strange:
                raise errors.BadRequest(
                    f"expected an empty or new directory for the search, found {directory} with {strange[0]!r} in it; "
                    "choose another directory"
                )
            return
        held = store.read_sealed(path)
        if held.get("format") != FORMAT or not isinstance(held.get("request"), dict):
            raise errors.Corrupt(f"{path} is not a record that this version of excise can read")
        if held["request"] != self.request:
            raise errors.BadRequest(
                f"{directory} holds another search ({_difference(held['request'], self.request)}); choose another "
                "directory, or remove that one"
            )
        try:
            self.trials = msgspec.convert(held.get("trials"), list[Trial])
        except msgspec.ValidationError as error:
            raise errors.Corrupt(f"{path} is not a record that this version of excise can read: {error}") from error
        for trial in self.trials:
            if trial.margins_digest is not None:
                path = directory / _name(trial.number)
                if path.is_file() and store.file_digest(path) != trial.file_digest:
                    raise errors.Corrupt(f"{path} is not what its record says; remove the directory and search again")
                self.margins[trial.number] = _margins(path, trial.margins_digest, self._order)


def _name(number: int) -> str:
    return f"margins-{number:04}.safetensors"


def _is_margins(name: str) -> bool:
    return name.startswith("margins-") and name.endswith(".safetensors")


def _tensors(margins: Margins) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(values) for name, values in margins.items()}


def _digest(margins: Margins) -> str:
    return params.digest(_tensors(margins))


def _ordered(margins: Margins, order: np.ndarray | None) -> Margins:
    """Give margins with the forget rows in another order, those of a row's twins with it; of other rows, as they are."""
    if order is None or any(not len(values) or len(values) % len(order) for values in margins.values()):
        return margins
    return {name: values.reshape(len(order), -1)[order].ravel() for name, values in margins.items()}


def _margins(path: Path, digest: str, order: np.ndarray | None) -> Margins:
    try:
        held = {name: value.numpy() for name, value in store.read_tensors(path)[0].items()}
    except errors.BadData as error:
        raise errors.Corrupt(f"{error}; remove the directory and search again") from error
    margins = _ordered(held, None if order is None else np.argsort(order))
    if _digest(margins) != digest:
        raise errors.Corrupt(f"{path} is not what its record says; remove the directory and search again")
    return margins


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    key = next(key for key in sorted({*before, *now}) if before.get(key) != now.get(key))
    return f"{key}: {before.get(key)!r} there, {now.get(key)!r} here"
