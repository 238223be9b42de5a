"""The four published systems, beside DEL, baselines, retraining at DEL's cost and oracles, on small problems.

`python -m benchmarks.published` measures with the chosen settings on three seeds, on scikit-learn's digits and, where it is
on this machine, a part of Fashion-MNIST; writes benchmarks/results/published.json, docs/results/published.md and its figures.
Two processes with one thread each (`--workers N`). What is done is kept in `runs/published` (`--out DIR`): the same command
again goes on where it was.

    --choose         choose the settings, on a seed of their own; writes benchmarks/results/published_settings.json
    --render         only write page and figures anew
    --tiny           a minute's run of everything, settings included, at sizes that say nothing; prints the page
    --problems A,B   only these
    --large --device NAME    all of Fashion-MNIST and a ResNet-18, in this process, on an accelerator; chooses settings first;
                     writes published-large.json beside, and prints the page
    --large --pretend        the same path at a tiny size on the CPU; writes nothing
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.grid import filled, key_of
from benchmarks.published import page, plots
from benchmarks.published.arms import (
    EVERY,
    MASKED,
    MASKS,
    TRIALS,
    arm_cell,
    candidates,
    digest_of_code,
    network_cell,
    scene_cell,
)
from benchmarks.published.numbers import FAILED_DISTANCE
from benchmarks.published.problems import SIZES, Problem, kind_of, why_absent
from benchmarks.published.workers import Workers
from excise.cluster import Here

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CHOSEN, FOUND = RESULTS / "published_settings.json", RESULTS / "published.json"
PAGE, IMAGES = ROOT / "docs" / "results" / "published.md", ROOT / "docs" / "images"
SEEDS = (0, 1, 2)
CHOOSING_SEED, CHOOSING_MODELS = 100, 4


class Run:
    """A size, where its work is kept, and who does it."""

    def __init__(self, size, problems, out, device, fleet):
        self.size, self.out, self.fleet = size, Path(out).absolute(), fleet
        self.cells, self.found, self.prepared = 0, 0, {}
        self.absent = {name: why_absent(name) for name in problems if size != "pretend" and why_absent(name)}
        self.problems = [name for name in problems if name not in self.absent]
        self.shared = {"size": size, "out": str(self.out), "device": device, "code": digest_of_code()}

    def problem(self, name, seed):
        """Give a problem at a seed."""
        return Problem(name=name, seed=seed, **self.shared)

    def fill(self, what, job, cells):
        """Give the result of each cell; what is missing is run."""
        fleet = self.fleet.named(what) if isinstance(self.fleet, Workers) else self.fleet
        self.cells += len(cells)
        self.found += sum((self.out / "cells" / f"{key_of(self.shared, cell)}.json").exists() for cell in cells)
        return filled(job, self.shared, cells, self.out / "cells", fleet)

    def scenes(self, seeds):
        """Train all networks, and give what oracles say, by cell; the dearest problem first, so that workers end together."""
        bare = [{"problem": name, "seed": seed} for name in self.problems[::-1] for seed in seeds]
        made = self.fill("originals and datamodels", network_cell, bare)
        self.prepared = {
            name: [row for one, row in zip(bare, made, strict=True) if one["problem"] == name] for name in self.problems
        }
        cells = [{**one, "set": name} for one in bare for name in self.problem(one["problem"], one["seed"]).sets]
        return list(zip(cells, self.fill("oracles", scene_cell, cells), strict=True))


def choose(run, seed=CHOOSING_SEED):
    """Take for each problem, kind of forget set and recipe the settings whose margins lie closest to the oracles'."""
    cells = []
    for one, _ in run.scenes([seed]):
        if one["set"] != run.problem(one["problem"], seed).first_of_kind(one["set"]):
            continue
        for name in EVERY:
            own = {**one, "recipe": name, "mask": "none", "count": CHOOSING_MODELS}
            tried = candidates(name, run.problem(one["problem"], seed))
            cells += [{**own, "settings": some} for some in tried[: 1 if run.size == "pretend" else None]]
    results = run.fill("trials", arm_cell, cells)
    trials = {}
    for cell, result in zip(cells, results, strict=True):
        own = trials.setdefault(cell["problem"], {}).setdefault(kind_of(cell["set"]), {})
        row = {"settings": cell["settings"], "distance": result["distance"]}
        own.setdefault(cell["recipe"], []).append(row | ({"why": result["why"]} if "why" in result else {}))
    chosen = {
        name: {
            kind: {
                recipe: {"trials": rows, "place": min(range(len(rows)), key=lambda place: rows[place]["distance"])}
                for recipe, rows in every.items()
            }
            for kind, every in kinds.items()
        }
        for name, kinds in trials.items()
    }
    return {"seed": seed, "num_models": CHOOSING_MODELS, "trials": TRIALS, "failed": FAILED_DISTANCE, "chosen": chosen}


def measure(run, chosen, seeds=SEEDS):
    """Put every recipe with its chosen settings to every forget set, alone and under masks."""
    started = time.time()
    scenes = run.scenes(seeds)
    cells = []
    for one, _ in scenes:
        own = chosen["chosen"][one["problem"]][kind_of(one["set"])]
        count = SIZES[run.size][one["problem"]].num_models
        for name in EVERY:
            for mask in ("none", *(MASKS if name in MASKED else ())):
                best = own[name]["trials"][own[name]["place"]]
                cells.append({**one, "recipe": name, "settings": best["settings"], "mask": mask, "count": count})
    results = run.fill("recipes", arm_cell, cells)
    found = {name: {} for name in run.problems}
    for cell, result in scenes:
        found[cell["problem"]].setdefault(cell["set"], {"scene": [], "arms": {}})["scene"].append(result)
    for cell, result in zip(cells, results, strict=True):
        arm = cell["recipe"] if cell["mask"] == "none" else f"{cell['recipe']}/{cell['mask']}"
        found[cell["problem"]][cell["set"]]["arms"].setdefault(arm, []).append(result)
    return {
        "environment": environment(),
        "size": run.size,
        "sizes": {name: _told(SIZES[run.size][name]) for name in run.problems},
        "networks": {name: run.problem(name, 0).described for name in run.problems},
        "seeds": list(seeds),
        "absent": run.absent,
        "workers": getattr(run.fleet, "count", 1),
        "seconds": time.time() - started,
        "cells": run.cells,
        "cells_found": run.found,
        "prepared": _rounded(run.prepared),
        "problems": _rounded(found),
    }


def _told(size):
    return {name: getattr(size, name) for name in size.__struct_fields__}


def _rounded(value):
    """Give plain values with floats of five significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _write(path, found):
    path.write_text(json.dumps(found, indent=1) + "\n")


def show():
    """Write page and figures from what is kept."""
    found, chosen = json.loads(FOUND.read_text()), json.loads(CHOSEN.read_text())
    for name, picture in plots.pictures(found, MASKED).items():
        (IMAGES / name).write_text(picture + "\n")
    PAGE.write_text(page.render(found, chosen))


def _words(given):
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--choose", "--render", "--tiny", "--large", "--pretend"):
        words.add_argument(name, action="store_true")
    words.add_argument("--problems", default="digits,fashion-mnist")
    words.add_argument("--device", default="cpu")
    words.add_argument("--workers", type=int, default=2)
    words.add_argument("--out", type=Path, default=Path("runs") / "published")
    return words.parse_args(given)


def main(given=None):
    """Choose, measure or render, as asked."""
    asked = _words(given)
    torch.set_num_threads(1)
    if asked.render:
        show()
        return
    if asked.large:
        size = "pretend" if asked.pretend else "large"
        _whole(Run(size, ["fashion-mnist"], asked.out / size, asked.device, Here()), keep=not asked.pretend)
        return
    with Workers(asked.workers) as fleet:
        names = asked.problems.split(",")
        if asked.tiny:
            _whole(Run("tiny", names, asked.out / "tiny", "cpu", fleet), keep=False)
            return
        run = Run("usual", names, asked.out, "cpu", fleet)
        if asked.choose:
            kept = json.loads(CHOSEN.read_text())["chosen"] if CHOSEN.is_file() else {}
            chosen = choose(run)
            _write(CHOSEN, _rounded({**chosen, "chosen": {**kept, **chosen["chosen"]}}))
            return
        _write(FOUND, measure(run, json.loads(CHOSEN.read_text())))
    show()


def _whole(run, *, keep):
    """Choose and measure at another size, draw the figures beside the work, and print the page."""
    chosen = choose(run)
    found = measure(run, chosen, SEEDS[: {"large": 3, "tiny": 2, "pretend": 1}[run.size]])
    if keep:
        _write(RESULTS / "published-large.json", {**found, "settings": chosen})
    for name, picture in plots.pictures(found, MASKED).items():
        (run.out / name).write_text(picture + "\n")
    sys.stdout.write(page.render(found, chosen))
