"""What is forgotten and what is kept: data sets, rules, splits and the one loader."""

from excise.data.forget import Rule, mislabelled, of_class, of_group, random_fraction, within_classes
from excise.data.ids import with_ids
from excise.data.published import CIFAR10_SETS, cifar10_forget_set, published_digest
from excise.data.rows import Rows
from excise.data.split import Split

__all__ = [
    "CIFAR10_SETS",
    "Rows",
    "Rule",
    "Split",
    "cifar10_forget_set",
    "mislabelled",
    "of_class",
    "of_group",
    "published_digest",
    "random_fraction",
    "with_ids",
    "within_classes",
]
