"""Peak memory of every method on a ResNet-18, in copies of the parameters beyond plain PyTorch. Goal: at most two copies.

Each runs in a process of its own. The plain work beside a method of gradient steps is a loop with the same optimizer, beside
the others a forward and backward pass. `python -m benchmarks.method_memory` writes benchmarks/results/method_memory.json and
docs/results/memory.md.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.memory import BATCH, _peak_bytes
from benchmarks.problems import engine, problem
from excise import localize, methods
from excise.data import Rows, Split
from excise.masks import Mask
from excise.networks import resnet18
from excise.params import named_parameters
from excise.train import TrainPlan

ROOT = Path(__file__).resolve().parent.parent
FOUND = ROOT / "benchmarks" / "results" / "method_memory.json"
PAGE = ROOT / "docs" / "results" / "memory.md"
GOAL = 2.0
SGD = TrainPlan(epochs=1, lr=1e-3, batch_size=BATCH)
TWICE = TrainPlan(epochs=2, lr=1e-3, batch_size=BATCH)
ADAM = TrainPlan(epochs=1, lr=1e-3, optimizer="adam", batch_size=BATCH)


def _rewind(model):
    return methods.Rewind(to={name: value.detach().clone() for name, value in model.state_dict().items()})


CASES = {
    "Finetune": ("sgd", lambda _: methods.Finetune(plan=SGD)),
    "Ascend": ("sgd", lambda _: methods.Ascend(plan=SGD)),
    "Contrast": ("sgd", lambda _: methods.Contrast(plan=SGD, alpha=0.9)),
    "Attract": ("adam", lambda _: methods.Attract(plan=ADAM, repeats=1)),
    "Smooth": ("sgd", lambda _: methods.Smooth(plan=SGD, sigma=0.1, num_draws=2, rows_at_once=BATCH)),
    "Match": ("adam", lambda model: methods.Match(plan=ADAM, targets=methods.OracleMean([model]), retain_multiplier=1)),
    "Relabel": ("sgd", lambda _: methods.Relabel(plan=SGD)),
    "Distill": ("adam", lambda _: methods.Distill(plan=ADAM, max_epochs=1)),
    "TwoTeachers": ("adam", lambda _: methods.TwoTeachers(plan=ADAM)),
    "ClosestEpoch": ("sgd", lambda _: methods.ClosestEpoch(methods.Finetune(plan=TWICE))),
    "Sparsify": ("sgd", lambda _: methods.Sparsify(plan=SGD, kappa=1e-5)),
    "Retrain": ("sgd", lambda _: methods.Retrain(plan=SGD)),
    "Soften": ("sgd", lambda _: methods.Soften(method=methods.Finetune(plan=SGD), among=localize.Convolutions())),
    "Within": (
        "sgd",
        lambda _: methods.Within(
            where=localize.Cut(localize.Gradient(batch_size=BATCH)), method=methods.Finetune(plan=SGD)
        ),
    ),
    "Dampen": ("pass", lambda _: methods.Dampen(selection=1.0)),
    "Influence": ("pass", lambda _: methods.Influence(alpha=1.0, num_rows=4, batch_size=BATCH)),
    "Reset": ("pass", lambda _: methods.Reset()),
    "Rewind": ("pass", _rewind),
    "Redraw": ("pass", lambda _: methods.Redraw()),
    "Prune": ("pass", lambda _: methods.Prune(fraction=0.5)),
    "Noise": ("pass", lambda _: methods.Noise(sigma=0.1)),
    "Transpose": ("pass", lambda _: methods.Transpose()),
    "SwitchOff": ("pass", lambda _: methods.SwitchOff()),
}


def small():
    """Give the network, and few rows: memory does not grow with them."""
    model, split = problem()
    inputs, labels = (tensor[:24] for tensor in split.train.source.tensors)
    return model, Split((inputs, labels), forget=range(6), holdout=(inputs + 1, labels))


def run_plain(kind):
    """Do the plain work, and give the process's peak resident bytes."""
    model, split = small()
    inputs, labels = split.train.source.tensors
    make = {"sgd": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9), "adam": lambda p: torch.optim.Adam(p, lr=1e-3)}
    optimizer = make[kind](model.parameters()) if kind in make else None
    for part, wanted in zip(inputs.split(BATCH), labels.split(BATCH), strict=True):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(part), wanted).backward()
        if optimizer is not None:
            optimizer.step()
    return _peak_bytes()


def run_method(name):
    """Run one method under a full mask, and give the process's peak resident bytes."""
    model, split = small()
    method = CASES[name][1](model)
    watch = replace(engine(model), fresh=lambda: resnet18(10), original=_original(model) if name in TEACHING else None)
    assert isinstance(split.holdout, Rows)
    method.unlearn_(model, split, Mask.full(model), watch)
    return _peak_bytes()


SAYS_WHY = {
    "TwoTeachers": "a second teacher",
    "ClosestEpoch": "a copy an epoch",
    "Dampen": "two sets of importances and the new weights",
    "Influence": "the vectors of its solve",
}
TEACHING = ("Attract", "Distill", "Match", "TwoTeachers")


def _original(model):
    """Give the network as it was, which in a run from the front door is the user's own."""
    twin = resnet18(10)
    twin.load_state_dict(model.state_dict())
    return twin


def _peak(call, repeats=2):
    code = f"import torch; torch.set_num_threads(1); import benchmarks.method_memory as m; print(m.{call})"
    told = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # what is freed goes back at once, and is not counted twice
    found = [
        int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=told).stdout)
        for _ in range(repeats)
    ]
    return min(found)


def main():
    """Measure, write, render."""
    if "--render" not in sys.argv:
        model, _ = problem()
        copy = sum(value.numel() * value.element_size() for value in named_parameters(model).values())
        plain = {kind: _peak(f"run_plain({kind!r})") for kind in ("sgd", "adam", "pass")}
        rows = {}
        for name, (kind, _) in CASES.items():
            peak = _peak(f"run_method({name!r})")
            theirs = (
                copy if name in TEACHING else 0
            )  # the user's own network, which a run from the front door need not copy
            rows[name] = {"plain": kind, "peak_bytes": peak, "copies": (peak - plain[kind] - theirs) / copy}
            sys.stdout.write(f"{name:14} {rows[name]['copies']:6.2f}\n")
            sys.stdout.flush()
        found = {"environment": environment(), "copy_bytes": copy, "plain_bytes": plain, "rows": rows}
        FOUND.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(render(json.loads(FOUND.read_text())))


def render(found):
    """Give the page."""
    told = ", ".join(f"{key} {value}" for key, value in found["environment"].items())
    words = {"sgd": "SGD with momentum", "adam": "Adam", "pass": "forward and backward"}
    lines = [
        "# Memory of every method",
        "",
        "Written by `python -m benchmarks.method_memory`; do not edit. Peak resident memory of a process that runs a method",
        "on a ResNet-18 (11,173,962 parameters) under a full mask, batches of 2, beyond that of the plain work beside it,",
        "in copies of the parameters. The original that teachers lie in is the user's own and not counted. `ClosestEpoch` was",
        f"run for two epochs. Goal: at most {GOAL:g}, or a docstring that says why. Measured with {told}.",
        "",
        "| method | beside | copies |",
        "|---|---|---:|",
    ]
    for name, row in found["rows"].items():
        missed = "" if row["copies"] <= GOAL else f" ({SAYS_WHY.get(name, 'missed')})"
        lines.append(f"| {name} | {words[row['plain']]} | {row['copies']:.2f}{missed} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
