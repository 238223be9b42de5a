"""Which training rows made the outputs what they are: datamodels, and what networks that never saw some rows would say."""

from excise.attribution.datamodel import Datamodel, Made, Part, Shrink

__all__ = ["Datamodel", "Made", "Part", "Shrink"]
