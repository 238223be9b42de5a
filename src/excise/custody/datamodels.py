"""Datamodels among files: they hold what networks say that were trained on the rows, or on halves, the forgotten among them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from excise.custody.finding import Reason

KIND = "excise-datamodel-"


class _Told(msgspec.Struct):
    """What a datamodel says of its origin, as far as it is of use here."""

    by: str = ""
    num_models: int = 0
    data: str = ""


def datamodel_reason(metadata: Mapping[str, str], data: Collection[str]) -> Reason:
    """Say what a datamodel is of the rows.

    Args:
        metadata: from the head of the file, whose kind begins with `KIND`.
        data: keyed digests of what the run was made from.
    """
    try:
        made = msgspec.json.decode(metadata.get("made", "{}"), type=_Told)
    except msgspec.DecodeError:
        made = _Told()
    halves = made.by in ("", "means", "sparse")  # another way asks networks of all rows, or is one's own
    count = (
        f"outputs of {made.num_models} networks on halves"
        if halves
        else f"by {made.by} from {made.num_models} networks"
    )
    if made.data and data and made.data not in data:
        why = f"{count}; not of the content that the run's data had, by its keyed digest"
        return Reason(what="a datamodel of other data", why=why, certainty="unknown")
    same = "of the same data" if made.data in data else "on which data was not recorded, in the file or in the run"
    return Reason(what="a datamodel: what networks say that saw the rows", why=f"{count}, {same}", certainty="likely")
