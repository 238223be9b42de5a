"""What a deletion request costs a ledger: to take in, and to answer with all that are open; training costs next to nothing."""

import os
import tempfile
import time
from unittest import mock

import torch
from torch import nn

from excise import TrainPlan, recipes
from excise.lifecycle import Ledger

NUM_ROWS, NUM_REQUESTS, NUM_TIMED = 20_000, 1_000, 50


def network():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def rows(count):
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(count))
    return inputs, (inputs[:, 0] > 0).long()


def measure():
    """Give processor seconds of one request, the first ones and after many, and of the run that answers all of them."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"XDG_STATE_HOME": f"{folder}/state"}):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = network()
        given = {"test": rows(500), "plan": TrainPlan(epochs=2, lr=0.1), "fresh": network, "max_drop": 0.9}
        ledger = Ledger.open(f"{folder}/life", model, rows(NUM_ROWS), **given)
        each = [_seconds(lambda row=row: ledger.request([row])) for row in range(NUM_REQUESTS)]
        run = _seconds(lambda: ledger.run(recipes.DEL(epochs=1, lr=0.05), tier="T0"))
    first, last = each[:NUM_TIMED], each[-NUM_TIMED:]
    told = f"a ledger of {NUM_ROWS:,} rows, processor seconds"
    return {
        "request_first": _row(f"one request, the first {NUM_TIMED}; {told}", first, 0.05),
        "request_later": _row(f"one request, after {NUM_REQUESTS - NUM_TIMED:,}; {told}", last, 0.1),
        "request_run": _row(
            f"the run that answers {NUM_REQUESTS:,} requests, by request; {told}", [run / NUM_REQUESTS], 0.01
        ),
    }


def _row(what, seconds, goal):
    ordered = sorted(seconds)
    return {
        "what": what,
        "ratio": ordered[len(ordered) // 2],
        "lowest": ordered[0],
        "highest": ordered[-1],
        "goal": goal,
    }


def _seconds(work):
    started = time.process_time()
    work()
    return time.process_time() - started
