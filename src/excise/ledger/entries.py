"""What stands in the book of a model's life: its beginning, requests, runs. Plain values."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

REASONS = ("erasure", "mislabel", "poison")
State = Literal["open", "answered", "failed", "withdrawn"]


class Life(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is fixed when a model's life begins.

    Attributes:
        opened: date and time, UTC.
        original: digest of the network that was trained, see `params.model_digest`.
        manifest_root: of the training rows.
        num_rows: of the training data.
        key_id: names the key of the manifest and of the rows' digests, which is kept elsewhere.
        max_drop: how far accuracy on test rows may fall below the original's.
        due_days: time to answer a request.
        test_accuracy: the original's.
        test_root: Merkle root over the digests of the test rows, ascending, under the same key; empty if not taken.
        holdout_root: the same of the holdout rows; empty where there were none.
        words: what was typed to name network and data, for the command line.
    """

    opened: str
    original: str
    manifest_root: str
    num_rows: int
    key_id: str
    max_drop: float
    due_days: int
    test_accuracy: float
    test_root: str = ""
    holdout_root: str = ""
    words: dict[str, str | None] = {}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request to forget rows.

    Attributes:
        id: 128 random bits.
        received: date and time, UTC.
        due: date.
        reason: erasure, mislabel or poison.
        state: open, answered (a run has, with a verdict other than FAIL and INVALID), or failed (no run has yet).
        num_rows: exact copies included.
        root: commitment to the rows under the request's own key.
        key_id: names that key; None when it was destroyed.
        runs: numbers of the runs whose batch it was in, those given up left out.
    """

    id: str
    received: str
    due: str
    reason: str
    state: State
    num_rows: int
    root: str
    key_id: str | None
    runs: tuple[int, ...] = ()


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run over a batch of requests.

    Attributes:
        number: from 1; names the directory.
        id: 128 random bits; names the run in the log.
        begun: date and time, UTC.
        state: begun, done (its receipt is in the log), or dropped (given up before that).
        asked: what the result depends on beside the batch, as plain values.
        seq: of its receipt, None before.
        receipt: hash of its receipt, None before.
        found: what came of it, as plain values; empty before.
        requests: ids, in the order received.
    """

    number: int
    id: str
    begun: str
    state: Literal["begun", "done", "dropped"]
    asked: dict[str, Any]
    seq: int | None = None
    receipt: str | None = None
    found: dict[str, Any] = {}
    requests: tuple[str, ...] = ()
