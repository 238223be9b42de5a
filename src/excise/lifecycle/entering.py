"""What a finished run leaves for good: how far the network has come, and the receipt in the log."""

from __future__ import annotations

from typing import Any

import msgspec
from torch import nn

from excise import store
from excise.data import Split
from excise.ledger import merkle
from excise.ledger.receipts import receipt as receipt_of
from excise.lifecycle.drift import Drift, distance, fell_too_far
from excise.lifecycle.papers import enter
from excise.lifecycle.settings import code_digest
from excise.lifecycle.work import NUMBERS, Work
from excise.pipeline.unlearned import MODEL


def drift_of(work: Work, model: nn.Module, accuracy: float, share: float | None) -> Drift:
    """Give how far the network of a run is from the original, and what all runs cost up to this one."""
    original = work.subject.original(work.life)
    shares = [share, *(run.found["retraining_share"] for run in work.papers.book.runs() if run.state == "done")]
    forgotten = [one for one in work.papers.book.requests() if one.state == "answered" or one.id in work.run.requests]
    return Drift(
        distance=None if original is None else distance(original, model),
        forgotten_fraction=sum(one.num_rows for one in forgotten) / work.life.num_rows,
        retrainings=None if None in shares else sum(shares),
        test_accuracy_change=accuracy - work.life.test_accuracy,
    )


def entered(
    work: Work,
    split: Split,
    record: dict[str, Any],
    numbers: dict[str, Any],
    drift: Drift,
) -> dict[str, Any]:
    """Append the receipt and note it in the book; one that a killed call has appended is not appended again."""
    head = work.papers.log.head()
    own = set(split.retain.ids.tolist())
    trained = work.subject.trained
    stays = sorted(
        digest for id, digest in zip(trained.rows.ids.tolist(), trained.digests(work.key), strict=True) if id in own
    )

    def build(seq: int, prev: str) -> dict[str, Any]:
        if prev != head["hash"]:
            raise _Appended
        return receipt_of(
            seq=seq,
            prev=prev,
            run=work.run.id,
            requests=[
                {
                    "id": one.id,
                    "reason": one.reason,
                    "forget_commit": one.root,
                    "num_rows": one.num_rows,
                    "commit_key_id": one.key_id,
                }
                for one in work.requests()
            ],
            model_before=work.run.asked["model_before"],
            model_after=record["result"]["model_digest"],
            model_file=record["files"][MODEL],
            data_manifest=work.life.manifest_root,
            data_rows=work.life.num_rows,
            retain_root=merkle.root(stays).hex(),
            retain_rows=len(stays),
            method={
                "name": work.recipe.name,
                "params": work.run.asked["settings"],
                "code": code_digest(),
                "model_code": work.run.asked["model_code"],
                "seed": work.options.seed,
            },
            environment=work.run.asked["environment"],
            audit=numbers,
            audit_file=store.file_digest(work.directory / NUMBERS),
            sequence=work.run.number,
            accept_drop=fell_too_far(drift.test_accuracy_change, work.life.max_drop),
            retraining_share=record["result"]["retraining_share"],
            drift=msgspec.to_builtins(drift),
            purged=_purged(work),
            kept=_kept(work),
        )

    try:
        entry = work.papers.log.append(build)
    except _Appended:  # all but the end of its line had reached the disk, and has now been added
        entry = work.papers.log.receipts()[-1]
    enter(work.papers.book, work.run, entry)
    return entry


class _Appended(Exception):
    """The log holds the receipt already."""


def _purged(work: Work) -> list[str]:
    """Give the digests of what `excise purge` has removed or put aside in the runs of this ledger."""
    records = [work.papers.run_directory(run.number) / store.RECORD for run in work.papers.book.runs()]
    entries = [one for path in records if path.is_file() for one in store.read_sealed(path).get("purged", [])]
    return sorted({one["sha256"] for one in entries if one["sha256"].startswith("sha256:")})


def _kept(work: Work) -> list[dict[str, Any]]:
    """Name the networks that saw the rows and that this ledger knows of: the original, and those of earlier runs."""
    runs = [run for run in work.papers.book.runs() if run.state == "done"]
    known = [work.life.original, *(run.found["model_after"] for run in runs)]
    return [{"id": f"network sha256:{one.removeprefix('sha256:')}", "until": None} for one in dict.fromkeys(known)]
