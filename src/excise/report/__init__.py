"""Measures and the record of a run in, one self-contained HTML page out.

The page is drawn from [`Page`][excise.report.Page], a value made of plain numbers and text; nothing here computes a
statistic.
"""

from __future__ import annotations

from excise.report.page import render
from excise.report.values import Band, Histogram, Layer, MeasureRow, Page, Row, Section, Timing, Verdict

__all__ = [
    "Band",
    "Histogram",
    "Layer",
    "MeasureRow",
    "Page",
    "Row",
    "Section",
    "Timing",
    "Verdict",
    "render",
]
