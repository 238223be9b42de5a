"""Localization against its floor: one forward and backward over the forget rows. Goal: at most 1.03."""

import os

import torch

from benchmarks.paired import paired_ratio
from benchmarks.problems import BATCH, engine, problem
from excise.data import Split
from excise.localize import WeightGradient

CASES = {"localization": (48, 7), "localization_512": (512, 2)}
"""By row of the page: forget rows, and rounds. What is not a pass over rows weighs less, the more rows there are."""


def measure():
    """Time scoring and selection at 30% against a plain loop of forward and backward over the same rows, and cuts alone."""
    model, split = problem()
    localizer, watch = WeightGradient(batch_size=BATCH), engine(model)
    found = {}
    for name, (num_forget, rounds) in CASES.items():
        some = _rows(num_forget)
        found[name] = {
            **paired_ratio(
                lambda s=some: localizer.score(model, s, watch).select(budget_fraction=0.3),
                lambda s=some: _floor(model, s),
                rounds,
            ),
            "goal": 1.03,
            "load": round(os.getloadavg()[0], 1),
            "what": f"score and select at 30%, {num_forget} rows, against forward and backward",
        }
    scores = localizer.score(model, split, watch)
    flat = torch.cat([scores[name].reshape(-1) for name in scores.names])
    scores.select(budget_fraction=0.3)
    sort = paired_ratio(lambda: _fresh(scores).select(budget_fraction=0.3), lambda: flat.argsort(descending=True), 5)
    again = paired_ratio(lambda: scores.select(budget_fraction=0.2), lambda: scores.select(budget_fraction=0.3), 51)
    by_weight = paired_ratio(
        lambda: scores.select(budget_fraction=0.3, granularity="weight"), lambda: flat.argsort(descending=True), 5
    )
    milliseconds = 1000 * again["seconds"]
    return found | {
        "selection": {
            **sort,
            "goal": 1.0,
            "what": "cut by channel, against one sort of all weights (the published way sorts twice)",
        },
        "selection_again": {
            **again,
            **dict.fromkeys(("ratio", "lowest", "highest"), milliseconds),
            "goal": 1.0,
            "what": f"a second cut of the same scores, milliseconds ({sum(_channels(scores)):,} channels)",
        },
        "selection_by_weight": {**by_weight, "goal": 1.0, "what": "cut by weight, against one sort of all weights"},
    }


def section(rows):
    """Give the lines of the page."""
    lines = [
        "",
        "## Localization",
        "",
        "The floor is a plain loop of forward and backward over the same rows. Beyond it lie one pass over the weights for",
        "|theta g|, one for its extremes (is every score finite?), and the mean of each channel's highest tenth, for which",
        "torch parts every row: that one is the most. Calling the localizer on a network of one's own checks first, by a",
        "forward pass over 8 rows, that the two go together; that pass is not in the figures.",
        "",
        "| what | figure | lowest to highest | goal |",
        "|---|---:|---:|---:|",
    ]
    for row in rows.values():
        missed = "" if row["ratio"] <= row["goal"] else " (missed)"
        spread = f"{row['lowest']:.3g} to {row['highest']:.3g}"
        lines.append(f"| {row['what']} | {row['ratio']:.3g} | {spread} | {row['goal']}{missed} |")
    return lines


def _rows(num_forget):
    """Give a split of so many forget rows, and one retain row that nobody reads."""
    draws = torch.Generator().manual_seed(1)
    inputs = torch.rand(num_forget + 1, 3, 32, 32, generator=draws)
    return Split((inputs, torch.randint(0, 10, (num_forget + 1,), generator=draws)), forget=range(num_forget))


def _floor(model, split):
    inputs, labels = (tensor[split.forget.ids] for tensor in split.train.source.tensors)
    model.eval()
    model.zero_grad(set_to_none=True)
    for part, wanted in zip(inputs.split(BATCH), labels.split(BATCH), strict=True):
        torch.nn.functional.cross_entropy(model(part), wanted).backward()


def _fresh(scores):
    """Give the same scores without the ranking that a cut leaves behind."""
    return type(scores)(
        {name: scores[name] for name in scores.names}, {n: tuple(scores[n].shape) for n in scores.names}
    )


def _channels(scores):
    return [len(scores[name]) if scores[name].ndim else 1 for name in scores.names]
