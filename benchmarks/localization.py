"""Localization against its floor: one forward and backward over the forget rows. Goal: at most 1.10."""

import torch

from benchmarks.paired import paired_ratio
from benchmarks.problems import BATCH, engine, problem
from excise.localize import WeightGradient


def measure(rounds: int = 7):
    """Time scoring and selection at 30% against a plain loop of forward and backward over the same rows."""
    model, split = problem()
    inputs, labels = (tensor[split.forget.ids] for tensor in split.train.source.tensors)
    localizer, watch = WeightGradient(batch_size=BATCH), engine(model)

    def floor():
        model.eval()
        model.zero_grad(set_to_none=True)
        for part, wanted in zip(inputs.split(BATCH), labels.split(BATCH), strict=True):
            torch.nn.functional.cross_entropy(model(part), wanted).backward()

    def ours():
        localizer.score(model, split, watch).select(budget_fraction=0.3)

    def selection_only():
        scores.select(budget_fraction=0.3)

    found = paired_ratio(ours, floor, rounds)
    scores = localizer.score(model, split, watch)
    flat = torch.cat([scores[name].reshape(-1) for name in scores.names])
    return {
        "localization": {**found, "goal": 1.10, "what": "score and select at 30%, against forward and backward"},
        "selection": {
            **paired_ratio(selection_only, lambda: flat.argsort(descending=True), 5),
            "goal": 1.0,
            "what": "cut by channel, against one sort of all weights (the published way sorts twice)",
        },
        "selection_by_weight": {
            **paired_ratio(
                lambda: scores.select(budget_fraction=0.3, granularity="weight"),
                lambda: flat.argsort(descending=True),
                5,
            ),
            "goal": 1.0,
            "what": "cut by weight, against one sort of all weights",
        },
    }
