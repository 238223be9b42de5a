"""One datamodel on digits, ten later requests: how near predictions and matched networks come to networks retrained without.

`python -m benchmarks.datamodels` trains networks on random halves once, answers ten requests by it, and holds the answers
against retrained networks; writes benchmarks/results/datamodels.json and docs/results/datamodels.md. Four minutes. `--bank DIR`
keeps the networks. `--few` tries everything out at small counts and prints what it found. `--render` only renders.

A tenth of the training labels is planted wrong, so that there is something to forget. Each request is answered for several
original networks of seeds of their own; what is compared are margins, row by row, with the mean of networks retrained without
the rows. Intervals are over originals (Student's t), of the difference to doing nothing in pairs.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn

import excise
from benchmarks.environment import environment
from excise import params, seeds
from excise.attribution import (
    DirectPredictor,
    Shrink,
    datamodeling_score,
    from_observed,
    observe_halves,
    principal_rows,
)
from excise.attribution.estimate import engine_for, plain
from excise.attribution.origin import network_digest
from excise.data import Split
from excise.data.sets import load
from excise.measure import margins
from excise.observe import collect
from excise.oracles import Bank, retrain
from excise.train import Machine, Task, TrainPlan

ROOT = Path(__file__).resolve().parent.parent
FOUND, PAGE = ROOT / "benchmarks" / "results" / "datamodels.json", ROOT / "docs" / "results" / "datamodels.md"
PLAN = TrainPlan(epochs=20, lr=1e-2, optimizer="adam", schedule="constant", batch_size=64)
NUM_WRONG, NUM_HELD = 128, 32
NUM_MODELS = 1024
NUM_ORIGINALS, NUM_ORACLES = 8, 16
MATCH = {"epochs": 10, "lr": 1e-2, "batch_size": 64, "retain_multiplier": 5.0, "forget_multiplier": 1.0}
SHOWN = ("nothing", "direct", "raw", "matched", "oracle")


def make():
    """Give an untrained network."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def planted():
    """Give training rows, a tenth of them with a wrong label, the ids of those, and test rows."""
    digits = load("digits")
    inputs, labels = digits.train
    draws = seeds.generator(0, "wrong labels")
    wrong = torch.randperm(len(labels), generator=draws)[:NUM_WRONG].sort().values
    labels = labels.clone()
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (NUM_WRONG,), generator=draws)) % 10
    return (inputs, labels), wrong, digits.test


def requests(datamodel, labels, wrong):
    """Give ten forget sets by name: random, wrong labels, parts of classes, along principal components."""
    order = torch.randperm(len(labels), generator=seeds.generator(0, "requests"))
    third, seventh = ((labels == digit).nonzero().flatten() for digit in (3, 7))
    return {
        "1 random row": order[:1],
        "10 random rows": order[1:11],
        "100 random rows": order[11:111],
        "1 wrong label": wrong[:1],
        "10 wrong labels": wrong[1:11],
        f"all {len(wrong)} wrong labels": wrong,
        "half of class 3": third[: len(third) // 2],
        "class 7": seventh,
        "10 along the 1st component": principal_rows(datamodel, count=10),
        "100 along the 2nd, both ends": principal_rows(datamodel, count=100, component=2, both_ends=True),
    }


def measure(bank=None, few=1):
    """Take every figure."""
    started = time.perf_counter()
    train, wrong, test = planted()
    num_models = NUM_MODELS // few
    split = Split(train, forget=wrong, test=test)
    observed, held = (
        observe_halves(make, split, PLAN, count, engine(seed), bank=bank, together=True)
        for count, seed in ((num_models, 0), (NUM_HELD, 1))
    )
    halves = time.perf_counter() - started
    found = {"environment": environment(), "few": few, "networks": num_models, "held": NUM_HELD, "plan": plain(PLAN)}
    datamodel, seconds = timed(lambda: estimated(observed))
    found["once"] = {
        "seconds_training": observed.seconds,
        "seconds_halves_and_held": halves,
        "seconds_estimating": seconds,
        "trained_rows": observed.trained_rows,
        "forward_rows": observed.forward_rows,
        "retrainings": observed.trained_rows / (PLAN.epochs * len(split.train)),
        "shrink": [datamodel.shrink.own, datamodel.shrink.other],
    }
    sets = requests(datamodel, train[1], wrong)
    originals = trained(split.train, NUM_ORIGINALS, "original", bank)
    oracles = {name: trained_without(split, ids, bank) for name, ids in sets.items()}
    counts = [count for count in (16, 32, 64, 128, 256, 512, 1024) if count <= num_models]
    found["counts"] = [at_count(observed, held, count, originals, oracles, sets, train, test) for count in counts]
    found["requests"] = [
        {"name": name, "rows": len(ids), **answered(datamodel, originals, oracles[name], ids, train, test)}
        for name, ids in sets.items()
    ]
    found["seconds"] = time.perf_counter() - started
    return found


def engine(seed):
    return engine_for(make, Task(), seed, None, Machine())


def timed(work):
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def estimated(observed):
    return from_observed(observed, network=network_digest(make()), plan=plain(PLAN))


def trained(rows, count, family, bank):
    """Give networks trained on rows, as modules."""
    chosen = [seeds.derive(0, family, number) for number in range(count)]
    several = retrain(make, rows, PLAN, chosen, engine(0), stage=family, bank=bank, together=True, kind="original")
    models = [make() for _ in several]
    for model, one in zip(models, several, strict=True):
        params.load_strictly_(model, one.state, family)
    return models


def trained_without(split, ids, bank):
    retain = Split((split.train.source.tensors[0], split.train.source.tensors[1]), forget=ids).retain
    return trained(retain, NUM_ORACLES, f"oracle {len(ids)} {int(ids.sum())}", bank)


def asked(model, split):
    """Give a network's margins on forget and test rows."""
    return {part: margins_of(collect(model, getattr(split, part), engine(0))) for part in ("forget", "test")}


def margins_of(outputs):
    return margins(outputs.logits, outputs.targets)


def predicted(datamodel, model, split):
    direct = DirectPredictor(model, datamodel, split.forget.ids)
    return {
        "forget": margins(direct.logits(split.forget).numpy(), split.forget.labels().numpy()),
        "test": margins(direct.logits(split.test, part="test").numpy(), split.test.labels().numpy()),
    }


def away(own, mean):
    """Root mean square over rows of the difference of margins."""
    return {part: float(np.sqrt(((own[part] - mean[part]) ** 2).mean())) for part in mean}


def mean_of(several):
    return {part: np.mean([one[part] for one in several], axis=0) for part in several[0]}


def answered(datamodel, originals, oracles, ids, train, test):
    """Answer one request for every original; give distances by way and part, one an original, and what an answer costs."""
    split = Split(train, forget=ids, test=test)
    truths = [asked(model, split) for model in oracles]
    mean = mean_of(truths)
    own = [asked(model, split) for model in originals]
    direct, seconds = timed(lambda: [predicted(datamodel, model, split) for model in originals])
    raw = replace(datamodel, shrink=Shrink())
    recipe = excise.recipes.DMM(datamodel=datamodel, **MATCH)
    done = [excise.unlearn(model, split, recipe, fresh=make, plan=PLAN, seed=0) for model in originals]
    matched = [asked(one.model, split) for one in done]
    distances = {
        "nothing": [away(one, mean) for one in own],
        "direct": [away(one, mean) for one in direct],
        "raw": [away(predicted(raw, model, split), mean) for model in originals],
        "matched": [away(one, mean) for one in matched],
        "oracle": [away(one, mean_of(truths[:place] + truths[place + 1 :])) for place, one in enumerate(truths)],
    }
    change = {part: mean_of(own)[part] - mean[part] for part in mean}
    guess = {part: mean_of(own)[part] - mean_of(direct)[part] for part in mean}
    return {
        "distances": distances,
        "correlation": {part: correlation(change[part], guess[part]) for part in mean},
        "direct_cost": {"forward_rows": len(ids) + len(test[0]), "seconds": seconds / len(originals)},
        "matched_cost": {
            "trained_rows": done[0].cost.trained_rows,
            "forward_rows": done[0].cost.forward_rows,
            "seconds": float(np.mean([one.cost.seconds for one in done])),
            "share": done[0].cost.retraining_share,
        },
    }


def correlation(one, other):
    return float(np.corrcoef(one, other)[0, 1]) if len(one) > 1 and one.std() and other.std() else None


def at_count(observed, held, count, originals, oracles, sets, train, test):
    """Say how well the first networks alone do: the score, and the mean distance of direct predictions over requests."""
    datamodel = estimated(observed.first(count))
    row = {"networks": count, "shrink": [datamodel.shrink.own, datamodel.shrink.other]}
    for part in ("train", "test"):
        score = datamodeling_score(datamodel, held, part=part)
        row[f"score_{part}"] = [score.spearman, score.spearman_low, score.spearman_high]
    gaps = {"forget": [], "test": []}
    for name, ids in sets.items():
        split = Split(train, forget=ids, test=test)
        mean = mean_of([asked(model, split) for model in oracles[name]])
        several = [away(predicted(datamodel, model, split), mean) for model in originals]
        for part, values in gaps.items():
            values.append(np.mean([one[part] for one in several]))
    return {**row, **{f"direct_{part}": float(np.mean(values)) for part, values in gaps.items()}}


def interval(values):
    """Give a mean and half the width of its 95% interval."""
    reach = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(reach)


def of(request, way, part):
    return np.array([one[part] for one in request["distances"][way]])


def verdict(request, way, part):
    """Say whether a way is nearer to retraining than doing nothing, by the interval of the difference in pairs."""
    mean, reach = interval(of(request, way, part) - of(request, "nothing", part))
    return "nearer" if mean + reach < 0 else "farther" if mean - reach > 0 else "no difference seen"


def cell(request, way, part):
    mean, reach = interval(of(request, way, part))
    text = f"{mean:.2f} ± {reach:.2f}"
    return f"**{text}**" if way in WAYS and verdict(request, way, part) == "nearer" else text


def render(found):
    """Give the page."""
    once = found["once"]
    lines = [
        "# One datamodel, ten requests",
        "",
        "Written by `python -m benchmarks.datamodels`; do not edit. scikit-learn's digits, 1,280 training rows of which "
        f"{NUM_WRONG} have a wrong label, an MLP (64-64-10), adam for 20 epochs. One datamodel is estimated, by means over",
        f"{found['networks']:,} networks on random halves, and answers ten requests that it did not know of: by DM-Direct "
        "(predictions, no network) and by DMM (the original trained to say them:",
        f"{MATCH['epochs']} epochs, lr {MATCH['lr']:g}, chosen by hand on the requests shown). {NUM_ORIGINALS} originals, and "
        f"{NUM_ORACLES} networks retrained for each request.",
        "",
        "**Distance** is the root mean square over rows between a network's margin and the mean margin of the retrained ones. "
        "*Another oracle* is one retrained network beside the others: the floor. ± is the 95%",
        "interval of the mean over originals; bold where the difference to doing nothing, in pairs, lies wholly below 0. "
        "*Not shrunk* is DM-Direct by the effects as found; DMM is matched to shrunk ones.",
        "*Correlation* is that of the predicted change with the true one, of means over networks, row by row.",
        "",
    ]
    for part in ("forget", "test"):
        lines += [
            f"## On {part} rows",
            "",
            "| request | doing nothing | DM-Direct | not shrunk | DMM | another oracle | correlation of changes |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for one in found["requests"]:
            cells = " | ".join(cell(one, way, part) for way in SHOWN)
            told = one["correlation"][part]
            lines.append(f"| {one['name']} ({one['rows']}) | {cells} | {'–' if told is None else f'{told:.2f}'} |")
        lines += ["", *sentences(found["requests"], part), ""]
    lines += costs(found, once)
    lines += counted(found["counts"])
    told = ", ".join(f"{name} {value}" for name, value in found["environment"].items())
    lines += ["", f"Measured with {told}; {found['seconds']:.0f} s in all.", ""]
    return "\n".join(lines)


def sentences(several, part):
    """Say, set by set, where predictions help and where they do not."""
    yield from compared(several, part)
    short = [one["name"] for one in several if of(one, "direct", part).mean() > 2 * of(one, "oracle", part).mean()]
    yield f"- Still more than twice as far as another oracle, DM-Direct: {', '.join(short) or 'none'}."
    raw = [one["name"] for one in several if of(one, "raw", part).mean() < 0.9 * of(one, "direct", part).mean()]
    yield f"- Shrinking takes too much (not shrunk is nearer by a tenth or more): {', '.join(raw) or 'none'}."
    few = [one["name"] for one in several if of(one, "raw", part).mean() > 1.1 * of(one, "direct", part).mean()]
    yield f"- Not shrunk, noise takes over (farther by a tenth or more): {', '.join(few) or 'none'}."


def compared(several, part):
    """Say of each way for which sets it is nearer to retraining than doing nothing."""
    for way, name in WAYS.items():
        told = {word: [one["name"] for one in several if verdict(one, way, part) == word] for word in VERDICTS}
        yield f"- {name}: " + "; ".join(f"{word}: {', '.join(names) or 'none'}" for word, names in told.items()) + "."


WAYS = {"direct": "DM-Direct", "raw": "DM-Direct, not shrunk", "matched": "DMM"}
VERDICTS = ("nearer", "no difference seen", "farther")


def costs(found, once):
    """Give the tables of what is paid once and what a request costs."""
    lines = [
        "## What it costs",
        "",
        f"Once: {found['networks']:,} trainings on half of the rows, {once['trained_rows']:,} rows forward and backward (as "
        f"many as {once['retrainings']:.0f} retrainings; trained as one, {once['seconds_training']:.0f} s),",
        f"{once['forward_rows']:,} rows forward to observe, and {once['seconds_estimating']:.1f} s to estimate. "
        "A datamodel pays only where many requests will come, or where answers have to come at once.",
        "",
        "| request | DM-Direct: rows forward | seconds | DMM: rows both ways | rows forward | seconds | of a retraining |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in found["requests"]:
        direct, matched = one["direct_cost"], one["matched_cost"]
        lines.append(
            f"| {one['name']} | {direct['forward_rows']:,} | {direct['seconds']:.3f} | {matched['trained_rows']:,} | "
            f"{matched['forward_rows']:,} | {matched['seconds']:.2f} | {matched['share']:.1%} |"
        )
    return [*lines, ""]


def counted(rows):
    """Give the table of scores by number of networks."""
    lines = [
        "## How many networks",
        "",
        "The score is the rank correlation of predicted and true margins over 32 networks on further halves, a mean over rows; "
        "kept is what noise leaves of an effect of a row on itself, and on another",
        "(`attribution.shrinkage`). Distances of DM-Direct are means over the ten requests, whose forget sets along components "
        "come of the whole datamodel.",
        "",
        "| networks | score, test rows | score, training rows | kept, itself | kept, another | DM-Direct, forget | and test |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        scores = " | ".join(
            f"{row[name][0]:.2f} ({row[name][1]:.2f} to {row[name][2]:.2f})" for name in ("score_test", "score_train")
        )
        (own, other), gaps = row["shrink"], (row["direct_forget"], row["direct_test"])
        lines.append(f"| {row['networks']:,} | {scores} | {own:.0%} | {other:.1%} | {gaps[0]:.2f} | {gaps[1]:.2f} |")
    return lines


def main(words):
    """Measure, keep, and render."""
    torch.set_num_threads(1)
    bank = Bank(words[words.index("--bank") + 1]) if "--bank" in words else None
    if "--few" in words:
        sys.stdout.write(render(measure(bank, 16)))
        return
    if "--render" not in words:
        FOUND.write_text(json.dumps(measure(bank), indent=1) + "\n")
    PAGE.write_text(render(json.loads(FOUND.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
