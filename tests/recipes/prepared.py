"""What recipes need that is made beforehand, made up for tests, where it only has to fit network and rows."""

import torch

from excise.attribution import Datamodel, Made, Part
from excise.methods import TargetProvider
from excise.methods.targets import logits_of
from excise.recipes.table import needed
from excise.train import TrainPlan


def datamodel(num_rows, num_classes, seed=0):
    """Give a datamodel of rows 0 to `num_rows` with effects drawn at random."""
    draws = torch.Generator().manual_seed(seed)
    weights = torch.randn(num_rows, 3, generator=draws)
    factors = torch.randn(num_rows, 3, num_classes, generator=draws)
    part = Part(torch.arange(num_rows), torch.zeros(num_rows, num_classes), factors)
    return Datamodel(weights=weights, parts={"train": part}, made=Made(by="chance"))


def settings_for(make, model, num_rows, num_classes):
    """Give what a recipe needs and has no default for."""
    half = {name: value / 2 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    every = {
        "plan": TrainPlan(epochs=1, lr=0.05, batch_size=8),
        "datamodel": datamodel(num_rows, num_classes),
        "models": [half],
    }
    return {key: every[key] for key in needed(make)}


class Halved(TargetProvider):
    """Half of the network's own logits, whatever the network."""

    def targets(self, rows, split, engine):
        return logits_of(engine.original_model(), rows, engine, stage="halved") / 2
