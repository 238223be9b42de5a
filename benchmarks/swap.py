"""Measure how reliably the SWAP game tells a network that forgot nothing from one that was retrained.

`python -m benchmarks.swap` plays 100 games on digits, 60 rows a side, half of F mislabelled and none of T; writes
benchmarks/results/swap.json and prints what it holds; with `--render`, it only prints.

Rows are dealt anew 10 times (R, F, T), and for each deal 40 networks are trained: 10 on R + F, 10 on R + T, 20 on R. Each
of its 10 games draws pairs from these, so games of one deal share networks and are not independent. What was retrained is
drawn like what forgot nothing, from networks trained on R, two for each pair, of seeds of their own: so the two networks
of a pair differ, which they would not under the audit's common seeds.

The networks are trained until they know most of the wrong labels by heart. The advantage of doing nothing is about 0.25
where these are all that is learnt by heart, since the other half of F and all of T are known from other rows anyway.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn

from benchmarks.environment import environment
from excise import seeds
from excise.data.rows import Rows
from excise.data.sets import load
from excise.masks import Mask
from excise.measure import swap, swap_advantage
from excise.pipeline.swapping import KINDS
from excise.train import Engine, Task, TrainPlan
from excise.train.together import fit_together_

KEPT = Path(__file__).resolve().parent / "results" / "swap.json"
NUM_DEALS, GAMES_A_DEAL, NUM_ROWS = 10, 10, 60
NUM_ORIGINALS, NUM_ORACLES, HELD_AGAINST = 10, 20, 12
HIDDEN, NUM_PERMUTATIONS = 128, 99
PAIRS = (1, 2, 4)
GOAL_PAIRS, LEAST_NOTHING, MOST_RETRAINED, OF_100 = 4, 0.15, 0.05, 95
PLAN = TrainPlan(epochs=60, lr=1e-2, optimizer="adam", schedule="constant")


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


def dealt(number):
    """Give rows `[inputs, labels]` and the ids of R, F and T; half of F is mislabelled."""
    (first, labels), (second, others) = (load("digits").train, load("digits").test)
    inputs, labels = torch.cat([first, second]), torch.cat([labels, others])
    generator = seeds.generator(0, "deal", number)
    order = torch.randperm(len(labels), generator=generator)
    forget, twins, retain = order[:NUM_ROWS], order[NUM_ROWS : 2 * NUM_ROWS], order[2 * NUM_ROWS :]
    wrong = forget[: NUM_ROWS // 2]
    labels = labels.clone()
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (len(wrong),), generator=generator)) % 10
    return (inputs, labels), retain, forget, twins


def networks(rows, ids, count, *purpose):
    """Train networks on some rows, all at once."""
    models, chosen = [], []
    for place in range(count):
        chosen.append(seeds.derive(0, *purpose, place))
        with seeds.isolated(chosen[-1], "fresh"):
            models.append(make())
    engine = Engine(Task(), seed=0, besides=Mask.empty(models[0]))
    fit_together_(models, [Rows(rows.source, ids.sort().values)] * count, PLAN, chosen, engine, stage="train")
    return models


@torch.no_grad()
def scores(models, data, sides):
    """Give of each kind of score `[models, 2 sides, rows]`."""
    found = {kind: np.empty((len(models), 2, NUM_ROWS)) for kind in KINDS}
    for place, model in enumerate(models):
        for side, ids in enumerate(sides):
            logits = model(data[0][ids]).double().numpy()
            for kind, score in KINDS.items():
                found[kind][place, side] = score(logits, data[1][ids].numpy())
    return found


def paired(first, second):
    """Give `[pairs, 2 networks, 2 sides, rows]`."""
    return {kind: np.stack([first[kind], second[kind]], axis=1) for kind in first}


def taken(some, places):
    return {kind: values[places] for kind, values in some.items()}


def games(number):
    """Play the games of one deal: for each number of pairs the advantage on networks that forgot nothing and on others."""
    data, retain, forget, twins = dealt(number)
    rows = Rows.all_of(data)
    started = time.perf_counter()
    first = networks(rows, torch.cat([retain, forget]), NUM_ORIGINALS, "first", number)
    second = networks(rows, torch.cat([retain, twins]), NUM_ORIGINALS, "second", number)
    oracles = networks(rows, retain, NUM_ORACLES, "oracle", number)
    seconds = time.perf_counter() - started
    one, other, never = (scores(models, data, (forget, twins)) for models in (first, second, oracles))
    found = []
    for game in range(GAMES_A_DEAL):
        draws = np.random.default_rng(seeds.derive(0, "game", number, game))
        order = draws.permutation(NUM_ORACLES)
        held, against = order[:-HELD_AGAINST], order[-HELD_AGAINST:]
        some, others = draws.permutation(NUM_ORIGINALS), draws.permutation(NUM_ORIGINALS)
        for num_pairs in PAIRS:
            nothing = paired(taken(one, some[:num_pairs]), taken(other, others[:num_pairs]))
            retrained = paired(taken(never, held[:num_pairs]), taken(never, held[num_pairs : 2 * num_pairs]))
            row = {"deal": number, "game": game, "num_pairs": num_pairs}
            for name, own in (("nothing", nothing), ("retrained", retrained)):
                row[name] = swap_advantage(own, generator=draws)
                if num_pairs == PAIRS[1]:  # what an audit plays
                    row[f"p_{name}"] = swap(
                        own, taken(never, against), generator=draws, num_permutations=NUM_PERMUTATIONS
                    ).p
            found.append(row)
    wrong = forget[: NUM_ROWS // 2]
    with torch.no_grad():
        learnt = [float((model(data[0][wrong]).argmax(1) == data[1][wrong]).double().mean()) for model in first]
    return found, seconds, learnt


def summary(rows):
    """Give the figures for each number of pairs."""
    found = []
    for num_pairs in PAIRS:
        some = [row for row in rows if row["num_pairs"] == num_pairs]
        nothing, retrained = (np.array([row[name] for row in some]) for name in ("nothing", "retrained"))
        told = {"num_pairs": num_pairs, "games": len(some)}
        for name, values in (("nothing", nothing), ("retrained", retrained)):
            told[name] = {
                "mean": float(values.mean()),
                "p5": float(np.quantile(values, 0.05)),
                "p95": float(np.quantile(values, 0.95)),
                "least": float(values.min()),
                "most": float(values.max()),
            }
        told["nothing_at_least_goal"] = int((nothing >= LEAST_NOTHING).sum())
        told["retrained_at_most_goal"] = int((retrained <= MOST_RETRAINED).sum())
        told["both"] = int(((nothing >= LEAST_NOTHING) & (retrained <= MOST_RETRAINED)).sum())
        if "p_nothing" in some[0]:
            for name in ("nothing", "retrained"):
                told[f"{name}_p_at_most_5_percent"] = sum(row[f"p_{name}"] <= 0.05 for row in some)
        found.append(told)
    return found


def table(kept):
    """Give the figures in Markdown."""
    lines = [
        f"{kept['games']} games, {NUM_ROWS} rows a side, {kept['wrong_labels_learnt']:.0%} of wrong labels learnt; goal at "
        f"{GOAL_PAIRS} pairs, in {OF_100} of 100 games: nothing at least {LEAST_NOTHING}, retrained at most {MOST_RETRAINED}.",
        "",
        "| pairs | network | mean | 5% | 95% | within the goal | p <= 0.05 |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in kept["summary"]:
        for name, goal in (("nothing", "nothing_at_least_goal"), ("retrained", "retrained_at_most_goal")):
            arm, told = row[name], row.get(f"{name}_p_at_most_5_percent", "")
            numbers = " | ".join(f"{arm[key]:.3f}" for key in ("mean", "p5", "p95"))
            lines.append(f"| {row['num_pairs']} | {name} | {numbers} | {row[goal]} | {told} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure, write, print; with `--render`, print what is kept."""
    if "--render" not in sys.argv:
        torch.set_num_threads(1)
        started, rows, training, learnt = time.perf_counter(), [], 0.0, []
        for number in range(NUM_DEALS):
            found, seconds, shares = games(number)
            rows, training, learnt = rows + found, training + seconds, learnt + shares
        kept = {
            "environment": {**environment(), "numpy": np.__version__},
            "games": NUM_DEALS * GAMES_A_DEAL,
            "deals": NUM_DEALS,
            "rows_a_side": NUM_ROWS,
            "expected_by_chance_at_5_percent": [
                int(end) for end in stats.binom.interval(0.95, len(rows) // len(PAIRS), 0.05)
            ],
            "wrong_labels_learnt": float(np.mean(learnt)),
            "training_seconds": training,
            "seconds": time.perf_counter() - started,
            "summary": summary(rows),
            "rows": rows,
        }
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    sys.stdout.write(table(json.loads(KEPT.read_text())))


if __name__ == "__main__":
    main()
