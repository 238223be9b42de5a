from dataclasses import replace

import numpy as np
import pytest

from excise import errors, recipes
from excise.methods import Finetune
from excise.pipeline.tuning_journal import Journal, Trial
from excise.pipeline.tuning_trials import Search, best_of, ranked, repeated
from excise.pipeline.tuning_yardstick import make_yardstick, value_of
from excise.recipes import Recipe
from excise.train import TrainPlan
from tests.pipeline.test_tuning_yardstick import engine
from tests.pipeline.tuning_problem import PLAN, make, trained, wrong_labels


@pytest.fixture(scope="module")
def search():
    split, own = wrong_labels(), engine()
    options = {"fresh": make, "plan": PLAN}
    yardstick = make_yardstick(trained(), split, split.holdout, own, None)
    bounds = {"max_utility_loss": 0.5, "max_cost_share": None}
    return Search(trained(), split, recipes.Finetune, yardstick, own, bounds, options)


def told(number, state="ok", **changes):
    return Trial(number=number, settings={"lr": float(number)}, state=state, **changes)


def test_trials_that_kept_the_bounds_stand_before_those_that_did_not_and_failures_are_last():
    every = [
        told(0, value=0.9),
        told(1, "failed", reason="diverged"),
        told(2, "over", value=0.0, utility_loss=0.3),
        told(3, value=0.2),
        told(4, "over", value=9.9, utility_loss=0.1),
        told(5, value=0.9),
        told(6, value=0.0),
    ]
    assert [place for _, place in ranked(every)] == [2, 5, 4, 1, 3, 2, 0]
    assert best_of(every).number == 6
    assert best_of(every[:6]).number == 3
    assert best_of([every[0], every[5]]).number == 0  # of equal ones the first
    assert [trial.number for trial, _ in ranked(every)] == list(range(7))


def test_where_none_kept_the_bounds_the_nearest_is_told():
    every = [
        told(0, "over", utility_loss=0.3, reason="fell by 30.0%"),
        told(1, "over", utility_loss=0.1, reason="fell by 10.0%"),
        told(2, "failed", reason="diverged"),
    ]
    with pytest.raises(
        errors.Refused, match=r"none of 3 settings kept the bounds \(1 failed\).*'lr': 1.0.*fell by 10.0%"
    ):
        best_of(every)
    with pytest.raises(errors.Refused, match=r"none of 1 settings gave a network to judge; .*failed: diverged"):
        best_of(every[2:])


def test_a_trial_says_what_was_found_and_what_it_cost(search):
    trial, margins = search.trial(3, {"lr": 0.01, "epochs": 2})
    assert (trial.number, trial.state, trial.reason) == (3, "ok", "")
    assert trial.trained_rows == 2 * 140 and trial.retraining_share == 2 / PLAN.epochs
    assert trial.forward_rows >= 20 + 90 + 140
    assert trial.value == value_of((trial.twin_distance, trial.retain_distance))
    assert trial.utility_loss == search.yardstick.original.accuracy - trial.accuracy
    assert margins["forget"].shape == margins["twins"].shape == (20,)
    assert search.engine.cost.trained_rows == 0


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        (
            {"max_utility_loss": -0.9, "max_cost_share": None},
            "accuracy on the held-out rows fell by .*max_utility_loss -90.0%",
        ),
        (
            {"max_utility_loss": 0.9, "max_cost_share": 0.001},
            "costs 2.0% of a retraining, more than max_cost_share 0.1%",
        ),
    ],
)
def test_a_bound_that_is_broken_is_told(search, bounds, reason):
    trial, margins = replace(search, bounds=bounds).trial(0, {"lr": 0.01, "epochs": 2})
    assert trial.state == "over" and pytest.importorskip("re").search(reason, trial.reason)
    assert trial.value is not None and margins is not None


def test_a_loss_of_exactly_the_bound_keeps_it(search):
    first, _ = search.trial(0, {"lr": 0.01, "epochs": 1})
    kept = replace(search, bounds={"max_utility_loss": first.utility_loss, "max_cost_share": 1 / PLAN.epochs})
    assert kept.trial(0, {"lr": 0.01, "epochs": 1})[0].state == "ok"


def test_settings_that_diverge_or_that_the_recipe_refuses_are_failures(search):
    trial, margins = search.trial(0, {"lr": 1e30, "epochs": 5})
    assert trial.state == "failed" and "Finetune" in trial.reason and margins is None and trial.value is None
    scrub = replace(search, recipe=recipes.SCRUB)
    trial, _ = scrub.trial(0, {"epochs": 2, "max_epochs": 3})
    assert trial.state == "failed" and "max_epochs: expected an integer from 0 to 2" in trial.reason


def test_an_error_that_is_none_of_ours_or_of_the_disk_stops_the_search(search):
    def full(**_):
        raise errors.DiskError("no space")

    def wrong(**_):
        raise RuntimeError("a bug")

    with pytest.raises(errors.DiskError, match="no space"):
        replace(search, recipe=full).trial(0, {})
    with pytest.raises(RuntimeError, match="a bug"):
        replace(search, recipe=wrong).trial(0, {})


def test_settings_that_were_tried_are_not_run_again(search):
    journal = Journal(None, {})
    journal.add(*search.trial(0, {"lr": 0.01, "epochs": 1}))
    assert repeated(1, {"lr": 0.01, "epochs": 2}, journal) is None

    again, margins = repeated(1, {"lr": 0.01, "epochs": 1}, journal)
    assert (again.number, again.repeats, again.value) == (1, 0, journal.trials[0].value)
    assert again.trained_rows == again.forward_rows == again.seconds == 0
    assert margins is journal.margins[0]


def test_twins_that_agree_exactly_are_no_unit(search):
    places = np.zeros(20, dtype=np.int64)
    same = replace(search.yardstick, places=places)

    def blind(*, lr):
        return Recipe(name="blind", paper="", year=0, method=Finetune(plan=TrainPlan(epochs=1, lr=lr)))

    looks = []

    class Fixed:
        original, held_out = same.original, same.held_out
        distances = same.distances

        def look(self, model, own):
            looks.append(replace(same.look(model, own), twins=np.ones(20)))
            return looks[-1]

    trial, margins = replace(search, recipe=blind, yardstick=Fixed()).trial(0, {"lr": 0.01})
    assert trial.state == "failed" and trial.reason == "the network gives twins of which all margins are one number"
    assert margins is None and len(looks) == 1
