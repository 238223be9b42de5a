"""Where to change: from a network and a split to scores, from scores to a mask, or to a mask at once."""

from excise.localize.above import Above
from excise.localize.base import Localizer, Region
from excise.localize.critical import CriticalChannels, CriticalRow
from excise.localize.cut import Cut
from excise.localize.depth import Deepest, Shallowest
from excise.localize.fisher_ratio import FisherRatio
from excise.localize.given import Given
from excise.localize.gradient import Gradient
from excise.localize.gradient_difference import GradientDifference
from excise.localize.granularity import Mean, Reduction, Top
from excise.localize.head import Head, head_mask
from excise.localize.last_layers import LastLayers
from excise.localize.magnitude import Magnitude
from excise.localize.modules import Convolutions, Everything, Modules
from excise.localize.random import Random, RandomLike
from excise.localize.scores import Scores
from excise.localize.tied import TiedChannels
from excise.localize.weight_gradient import WeightGradient

__all__ = [
    "Above",
    "Convolutions",
    "CriticalChannels",
    "CriticalRow",
    "Cut",
    "Deepest",
    "Everything",
    "FisherRatio",
    "Given",
    "Gradient",
    "GradientDifference",
    "Head",
    "LastLayers",
    "Localizer",
    "Magnitude",
    "Mean",
    "Modules",
    "Random",
    "RandomLike",
    "Reduction",
    "Region",
    "Scores",
    "Shallowest",
    "TiedChannels",
    "Top",
    "WeightGradient",
    "head_mask",
]
