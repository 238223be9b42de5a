"""Rows of the forget set that stand again elsewhere, exactly or nearly."""

from __future__ import annotations

from excise.diagnosis.findings import Finding, counted, placed
from excise.diagnosis.neighbours import MAX_OTHERS, MAX_QUERIES, NEAR_FRACTION
from excise.diagnosis.rows import Census

_MATTERS = {
    "retain": "training on the retain rows teaches them again, and retrained networks know them too",
    "test": "the test rows are then no rows that the network never saw, and what it knows of them passes for generalization",
}
_REMEDY = {
    "retain": "forget the copies too (add their ids to the forget set), or leave them out of the training data",
    "test": "leave the copies out of the test set",
}


def exact(found: Census) -> list[Finding]:
    """Find forget rows whose inputs stand byte for byte in retain or test, whatever their label there."""
    findings = []
    for part, copies in found.copies.items():
        relabelled = sum(copies.values())
        if copies:
            other = f" ({counted(relabelled, 'row')} of them with another label)" if relabelled else ""
            findings.append(
                Finding(
                    f"forget rows that stand again, exactly, in {part}{other}: {_MATTERS[part]}",
                    placed("forget", copies, found.sizes["forget"]),
                    _REMEDY[part],
                    "warning",
                )
            )
    return findings


def near(found: Census) -> list[Finding]:
    """Find forget rows far nearer to a retain or test row than retain rows are to one another, exact copies aside."""
    if found.near is None:
        return []
    findings = []
    usual = found.near.usual_fraction
    for part in found.near.best:
        places = [place for place in found.near.near(part) if place not in found.copies[part]]
        if places:
            common = f"; of retain rows themselves {100 * usual:.1f} % have one in retain" if usual else ""
            findings.append(
                Finding(
                    f"forget rows that stand again, nearly, in {part} (nearer than {NEAR_FRACTION:g} of the median distance "
                    f"between nearest retain rows{common}): {_MATTERS[part]}",
                    placed("forget", places, found.sizes["forget"]),
                    "look at the pairs; " + _REMEDY[part],
                    "warning",
                )
            )
    return findings + _sampled(found)


def _sampled(found: Census) -> list[Finding]:
    """Say that not every row was compared."""
    limits = {part: MAX_QUERIES if part == "forget" else MAX_OTHERS for part in found.sizes}
    cut = [f"{limits[part]:,} of {size:,} {part} rows" for part, size in found.sizes.items() if size > limits[part]]
    if not cut:
        return []
    return [
        Finding(
            "near copies were looked for among a sample; exact ones among all rows",
            ", ".join(cut),
            "nothing to mend; where near copies matter, look for them with an index of your own",
            "note",
        )
    ]
