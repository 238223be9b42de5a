"""What is put to each problem: recipes with the settings that are tried, each alone and under two masks; and one cell of work."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import torch

from benchmarks.published_problems import PARTS, Problem, compared, scene
import excise
from excise import errors, recipes, seeds, unlearn
from excise.localize import Cut, RandomLike, Top, WeightGradient
from excise.measure import unlearning_score_of_runs
from excise.train import TrainPlan

PUBLISHED = ("DMM", "PGU", "DUCK", "JiT")
BASELINES = ("DEL", "SalUn", "SSD", "SCRUB", "NegGradPlus", "Finetune")
CONTROLS = ("SameCostRetrain", "Nothing", "OracleMatching")
EVERY = ("JiT", *BASELINES, "SameCostRetrain", "Nothing")
MASKED = ("Finetune", "NegGradPlus")
MASKS = ("del", "random")
BUDGET_FRACTION = 0.3
TRIALS = 6
FAILED_DISTANCE = 1e9


def grid(name, problem):
    """Give what is tried of a recipe: `TRIALS` settings, of about a fifth of a retraining's steps at most."""
    plan = problem.plan
    short = max(2, plan.epochs // 5)
    sgd = {"epochs": [short], "batch_size": [plan.batch_size], "weight_decay": [plan.weight_decay]}
    rates = [0.01, 0.02, 0.05, 0.1, 0.2, 0.4]
    options = {
        "JiT": {"batch_size": [plan.batch_size], "sigma": [0.1, 0.5], "lr": [1e-4, 1e-3, 1e-2]},
        "DEL": {**sgd, "lr": rates},
        "SalUn": {**sgd, "lr": [0.001, 0.003, 0.01, 0.02, 0.05, 0.1]},
        "SSD": {"selection": [1.2, 1.5, 2.0, 3.0, 5.0, 8.0]},
        "SCRUB": {
            "epochs": [short],
            "batch_size": [plan.batch_size],
            "max_epochs": [1, 2, 4],
            "lr": [1e-3, 1e-2],
        },
        "NegGradPlus": {
            "epochs": [round(short / 2)],
            "batch_size": [plan.batch_size],
            "alpha": [0.9, 0.99],
            "lr": [0.005, 0.02, 0.05],
        },
        "Finetune": {**sgd, "lr": rates},
        "SameCostRetrain": {**sgd, "lr": rates},
        "Nothing": {},
    }
    return options[name]


def candidates(name, problem):
    """Give every combination of what is tried."""
    options = grid(name, problem)
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def made(name, settings, place, number, mask="none"):
    """Give a recipe for one original of a scene."""
    if name == "SameCostRetrain":
        return recipes.Retrain(plan=TrainPlan(**settings)).named(name)
    recipe = recipes.RECIPES[name](**settings)
    return recipe if mask == "none" else recipe.at(region(mask, place.problem.plan.batch_size))


def region(mask, batch_size):
    """Give where change is allowed: DEL's own choice of channels, or as many at random of each parameter."""
    chosen = Cut(WeightGradient(batch_size=batch_size), BUDGET_FRACTION, granularity="channel", reduction=Top(0.1))
    return chosen if mask == "del" else RandomLike(chosen)


def problem_of(shared, cell):
    """Give the problem that a cell is of."""
    torch.set_num_threads(1)
    return Problem(
        name=cell["problem"], size=shared["size"], seed=cell["seed"], out=shared["out"], device=shared["device"]
    )


def network_cell(shared, cell):
    """Train the originals of a problem, so that later cells find them."""
    problem_of(shared, cell).originals()
    return {}


def scene_cell(shared, cell):
    """Train the oracles of a forget set, and say what they and the originals give."""
    place = scene(problem_of(shared, cell), cell["set"])
    plan, retain = place.problem.plan, place.split.retain
    model, spent = place.original(0), []
    for number in range(2):
        whole = unlearn(
            model, place.split, recipes.Retrain(plan=plan), fresh=place.problem.make, seed=number, plan=plan
        )
        spent.append(whole.cost.seconds)
    return {
        "num_forget": len(place.split.forget),
        "num_retain": len(retain),
        "num_test": len(place.split.test),
        "num_models": len(place.originals),
        "oracles": means(place.oracles.accuracy),
        "originals": means(place.before.accuracy),
        "floor": place.floor,
        "aus": score(place, place.oracles, range(len(place.originals))),
        "retraining_seconds": min(spent),
    }


def arm_cell(shared, cell):
    """Put a recipe to the originals of a scene; what it gives beside the oracles, and what it costs."""
    place = scene(problem_of(shared, cell), cell["set"])
    done, spent, why = [], [], []
    count = min(cell["count"], len(place.originals))
    for number in range(count):
        try:
            result = once(place, cell, number)
        except errors.ExciseError as error:
            why.append(f"{type(error).__name__}: {error}"[:300])
            continue
        done.append((number, result.model))
        spent.append(result)
    found = {"failed": count - len(done), **({"why": why[0]} if why else {})}
    if len(done) < count:
        return {**found, "distance": FAILED_DISTANCE}
    own = place.said([network for _, network in done])
    passes = place.problem.plan.epochs * len(place.split.retain)
    reference = means(place.oracles.accuracy)
    accuracy = means(own.accuracy)
    return {
        **found,
        "accuracy": accuracy,
        "gap": {part: accuracy[part] - reference[part] for part in accuracy},
        "aus": score(place, own, [number for number, _ in done]),
        **compared(own, place.oracles),
        "trained_share": float(np.mean([one.cost.trained_rows for one in spent])) / passes,
        "forward_share": float(np.mean([one.cost.forward_rows for one in spent])) / passes,
        "seconds": float(np.median([one.cost.seconds for one in spent])),
        "mask_fraction": float(np.mean([one.mask.fraction for one in spent])),
    }


def once(place, cell, number):
    """Put a recipe to one original."""
    return unlearn(
        place.original(number),
        place.split,
        made(cell["recipe"], cell["settings"], place, number, cell["mask"]),
        fresh=place.problem.make,
        seed=seeds.derive(place.problem.seed, "unlearning", number),
        plan=place.problem.plan,
    )


def means(accuracy):
    """Give the mean over networks, by part."""
    return {part: float(values.mean()) for part, values in accuracy.items()}


def score(place, own, numbers):
    """Give AUS and its error, propagated over the networks."""
    before = place.before.some(list(numbers))
    if place.removed_class is not None:
        told = (before.accuracy["others"], own.accuracy["others"], own.accuracy["removed"])
        return list(unlearning_score_of_runs(*map(list, told), scenario="class removal"))
    told = (before.accuracy["test"], own.accuracy["test"], own.accuracy["forget"])
    return list(unlearning_score_of_runs(*map(list, told), scenario="random removal"))


def digest_of_code():
    """Give the SHA-256 of all that a cell's result may depend on: the library and what measures, not the page."""
    own = Path(__file__).resolve().parent
    files = [own / "published_arms.py", own / "published_problems.py"]
    files += sorted(Path(excise.__file__).resolve().parent.rglob("*.py"))
    running = hashlib.sha256()
    for file in files:
        running.update(file.read_bytes())
    return running.hexdigest()


__all__ = ["PARTS", "arm_cell", "candidates", "digest_of_code", "made", "network_cell", "scene_cell"]
