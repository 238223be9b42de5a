"""Settings chosen without oracles, and how near they come to the best by oracles, on the demo's problem.

`python -m benchmarks.tuning SEED ...` tunes recipes on each forget set, trains oracles afterwards, and writes
benchmarks/results/tuning-SEED.json; `--render` prints the table of docs/tuning.md from what was written.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import torch

from excise import errors, params, recipes, seeds
from excise.data import Rows, Split, mislabelled, of_class, random_fraction, within_classes
from excise.masks import Mask
from excise.networks import tiny_resnet
from excise.oracles import retrain
from excise.pipeline.demo import FORGET_FRACTION, PLAN, WIDTH, noisy_digits
from excise.pipeline.tuning import tune
from excise.pipeline.tuning_ranking import oracle_margins
from excise.train import Engine, Task

RESULTS = Path(__file__).resolve().parent / "results"
NUM_TRIALS, NUM_ORACLES = 16, 5
RATES, EPOCHS = (3e-3, 0.5, "log"), [1, 2, 4, 6]
SPACES = {
    "DEL": (
        partial(recipes.DEL, weight_decay=PLAN.weight_decay),
        {"lr": RATES, "epochs": EPOCHS, "budget_fraction": (0.05, 0.6)},
    ),
    "SalUn": (partial(recipes.SalUn, batch_size=128), {"lr": RATES, "epochs": EPOCHS, "budget_fraction": (0.1, 0.9)}),
    "Finetune": (recipes.Finetune, {"lr": RATES, "epochs": EPOCHS}),
}


def rows_of(seed):
    """Tune every recipe on every forget set of one seed."""
    train, true_labels, (inputs, labels) = noisy_digits(seed)
    order = torch.randperm(len(labels), generator=seeds.generator(seed, "holdout"))
    half = len(labels) // 2
    holdout, test = ((inputs[some], labels[some]) for some in (order[:half], order[half:]))
    make = partial(tiny_resnet, width=WIDTH)
    with seeds.isolated(seed, "demo"):
        model = make()
    engine = Engine(Task(), seed, Mask.empty(model))
    original = retrain(make, Rows.all_of(train), PLAN, [seed], engine, stage="original")[0]
    params.load_strictly_(model, original.state, "the original")
    rules = {
        "wrong labels": mislabelled(true_labels),
        "a random tenth": random_fraction(FORGET_FRACTION, seed=seed),
        "two classes": within_classes([2, 5], fraction=FORGET_FRACTION, seed=seed),
        "a removed class": of_class(5),
    }
    for name, rule in rules.items():
        split = Split(train, forget=rule, test=test, holdout=holdout)
        margins = None
        for recipe, (maker, space) in SPACES.items():
            started = time.perf_counter()
            try:
                found = tune(model, split, maker, space=space, trials=NUM_TRIALS, seed=seed, fresh=make, plan=PLAN)
            except errors.Refused as error:
                yield {"seed": seed, "forget": name, "recipe": recipe, "refused": str(error)}
                continue
            seconds = time.perf_counter() - started
            if margins is None:  # after a choice is made, never before
                margins = oracle_margins(model, split, plan=PLAN, oracles=NUM_ORACLES, fresh=make, seed=seed)
            yield {
                "seed": seed,
                "forget": name,
                "recipe": recipe,
                "settings": found.settings,
                "value": found.value,
                "original_value": found.original_value,
                "utility_loss": found.utility_loss,
                "alarms": [alarm.name for alarm in found.alarms],
                "share": found.cost.retraining_share,
                "seconds": seconds,
                **msgspec.to_builtins(found.against(margins)),
            }


def table(rows):
    """Give the table of the page, one line a forget set and recipe, seeds beside each other."""
    lines = [
        "| forget set | recipe | rank of the choice | tau | distance: chosen / best / median | regret |",
        "|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["forget"], row["recipe"]) for row in rows):
        own = [row for row in rows if (row["forget"], row["recipe"]) == key]
        told = [row for row in own if "refused" not in row]
        ranks = ", ".join("none" if "refused" in row else f"{row['rank']} of {row['num_trials']}" for row in own)
        taus = ", ".join("–" if row["kendall_tau"] is None else f"{row['kendall_tau']:+.2f}" for row in told)
        away = ", ".join(f"{row['distance']:.1f} / {row['best']:.1f} / {row['median']:.1f}" for row in told)
        lines.append(
            f"| {key[0]} | {key[1]} | {ranks} | {taus} | {away} | "
            + ", ".join(f"{row['regret']:.1f}" for row in told)
            + " |"
        )
    return "\n".join(lines) + "\n"


def main():
    """Measure the seeds that are named, or render all that was measured."""
    torch.set_num_threads(1)
    if "--render" in sys.argv:
        found = [row for path in sorted(RESULTS.glob("tuning-*.json")) for row in json.loads(path.read_text())]
        sys.stdout.write(table(found))
        return
    for seed in map(int, sys.argv[1:]):
        found = list(rows_of(seed))
        (RESULTS / f"tuning-{seed}.json").write_text(json.dumps(found, indent=1) + "\n")
        sys.stdout.write(table(found))


if __name__ == "__main__":
    main()
