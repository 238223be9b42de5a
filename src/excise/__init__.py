"""Make a trained PyTorch network forget chosen training rows, and show how well it did.

The front door: `Split`, `doctor`, `bench`, `tune`, `unlearn`, `audit`, `Ledger`, `TrainPlan`, `Mask`, and the rooms `recipes`,
`methods`, `attribution`, `localize`, `data`, `networks`, `oracles`, `observe`, `measure`, `testing`, `train`, `distributed`,
`cluster`. Names are looked up when first used, so that importing `excise` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from excise.errors import ExciseError
from excise.version import __version__

if TYPE_CHECKING:
    from excise import (
        attribution,
        cluster,
        data,
        distributed,
        localize,
        measure,
        methods,
        networks,
        observe,
        oracles,
        recipes,
        testing,
        train,
    )
    from excise.data import Split
    from excise.diagnosis import Finding, doctor
    from excise.lifecycle import Ledger
    from excise.masks import Mask
    from excise.pipeline import Audit, Canaries, Confusion, Trigger, Tuning, Unlearned, audit, bench, tune, unlearn
    from excise.train import Augment, Hooks, Machine, TrainPlan

_HOMES = {
    "Audit": "excise.pipeline",
    "Augment": "excise.train",
    "Canaries": "excise.pipeline",
    "Confusion": "excise.pipeline",
    "Finding": "excise.diagnosis",
    "Hooks": "excise.train",
    "Ledger": "excise.lifecycle",
    "Machine": "excise.train",
    "Mask": "excise.masks",
    "Split": "excise.data",
    "TrainPlan": "excise.train",
    "Trigger": "excise.pipeline",
    "Tuning": "excise.pipeline",
    "Unlearned": "excise.pipeline",
    "audit": "excise.pipeline",
    "bench": "excise.pipeline",
    "doctor": "excise.diagnosis",
    "tune": "excise.pipeline",
    "unlearn": "excise.pipeline",
}
_ROOMS = (
    "attribution",
    "cluster",
    "data",
    "distributed",
    "localize",
    "measure",
    "methods",
    "networks",
    "observe",
    "oracles",
    "recipes",
    "testing",
    "train",
)

__all__ = [
    "Audit",
    "Augment",
    "Canaries",
    "Confusion",
    "ExciseError",
    "Finding",
    "Hooks",
    "Ledger",
    "Machine",
    "Mask",
    "Split",
    "TrainPlan",
    "Trigger",
    "Tuning",
    "Unlearned",
    "__version__",
    "attribution",
    "audit",
    "bench",
    "cluster",
    "data",
    "distributed",
    "doctor",
    "localize",
    "measure",
    "methods",
    "networks",
    "observe",
    "oracles",
    "recipes",
    "testing",
    "train",
    "tune",
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
