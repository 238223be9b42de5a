"""What a receipt says: which rows, as commitments, were taken out of which weights, how, and what was measured then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from excise import verify
from excise.verify import CLAIM, LIMITS

__all__ = ["CLAIM", "LIMITS", "ORACLE", "VERSION", "receipt"]

VERSION = 1
ORACLE = "retrain-without-forget"
"""What the audit held the network against: networks retrained without the rows."""

_ONCE = ("seq", "prev", "hash")
_METRIC = tuple(verify.FIELDS["audit"]["metrics"][0])


def receipt(
    *,
    seq: int,
    prev: str,
    run: str,
    requests: Sequence[Mapping[str, Any]],
    model_before: str,
    model_after: str,
    model_file: str,
    data_manifest: str,
    data_rows: int,
    retain_root: str,
    retain_rows: int,
    method: Mapping[str, Any],
    environment: Mapping[str, Any],
    audit: Mapping[str, Any],
    audit_file: str,
    sequence: int,
    accept_drop: bool,
    retraining_share: float | None,
    drift: Mapping[str, Any],
    purged: Sequence[str] = (),
    kept: Sequence[Mapping[str, Any]] = (),
    further_limits: Sequence[str] = (),
    time: datetime | None = None,
) -> dict[str, Any]:
    """Give a receipt without its hash, for `Log.append`, which gives `seq` and `prev` and adds the hash.

    Digests are given as hexadecimal SHA-256, with or without `sha256:` before it. Numbers that are not finite become null;
    settings of the names seq, prev and hash, which stand once in a receipt, get a `_` behind them.

    Args:
        seq: number of the entry, counted from 1.
        prev: hash of the entry before.
        run: id of the run, 32 hexadecimal digits, random.
        requests: of each request that was answered `id` (32 hexadecimal digits, random), `reason` (erasure, mislabel or
            poison), `forget_commit` (root of its `Commitment`), `num_rows` and `commit_key_id`.
        model_before: `params.model_digest` of the weights before.
        model_after: the same of those after.
        model_file: SHA-256 of the file that holds them, `store.file_digest`.
        data_manifest: root of the training manifest.
        data_rows: rows in it.
        retain_root: root over the rows that stay.
        retain_rows: how many.
        method: `name`, `params` (plain values), `code` (version and digest of this library), `model_code` (SHA-256 of the
            source file that builds the network, or None) and `seed`.
        environment: `excise`, `torch`, `python`, `machine`, `threads`, and what else the bits may depend on.
        audit: `Audit.to_dict()`.
        audit_file: SHA-256 of `audit.json`.
        sequence: how many runs this model's life has seen, this one included.
        accept_drop: whether test accuracy fell further than the ledger allows, and its owner took the network all the same.
        retraining_share: cost over that of a retraining; None where rows are not counted.
        drift: how far the weights have come from the original, as plain values.
        purged: digests of copies that were removed.
        kept: of each copy that stays `id`, and `until` (a date, or None).
        further_limits: sentences beside `LIMITS`.
        time: when; now if None.
    """
    moment = (time or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
    plain = _plain(
        {
            "v": VERSION,
            "time": f"{moment.isoformat(timespec='seconds')}Z",
            "claim": CLAIM,
            "oracle": ORACLE,
            "run": run,
            "requests": [{**one, "forget_commit": _hash(one["forget_commit"])} for one in requests],
            "model_before": _hash(model_before),
            "model_after": _hash(model_after),
            "model_file": _hash(model_file),
            "data_manifest": _hash(data_manifest),
            "data_rows": data_rows,
            "retain_root": _hash(retain_root),
            "retain_rows": retain_rows,
            "method": method,
            "env": environment,
            "audit": _audit(audit, audit_file),
            "sequence": sequence,
            "accept_drop": accept_drop,
            "retraining_share": retraining_share,
            "drift": drift,
            "copies": {"purged": [_hash(one) for one in purged], "kept": kept},
            "limits": [*LIMITS, *further_limits],
        }
    )
    return {**plain, "seq": seq, "prev": prev}


def _audit(audit: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Give what a receipt says of an audit, from `Audit.to_dict()`."""
    return {
        "plan_hash": _hash(audit["plan_digest"]),
        "file": _hash(file),
        "tier": audit["tier"],
        "num_models": audit["num_oracles"],
        "effect": audit["plan"]["effect"],
        "trace_seen": audit["trace_seen"],
        "controls": audit["controls"],
        "metrics": [{name: one[name] for name in _METRIC} for one in audit["measures"]],
        "verdict": audit["verdict"],
        "reasons": audit["reasons"],
    }


def _hash(digest: str) -> str:
    return f"sha256:{digest.removeprefix('sha256:')}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {f"{name}_" if name in _ONCE else name: _plain(held) for name, held in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
