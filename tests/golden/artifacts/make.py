"""Write one of each kind of artifact, small, into the folder named on the command line; run once for each version, when it is released.

    python -m tests.golden.artifacts.make tests/golden/artifacts/0.1

`expected.json` says what whoever opens them must find.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import torch

from excise import params, store
from excise.cli import main
from excise.masks import Mask
from excise.oracles.bank import Bank, Trained
from excise.patch import Patch
from excise.pipeline.tuning_journal import Journal, Trial
from excise.store.generations import Generations
from tests.cli import mine
from tests.cli.project import UNLEARN, typed
from tests.report import samples


def network(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mine.make()


def run_directories(out):
    """Write a run with an audit, and one of localize, as the command line does."""
    Path("mine.py").write_bytes(Path(mine.__file__).read_bytes())
    Path("ids.txt").write_text("0\n20\n40\n")
    torch.save(network(0).state_dict(), "w.pt")
    words = typed(UNLEARN, weights="w.pt")
    assert main.call(["unlearn", *words, "--recipe", "Finetune", "--quiet"]) == 0
    assert main.call(["audit", "run", "--tier", "T0", "--test", "mine:test", "--quiet"]) in (0, 3, 4)
    assert main.call(["localize", *typed(UNLEARN, weights="w.pt", out="place"), "--quiet"]) == 0
    for name in ("run", "place"):
        shutil.copytree(name, out / name, ignore=shutil.ignore_patterns(".*"))
    shutil.copy("w.pt", out / "w.pt")


def make(out):
    run_directories(out)
    bank = Bank(out / "bank")
    state = params.state_of(network(1))
    bank.keep(
        "0" * 64,
        Trained(7, state, 1.5, 300),
        kind="oracle",
        architecture="Sequential",
        num_parameters=387,
        num_rows=190,
    )
    journal = Journal(out / "search", {"recipe": "DEL"})
    margins = {"forget": np.arange(3.0), "twins": np.arange(3.0) + 1}
    journal.add(Trial(number=0, settings={"lr": 0.1}, state="ok", value=0.5, accuracy=0.9), margins)
    store.write_json(out / "shown" / "demo.json", {"page": msgspec.to_builtins(samples.small_page())})
    Generations(out / "checkpoints").keep({"a": torch.arange(4.0)}, {"epoch": 2}, series=1)
    np.save(out / "ids.npy", np.array([3, 5]))
    (out / "plan.toml").write_text("epochs = 3\nlr = 0.1\n")
    (out / "settings.toml").write_text('recipe = "DEL"\nset = ["lr=0.1"]\nseed = 3\n')
    mask, patch = Mask.load(out / "run" / "mask.safetensors"), Patch.load(out / "run" / "patch.safetensors")
    expected = {
        "weights": params.digest(store.read_weights(out / "w.pt")),
        "model": params.digest(store.read_tensors(out / "run" / "model.safetensors")[0]),
        "mask": mask.digest,
        "place": Mask.load(out / "place" / "mask.safetensors").digest,
        "patch": [patch.base_digest, patch.num_changed],
        "bank": params.digest(state),
        "verdict": json.loads((out / "run" / "audit.json").read_text())["verdict"],
    }
    store.write_json(out / "expected.json", expected)


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"XDG_STATE_HOME": f"{home}/state", "XDG_CACHE_HOME": f"{home}/cache", "HOME": home}
        os.chdir(home)
        torch.set_num_threads(1)
        make(target)
