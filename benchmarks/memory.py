"""Peak memory, each case in a process of its own, in copies of the parameters beyond plain PyTorch. Goal: at most 1."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.problems import engine, problem
from excise.localize import WeightGradient
from excise.masks import Mask
from excise.methods import Finetune
from excise.params import named_parameters
from excise.train import TrainPlan

BATCH = 2
"""Small, so that the peak is made of copies of the parameters and not of activations."""

CASES = ("forward_backward", "localize", "plain_steps", "masked_steps", "weight_masked_steps")


def _scores(model, split):
    return WeightGradient(batch_size=BATCH)(model, split)


def run_case(name: str) -> int:
    """Do one case's work and give the process's peak resident bytes."""
    model, split = problem()
    inputs, labels = (tensor[split.forget.ids] for tensor in split.train.source.tensors)
    if name == "forward_backward":
        model.eval()
        for part, wanted in zip(inputs.split(BATCH), labels.split(BATCH), strict=True):
            torch.nn.functional.cross_entropy(model(part), wanted).backward()
    elif name == "localize":
        _scores(model, split).select(budget_fraction=0.3)
    elif name == "plain_steps":
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        for part, wanted in zip(inputs.split(BATCH), labels.split(BATCH), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(part), wanted).backward()
            optimizer.step()
    else:
        if name == "masked_steps":
            mask = _scores(model, split).select(budget_fraction=0.3)
        else:
            mask = _scores(model, split).select(budget_fraction=0.3, granularity="weight")
        plan = TrainPlan(epochs=1, lr=1e-3, batch_size=BATCH, shuffle=False)
        Finetune(plan=plan).unlearn_(model, split, mask, engine(model))
    return _peak_bytes()


def _peak_bytes() -> int:
    """Give the peak resident bytes of this program alone: `ru_maxrss` would carry over what the parent process had."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure(repeats: int = 3):
    """Give each case's peak, and the extra copies of the parameters over plain PyTorch."""
    peaks = {}
    for name in CASES:
        code = f"import benchmarks.memory as m; print(m.run_case({name!r}))"
        found = [
            int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
            for _ in range(repeats)
        ]
        peaks[name] = min(found)
    model, _ = problem()
    copy = sum(value.numel() * value.element_size() for value in named_parameters(model).values())
    extra = {
        "localize": peaks["localize"] - peaks["forward_backward"],
        "masked_steps": peaks["masked_steps"] - peaks["plain_steps"],
        "weight_masked_steps": peaks["weight_masked_steps"] - peaks["plain_steps"],
    }
    return {
        f"memory_{name}": {
            "ratio": beyond / copy,
            "lowest": beyond / copy,
            "highest": beyond / copy,
            "bytes": beyond,
            "peak_bytes": peaks[name],
            "goal": 1.0,
            "what": f"{name.replace('_', ' ')}: copies of the parameters beyond plain PyTorch (peak resident memory)",
        }
        for name, beyond in extra.items()
    }


def mask_on_disk():
    """Give the size of DEL's mask, and of a mask by weight, in bits a weight."""
    model, split = problem()
    scores = _scores(model, split)
    found = {}
    for granularity in ("channel", "weight"):
        mask = scores.select(budget_fraction=0.3, granularity=granularity)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mask.safetensors"
            mask.save(path)
            bits = path.stat().st_size * 8 / mask.num_parameters
        found[f"disk_{granularity}"] = {
            "ratio": bits,
            "lowest": bits,
            "highest": bits,
            "goal": 1.0 if granularity == "channel" else 1.02,
            "what": f"{granularity} mask on disk, bits a weight (file header included)",
        }
    full = Mask.full(model)
    assert full.num_parameters == 11_173_962
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=1) + "\n")
