"""What an accelerator is worth here: `python -m benchmarks.gpu [part ...]`, each part under 8 minutes on one GPU.

Results go to benchmarks/results/gpu.json, part by part; `section` makes of them the lines of docs/performance.md. Where there
is no accelerator it refuses; `--pretend` runs every part on the CPU at tiny sizes, to see that it runs, and writes nothing.
"""

import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from benchmarks.data import waits_timed
from benchmarks.environment import environment
from benchmarks.paired import paired_ratio
from excise import recipes, unlearn
from excise.data import Rows, Split
from excise.data.placing import placed
from excise.localize import WeightGradient
from excise.masks import Mask
from excise.methods import Finetune
from excise.networks import resnet18, tiny_resnet
from excise.params import clone_model
from excise.train import Engine, Machine, Pass, Task, TrainPlan, fit_, fit_together_

TARGET = Path(__file__).resolve().parent / "results" / "gpu.json"
PLAIN = Machine(precision="float32", layout="contiguous", compiled="never", on_device="never")


@dataclass(frozen=True)
class Sizes:
    """How much of everything; `TINY` on the CPU."""

    device: str
    rows: int = 50_000
    step_rows: int = 25_600
    width: int = 64
    side: int = 32
    batch: int = 128
    epochs: int = 3
    rounds: int = 5
    together: int = 256
    alone: int = 8
    oracle_rows: int = 1280
    oracle_epochs: int = 10
    learn_epochs: int = 5
    workers: int = 8


TINY = Sizes(
    "cpu",
    rows=60,
    step_rows=32,
    width=2,
    side=8,
    batch=16,
    epochs=1,
    rounds=1,
    together=3,
    alone=1,
    oracle_rows=16,
    oracle_epochs=1,
    learn_epochs=1,
    workers=0,
)


def problem(sizes, num_rows=None):
    """Give a ResNet-18 on the device, what builds an untrained one, and a split: class means and noise, a tenth to forget."""
    num_rows = num_rows or sizes.rows
    with torch.random.fork_rng():
        torch.manual_seed(0)
        labels = torch.arange(num_rows) % 10
        means = torch.randn(10, 3, 1, 1)
        images = means[labels] + torch.randn(num_rows, 3, sizes.side, sizes.side)
        split = Split((images, labels), forget=range(num_rows // 10))
        model = resnet18(10, width=sizes.width).to(sizes.device)
    return model, lambda: resnet18(10, width=sizes.width).to(sizes.device), split


def wait(sizes):
    """Wait for the device, so that a clock on the CPU tells the truth."""
    if sizes.device != "cpu":
        torch.accelerator.synchronize()


def timed(sizes, work):
    """Give `work` as what ends when the device is done."""

    def done():
        work()
        wait(sizes)

    return done


def engine_of(model, machine=None):
    return Engine(Task(), 0, Mask.empty(model), machine=machine or Machine())


# --- parts ------------------------------------------------------------------------------------------------------------


def end_to_end(sizes):
    """DEL by default settings against the same schedule as a plain loop over a DataLoader in float32."""
    model, fresh, split = problem(sizes)
    how = recipes.DEL(epochs=sizes.epochs, batch_size=sizes.batch)
    ratio = paired_ratio(
        timed(sizes, lambda: plain_del(model, fresh, split, sizes)),
        timed(sizes, lambda: unlearn(model, split, how, fresh=fresh)),
        max(1, sizes.rounds - 3),
    )
    what = f"DEL, {sizes.epochs} epochs over {len(split.retain):,} rows: as fast as a plain loop in float32, times"
    return {"end_to_end": {**ratio, "goal": 5.0, "at_least": True, "what": what}}


def plain_del(model, fresh, split, sizes):
    """Score the forget rows, take the highest 30% of the weights, reset them, finetune them: as one writes it by hand."""
    data = TensorDataset(*split.train.source.tensors)
    options = {"num_workers": sizes.workers, "pin_memory": sizes.device != "cpu"}
    work = clone_model(model)
    work.eval()
    own = list(work.parameters())
    scores = [torch.zeros_like(value) for value in own]
    for images, labels in DataLoader(Subset(data, split.forget.ids.tolist()), sizes.batch, **options):
        loss = nn.functional.cross_entropy(work(images.to(sizes.device)), labels.to(sizes.device))
        for score, value, gradient in zip(scores, own, torch.autograd.grad(loss, own), strict=True):
            score += (value.detach() * gradient).abs()
    flat = torch.cat([score.flatten() for score in scores])
    border = flat.kthvalue(int(0.7 * len(flat))).values
    masks = [score > border for score in scores]
    with torch.no_grad():
        for value, new, mask in zip(own, fresh().parameters(), masks, strict=True):
            value[mask] = new[mask]
    work.train()
    optimizer = torch.optim.SGD(own, lr=0.015, momentum=0.9)
    retain = Subset(data, split.retain.ids.tolist())
    for _ in range(sizes.epochs):
        for images, labels in DataLoader(retain, sizes.batch, shuffle=True, **options):
            optimizer.zero_grad()
            nn.functional.cross_entropy(work(images.to(sizes.device)), labels.to(sizes.device)).backward()
            for value, mask in zip(own, masks, strict=True):
                value.grad.mul_(mask)
            optimizer.step()


def steps(sizes):
    """Epochs under a mask against epochs without one."""
    model, _, split = problem(sizes, sizes.step_rows)
    split = placed(split, next(model.parameters()).device)
    plan = TrainPlan(epochs=1, lr=1e-3, batch_size=sizes.batch, weight_decay=5e-4)
    full, found = Mask.full(model), {}
    chosen = WeightGradient(batch_size=sizes.batch)(model, split).select(budget_fraction=0.3)
    masks = {"channel": (chosen, 0.80), "last_block": (Mask.of_modules(model, ["layer4.1", "fc"]), 0.35)}
    for name, (mask, goal) in masks.items():
        ours, theirs = clone_model(model), clone_model(model)
        ratio = paired_ratio(
            timed(sizes, lambda m=ours, k=mask: Finetune(plan=plan).unlearn_(m, split, k, engine_of(m))),
            timed(sizes, lambda m=theirs: Finetune(plan=plan).unlearn_(m, split, full, engine_of(m))),
            sizes.rounds,
        )
        what = f"epoch under a {name.replace('_', ' ')} mask ({mask.fraction:.0%}), against no mask"
        found[f"step_{name}"] = {**ratio, "goal": goal, "what": what}
    return found


def localization(sizes):
    """Score and select against one forward and backward over the same rows."""
    model, _, split = problem(sizes, sizes.step_rows)
    split = placed(split, next(model.parameters()).device)
    inputs, labels = (part[split.forget.ids].to(sizes.device) for part in split.train.source.tensors)
    localizer = WeightGradient(batch_size=sizes.batch)

    def floor():
        model.eval()
        model.zero_grad(set_to_none=True)
        for part, wanted in zip(inputs.split(sizes.batch), labels.split(sizes.batch), strict=True):
            nn.functional.cross_entropy(model(part), wanted).backward()

    def ours():
        localizer.score(model, split, engine_of(model)).select(budget_fraction=0.3)

    ratio = paired_ratio(timed(sizes, ours), timed(sizes, floor), sizes.rounds)
    what = "score and select at 30%, against forward and backward"
    return {"localization": {**ratio, "goal": 1.03, "what": what}}


def oracles(sizes):
    """Many small networks as one against one at a time, in models an hour."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = [tiny_resnet(width=8).to(sizes.device) for _ in range(sizes.together)]
        rows = (torch.randn(sizes.oracle_rows, 1, 8, 8), torch.arange(sizes.oracle_rows) % 10)
    split = placed(Split(rows, forget=[0]), next(networks[0].parameters()).device)
    plan, only = (
        TrainPlan(epochs=sizes.oracle_epochs, lr=0.05),
        Pass(lambda step: step.mean_loss("retain"), ("retain",)),
    )

    def together():
        copies = [clone_model(one) for one in networks]
        chosen = range(len(copies))
        fit_together_(copies, [split.retain] * len(copies), plan, chosen, engine_of(copies[0]), stage="train")

    def alone():
        for seed, one in enumerate(map(clone_model, networks[: sizes.alone])):
            own, full = engine_of(one).reseeded(seed), Mask.full(one)
            fit_(one, lambda _: (only,), {"retain": split.retain}, plan, full, own, stage="train", statistics="adapt")

    ratio = paired_ratio(timed(sizes, alone), timed(sizes, together), max(1, sizes.rounds - 2))
    share = sizes.together / sizes.alone
    scaled = {key: ratio[key] * share for key in ("ratio", "lowest", "highest")}
    hours = {
        "together": round(3600 * sizes.together / ratio["seconds_of_reference"]),
        "one by one": round(3600 * sizes.alone / ratio["seconds"]),
    }
    what = (
        f"{sizes.together} residual networks (width 8) trained as one: networks an hour, against one at a time, times"
    )
    return {"oracles": {**ratio, **scaled, "goal": 10.0, "at_least": True, "models_per_hour": hours, "what": what}}


def busy(sizes):
    """The share of an epoch in which the device computes."""
    model, _, split = problem(sizes, sizes.step_rows)
    split = placed(split, next(model.parameters()).device)
    plan, full = TrainPlan(epochs=1, lr=1e-3, batch_size=sizes.batch), Mask.full(model)

    def epoch():
        engine = engine_of(model)
        Finetune(plan=plan).unlearn_(model, split, full, engine)
        return engine.trace[-1].seconds

    epoch()
    shares = sorted(_busy_share(sizes, epoch) for _ in range(sizes.rounds))
    spread = {"ratio": statistics.median(shares), "lowest": shares[0], "highest": shares[-1]}
    return {"busy": {**spread, "goal": 0.9, "at_least": True, "what": "share of an epoch in which the device computes"}}


def _busy_share(sizes, epoch):
    if sizes.device == "cpu":
        with waits_timed() as waited:
            seconds = epoch()
        return 1 - sum(waited) / seconds
    own = torch.profiler.supported_activities() - {torch.profiler.ProfilerActivity.CPU}
    with torch.profiler.profile(activities=own, acc_events=True) as profile:
        seconds = epoch()
        wait(sizes)
    there = [one for one in profile.events() if one.device_type != torch.autograd.DeviceType.CPU]
    return covered([(one.time_range.start, one.time_range.end) for one in there]) / 1e6 / seconds


def covered(spans):
    """Give the length of the union of intervals: kernels may run at the same time."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def precision(sizes):
    """Accuracy after a training in bfloat16 against one in float32, and how much faster it was."""
    start, _, split = problem(sizes, sizes.step_rows)
    split = placed(split, next(start.parameters()).device)
    plan, found, seconds = TrainPlan(epochs=sizes.learn_epochs, lr=0.05, batch_size=sizes.batch), {}, {}
    only = Pass(lambda step: step.mean_loss("retain"), ("retain",))
    for name, machine in (("float32", PLAIN), ("bfloat16", in_bfloat16())):
        model = clone_model(start)
        engine, full = engine_of(model, machine), Mask.full(model)
        started = time.perf_counter()
        fit_(model, lambda _: (only,), {"retain": split.retain}, plan, full, engine, stage="train", statistics="adapt")
        wait(sizes)
        seconds[name] = time.perf_counter() - started
        found[name] = _accuracy(model, split.forget)
    gap = 100 * abs(found["bfloat16"] - found["float32"])
    what = "bfloat16 against float32: difference of accuracy on held-out rows, points"
    row = {"ratio": gap, "lowest": gap, "highest": gap, "goal": 0.5, "what": what}
    speed = seconds["float32"] / seconds["bfloat16"]
    return {"precision": {**row, "accuracy": found, "times_as_fast": speed}}


def in_bfloat16():
    """Give the machine that differs from plain PyTorch in precision and layout."""
    return Machine(precision="bfloat16", layout="channels-last", compiled="never", on_device="never")


@torch.no_grad()
def _accuracy(model, rows: Rows):
    inputs, labels = rows.source.read(rows.ids)
    device = next(model.parameters()).device
    model.eval()
    found = torch.cat([model(part.to(device)).argmax(1).cpu() for part in inputs.split(512)])
    return float((found == labels).double().mean())


def memory(sizes):
    """Peak memory of the device in a masked epoch against a plain one, data in the processor's memory for both."""
    model, _, split = problem(sizes, sizes.step_rows)
    plan = TrainPlan(epochs=1, lr=1e-3, batch_size=sizes.batch)
    mask = WeightGradient(batch_size=sizes.batch)(model, split, machine=PLAIN).select(budget_fraction=0.3)
    peaks = {}
    for name, allowed in (("masked", mask), ("full", Mask.full(model))):
        work = clone_model(model)
        if sizes.device != "cpu":
            torch.accelerator.reset_peak_memory_stats()
        Finetune(plan=plan).unlearn_(work, split, allowed, engine_of(work, PLAIN))
        peaks[name] = 1 if sizes.device == "cpu" else torch.accelerator.max_memory_allocated()
    ratio = peaks["masked"] / peaks["full"]
    what = "peak memory of the device in an epoch under a channel mask (30%), against no mask"
    return {"memory": {"ratio": ratio, "lowest": ratio, "highest": ratio, "goal": 1.0, "bytes": peaks, "what": what}}


PARTS = {
    "end_to_end": end_to_end,
    "steps": steps,
    "localization": localization,
    "oracles": oracles,
    "busy": busy,
    "precision": precision,
    "memory": memory,
}


# --- records ----------------------------------------------------------------------------------------------------------


def reached(row):
    """Say whether a figure keeps to its goal."""
    return row["ratio"] >= row["goal"] if row.get("at_least") else row["ratio"] <= row["goal"]


def section(result):
    """Give the lines of the page for what was measured on an accelerator; none where nothing was."""
    if not result or not result["rows"]:
        return []
    told = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
    lines = [
        "",
        "## GPU",
        "",
        "Written by `python -m benchmarks.gpu`. ResNet-18 (11,173,962 parameters), synthetic rows of 3 x 32 x 32, batches",
        f"of 128; default settings. Measured with {told}.",
        "",
        "| what | figure | lowest to highest | goal |",
        "|---|---:|---:|---:|",
    ]
    for row in result["rows"].values():
        goal = (
            f"{'at least' if row.get('at_least') else 'at most'} {row['goal']:g}{'' if reached(row) else ' (missed)'}"
        )
        spread = f"{row['lowest']:.3g} to {row['highest']:.3g}"
        lines.append(f"| {row['what']} | {row['ratio']:.3g} | {spread} | {goal} |")
    return lines


def recorded():
    """Give what the last run on an accelerator wrote, or nothing."""
    return json.loads(TARGET.read_text()) if TARGET.is_file() else {}


def measured_with(device):
    """Name versions and hardware, the accelerator's too."""
    name = getattr(torch.get_device_module(device), "get_device_name", lambda: device)
    return {**environment(), "device": name()}


def main(words):
    """Measure all parts or those named, and write them down."""
    pretend, chosen = "--pretend" in words, [word for word in words if word != "--pretend"]
    unknown = [word for word in chosen if word not in PARTS]
    if unknown:
        sys.exit(f"benchmarks.gpu: expected parts among {', '.join(PARTS)}, found {unknown[0]!r}")
    if not pretend and not torch.accelerator.is_available():
        sys.exit(
            "benchmarks.gpu: there is no accelerator that torch can use here; --pretend runs it at tiny sizes on the CPU"
        )
    sizes = TINY if pretend else Sizes(torch.accelerator.current_accelerator().type)
    result = {} if pretend else recorded()
    rows = result.get("rows", {})
    for part in chosen or PARTS:
        started = time.perf_counter()
        found = PARTS[part](sizes)
        rows |= found
        for name, row in found.items():
            mark = "pretended" if pretend else "ok" if reached(row) else "MISSED"
            took = f"{time.perf_counter() - started:.0f} s"
            sys.stdout.write(f"{name:18} {row['ratio']:8.3f} goal {row['goal']} {mark} {took}\n")
            sys.stdout.flush()
        result = {"environment": measured_with("cpu" if pretend else sizes.device), "rows": rows}
        if not pretend:
            TARGET.parent.mkdir(exist_ok=True)
            TARGET.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
