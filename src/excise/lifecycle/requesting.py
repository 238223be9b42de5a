"""A request to forget rows, taken into a ledger: what it names is looked up by content, committed to, and not kept in clear."""

from __future__ import annotations

import secrets
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import torch

from excise import checks, errors
from excise.data import Rows
from excise.ledger.commitments import Key, commit, destroy_key, load_key, new_key, record_digests
from excise.ledger.entries import REASONS, Life, Request
from excise.ledger.manifest import Manifest
from excise.lifecycle.papers import MANIFEST, Papers, now, opened
from excise.lifecycle.trained import Trained


def require_life(papers: Papers, trained: Trained) -> tuple[Life, Key]:
    """Refuse training data that are not the ledger's; give what the ledger began with, and its key.

    Rows that an answered request named may be gone from the data.

    Raises:
        errors.Corrupt: the data or the manifest are not those of the beginning.
        errors.BadRequest: the ledger's key is not on this machine.
    """
    life = papers.book.life()
    manifest = trained.manifest(papers.directory / MANIFEST)
    if manifest.root != life.manifest_root:
        raise errors.Corrupt(
            f"{papers.directory / MANIFEST} is not the one that the book was begun with (root {manifest.root}, there "
            f"{life.manifest_root}); put back both from one copy"
        )
    key = load_key(life.key_id)
    answered = {one.id for one in papers.book.requests() if one.state == "answered"}
    gone = {digest for digest, request in papers.book.rows().items() if request is None or request in answered}
    trained.require_life(manifest, gone, key)
    for name, told, found in zip(
        ("test", "holdout"), (life.test_root, life.holdout_root), trained.roots(key), strict=True
    ):
        if life.test_root and told != found:
            raise errors.Corrupt(
                f"{name}: expected the rows that the ledger was opened with, found others, or changed ones; accuracies would "
                "not be comparable; give the same, or open a new ledger"
            )
    return life, key


def add_request(
    directory: str | Path,
    trained: Trained,
    *,
    forget: object = None,
    records: object = None,
    reason: str = "erasure",
    due: date | None = None,
) -> Request:
    """Take a request; when the call returns it is on the disk. Needs no lock: a run may be under way.

    A request is for records: every exact copy of a named row is forgotten with it.

    Args:
        directory: of the ledger.
        trained: the training data.
        forget: row ids or a boolean mask, as for `Split`.
        records: instead of ids the records themselves, as a data set; each must be a training row exactly, label included.
        reason: erasure, mislabel or poison.
        due: when it is to be answered; as many days after today as the ledger says if None.

    Raises:
        errors.BadSplit: no rows, rows that do not exist, are in no training row, are no training rows, were named before, or
            are all that is left.
        errors.BadRequest: an unknown reason, a due date in the past, both or neither of `forget` and `records`.
        errors.Corrupt: the data are not those that the network was trained on.
    """
    if reason not in REASONS:
        raise errors.BadRequest(f"reason: expected one of {', '.join(REASONS)}; found {reason!r}")
    if (forget is None) == (records is None):
        raise errors.BadRequest("expected either row ids to forget or records, found both or neither")
    received = now()
    today = date.fromisoformat(received[:10])
    if due is not None and due < today:
        raise errors.BadRequest(f"due: expected a date from today ({today}) on, found {due}")
    with opened(directory) as papers:
        life, key = require_life(papers, trained)
        digests = _named(trained, forget, key) if records is None else _found(papers, records, key)
        copies = Rows(trained.rows.source, trained.ids_of(digests, key))
        _require_some_left(papers, trained, copies, key)
        secret = new_key()
        try:
            request = Request(
                id=secrets.token_hex(16),
                received=received,
                due=str(due or today + timedelta(days=life.due_days)),
                reason=reason,
                state="open",
                num_rows=len(copies),
                root=commit(copies, secret).root,
                key_id=secret.id,
            )
            papers.book.add(request, digests)
        except BaseException:
            if secret.id not in {one.key_id for one in papers.book.requests()}:  # a signal may come after the commit
                destroy_key(secret.id)
            raise
    return request


def _named(trained: Trained, forget: object, key: Key) -> list[bytes]:
    ids = checks.as_ids("forget", forget, len(trained.rows.source))
    if not len(ids):
        raise errors.BadSplit("forget: expected at least one row, found none; name the rows to forget")
    strange = int((~torch.isin(ids, trained.rows.ids)).sum())
    if strange:
        raise errors.BadSplit(f"forget: {strange} of its rows are test or holdout rows, which were not trained on")
    named = torch.isin(trained.rows.ids, ids).tolist()
    return [digest for digest, there in zip(trained.digests(key), named, strict=True) if there]


def _found(papers: Papers, records: object, key: Key) -> list[bytes]:
    wanted = Rows.all_of(records)
    if not len(wanted):
        raise errors.BadSplit("records: expected at least one record, found none; give the records to forget")
    Manifest.load(papers.directory / MANIFEST).find(wanted)
    return record_digests(wanted, key)


def _require_some_left(papers: Papers, trained: Trained, rows: Rows, key: Key) -> None:
    named = torch.cat([trained.ids_of(papers.book.rows(), key), rows.ids])
    left = int((~torch.isin(trained.rows.ids, named)).sum())
    if left < 1:
        raise errors.BadSplit(
            f"forget: these {len(rows)} rows are all that no request has named yet; a network trained on nothing is an "
            "untrained one"
        )


def withdraw(directory: str | Path, request: str) -> None:
    """Take back a request that no run has taken up: it gets no receipt, its rows may be named again, its key is destroyed.

    Raises:
        errors.BadRequest: no such request, or one that a run has taken up, or that is answered or withdrawn.
    """
    with opened(directory) as papers:
        found = next((one for one in papers.book.requests() if one.id == request), None)
        papers.book.withdraw(request)
        if found is not None and found.key_id is not None:
            _destroyed(found.key_id)


def _destroyed(key_id: str) -> bool:
    """Destroy a key; say whether it was there."""
    try:
        destroy_key(key_id)
    except errors.BadRequest:  # no such file
        return False
    return True


def require_not_returned(directory: str | Path, trained: Trained) -> None:
    """Refuse training data that hold rows which another ledger has forgotten, exact copies of them.

    Raises:
        errors.BadSplit: some do, and how many.
        errors.BadData: there is no such ledger.
        errors.BadRequest: its key is not on this machine.
    """
    with opened(directory) as papers:
        key = load_key(papers.book.life().key_id)
        answered = {one.id for one in papers.book.requests() if one.state == "answered"}
        gone = [one for one, request in papers.book.rows().items() if request is None or request in answered]
    returned = trained.ids_of(gone, key)
    if len(returned):
        raise errors.BadSplit(
            f"{len(returned)} training rows are among those that {directory} has forgotten; take them out, and train again"
        )


def forget_key(directory: str | Path, request: str) -> dict[str, Any]:
    """Destroy the key of an answered request. Lost with it: to show a record's owner that it was among the rows, and replay.

    One that is not there is noted as gone (`found` is False): it may lie elsewhere still.

    The rows stay forgotten: their digests under the ledger's key remain, without the request's name.

    Raises:
        errors.BadRequest: no such request, or one that is not answered.
    """
    with opened(directory) as papers:
        found = next((one for one in papers.book.requests() if one.id == request), None)
        there = True
        if found is not None and found.key_id is not None and found.state == "answered":
            there = _destroyed(found.key_id)
        papers.book.forget_key(request)
    return {
        "request": request,
        "found": there,
        "lost": [
            "to show whoever holds a record that it was among this request's rows",
            "to repeat the run that answered it, and those after it",
        ],
    }
