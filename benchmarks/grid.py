"""A grid of experiments: each cell is run once, wherever there is room, and found again by what it is.

A cell is a dict of plain values that says all its result depends on, besides what all cells share. Its result lies in a JSON
file named by the hash of both; whoever ran the cell wrote it, so that a grid that was stopped goes on with what is missing.

`python -m benchmarks.grid --out DIR` puts every recipe, with the settings that `benchmarks.recipes` chose, to the demo's three
forget sets over several seeds; `--cluster ADDRESS` on a Ray cluster that shares DIR.
"""

import argparse
import hashlib
import json
import statistics
import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks import recipes
from excise import errors, store
from excise.cluster import Here, OnRay
from excise.oracles import Bank
from excise.version import __version__


def key_of(shared, cell):
    """Give the hash that a cell is found by."""
    told = {"excise": __version__, "torch": str(torch.__version__), "shared": shared, "cell": cell}
    return hashlib.sha256(json.dumps(told, sort_keys=True, allow_nan=False).encode()).hexdigest()


def filled(run, shared, cells, directory, fleet=None):
    """Give the result of each cell, in order, after running those whose file is missing.

    Args:
        run: `(shared, cell) -> result` of plain values, a function of a module.
        shared: plain values that every result depends on.
        cells: dicts of plain values.
        directory: of the results; one that all machines of the fleet share.
        fleet: who runs them; this process if None.

    Raises:
        errors.Corrupt: a file is not what was written.
    """
    cells, directory = list(cells), Path(directory).absolute()
    missing = [cell for cell in cells if not _path(directory, shared, cell).exists()]
    distinct = {key_of(shared, cell): cell for cell in missing}
    for _ in (fleet or Here()).run(partial(_kept, run, str(directory)), shared, distinct.values()):
        pass
    return [_read(directory, shared, cell) for cell in cells]


def _path(directory, shared, cell):
    return directory / f"{key_of(shared, cell)}.json"


def _kept(run, directory, shared, cell):
    """Run a cell and write what came of it, unless another has by now."""
    path = _path(Path(directory), shared, cell)
    if not path.exists():
        store.write_sealed(path, {"shared": shared, "cell": cell, "result": run(shared, cell)})


def _read(directory, shared, cell):
    path = _path(directory, shared, cell)
    held = store.read_sealed(path)
    if [held["shared"], held["cell"]] != json.loads(json.dumps([shared, cell])):
        raise errors.Corrupt(f"{path} is of another cell; remove it to have this one run again")
    return held["result"]


def recipe_rows(shared, cell):
    """Run one recipe on the forget sets of one seed; the original and the oracles are in the bank."""
    torch.set_num_threads(1)
    rows = {}
    for name, *problem in recipes.problems(cell["seed"], shared["num_oracles"], bank=Bank(shared["bank"])):
        rows[name] = recipes.run(cell["recipe"], cell["settings"], *problem, cell["seed"])
    return rows


def main():
    """Fill the grid and print the mean gap of each recipe."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--oracles", type=int, default=4)
    words.add_argument("--recipes", default="DEL,SalUn,SSD,SCRUB,NegGrad,Finetune,Retrain,Nothing")
    words.add_argument("--cluster")
    words.add_argument("--at-once", type=int)
    asked = words.parse_args()
    torch.set_num_threads(1)
    fleet = Here() if asked.cluster is None else OnRay(asked.cluster, at_once=asked.at_once)
    shared = {"num_oracles": asked.oracles, "bank": str((asked.out / "bank").absolute())}
    for seed in range(asked.seeds):  # networks first: cells find them
        for _ in recipes.problems(seed, asked.oracles, bank=Bank(shared["bank"]), fleet=fleet):
            pass
    chosen = json.loads(recipes.CHOSEN.read_text())["chosen"]
    cells = [
        {"recipe": name, "settings": chosen[name]["settings"], "seed": seed}
        for name in asked.recipes.split(",")
        for seed in range(asked.seeds)
    ]
    results = filled(recipe_rows, shared, cells, asked.out / "cells", fleet)
    for name in dict.fromkeys(cell["recipe"] for cell in cells):
        own = [result for cell, result in zip(cells, results, strict=True) if cell["recipe"] == name]
        gaps = [abs(gap) for result in own for row in result.values() for gap in row["gap"].values()]
        sys.stdout.write(f"{name:12} mean absolute gap {100 * statistics.fmean(gaps):.1f} points, {len(own)} seeds\n")


if __name__ == "__main__":
    main()
