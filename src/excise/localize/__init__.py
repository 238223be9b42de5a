"""Where to change: from a network and a split to scores, and from scores to a mask."""

from excise.localize.base import Localizer
from excise.localize.gradient import Gradient
from excise.localize.granularity import Mean, Reduction, Top
from excise.localize.head import head_mask
from excise.localize.magnitude import Magnitude
from excise.localize.scores import Scores
from excise.localize.weight_gradient import WeightGradient

__all__ = ["Gradient", "Localizer", "Magnitude", "Mean", "Reduction", "Scores", "Top", "WeightGradient", "head_mask"]
