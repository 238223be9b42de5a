import dataclasses

import pytest
import torch

from excise.data import Split
from excise.masks import Mask
from excise.methods import Finetune, Sequence
from excise.train import EpochTrace, Hooks, TrainPlan
from tests.cases import CASES
from tests.probes import engine_for, same_bytes, snapshot


class Diary(Hooks):
    def __init__(self):
        self.heard = []

    def on_stage(self, name, num_steps):
        self.heard.append(("stage", name, num_steps))

    def on_step(self):
        self.heard.append("step")

    def on_epoch(self, trace):
        self.heard.append(("epoch", trace.stage, trace.epoch, trace.num_steps))

    def on_stage_end(self, name):
        self.heard.append(("end", name))


def finetuned(hooks):
    model, split = CASES["mlp"].make(), Split(CASES["mlp"].data(20), forget=[1, 2])
    method = Sequence((Finetune(plan=TrainPlan(epochs=2, lr=0.1, batch_size=8)),) * 2)
    engine = engine_for(model, hooks=hooks)
    method.unlearn_(model, split, Mask.full(model), engine)
    return model, engine


def test_a_watcher_hears_every_step_in_order():
    diary = Diary()
    _, engine = finetuned(diary)
    one = [
        ("stage", "Finetune", 6),
        *["step"] * 3,
        ("epoch", "Finetune", 0, 3),
        *["step"] * 3,
        ("epoch", "Finetune", 1, 3),
        ("end", "Finetune"),
    ]
    assert diary.heard == one + one
    assert [(trace.stage, trace.epoch) for trace in engine.trace] == [("Finetune", 0), ("Finetune", 1)] * 2


def test_watching_changes_nothing():
    watched, _ = finetuned(Diary())
    alone, _ = finetuned(Hooks())
    assert same_bytes(snapshot(watched), snapshot(alone))


def test_the_base_hears_everything_and_does_nothing():
    hooks, trace = Hooks(), EpochTrace("a", 0, 0.5, 0.1, 3, 1.0)
    before = dict(vars(hooks))
    hooks.on_stage("a", 3)
    hooks.on_step()
    hooks.on_epoch(trace)
    hooks.on_part("now")
    hooks.on_note("so it is")
    hooks.on_stage_end("a")
    assert vars(hooks) == before


def test_a_trace_is_a_value():
    trace = EpochTrace("a", 0, 0.5, 0.1, 3, 1.0)
    assert trace == EpochTrace("a", 0, 0.5, 0.1, 3, 1.0) != dataclasses.replace(trace, epoch=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        trace.loss = torch.nan
