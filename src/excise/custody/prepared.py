"""What was prepared for later requests, and so was made from rows that are to be forgotten now: moments, datamodels."""

from __future__ import annotations

from pathlib import Path

from excise import errors, params
from excise.curvature.moments import KIND as MOMENTS
from excise.curvature.moments import facts_of
from excise.custody.contents import Contents
from excise.custody.finding import Reason
from excise.custody.network import Network
from excise.custody.rows import RowCounts

DATAMODEL = "excise-datamodel-1"
KINDS = (MOMENTS, DATAMODEL)


def prepared_reason(path: Path, held: Contents, network: Network, rows: RowCounts, num_retained: int) -> Reason | None:
    """Say what a file of moments or a datamodel tells of the rows; None for moments that were carried on without them.

    Args:
        path: of a file.
        held: what is in it; its metadata names one of `KINDS`.
        network: of the removal.
        rows: its counts.
        num_retained: rows that stayed.
    """
    if held.metadata["kind"] == DATAMODEL:
        return _of_datamodel(held, rows, num_retained)
    try:
        facts = facts_of(path, held.metadata)
    except errors.BadData as error:
        return Reason(what="second moments", why=f"{error}; look yourself", certainty="unknown")
    what, told = "second moments of what layers are given", f"sums over {facts.num_rows:,} rows"
    if facts.network == params.digest(network.after):
        if facts.num_rows <= num_retained:
            return None
        why = f"{told} held to be the new network's, of which {num_retained:,} stayed: carry them on without the forgotten"
        return Reason(what=what, why=why, certainty="sure")
    if facts.network == network.before_digest:
        if facts.num_rows <= num_retained:
            why = f"{told} of the original, which may be the retained ones"
            return Reason(what=what, why=why, certainty="unknown")
        why = f"{told} of the original, of which {num_retained:,} stayed: those to forget are in them"
        return Reason(what=what, why=why, certainty="sure")
    return Reason(what=what, why=f"{told} of another network; it does not say which rows", certainty="unknown")


def _of_datamodel(held: Contents, rows: RowCounts, num_retained: int) -> Reason:
    """A datamodel holds outputs of networks that each saw half of the rows, and digests of rows that can be guessed at."""
    ids = held.arrays.get("train.ids")
    count = 0 if ids is None else len(ids)
    told = f"outputs of networks on halves of {count:,} rows"
    what = "a datamodel"
    if count > num_retained:
        why = f"{told}, of which {num_retained:,} stayed: networks that saw those to forget are among them"
        return Reason(what=what, why=why, certainty="sure" if count == rows.num_rows else "likely", lists_rows=True)
    return Reason(what=what, why=f"{told}, which may be the retained ones", certainty="unknown", lists_rows=True)
