"""Make a trained PyTorch network forget chosen training rows, and show how well it did.

The front door: `Split`, `doctor`, `unlearn`, `audit`, `TrainPlan`, `Mask`, and the rooms `recipes`, `methods`, `localize`,
`data`, `networks`, `testing`. Names are looked up when first used, so that importing `excise` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from excise.errors import ExciseError
from excise.version import __version__

if TYPE_CHECKING:
    from excise import data, localize, methods, networks, recipes, testing
    from excise.data import Split
    from excise.diagnosis import Finding, doctor
    from excise.masks import Mask
    from excise.pipeline import Audit, Unlearned, audit, unlearn
    from excise.train import Hooks, TrainPlan

_HOMES = {
    "Audit": "excise.pipeline",
    "Finding": "excise.diagnosis",
    "Hooks": "excise.train",
    "Mask": "excise.masks",
    "Split": "excise.data",
    "TrainPlan": "excise.train",
    "Unlearned": "excise.pipeline",
    "audit": "excise.pipeline",
    "doctor": "excise.diagnosis",
    "unlearn": "excise.pipeline",
}
_ROOMS = ("data", "localize", "methods", "networks", "recipes", "testing")

__all__ = [
    "Audit",
    "ExciseError",
    "Finding",
    "Hooks",
    "Mask",
    "Split",
    "TrainPlan",
    "Unlearned",
    "__version__",
    "audit",
    "data",
    "doctor",
    "localize",
    "methods",
    "networks",
    "recipes",
    "testing",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"excise.{name}")
    raise AttributeError(f"module 'excise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
