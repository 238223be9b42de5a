"""Measures and the record of a run in, one self-contained HTML page out.

The page is drawn from [`Page`][excise.report.Page], a value made of plain numbers and text; nothing here computes a
statistic.
"""

from __future__ import annotations

from excise.report.contents import Page
from excise.report.exhibits import (
    BinBand,
    ClassAccuracy,
    Classes,
    Compared,
    Costs,
    Curve,
    CurveBand,
    Distribution,
    Roc,
    Step,
    Strata,
    Stratum,
)
from excise.report.findings import Control, MeasureRow, Verdict
from excise.report.page import render
from excise.report.values import Band, Histogram, Layer, Row, Section, Timing

__all__ = [
    "Band",
    "BinBand",
    "ClassAccuracy",
    "Classes",
    "Compared",
    "Control",
    "Costs",
    "Curve",
    "CurveBand",
    "Distribution",
    "Histogram",
    "Layer",
    "MeasureRow",
    "Page",
    "Roc",
    "Row",
    "Section",
    "Step",
    "Strata",
    "Stratum",
    "Timing",
    "Verdict",
    "render",
]
