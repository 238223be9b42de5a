"""Moments among files: sums over rows, the forgotten among them until they are carried on without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from excise import errors, params
from excise.curvature.moments import KIND, facts_of
from excise.custody.finding import Reason
from excise.custody.network import Network

__all__ = ["KIND", "moments_reason"]


def moments_reason(path: Path, metadata: Mapping[str, str], network: Network, num_retained: int) -> Reason | None:
    """Say what a file of moments tells of the rows; None if they are the new network's, over no more rows than stayed.

    Args:
        path: of the file.
        metadata: from its head, whose kind is `KIND`.
        network: of the removal.
        num_retained: rows that stayed.
    """
    what = "second moments of what layers are given"
    try:
        facts = facts_of(path, metadata)
    except errors.BadData as error:
        return Reason(what=what, why=f"{error}; look yourself", certainty="unknown")
    told = f"sums over {facts.num_rows:,} rows"
    more = facts.num_rows > num_retained
    if facts.network == params.digest(network.after):
        why = f"{told}, held to be the new network's, though only {num_retained:,} stayed: carry them on without the others"
        return Reason(what=what, why=why, certainty="sure") if more else None
    if facts.network == network.before_digest and more:
        why = f"{told} of the original, of which {num_retained:,} stayed: those to forget are among them"
        return Reason(what=what, why=why, certainty="sure")
    whose = "the original" if facts.network == network.before_digest else "another network"
    return Reason(what=what, why=f"{told} of {whose}; it does not say which rows", certainty="unknown")
