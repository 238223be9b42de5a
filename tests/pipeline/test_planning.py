"""The plan is a value with a hash; numbers that do not keep to it are refused; budgets are arithmetic."""

import copy
import itertools
import json
from dataclasses import replace

import msgspec
import pytest
import torch

from excise import errors
from excise.pipeline import planning, policy
from excise.pipeline.planning import (
    NUM_ORACLES,
    NUM_PER_ARM,
    AuditPlan,
    fitted,
    named,
    require_planned,
    require_tier,
    seconds_of,
    seconds_of_training,
)
from excise.train import Hooks, TrainPlan
from tests.planted import engine_for, make, split_of

PLAN = AuditPlan(
    tier="T1",
    deciding=policy.SINGLE,
    informing=("confidence_attack", "rmia"),
    failing=policy.FAILING,
    audited="a" * 64,
    effect=0.5,
    num_oracles=8,
    num_per_arm=0,
    seed=3,
    training={"epochs": 3, "lr": 0.1},
    num_rows={"forget": 16, "retain": 144, "test": 100},
)
OTHERWISE = {
    "version": "0.0.0",
    "tier": "T2",
    "deciding": policy.SINGLE[:-1],
    "informing": ("confidence_attack",),
    "failing": policy.FAILING[:-1],
    "audited": "b" * 64,
    "alpha": 0.2,
    "effect": 0.9,
    "num_oracles": 9,
    "num_per_arm": 8,
    "seed": 4,
    "training": "train",
    "num_rows": {"forget": 16, "retain": 144, "test": 99},
    "left_out": ("everything",),
}


def numbers(verdict="PASS", plan=PLAN, p=(), **changes):
    """What an audit by a plan writes; `p` gives measures' p-values other than one half."""
    names = (*plan.deciding, *plan.informing)
    measures = [{"name": name, "decides": name in plan.deciding, "p": dict(p).get(name, 0.5)} for name in names]
    told = {"verdict": verdict, "measures": measures, "plan": msgspec.to_builtins(plan), "plan_digest": plan.digest}
    return json.loads(json.dumps({**told, **changes}))


# ---------------------------------------------------------------- the hash


def test_every_field_changes_the_digest():
    assert set(OTHERWISE) == set(AuditPlan.__struct_fields__)
    digests = {msgspec.structs.replace(PLAN, **{name: value}).digest for name, value in OTHERWISE.items()}
    assert len(digests | {PLAN.digest}) == len(OTHERWISE) + 1


def test_the_digest_is_the_same_through_json_and_in_any_order_of_keys():
    held = json.loads(msgspec.json.encode(PLAN))
    turned = {key: dict(reversed(value.items())) if isinstance(value, dict) else value for key, value in held.items()}
    for told in (held, turned, dict(reversed(held.items()))):
        assert msgspec.convert(told, AuditPlan).digest == PLAN.digest


def test_alpha_and_effect_are_those_of_the_policy():
    assert PLAN.alpha == policy.ALPHA == 0.05
    assert len(PLAN.digest) == 64


# ---------------------------------------------------------------- numbers that keep to it


def test_numbers_that_keep_to_their_plan_are_taken():
    assert require_planned(numbers()) == PLAN
    fewer = numbers("FAIL")
    fewer["measures"] = []  # a network whose outputs are not finite has no measures
    assert require_planned(fewer) == PLAN
    missing = numbers()
    missing["measures"] = [one for one in missing["measures"] if one["name"] != "rmia"]  # could not be taken
    assert require_planned(missing) == PLAN


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_plan_changed_afterwards_is_found(name):
    told = numbers()
    told["plan"][name] = json.loads(json.dumps(OTHERWISE[name]))
    with pytest.raises(errors.Corrupt, match="plan is not the one that was hashed before its scores existed"):
        require_planned(told)


@pytest.mark.parametrize("name", ["deciding", "informing"])
def test_a_list_of_measures_edited_afterwards_is_found(name):
    for edit in (lambda held: held.pop(), lambda held: held.append("swap"), lambda held: held.reverse()):
        told = numbers()
        edit(told["plan"][name])
        with pytest.raises(errors.Corrupt, match="hashed before its scores existed"):
            require_planned(told)


def test_a_digest_that_is_missing_or_another_is_found():
    for digest in (None, "", "0" * 64):
        with pytest.raises(errors.Corrupt, match="hashed before its scores existed"):
            require_planned(numbers(plan_digest=digest))


@pytest.mark.parametrize("plan", [None, {}, {"tier": "T1"}, {**msgspec.to_builtins(PLAN), "more": 1}, []])
def test_numbers_without_a_plan_are_refused(plan):
    with pytest.raises(errors.Corrupt, match="the audit holds no plan that can be read"):
        require_planned({**numbers(), "plan": plan})


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
@pytest.mark.parametrize("decides", [True, False])
def test_a_measure_added_afterwards_is_found(verdict, decides):
    told = numbers(verdict)
    told["measures"].append({"name": "flattering", "decides": decides})
    with pytest.raises(errors.Corrupt, match="reports 'flattering', which its plan does not name"):
        require_planned(told)


def test_a_measure_made_to_decide_afterwards_is_found():
    told = numbers()
    next(one for one in told["measures"] if one["name"] == "rmia")["decides"] = True
    with pytest.raises(errors.Corrupt, match="reports 'rmia', which its plan does not name"):
        require_planned(told)


@pytest.mark.parametrize("name", policy.SINGLE)
@pytest.mark.parametrize("how", ["dropped", "no longer decides"])
def test_a_pass_without_a_deciding_measure_is_found(name, how):
    told = numbers()
    if how == "dropped":
        told["measures"] = [one for one in told["measures"] if one["name"] != name]
    else:
        next(one for one in told["measures"] if one["name"] == name)["decides"] = False
    with pytest.raises(errors.Corrupt, match=f"passes without '{name}', which its plan says decides"):
        require_planned(told)
    assert require_planned({**told, "verdict": "FAIL"}) == PLAN


def test_a_pass_without_any_measure_is_found():
    told = copy.deepcopy(numbers())
    told["measures"] = []
    with pytest.raises(errors.Corrupt, match="the audit passes without"):
        require_planned(told)


@pytest.mark.parametrize("name", policy.SINGLE)
def test_a_pass_beside_a_measure_that_alone_fails_it_is_found(name):
    """Whatever Holm's rule makes of the others, it rejects one at the level over their number."""
    for p in (0.0, 1e-9, 0.05 / 5, None):
        with pytest.raises(errors.Corrupt, match=f"passes although '{name}', which decides, tells the network apart"):
            require_planned(numbers(p={name: p}))
        assert require_planned(numbers("FAIL", p={name: p})) == PLAN
    silent = numbers()
    del next(one for one in silent["measures"] if one["name"] == name)["p"]
    with pytest.raises(errors.Corrupt, match=f"passes although '{name}', which decides, tells the network apart"):
        require_planned(silent)
    assert require_planned(numbers(p={name: 0.0101})) == PLAN


@pytest.mark.parametrize("verdict", ["PASS", "FAIL"])
def test_measures_that_cannot_be_read_are_refused(verdict):
    for measures in ([3], {"name": "forget_margin"}, "none", [{"decides": True}]):
        with pytest.raises(errors.Corrupt, match=r"or no measures; it was changed, or made by another version"):
            require_planned(numbers(verdict, measures=measures))
    with pytest.raises(errors.Corrupt, match="or no measures; it was changed, or made by another version"):
        require_planned(numbers(verdict, p={"forget_margin": "small"}))


def test_a_pass_may_stand_beside_an_informing_measure_of_any_p():
    assert require_planned(numbers(p={"rmia": 0.0, "confidence_attack": 1e-9})) == PLAN


def test_canaries_share_no_level_with_the_others():
    """They fail a network at a level of their own, and the others share theirs as if there were none."""
    planted = msgspec.structs.replace(PLAN, deciding=("canaries", *PLAN.deciding))
    for p in ({"canaries": 0.0011}, {"forget_margin": 0.0101}):
        assert require_planned(numbers(plan=planted, p=p)) == planted
    for p in ({"canaries": policy.CANARY_ALPHA}, {"forget_margin": 0.0099}):
        with pytest.raises(errors.Corrupt, match=f"passes although '{next(iter(p))}'"):
            require_planned(numbers(plan=planted, p=p))


# ---------------------------------------------------------------- tiers and budgets


def seconds_for(num_oracles, one=1.0, unlearning=1.0, probe=0.5):
    """Oracles and a probe of each; SWAP's four networks and unlearnings; retraining at the same cost; three more probes."""
    return (num_oracles * (one + probe) + 4 * one + 4 * unlearning + unlearning + 3 * probe) / 0.8


def seconds_for_all(one=1.0, unlearning=1.0, probe=0.5):
    """Three arms of 64, one of them put through the recipe, and what T1 takes, of whose oracles eight are probed."""
    return (3 * 64 * one + 64 * unlearning) / 0.8 + seconds_for(8, one, unlearning, probe) - 8 * one / 0.8


@pytest.mark.parametrize("costs", [(2.0, 0.5, 0.25), (1.0, 3.0, 0.0), (0.1, 0.0, 5.0)])
def test_the_tier_is_the_largest_that_fits(costs):
    for budget, tier, num in (
        (seconds_for_all(*costs) * 1.001, "T2", NUM_PER_ARM),
        (seconds_for_all(*costs) * 0.999, "T1", NUM_ORACLES),
        (seconds_for(NUM_ORACLES, *costs) * 1.001, "T1", NUM_ORACLES),
        (seconds_for(NUM_ORACLES, *costs) * 0.999, "T1", NUM_ORACLES - 1),
        (seconds_for(4, *costs) * 1.001, "T1", 4),
        (seconds_for(4, *costs) * 0.999, "T0", 0),
        (0.0, "T0", 0),
    ):
        assert fitted(budget, *costs)[:2] == (tier, num), budget


def test_what_a_budget_leaves_out_is_said():
    costs = 1.0, 1.0, 0.5
    assert fitted(1e6, *costs)[2] == []
    eight = fitted(seconds_for(8), *costs)[2]
    assert len(eight) == 1
    assert "populations of 64 networks" in eight[0]
    assert (
        "a budget of 28.125 s, at 1 s a retraining and 0.5 s to probe a network, has no room for about 270 s"
        in eight[0]
    )
    five = fitted(seconds_for(5.5), *costs)
    assert (five[0], five[1]) == ("T1", 5)
    assert five[2][1].startswith("3 of 8 oracles: a budget of ")
    none = fitted(seconds_for(2.5), *costs)
    assert none[0] == "T0"
    assert "every comparison with retrained networks" in none[2][1]
    assert "has room for 2, and 4 are the least" in none[2][1]
    assert "has room for 0, and 4 are the least" in fitted(0.1, *costs)[2][1]


def test_trainings_that_take_no_time_are_no_division_by_zero():
    assert fitted(1.0, 0.0, 0.0, 0.0)[0] == "T2"


class Clock:
    """Time goes by in steps that the test sets: what a stub of the training says it took."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


def test_a_training_is_reckoned_from_timed_steps(monkeypatch):
    """Four timed steps at 0.25 s; 144 rows in batches of 32 are five steps an epoch: 30 epochs take 37.5 s."""
    clock, asked = Clock(), []

    def stub(fresh, rows, plan, train_seeds, engine, **told):
        asked.append((len(rows), plan, list(train_seeds), engine))
        clock.now += 50.0 if len(asked) == 1 else 0.25 * 4  # the first warms up and does not count

    monkeypatch.setattr(planning, "retrain", stub)
    monkeypatch.setattr(planning, "time", clock)
    plan = TrainPlan(epochs=30, lr=0.1, batch_size=32, schedule="milestones", milestones=(10,))
    engine = engine_for(make(), seed=5)
    assert seconds_of_training(make, split_of(), plan, engine) == pytest.approx(0.25 * 5 * 30)
    assert [one[0] for one in asked] == [128, 128]
    assert {(one[1].epochs, one[1].schedule, one[1].batch_size, one[1].lr) for one in asked} == {
        (1, "constant", 32, 0.1)
    }
    assert asked[0][2] != asked[1][2]
    assert {one[3].seed for one in asked} != {5}


def test_fewer_rows_than_four_batches_are_timed_as_they_are(monkeypatch):
    clock, rows_seen = Clock(), []

    def stub(fresh, rows, plan, train_seeds, engine, **told):
        rows_seen.append(len(rows))
        clock.now += 0.5

    monkeypatch.setattr(planning, "retrain", stub)
    monkeypatch.setattr(planning, "time", clock)
    plan = TrainPlan(epochs=3, lr=0.1, batch_size=100)  # 144 rows: two steps, timed at 0.25 s each
    assert seconds_of_training(make, split_of(), plan, engine_for(make())) == pytest.approx(0.25 * 2 * 3)
    assert rows_seen == [144, 144]


def test_work_is_timed_once(monkeypatch):
    clock, done = Clock(), []

    def work():
        done.append(1)
        clock.now += 2.5

    monkeypatch.setattr(planning, "time", clock)
    assert seconds_of(work) == pytest.approx(2.5)
    assert done == [1]


def test_timing_trains_a_network_of_its_own_and_tells_nobody():
    heard = []

    class Heard(Hooks):
        def on_stage(self, name, num_steps):
            heard.append(name)

    engine = replace(engine_for(make()), hooks=Heard())
    state = torch.get_rng_state()
    found = seconds_of_training(make, split_of(), TrainPlan(epochs=2, lr=0.1, batch_size=32), engine)
    assert found > 0
    assert heard == []
    assert torch.equal(torch.get_rng_state(), state)


def test_the_users_own_training_cannot_be_timed():
    with pytest.raises(errors.BadRequest, match="budget_seconds: expected a TrainPlan, whose steps can be timed"):
        seconds_of_training(make, split_of(), lambda model, dataset, seed: model, engine_for(make()))


@pytest.mark.parametrize("tier", ["T3", "t1", 1, "", ["T1"]])
def test_what_is_no_tier_is_refused_with_the_table(tier):
    with pytest.raises(errors.BadRequest, match=r"tier: expected one of T0, T1, T2, found .*T0 trains nothing"):
        require_tier(tier)


def test_tiers_are_tiers():
    for tier in (None, "T0", "T1", "T2"):
        require_tier(tier)


# ---------------------------------------------------------------- plain values


def test_a_training_plan_is_told_in_plain_values_and_a_function_by_its_name():
    told = named(TrainPlan(epochs=4, lr=0.1, schedule="milestones", milestones=(2, 3)))
    assert told["milestones"] == [2, 3]
    assert json.loads(json.dumps(told)) == told
    assert TrainPlan(**{**told, "milestones": tuple(told["milestones"])}).milestones == (2, 3)
    assert named(make) == "make"
    assert named(itertools.count) == "count"


def test_two_plans_of_training_have_two_digests():
    one, other = (
        msgspec.structs.replace(PLAN, training=named(TrainPlan(epochs=epochs, lr=0.1))).digest for epochs in (3, 4)
    )
    assert one != other
