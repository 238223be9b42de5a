"""What is put to each problem: recipes with the settings that are tried, alone and under two masks; and one cell of work."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import torch

import excise
from benchmarks.published.numbers import FAILED_DISTANCE
from benchmarks.published.problems import Problem
from benchmarks.published.scenes import compared, scene
from excise import errors, recipes, seeds, unlearn
from excise.localize import Cut, RandomLike, Top, WeightGradient
from excise.measure import unlearning_score_of_runs
from excise.train import TrainPlan

PUBLISHED = ("DMM", "PGU", "DUCK", "JiT")
BASELINES = ("DEL", "SalUn", "SSD", "SCRUB", "NegGradPlus", "Finetune")
CONTROLS = ("SameCostRetrain", "Nothing", "OracleMatching")
EVERY = (*PUBLISHED, *BASELINES, *CONTROLS)
MASKED = (*PUBLISHED, "Finetune", "NegGradPlus")
MASKS = ("del", "random")
BUDGET_FRACTION = 0.3
TRIALS = 6


def grid(name, problem):
    """Give what is tried of a recipe: `TRIALS` settings, of about a fifth of a retraining's steps.

    Ranges were laid by hand around where each recipe does anything at all on the seed that settings are chosen on.
    """
    plan, easy = problem.plan, problem.name == "digits"
    short, batch = max(2, plan.epochs // 5), {"batch_size": [plan.batch_size]}
    few = {"epochs": [short], **batch}
    sgd = {**few, "weight_decay": [plan.weight_decay]}
    rates = {"lr": [0.01, 0.02, 0.05, 0.1, 0.2, 0.4]}
    matching = {"epochs": [round(1.5 * short)], **batch, "retain_multiplier": [5.0], "forget_multiplier": [1.0]}
    options = {
        "DMM": {**matching, "lr": [1e-3, 5e-3], "multiplier": [1.0, 2.0, 6.0]},
        "PGU": {
            "epochs": [plan.epochs],
            **batch,
            "lr": [0.05, 0.2] if easy else [0.01, 0.05],
            "gamma": [0.8, 0.95, 0.99],
        },
        "DUCK": {"epochs": [max(3, plan.epochs // 8)], **batch, "lr": [1e-4, 1e-3, 5e-3], "lambda1": [0.3, 1.0]},
        "JiT": {**batch, "sigma": [0.1, 0.5], "lr": [3e-4, 1e-3, 5e-3] if easy else [3e-5, 1e-4, 3e-4]},
        "DEL": {**sgd, **rates},
        "SalUn": {**sgd, "lr": [3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.05]},
        "SSD": {"selection": [1.2, 1.5, 2.0, 3.0, 5.0, 8.0]},
        "SCRUB": {**few, "max_epochs": [1, 2, 3], "lr": [1e-3, 1e-2]},
        "NegGradPlus": {"epochs": [round(short / 2)], **batch, "alpha": [0.9, 0.99], "lr": [0.005, 0.02, 0.05]},
        "Finetune": {**sgd, **rates},
        "SameCostRetrain": {**sgd, **rates},
        "Nothing": {},
        "OracleMatching": {**matching, "lr": [3e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2]},
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
    recipe = recipes.RECIPES[name](**settings, **prepared(name, place, number))
    return recipe if mask == "none" else recipe.at(region(mask, place.problem.plan.batch_size))


def prepared(name, place, number):
    """Give what a recipe is told besides its settings: what was prepared for the network, or what is known of the request."""
    if name == "DMM":
        return {"datamodel": place.problem.datamodel}
    if name == "OracleMatching":
        return {"models": place.held_out}
    whole = place.removed_class is not None
    if name == "PGU":
        return {"moments": place.moments(number), "stop": "class" if whole else "samples"}
    if name == "DUCK":
        return {"scenario": "class" if whole else "random"}
    return {}


def region(mask, batch_size):
    """Give where change is allowed: DEL's own choice of channels, or as many at random of each parameter."""
    chosen = Cut(WeightGradient(batch_size=batch_size), BUDGET_FRACTION, granularity="channel", reduction=Top(0.1))
    return chosen if mask == "del" else RandomLike(chosen)


def problem_of(shared, cell):
    """Give the problem that a cell is of."""
    torch.set_num_threads(1)
    return Problem(name=cell["problem"], seed=cell["seed"], **shared)


def network_cell(shared, cell):
    """Train the originals of a problem and make its datamodel, so that later cells find them; what the latter took."""
    problem = problem_of(shared, cell)
    problem.originals()
    made = problem.datamodel.made
    whole = problem.plan.epochs * problem.sizes.num_train
    return {"num_halves": made.num_models, "seconds": made.seconds, "retrainings": made.trained_rows / whole}


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
    files = [own / f"{name}.py" for name in ("arms", "problems", "scenes")]
    files += sorted(Path(excise.__file__).resolve().parent.rglob("*.py"))
    running = hashlib.sha256()
    for file in files:
        running.update(file.read_bytes())
    return running.hexdigest()
