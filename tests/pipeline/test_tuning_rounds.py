"""What is tried follows from the seed and the size of a round: not from who tries it, what is done first, or a kill."""

import functools
from dataclasses import dataclass, field

import pytest
import torch

from excise import errors, recipes
from excise.cluster import Here
from excise.masks import Mask
from excise.oracles import keys
from excise.pipeline.tuning import tune
from excise.pipeline.tuning_journal import Journal, Trial
from excise.pipeline.tuning_rounds import search, settings_of_round
from excise.pipeline.tuning_space import read_space
from excise.pipeline.tuning_trials import ranked
from excise.train import Engine, Hooks, Task
from tests.cluster.fleets import Elsewhere
from tests.pipeline.tuning_problem import make, wrong_labels

SPACE = read_space(recipes.Finetune, {"lr": (0.001, 1.0, "log"), "epochs": [2, 20]})
FEW = read_space(recipes.Finetune, {"epochs": [2, 20]})
NUM = 14  # past the settings that are drawn evenly


class Noted(Hooks):
    def __init__(self):
        self.told = []

    def on_part(self, name):
        self.told.append(name)

    def on_stage(self, name, num_steps):
        self.told.append((name, num_steps))

    def on_step(self):
        self.told.append("step")

    def on_note(self, text):
        self.told.append(text)


@dataclass(frozen=True)
class Stub:
    """A search whose trials cost nothing: the value is the learning rate's distance from 0.03."""

    engine: Engine
    recipe: object = recipes.Finetune
    dies_at: int | None = None
    runs: list = field(default_factory=list)

    def trial(self, number, settings):
        if number == self.dies_at:
            raise KeyboardInterrupt
        self.runs.append(number)
        self.engine.hooks.on_note(f"note of {number}")
        value = abs(settings.get("lr", 0.0) - 0.03)
        return Trial(number=number, settings=settings, state="ok", value=value, utility_loss=0.0), None


def stub(seed=0, hooks=None, **changes):
    return Stub(Engine(Task(), seed, Mask.empty(make()), hooks=hooks or Hooks()), **changes)


def tried(at_once, fleet=None, trials=NUM, space=SPACE, directory=None, **changes):
    journal = Journal(directory, {"at_once": at_once})
    search(stub(**changes), journal, space, trials, at_once=at_once, fleet=fleet or Here())
    assert [one.number for one in journal.trials] == list(range(trials))
    return journal.trials


@pytest.mark.parametrize("at_once", [1, 4])
def test_who_tries_and_what_is_done_first_changes_nothing(at_once):
    wanted = tried(at_once)
    for fleet in (Elsewhere(1), Elsewhere(3), Elsewhere(9)):
        assert tried(at_once, fleet) == wanted
    assert tried(at_once, seed=1) != wanted


def test_a_larger_round_learns_later_and_a_cut_one_is_the_beginning_of_a_whole_one():
    one, four = tried(1), tried(4)
    assert one[:8] == four[:8]  # drawn before anything is learnt
    assert one[8] == four[8] and one[9:12] != four[9:12]  # the first of a round knows as much
    assert tried(4, trials=10) == four[:10]


@pytest.mark.parametrize("dies_at", [1, 9, 10, 12])
def test_a_search_killed_within_a_round_goes_on_in_it(tmp_path, dies_at):
    with pytest.raises(KeyboardInterrupt):
        tried(4, directory=tmp_path, dies_at=dies_at)
    assert len(Journal(tmp_path, {"at_once": 4}).trials) == dies_at
    assert tried(4, Elsewhere(2), directory=tmp_path) == tried(4)


def test_the_first_is_the_recipes_own_and_each_follows_from_those_before_its_round():
    journal = Journal(None, {})
    run = stub()
    own = read_space(recipes.Finetune, {"lr": (0.001, 1.0, "log")})
    assert settings_of_round(run, journal, own, 2, 2)[0] == {"lr": recipes.Finetune().method.plan.lr}
    first = settings_of_round(run, journal, SPACE, NUM, 3)
    assert list(first) == [0, 1, 2]
    for number, settings in first.items():
        journal.add(Trial(number=number, settings=settings, state="ok", value=float(number)), None)
    rest = settings_of_round(run, journal, SPACE, 5, 3)
    assert list(rest) == [3, 4]  # cut by the number of trials
    journal.add(Trial(number=3, settings=rest[3], state="failed"), None)
    assert settings_of_round(run, journal, SPACE, 5, 3) == {4: rest[4]}  # whatever came of 3


def test_settings_that_come_twice_are_run_once_even_within_a_round():
    run, journal = stub(), Journal(None, {})
    search(run, journal, FEW, 8, at_once=4, fleet=Here())
    assert len(run.runs) == 2
    assert sum(one.repeats is None for one in journal.trials) == 2
    assert all(
        journal.trials[one.repeats].settings == one.settings for one in journal.trials if one.repeats is not None
    )
    assert tried(4, Elsewhere(), 8, FEW) == journal.trials
    assert {place for _, place in ranked(journal.trials)} == {0}


def test_progress_is_told_by_trial_here_and_by_round_elsewhere():
    here, there = Noted(), Noted()
    tried(2, trials=3, hooks=here)
    tried(2, Elsewhere(), trials=3, hooks=there)
    assert here.told == [
        *("trial 1/3", "note of 0", "trial 2/3", "note of 1"),
        *("trial 3/3", "note of 2"),
    ]
    assert [one for one in there.told if not str(one).startswith("trial ")] == [
        *(("trials 1-2/3, on workers", 2), "note of 1", "step", "note of 0", "step"),
        *(("trials 3-3/3, on workers", 1), "note of 2", "step"),
    ]


def test_a_worker_that_would_compute_otherwise_is_refused(monkeypatch):
    class Other(Elsewhere):
        def run(self, job, shared, items):
            items = list(items)
            monkeypatch.setattr(keys, "surroundings", lambda: {"threads": "64"})
            return super().run(job, shared, items)

    with pytest.raises(errors.ClusterError, match="threads 64 here, 1 there"):
        tried(2, Other(), trials=2)


def test_real_trials_are_the_same_elsewhere(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = make()

    def found(fleet, **changes):
        given = {"space": {"lr": (0.01, 1.0, "log")}, "trials": 2, "fresh": make, "max_utility_loss": 1.0, **changes}
        recipe = functools.partial(recipes.Finetune, epochs=1)
        return tune(model, wrong_labels(), recipe, fleet=fleet, **{"at_once": 2, **given})

    here, there = found(None, directory=tmp_path), found(Elsewhere())
    assert [(one.settings, one.value) for one in here.trials] == [(one.settings, one.value) for one in there.trials]
    for number, own in here.margins.items():
        assert all(own[name].tobytes() == values.tobytes() for name, values in there.margins[number].items())
    with pytest.raises(errors.BadRequest, match=r"holds another search \(at_once: 2 there, None here\)"):
        found(None, directory=tmp_path, at_once=1)
    with pytest.raises(errors.BadRequest, match="at_once: expected an integer of at least 1, found 0"):
        found(None, at_once=0)
