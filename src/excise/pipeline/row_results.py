"""What an audit says of each forget row, under names that only the holder of the local key can give to rows."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import torch

from excise import errors, store
from excise.measure import row_test, ulira_attack
from excise.measure.ulira import LEAST_MODELS
from excise.pipeline.audited import Audit
from excise.pipeline.population import margins_of

ROWS = "rows.json"
"""Name of the file in a run directory. It is the only one that says anything row by row."""

SALT_BYTES = 16
FORMAT = 1


class RowResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One forget row. What was not measured, or is no finite number, is None.

    Attributes:
        id: opaque, see `opaque_ids`.
        margin: ln(p / (1 - p)) of the row's label, by the unlearned network.
        loss: of the row, by the unlearned network.
        original_margin: by the network before.
        oracle_margin: the oracles' mean.
        score: normal score of the margin among the oracles' margins of this row, see `excise.measure.row_test`.
        p: of that, two-sided.
        told_apart: whether the row is told apart with a false discovery rate of 5% among all forget rows.
        ulira: balanced accuracy of U-LiRA on this row, over the population of tier T2; 0.5 is guessing.
    """

    id: str
    margin: float | None
    loss: float | None
    original_margin: float | None
    oracle_margin: float | None = None
    score: float | None = None
    p: float | None = None
    told_apart: bool | None = None
    ulira: float | None = None


class RowResults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The forget rows of one audit, in order of their opaque ids, which is a random order.

    Attributes:
        salt: hexadecimal, random, of this file alone: the same row has another opaque id in another file.
        plan_digest: of the audit.
        rows: one a forget row.
        format: of the file.
    """

    salt: str
    plan_digest: str
    rows: tuple[RowResult, ...]
    format: int = FORMAT

    def of(self, ids: Iterable[int]) -> list[RowResult]:
        """Give the results of rows by their own ids, in the order asked for; needs the key they were written under.

        Raises:
            errors.BadRequest: a row that is not among them, or another key.
            errors.DiskError: the key can neither be read nor written.
        """
        held = {one.id: one for one in self.rows}
        names = opaque_ids(ids, self.salt)
        missing = [place for place, name in enumerate(names) if name not in held]
        if missing:
            raise errors.BadRequest(
                f"expected forget rows of this audit, found {len(missing)} that are none of its {len(held)} (at position "
                f"{missing[0]} of {len(names)}), or this machine has not the key they were written under; ask where the audit "
                "was made"
            )
        return [held[name] for name in names]


def opaque_ids(ids: Iterable[int], salt: str) -> list[str]:
    """Give the names that rows have in a file with a salt: 32 hexadecimal digits each, in the order of `ids`.

    HMAC-SHA256 of the id, cut to 128 bits, under a key that is itself a keyed digest of the salt (`store.commitment`). Without
    the local key nobody can tell which row a name stands for, nor that two names of two files stand for one row.

    Raises:
        errors.DiskError: the key can neither be read nor written.
    """
    own = store.commitment(torch.tensor(list(b"excise row names\0" + salt.encode()), dtype=torch.uint8))
    secret = bytes.fromhex(own)
    return [hmac.digest(secret, int(row).to_bytes(8, "little"), hashlib.sha256).hex()[:32] for row in ids]


def secret_order(ids: Iterable[int], salt: str) -> np.ndarray:
    """Give an order of rows that only the holder of the local key can undo: int64 `[rows]`, places among `ids`."""
    return np.argsort(np.asarray(opaque_ids(ids, salt)), kind="stable")


def row_results(done: Audit) -> RowResults:
    """Give what an audit found, row by row, under opaque ids of a new salt.

    Raises:
        errors.DiskError: the key that hides row ids can neither be read nor written.
    """
    salt, ids = secrets.token_hex(SALT_BYTES), done.split.forget.ids.tolist()
    columns = {name: values.tolist() for name, values in _columns(done).items()}
    names = opaque_ids(ids, salt)
    rows = [RowResult(id=names[i], **{key: _plain(some[i]) for key, some in columns.items()}) for i in range(len(ids))]
    return RowResults(salt=salt, plan_digest=done.plan.digest, rows=tuple(sorted(rows, key=lambda one: one.id)))


def read_row_results(held: Mapping[str, Any]) -> RowResults:
    """Give the results that a file holds, from its plain values.

    Raises:
        errors.Corrupt: they are not what `row_results` gives.
    """
    try:
        found = msgspec.convert(held, RowResults)
    except msgspec.ValidationError as error:
        raise errors.Corrupt(
            f"{ROWS} is no file that this version can read: {error}; audit again with --rows"
        ) from error
    if found.format != FORMAT:
        raise errors.Corrupt(
            f"{ROWS}: expected format {FORMAT}, found {found.format}; read it with the version that wrote it"
        )
    return found


def _columns(done: Audit) -> dict[str, np.ndarray]:
    """Give arrays `[forget]`, in order of ids."""
    found = {"margin": done.own.margins, "loss": done.own.losses, "original_margin": done.original.margins}
    if done.oracles is not None:
        margins = margins_of(done.oracles.evidence)
        found["oracle_margin"] = margins.mean(axis=0)
        if len(margins) > 1 and done.own.finite:
            test = row_test(done.own.margins, margins)
            found |= {"score": test.scores, "p": test.p, "told_apart": test.told_apart}
        if done.population is not None and len(done.population.unlearned) >= LEAST_MODELS:
            found["ulira"] = ulira_attack(margins_of(done.population.unlearned), margins).per_row
    return found


def _plain(value: Any) -> Any:
    """Give a number as JSON can hold it: None for what is not finite."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
