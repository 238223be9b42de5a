"""The engine: the one loop over epochs, and the one module that keeps the mask's promise."""

from excise.train.augment import Augment
from excise.train.checkpoints import Checkpoints
from excise.train.engine import Cost, Engine, Kept
from excise.train.footprint import Footprint, footprint
from excise.train.hooks import EpochTrace, Hooks
from excise.train.loop import fit_
from excise.train.machine import Machine
from excise.train.masked import Statistics, enforced, frozen_digest, held_modules, write_
from excise.train.plan import TrainPlan
from excise.train.projection import Directions, Projection
from excise.train.step import Pass, Passes, Step
from excise.train.task import Task, cross_entropy, forward_pair
from excise.train.together import fit_together_, networks_at_once, why_not_together, why_slower_together

__all__ = [
    "Augment",
    "Checkpoints",
    "Cost",
    "Directions",
    "Engine",
    "EpochTrace",
    "Footprint",
    "Hooks",
    "Kept",
    "Machine",
    "Pass",
    "Passes",
    "Projection",
    "Statistics",
    "Step",
    "Task",
    "TrainPlan",
    "cross_entropy",
    "enforced",
    "fit_",
    "fit_together_",
    "footprint",
    "forward_pair",
    "frozen_digest",
    "held_modules",
    "networks_at_once",
    "why_not_together",
    "why_slower_together",
    "write_",
]
