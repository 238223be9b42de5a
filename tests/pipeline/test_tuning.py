import functools
import json
import re

import numpy as np
import pytest
import torch

import excise
from excise import errors, recipes
from excise.data import Split
from excise.measure import accuracy, margins
from excise.methods import Reset
from excise.pipeline import tuning as tuning_module
from excise.pipeline.tuning import Tuning, tune
from excise.recipes import Recipe
from excise.train import Hooks
from tests.pipeline.test_tuning_yardstick import logits
from tests.pipeline.tuning_problem import PLAN, SPACE, WRONG, blobs, make, train_rows, trained, wrong_labels
from tests.probes import LeftAlone, Watched, touched

NUM = 10  # past the settings that are drawn evenly


def search(split=None, recipe=recipes.Finetune, **changes):
    given = {"space": SPACE, "trials": NUM, "fresh": make, "plan": PLAN, **changes}
    return tune(trained(), split or wrong_labels(), recipe, **given)


def untrained(*, lr: float):
    return Recipe(name=f"untrained {lr}", paper="", year=0, method=Reset())


@pytest.fixture(scope="module")
def found():
    return search()


def outcome(tuning):
    """Everything of a search that does not depend on the clock."""
    return [
        (one.number, one.settings, one.state, one.reason, one.value, one.utility_loss, one.trained_rows)
        for one in tuning.trials
    ]


def test_the_choice_is_the_best_of_the_table_that_kept_the_bound(found):
    allowed = [one for one in found.trials if one.state == "ok" and one.utility_loss <= 0.02 + 1e-9]
    assert [one for one in found.trials if one.state == "ok"] == allowed
    assert found.value == min(one.value for one in allowed)
    assert found.settings == found.chosen.settings == next(o for o in allowed if o.value == found.value).settings
    assert len(found.trials) == NUM and [one.number for one in found.trials] == list(range(NUM))
    assert found.value < found.original_value
    assert 0 <= found.num_twins <= len(WRONG)


def test_the_chosen_recipe_gives_the_network_that_was_judged(found):
    split = wrong_labels()
    done = excise.unlearn(trained(), split, found.recipe, fresh=make, seed=found.seed)
    inputs, labels = train_rows()
    again = margins(logits(done.model, (inputs, labels))[WRONG], labels[WRONG].numpy())
    np.testing.assert_array_equal(again, found.margins[found.chosen.number]["forget"])
    held = blobs(1, 90)
    before, after = (accuracy(logits(network, held), held[1].numpy()) for network in (trained(), done.model))
    assert found.utility_loss == before - after


def test_the_bound_decides(found):
    loose = search(recipe=recipes.NegGrad, space={"lr": (1e-4, 1.0, "log")}, max_utility_loss=1.0)
    strict = search(recipe=recipes.NegGrad, space={"lr": (1e-4, 1.0, "log")}, max_utility_loss=0.0)
    assert {one.state for one in loose.trials} == {"ok"} and {one.state for one in strict.trials} == {"ok", "over"}
    assert max(one.utility_loss for one in loose.trials) > 0 >= strict.utility_loss
    for one in strict.trials:
        assert (one.state == "ok") == (one.utility_loss <= 0) == (one.reason == "")
    with pytest.raises(errors.Refused, match=r"none of 2 settings kept the bounds .* more than max_utility_loss 2.0%"):
        search(recipe=untrained, space={"lr": [1.0, 1.5]}, trials=2)
    cheap = search(max_cost_share=2 / PLAN.epochs, max_utility_loss=1.0)
    assert cheap.settings["epochs"] == 2
    assert {one.state for one in cheap.trials if one.settings["epochs"] == 20} == {"over"}


def test_the_first_trial_is_the_recipes_own_where_the_space_holds_it():
    own = functools.partial(recipes.Finetune, lr=0.05, epochs=2, weight_decay=0.001)
    assert search(recipe=own, trials=1).trials[0].settings == {"lr": 0.05, "epochs": 2, "weight_decay": 0.001}
    assert search(trials=1).trials[0].settings["epochs"] in (2, 20)  # 10, its own, is not among them
    default = search(recipe=functools.partial(recipes.Finetune, epochs=1), space=None, trials=1)
    assert default.settings == {"epochs": 1, "lr": 0.01}


@pytest.mark.parametrize("killed_after", [1, 9])
def test_a_search_that_was_killed_ends_like_one_that_was_not(tmp_path, monkeypatch, found, killed_after):
    class Killed(Exception):
        pass

    run = tuning_module.Search.trial

    def mortal(self, number, settings):
        if number == killed_after:
            raise Killed
        return run(self, number, settings)

    monkeypatch.setattr(tuning_module.Search, "trial", mortal)
    with pytest.raises(Killed):
        search(directory=tmp_path)
    assert len(json.loads((tmp_path / "tuning.json").read_text())["trials"]) == killed_after
    monkeypatch.undo()
    resumed = search(directory=tmp_path)
    assert outcome(resumed) == outcome(found)
    assert (resumed.settings, resumed.value, resumed.alarms) == (found.settings, found.value, found.alarms)
    for number, own in found.margins.items():
        for name, values in own.items():
            assert resumed.margins[number][name].tobytes() == values.tobytes()
    monkeypatch.setattr(tuning_module.Search, "trial", lambda *_: pytest.fail("a finished search ran again"))
    assert outcome(search(directory=tmp_path)) == outcome(found)
    assert outcome(search(directory=tmp_path, trials=5)) == outcome(found)[:5]


def test_a_finished_search_can_be_prolonged(tmp_path, found):
    assert outcome(search(directory=tmp_path, trials=6)) == outcome(found)[:6]
    assert outcome(search(directory=tmp_path)) == outcome(found)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"space": {"lr": [0.1, 0.2]}}, "space"),
        ({"max_utility_loss": 0.5}, "bounds"),
        ({"split": wrong_labels(forget=WRONG[:10])}, "rows"),
        ({"split": wrong_labels(holdout=blobs(9, 90))}, "rows"),
        ({"recipe": functools.partial(recipes.Finetune, momentum=0.5)}, "recipe"),
        ({"plan": None}, "plan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_search_is_refused_the_directory(tmp_path, changes, key):
    search(directory=tmp_path, trials=1)
    before = (tmp_path / "tuning.json").read_bytes()
    with pytest.raises(errors.BadRequest, match=rf"holds another search \({key}: "):
        search(directory=tmp_path, **changes)
    assert (tmp_path / "tuning.json").read_bytes() == before


def test_no_row_is_named_in_what_is_written(tmp_path):
    inputs, labels = blobs(0, 3000)
    ids = [1009, 1213, 1511, 1999, 2003, 2503]
    split = Split((inputs, labels), forget=ids, holdout=blobs(1, 60))
    done = search(
        split, directory=tmp_path, trials=1, plan=None, recipe=functools.partial(recipes.Finetune, batch_size=999)
    )
    for text in ((tmp_path / "tuning.json").read_text(), json.dumps(done.to_dict()), repr(done)):
        assert not re.search(rf"(?<![0-9a-f.])({'|'.join(map(str, ids))})(?![0-9a-f])", text)


def test_test_rows_beyond_the_tuning_half_are_never_read():
    inputs, labels = blobs(2, 80)
    probe = Watched(inputs, labels)
    split = Split(Watched(*train_rows()), forget=WRONG, test=probe)
    tuning = search(split, trials=2)
    assert tuning.held_out == "half of test"
    assert set(probe.read) == set(tuning.held_out_ids.tolist()) and len(tuning.held_out_ids) == 40
    assert set(tuning.audit_split.test.ids.tolist()) == set(range(80)) - set(probe.read)
    with_holdout = Watched(inputs, labels, forbidden=range(80))
    search(Split(train_rows(), forget=WRONG, test=with_holdout, holdout=blobs(1, 90)), trials=2)
    assert with_holdout.read == []


def test_a_setting_that_diverges_does_not_stop_the_search():
    wild = search(space={"lr": [1e30, 0.02, 1e29], "epochs": [2]}, trials=6)
    states = {one.settings["lr"]: one.state for one in wild.trials}
    assert states[0.02] == "ok" and wild.settings["lr"] == 0.02
    assert "failed" in states.values() and {key for key in states if states[key] == "ok"} == {0.02}
    assert all("Finetune" in one.reason for one in wild.trials if one.state == "failed")
    assert sum(one.repeats is None for one in wild.trials) == len(states)
    with pytest.raises(errors.Refused, match="none of 1 settings gave a network to judge"):
        search(space={"lr": [1e30], "epochs": [2]}, trials=1)


def test_the_cost_is_the_sum_over_the_trials(found):
    assert found.cost.trained_rows == sum(one.trained_rows for one in found.trials)
    assert found.cost.retraining_share == found.cost.trained_rows / (PLAN.epochs * 140)
    once = 20 + 90 + 140
    assert found.cost.forward_rows == once + sum(one.forward_rows for one in found.trials)
    assert found.cost.seconds >= sum(one.seconds for one in found.trials)


def test_the_callers_network_and_world_are_left_alone():
    model = make()
    model.load_state_dict(trained().state_dict())
    split = wrong_labels()
    search(trials=1)  # imports what it needs
    watch = LeftAlone(touched(model))
    tune(model, split, recipes.Finetune, space=SPACE, trials=2, fresh=make)
    watch.check()


def test_against_oracles_says_where_the_choice_stands(found):
    feasible = [one for one in found.trials if one.state == "ok" and one.repeats is None]
    best = next(one.number for one in feasible if one.value > found.value)
    oracles = found.margins[best]["forget"] + np.array([[-0.1], [0.0], [0.1]])
    ranking = found.against(oracles)
    assert ranking.num_trials == len(feasible) and ranking.best == pytest.approx(0, abs=1e-9)
    assert ranking.rank > 1 and ranking.regret == ranking.distance - ranking.best > 0
    near = found.against(oracles - found.margins[best]["forget"] + found.margins[found.chosen.number]["forget"])
    assert near.rank == 1 and near.regret == 0
    with pytest.raises(errors.BadRequest, match="at least 3"):
        found.against(oracles[:2])


def test_hooks_hear_of_every_trial():
    class Heard(Hooks):
        parts: list[str] = []  # noqa: RUF012

        def on_part(self, name):
            self.parts.append(name)

    search(trials=2, hooks=Heard())
    assert Heard.parts == ["trial 1/2", "trial 2/2"]


def test_random_augmentation_gives_the_same_search_twice():
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 160

        def __getitem__(self, row):
            inputs, labels = train_rows()
            return inputs[row] + 0.1 * torch.randn(4), int(labels[row])

    split = Split(Noisy(), forget=WRONG, holdout=blobs(1, 90))
    assert outcome(search(split, trials=2)) == outcome(search(split, trials=2))


def test_what_is_said_of_it(found):
    assert repr(found).startswith(f"Tuning(Finetune(lr={found.settings['lr']}, epochs=")
    assert "from the twins" in repr(found) and isinstance(found, Tuning)
    plain = found.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["held_out"] == "holdout" and plain["num_held_out"] == 90 and len(plain["trials"]) == NUM


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials: expected"),
        ({"max_utility_loss": float("nan")}, "max_utility_loss"),
        ({"max_utility_loss": -0.1}, "max_utility_loss: expected a finite number of at least 0"),
        ({"max_cost_share": 0.1, "plan": None}, "max_cost_share: expected plan, .* found NoneType"),
        ({"max_cost_share": float("inf")}, "max_cost_share"),
        ({"space": {"epoch": [1]}}, "did you mean 'epochs'"),
        ({"split": Split(train_rows(), forget=WRONG)}, "settings are chosen on rows the network never saw"),
    ],
)
def test_what_cannot_be_acted_on_is_told_before_any_work(monkeypatch, changes, message):
    monkeypatch.setattr(tuning_module, "make_yardstick", lambda *_: pytest.fail("work was done"))
    with pytest.raises(errors.BadRequest, match=message):
        search(**changes)
