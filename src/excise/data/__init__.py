"""What is forgotten and what is kept: data sets, rules, splits and the one loader."""

from excise.data.forget import Rule, mislabelled, of_class, of_group, random_fraction, within_classes
from excise.data.ids import with_ids
from excise.data.rows import Rows
from excise.data.split import Split

__all__ = [
    "Rows",
    "Rule",
    "Split",
    "mislabelled",
    "of_class",
    "of_group",
    "random_fraction",
    "with_ids",
    "within_classes",
]
