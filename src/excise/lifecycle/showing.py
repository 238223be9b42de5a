"""Showing, to whoever holds a receipt, that one record was among the rows of a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from excise import checks, errors, store
from excise.data import Rows
from excise.ledger.commitments import inclusion, load_key, record_digests
from excise.lifecycle.papers import opened
from excise.lifecycle.requesting import require_life
from excise.lifecycle.standing import outside
from excise.lifecycle.trained import Trained


def show_record(
    directory: str | Path,
    trained: Trained,
    request: str,
    out: str | Path,
    *,
    row: int | None = None,
    record: object = None,
) -> dict[str, Any]:
    """Write the path from one record to the root of its request, for `excise verify --record`; give it.

    It shows nothing of the other rows but how many there are.

    Args:
        directory: of the ledger.
        trained: the training data, with all rows of the request still there.
        request: its id.
        out: the file to write.
        row: id of the training row.
        record: instead of the id a data set of that one record.

    Raises:
        errors.BadRequest: no such request, its key is gone, its rows are no longer there, the record is not among them; both
            or neither of `row` and `record`.
        errors.Corrupt: the data are not those of the ledger.
        errors.DiskError: it could not be written.
    """
    if (row is None) == (record is None):
        raise errors.BadRequest("expected either the id of a row or a record, found both or neither")
    where = outside(directory, out)
    with opened(directory) as papers:
        found = next((one for one in papers.book.requests() if one.id == request), None)
        if found is None or found.key_id is None:
            what = "none" if found is None else f"one that is {found.state} and whose key was destroyed"
            raise errors.BadRequest(f"expected a request with its key under the id {request}, found {what}")
        _, key = require_life(papers, trained)
        batch = [digest for digest, name in papers.book.rows().items() if name == request]
        rows = Rows(trained.rows.source, trained.ids_of(batch, key))
        if len(rows) != found.num_rows:
            raise errors.BadRequest(
                f"the path leads over all {found.num_rows} rows of the request, and {found.num_rows - len(rows)} of them are "
                "no longer in the training data; give the data as they were"
            )
        if record is None:
            wanted = Rows(trained.rows.source, checks.as_ids("row", [row], len(trained.rows.source)))
        else:
            wanted = Rows.all_of(record)
        digests = record_digests(wanted, key)
        own = record_digests(rows, key)
        if len(digests) != 1 or digests[0] not in own:
            raise errors.BadRequest(
                f"expected one record that is among the rows of request {request}, found none or several"
            )
        place, secret = own.index(digests[0]), load_key(found.key_id)
        told = inclusion(rows, secret, place).to_dict(record_digests(rows, secret)[place])
    store.write_json(where, told)
    return told
