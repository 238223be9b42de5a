"""How to change a network: few mechanisms, each restricted by any mask."""

from excise.methods.ascend import Ascend
from excise.methods.attract import Attract
from excise.methods.base import Iterative, Method, OneShot, Phased
from excise.methods.closest_epoch import ClosestEpoch
from excise.methods.contrast import Contrast
from excise.methods.dampen import Dampen
from excise.methods.distill import Distill
from excise.methods.finetune import Finetune
from excise.methods.function import FromFunction
from excise.methods.influence import Influence
from excise.methods.match import Match
from excise.methods.noise import Noise
from excise.methods.nothing import Nothing
from excise.methods.partition import Partition
from excise.methods.project import Project
from excise.methods.prune import Prune
from excise.methods.redraw import Redraw
from excise.methods.relabel import Relabel
from excise.methods.reset import Reset
from excise.methods.retrain import Retrain
from excise.methods.rewind import Rewind
from excise.methods.sequence import Sequence, Widened
from excise.methods.smooth import Smooth
from excise.methods.soften import Soften
from excise.methods.sparsify import Sparsify
from excise.methods.stopping import BelowAccuracy, CrossesHoldout, RetainFalls, StopRule, Watch
from excise.methods.switch_off import SwitchOff
from excise.methods.targets import OracleMean, TargetProvider
from excise.methods.transpose import Transpose
from excise.methods.two_teachers import TwoTeachers
from excise.methods.until import Until
from excise.methods.within import Within

__all__ = [
    "Ascend",
    "Attract",
    "BelowAccuracy",
    "ClosestEpoch",
    "Contrast",
    "CrossesHoldout",
    "Dampen",
    "Distill",
    "Finetune",
    "FromFunction",
    "Influence",
    "Iterative",
    "Match",
    "Method",
    "Noise",
    "Nothing",
    "OneShot",
    "OracleMean",
    "Partition",
    "Phased",
    "Project",
    "Prune",
    "Redraw",
    "Relabel",
    "Reset",
    "RetainFalls",
    "Retrain",
    "Rewind",
    "Sequence",
    "Smooth",
    "Soften",
    "Sparsify",
    "StopRule",
    "SwitchOff",
    "TargetProvider",
    "Transpose",
    "TwoTeachers",
    "Until",
    "Watch",
    "Widened",
    "Within",
]
