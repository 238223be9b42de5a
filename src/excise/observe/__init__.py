"""From a network and rows to arrays on the CPU."""

from excise.observe.canaries import plant, projections
from excise.observe.features import features
from excise.observe.outputs import Outputs, collect
from excise.observe.recalibrate import Held, collect_recalibrated, held_statistics
from excise.observe.relearn import Relearned, hint, relearn

__all__ = [
    "Held",
    "Outputs",
    "Relearned",
    "collect",
    "collect_recalibrated",
    "features",
    "held_statistics",
    "hint",
    "plant",
    "projections",
    "relearn",
]
