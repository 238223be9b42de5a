"""Which training rows made the outputs what they are: datamodels, and what networks that never saw some rows would say."""

from excise.attribution.datamodel import Datamodel
from excise.attribution.direct import DirectPredictor
from excise.attribution.estimate import estimate, from_observed, observe_halves
from excise.attribution.means import shrinkage
from excise.attribution.observed import Answers, Observed, observe
from excise.attribution.origin import Made, Shrink
from excise.attribution.parts import Part
from excise.attribution.principal import component_scores, principal_rows
from excise.attribution.quality import Score, datamodeling_score, score
from excise.attribution.scale import Scale, fit_scale
from excise.attribution.targets import DatamodelTargets
from excise.attribution.trak import trak

__all__ = [
    "Answers",
    "Datamodel",
    "DatamodelTargets",
    "DirectPredictor",
    "Made",
    "Observed",
    "Part",
    "Scale",
    "Score",
    "Shrink",
    "component_scores",
    "datamodeling_score",
    "estimate",
    "fit_scale",
    "from_observed",
    "observe",
    "observe_halves",
    "principal_rows",
    "score",
    "shrinkage",
    "trak",
]
