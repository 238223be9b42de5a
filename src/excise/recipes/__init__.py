"""Named papers as rows: where to change, how much, by which method, with every tuned constant a named default.

Each function gives a `Recipe`. Nothing here computes; a reader can check a row against its paper in a minute.
"""

import difflib
from typing import NoReturn

from excise.recipes.controls import Nothing, Retrain
from excise.recipes.localized import CT, DEL, MSG, RUM, CFk, EUk, SalUn
from excise.recipes.published import DMM, DUCK, PGU, JiT, OracleMatching
from excise.recipes.recipe import Recipe
from excise.recipes.table import RECIPES, table, without_retain
from excise.recipes.whole import (
    IU,
    SCRUB,
    SSD,
    BadTeacher,
    Finetune,
    L1Sparse,
    NegGrad,
    NegGradPlus,
    RandomLabel,
    SCRUBPlusR,
)

__all__ = [
    "CT",
    "DEL",
    "DMM",
    "DUCK",
    "IU",
    "MSG",
    "PGU",
    "RECIPES",
    "RUM",
    "SCRUB",
    "SSD",
    "BadTeacher",
    "CFk",
    "EUk",
    "Finetune",
    "JiT",
    "L1Sparse",
    "NegGrad",
    "NegGradPlus",
    "Nothing",
    "OracleMatching",
    "RandomLabel",
    "Recipe",
    "Retrain",
    "SCRUBPlusR",
    "SalUn",
    "table",
    "without_retain",
]


def __getattr__(name: str) -> NoReturn:
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in RECIPES], n=1)
    known = next((known for known in RECIPES if close and known.lower() == close[0]), None)
    raise AttributeError(
        f"excise.recipes has no recipe {name!r}"
        + (f"; did you mean {known}?" if known else f"; it has {', '.join(RECIPES)}")
    )
