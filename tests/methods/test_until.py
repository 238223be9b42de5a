from dataclasses import dataclass, replace

import msgspec
import pytest
import torch

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import BelowAccuracy, Contrast, Finetune, Reset, StopRule, Until, Watch
from excise.train import TrainPlan
from excise.train.checkpoints import Checkpoints
from tests.cases import CASES
from tests.methods.scripted import scripted
from tests.probes import LeftAlone, engine_for, same_bytes, snapshot, touched

PLAN = TrainPlan(epochs=4, lr=0.05, batch_size=8, momentum=0.9, schedule="cosine")
METHOD = Contrast(plan=PLAN, alpha=0.5, buffers="adapt")


@dataclass(frozen=True)
class After(StopRule):
    """Stops after so many epochs, and remembers which it saw."""

    epochs: int

    @property
    def needs(self):
        return frozenset({"holdout"})

    def require(self, model, split, mask, engine):
        if self.epochs > 99:
            raise errors.BadRequest("After: too many")

    def watch(self, model, split, mask, engine, plan):
        return Seen(self.epochs, engine)


class Seen(Watch):
    def __init__(self, epochs, engine):
        self.epochs, self.engine, self.seen = epochs, engine, []

    def __call__(self, epoch):
        self.seen.append(epoch)
        return epoch + 1 >= self.epochs

    def remembered(self):
        return {"seen": torch.tensor(self.seen, dtype=torch.int64)}

    def recall_(self, tensors):
        self.seen = tensors["seen"].tolist()

    def end_(self):
        self.engine.hooks.on_note(f"seen {self.seen}")


class Notes(excise.Hooks):
    def __init__(self):
        self.texts = []

    def on_note(self, text):
        self.texts.append(text)


def run(method, hooks=None, **more):
    model, split = CASES["batchnorm"].make(), Split(CASES["batchnorm"].data(24), forget=[0, 1, 5], holdout=[20, 21])
    engine = replace(engine_for(model, hooks=hooks, original=CASES["batchnorm"].make()), **more)
    method.unlearn_(model, split, Mask.full(model), engine)
    return snapshot(model), [replace(one, seconds=0) for one in engine.trace]


class Ends(Notes):
    """Kills a run at the end of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch(self, trace):
        if trace.epoch == self.epoch:
            raise InterruptedError


def test_its_epochs_are_the_first_of_the_method_alone():
    _, alone = run(METHOD)
    states = []
    for epochs in (1, 3, 4, 9):
        state, trace = run(Until(METHOD, After(epochs)))
        assert trace == alone[: min(epochs, 4)]
        states.append(state)
    assert same_bytes(states[2], states[3]) and same_bytes(states[3], run(METHOD)[0])
    assert not same_bytes(states[0], states[1]) and not same_bytes(states[1], states[2])


def test_a_constant_rate_gives_the_bits_of_a_shorter_plan():
    constant = msgspec.structs.replace(PLAN, schedule="constant")
    shorter = msgspec.structs.replace(constant, epochs=2)
    state, _ = run(Until(replace(METHOD, plan=constant), After(2)))
    assert same_bytes(state, run(replace(METHOD, plan=shorter))[0])


def test_killed_after_any_epoch_it_ends_the_same(tmp_path):
    notes = Notes()
    expected = run(Until(METHOD, After(3)), notes)
    assert notes.texts == ["seen [0, 1, 2]"]
    for epoch in range(3):
        with pytest.raises(InterruptedError):
            run(Until(METHOD, After(3)), Ends(epoch), checkpoints=Checkpoints(tmp_path, 0))
    for _ in range(2):  # the second finds the stage ended, three epochs before its plan says
        again = Notes()
        state, trace = run(Until(METHOD, After(3)), again, checkpoints=Checkpoints(tmp_path, 0))
        assert same_bytes(state, expected[0]) and trace == expected[1]
        assert again.texts[-1] == notes.texts[-1] and "goes on" in again.texts[0]


def test_a_rule_of_accuracy_goes_on_to_the_same_note(tmp_path):
    """The last look is remembered: a run that is over is not looked at again."""

    def go():
        model, split, engine, notes = scripted([900, 300, 5, 900, 900, 900])
        method = Until(Finetune(plan=msgspec.structs.replace(PLAN, epochs=6, batch_size=500)), BelowAccuracy(0.01))
        method.unlearn_(model, split, Mask.full(model), replace(engine, checkpoints=Checkpoints(tmp_path, 0)))
        return snapshot(model), notes.texts[-1], engine.cost.forward_rows, len(engine.trace)

    (one, *first), (other, *second) = go(), go()
    assert same_bytes(one, other) and first == second and first[-1] == 3


def test_it_takes_over_what_it_does_not_say():
    method = Until(METHOD, After(1))
    assert method.needs == {"forget", "retain", "holdout"}
    assert method.statistics == "adapt" and not method.widens


def test_what_the_rule_refuses_is_refused_before_any_work():
    model = touched(CASES["mlp"].make())
    alone, split = LeftAlone(model), Split(CASES["mlp"].data(20), forget=[0], holdout=[3])
    for ask in (Until(METHOD, After(100)).require, Until(METHOD, After(100)).unlearn_):
        with pytest.raises(errors.BadRequest, match=r"^After: too many$"):
            ask(model, split, Mask.full(model), engine_for(model))
    alone.check()


def test_other_things_are_refused():
    with pytest.raises(
        errors.BadRequest, match=r"^Until: expected a method of gradient steps, such as Finetune, found Reset$"
    ):
        Until(Reset(), After(1))
    with pytest.raises(errors.BadRequest, match=r"^Until: expected a rule such as BelowAccuracy\(0.01\), found float$"):
        Until(METHOD, 0.01)
