"""Everything on one page, as one value.

A [`Page`][] survives a round trip through JSON, so a page can be drawn again from the JSON that it carries:

    >>> import msgspec
    >>> page = Page(title="Nothing to show yet")
    >>> msgspec.json.decode(msgspec.json.encode(page), type=Page) == page
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from excise.report.exhibits import Classes, Costs, Distribution, Roc, Strata
from excise.report.findings import MeasureRow, Verdict
from excise.report.values import Section, Timing


class Page(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything on the page, in the order in which it stands there. A part that is empty is left out.

    Attributes:
        title: heading of the page.
        lead: what was done, in one paragraph.
        verdict: outcome of the audit, or None when there was none.
        measures: the audit's measures; their numbers stand in a table near the end.
        rocs: membership attacks.
        sections: one per choice of forget rows.
        distributions: losses, log-odds and the like, row by row.
        classes: accuracy per class, for one or several kinds of rows.
        strata: the forget rows by memorisation, or None.
        costs: what it cost, or None.
        timings: how long things took.
        untested: what the audit did not test, one sentence each.
        assumptions: what its numbers rest on, one sentence each.
        limits: what the page does not show, one sentence each.
        facts: what is needed to repeat the run: versions, seeds, threads, hashes.
    """

    title: str
    lead: str = ""
    verdict: Verdict | None = None
    measures: Sequence[MeasureRow] = []
    rocs: Sequence[Roc] = []
    sections: Sequence[Section] = []
    distributions: Sequence[Distribution] = []
    classes: Sequence[Classes] = []
    strata: Strata | None = None
    costs: Costs | None = None
    timings: Sequence[Timing] = []
    untested: Sequence[str] = []
    assumptions: Sequence[str] = []
    limits: Sequence[str] = []
    facts: Mapping[str, str] = {}
