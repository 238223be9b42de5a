"""`--cluster` and `--at-once`: who trains."""

from __future__ import annotations

from excise import errors
from excise.cluster import OnRay


def read_fleet(address: str | None, at_once: int | None) -> OnRay | None:
    """Give the workers that the words name; None for this process.

    Raises:
        errors.BadRequest: a number of jobs without a cluster to run them on.
    """
    if address is None:
        if at_once is not None:
            raise errors.BadRequest(
                "--at-once: says how many jobs a cluster is given at a time; name one with --cluster"
            )
        return None
    return OnRay(address, at_once=at_once)
