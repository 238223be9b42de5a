"""What a run cannot see is said, is kept with its result, and is not doubled."""

import inspect

import pytest

import excise
from excise import methods, recipes
from excise.pipeline.telling import Noted
from excise.train import Hooks, TrainPlan
from tests.cases import CASES

PLAN = TrainPlan(epochs=2, lr=0.01, batch_size=8)


class Ear(Hooks):
    def __init__(self):
        self.notes = []

    def on_note(self, text):
        self.notes.append(text)


def unlearned(name, recipe, **options):
    case = CASES[name]
    split = excise.Split(case.data(40), forget=[1, 5, 8], holdout=range(30, 40))
    return excise.unlearn(case.make(), split, recipe, **options)


def test_notes_are_kept_once_and_all_is_passed_on():
    ear = Ear()
    noted = Noted(ear)
    for text in ("a", "b", "a"):
        noted.on_note(text)
    noted.on_resumption("goes on")
    assert noted.notes == ["a", "b"]
    assert ear.notes == ["a", "b", "a", "goes on"]


@pytest.mark.parametrize(("name", "num_notes"), [("mlp", 1), ("batchnorm", 2)])
def test_who_reads_no_row_that_stays_says_so_and_that_statistics_stay(name, num_notes):
    ear = Ear()
    found = unlearned(name, recipes.NegGrad(epochs=1), hooks=ear)
    assert list(found.notes) == ear.notes and len(found.notes) == num_notes
    assert found.notes[0].startswith("NegGrad read no row that stays")
    assert all("tell of them" in note for note in found.notes[1:])
    assert unlearned(name, recipes.Finetune(epochs=1)).notes == ()
    assert unlearned(name, recipes.Nothing()).notes == ()


@pytest.mark.parametrize("name", ["mlp", "batchnorm"])
def test_whether_a_target_was_reached_is_in_the_result(name):
    rule = methods.BelowAccuracy(0.001)
    found = unlearned(name, methods.Until(methods.Finetune(plan=PLAN), rule))
    reached = "not below" not in found.notes[0]
    assert found.notes[0].startswith("BelowAccuracy: ended after epoch ")
    assert ("the target was not reached" in found.notes[0]) != reached
    assert [("recomputed after the last look" in note) for note in found.notes[1:]] == [True] * (name == "batchnorm")


@pytest.mark.parametrize("name", [name for name in vars(Hooks) if name.startswith("on_")])
def test_everything_that_can_be_heard_is_passed_on(name):
    heard = []
    inner = Hooks()
    setattr(inner, name, lambda *words: heard.append(words))
    words = tuple(inspect.signature(getattr(Hooks, name)).parameters)[1:]
    getattr(Noted(inner), name)(*words)
    assert heard == [words]
