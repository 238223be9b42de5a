"""Receipts, logs and audits that nothing speaks against, for tests and for the soak to spoil."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime

from excise import verify
from excise.ledger.receipts import receipt

SOAK = "EXCISE_SOAK" in os.environ  # full sizes, for minutes
MEASURES = (
    "forget_accuracy",
    "retain_accuracy",
    "test_accuracy",
    "forget_margin",
    "forget_margin_distance",
    "swap",
    "rmia",
)


def hexadecimal(text):
    return hashlib.sha256(str(text).encode()).hexdigest()


def numbers(verdict="PASS", model="after", p=0.4, num_measures=7):
    """What an audit.json holds, as far as a receipt repeats it."""
    return {
        "verdict": verdict,
        "reasons": ["a reason in words"],
        "controls": {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"},
        "measures": [
            {
                "name": name,
                "value": 0.0125,
                "low": -0.01,
                "high": 0.03,
                "null_mean": 0.0,
                "null_low": -0.05,
                "null_high": 0.05,
                "p": p,
                "num_models": 8,
                "least_detectable": 0.2,
                "sentence": "what it says",
                "decides": place < 5,
            }
            for place, name in enumerate(MEASURES[:num_measures])
        ],
        "tier": "T1",
        "trace_seen": 0.2,
        "num_oracles": 8,
        "plan": {"effect": 0.5},
        "plan_digest": hexadecimal("plan"),
        "unlearned": {"model_digest": hexadecimal(model)},
    }


def build(seq, prev, *, verdict="PASS", model="after", audit=None, **changes):
    """A receipt without its hash."""
    told = audit or numbers(verdict, model)
    fields = {
        "run": hexadecimal(f"run {seq}")[:32],
        "requests": [
            {
                "id": hexadecimal(f"request {seq}")[:32],
                "reason": "erasure",
                "forget_commit": hexadecimal(f"rows {seq}"),
                "num_rows": 3,
                "commit_key_id": "k-" + 32 * "0",
            }
        ],
        "model_before": hexadecimal("before"),
        "model_after": hexadecimal(model),
        "model_file": hexadecimal("file"),
        "data_manifest": hexadecimal("data"),
        "data_rows": 100,
        "retain_root": hexadecimal("retain"),
        "retain_rows": 97,
        "method": {
            "name": "DEL",
            "params": {"lr": 0.1, "epochs": 3},
            "code": "0.1",
            "model_code": f"sha256:{hexadecimal('code')}",
            "seed": 7,
        },
        "environment": {
            "excise": "0.1",
            "torch": "2",
            "python": "3.11",
            "machine": "x86_64",
            "threads": 1,
            "isa": "avx2",
        },
        "audit_file": hashlib.sha256(json.dumps(told).encode()).hexdigest(),
        "sequence": seq,
        "accept_drop": False,
        "retraining_share": 0.05,
        "drift": {"distance": 0.01, "rows": 0.03},
        "purged": [hexadecimal("copy")],
        "kept": [{"id": "backup", "until": "2026-10-01"}],
        "time": datetime(2026, 11, 21, 12, 0, seq % 60, tzinfo=UTC),
    }
    return receipt(seq=seq, prev=prev, audit=told, **{**fields, **changes})


def chain(length, **options):
    """Sealed receipts, each bound to the one before."""
    found, prev = [], verify.GENESIS
    for seq in range(1, length + 1):
        found.append(verify.sealed(build(seq, prev, **options)))
        prev = found[-1]["hash"]
    return found


def content_of(receipts):
    return b"".join(verify.canonical(one) + b"\n" for one in receipts)
