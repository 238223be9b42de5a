"""Which training rows made the outputs what they are: datamodels, and what networks that never saw some rows would say."""

from excise.attribution.datamodel import Datamodel
from excise.attribution.origin import Made, Shrink
from excise.attribution.parts import Part

__all__ = ["Datamodel", "Made", "Part", "Shrink"]
