"""The table of informing measures: what it names beforehand is what is taken, and numbers are those of the room `measure`."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel

import excise
from excise import params
from excise.masks import Mask
from excise.measure import Measure
from excise.observe.relearn import PLAN as RELEARNING
from excise.oracles import Trained
from excise.pipeline import measuring, probing
from excise.pipeline.evidence import Oracles, observe
from excise.pipeline.measuring import FEWEST, LINES, Case, informing, names, notes
from excise.pipeline.pages import TITLES
from excise.pipeline.population import Population
from excise.pipeline.probing import Confusion, Trigger, prober_for
from excise.train import Engine, Task, TrainPlan
from excise.train.task import forward_pair
from tests.planted import (
    NUM_INPUTS,
    TEST,
    TRAIN,
    WRONG,
    evidence,
    hurried,
    made_of,
    make,
    network,
    split_of,
    trained,
)

PLAN = TrainPlan(epochs=1, lr=0.1)
ALWAYS = {
    "confidence_attack",
    "forget_rows",
    "worst_forget_rows",
    "tug_of_war",
    "agreement",
    "total_variation",
    "zero_retrain_forgetting",
    "relearning",
    "retain_exposure",
    "worst_retain_rows",
    "retain_auc",
}
WITH_LABELS = {"rmia", "before_and_after", "unlearning_score"}
OF_POPULATIONS = {"ulira_worst_rows", "klom-0.95", "epsilon"}


LEARNT = TrainPlan(epochs=40, lr=0.3)
"""Long enough for most networks to learn the forget rows again."""


@pytest.fixture(scope="module", autouse=True)
def short():
    with hurried(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(probing, "relearn", partial(probing.relearn, plan=LEARNT))
        yield


STATES = {
    "original": trained(1, 0)[0],
    "oracles": trained(5, 1, without=WRONG),
    "unlearned": trained(1, 2, without=WRONG)[0],
}


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(NUM_INPUTS), make()

    def forward(self, inputs):
        return self.inner(self.norm(inputs))


class Headless(nn.Module):
    """The last module with weights is no linear layer."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = make(), nn.PReLU(3, init=0.5)

    def forward(self, inputs):
        return self.scale(self.inner(inputs))


def built(build, state):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = build()
    holder = model if build is make else model.inner
    holder.load_state_dict(state)
    return model


def case_of(build=make, split=None, goal=None, wrap=lambda model: model, **task):
    split = split or split_of()
    before, after = (built(build, STATES[which]) for which in ("original", "unlearned"))
    engine = Engine(Task(**task), 3, Mask.empty(before))
    unlearned = made_of(before, wrap(after), split)
    inner = params.unwrapped(unlearned.model)
    return Case(unlearned, inner, before, split, build, PLAN, engine, prober_for(inner, split, engine, goal))


def oracles_of(case, build=make, count=5):
    models = [built(build, state) for state in STATES["oracles"][:count]]
    kept = [Trained(seed, params.state_of(model), 0.1, 100) for seed, model in enumerate(models)]
    return Oracles(kept, [observe(model, case.split, case.engine) for model in models])


def taken(case, build=make, tier="T1", count=5, population=None):
    own, original = (observe(one, case.split, case.engine) for one in (case.model, case.before))
    return informing(case, tier, own, original, oracles_of(case, build, count), population)


def population_of(split, count=8):
    arms = [trained(count, seed, without=WRONG) for seed in (11, 12)]
    unlearned, held_out = (evidence(states, split) for states in arms)
    kept = [Trained(seed, state, 0.1, 100) for seed, state in enumerate(arms[1])]
    return Population(evidence(trained(count, 13), split), unlearned, Oracles(kept, held_out), 0)


def removal_of_a_class():
    gone = (TRAIN[1] == 2).nonzero().flatten().tolist()
    return excise.Split(TRAIN, forget=gone, test=TEST)


CASES = {
    "plain": ({}, ALWAYS | WITH_LABELS | {"linear_probe"}),
    "statistics": ({"build": Normed}, ALWAYS | WITH_LABELS | {"linear_probe", "recalibrated_forget_accuracy"}),
    "no linear head": ({"build": Headless}, ALWAYS | WITH_LABELS),
    "a class removed": ({"split": removal_of_a_class()}, ALWAYS | WITH_LABELS | {"linear_probe"}),
    "one row": ({"split": split_of(WRONG[:1])}, ALWAYS | WITH_LABELS | {"linear_probe"}),
    "trigger": (
        {"goal": Trigger(lambda inputs: inputs + 1, 1)},
        ALWAYS | WITH_LABELS | {"linear_probe", "trigger_success"},
    ),
    "confusion": ({"goal": Confusion(0, 2)}, ALWAYS | WITH_LABELS | {"linear_probe", "interclass_confusion"}),
    "wrapped": ({"wrap": DataParallel}, ALWAYS | WITH_LABELS | {"linear_probe"}),
    "own forward": ({"forward": lambda model, batch: forward_pair(model, batch)}, ALWAYS),
}


@pytest.mark.parametrize("which", CASES)
def test_what_is_named_beforehand_is_what_is_taken(which):
    options, wanted = CASES[which]
    case, build = case_of(**options), options.get("build", make)
    found = taken(case, build)
    named = names(case, "T1", 5)
    assert ["confidence_attack", *(one.name for one in found)] == list(named)
    assert set(named) == wanted
    for one in found:
        assert not one.decides
        numbers = [getattr(one, name) for name in Measure.__struct_fields__]
        assert all(np.isfinite(value) for value in numbers if isinstance(value, float)), one.name
        assert one.low <= one.value <= one.high, one.name
        assert 0 <= one.p <= 1
        assert one.sentence.endswith("."), one.name
        assert one.least_detectable >= 0


def test_at_tier_t2_the_populations_come_beside():
    case = case_of()
    found = taken(case, tier="T2", population=population_of(case.split))
    named = names(case, "T2", 5)
    assert ["confidence_attack", *(one.name for one in found)] == list(named)
    assert set(named) == ALWAYS | WITH_LABELS | OF_POPULATIONS | {"linear_probe"}
    assert set(names(case, "T1", 5)) == set(named) - OF_POPULATIONS


def test_a_population_of_which_hardly_any_network_is_left_is_not_measured():
    case = case_of()
    population = population_of(case.split)
    few = replace(population, unlearned=population.unlearned[:3], broken=5)
    assert not {one.name for one in taken(case, tier="T2", population=few)} & OF_POPULATIONS


def test_too_few_oracles_or_tier_t0_inform_of_nothing_or_of_the_attack_alone():
    case = case_of()
    assert names(case, "T0", 0) == names(case, "T1", 0) == names(case, "T1", 1) == ()
    assert names(case, "T1", FEWEST - 1) == ("confidence_attack",)
    assert taken(case, count=FEWEST - 1) == []
    assert len(names(case, "T1", FEWEST)) > 10
    assert ["confidence_attack", *(one.name for one in taken(case, count=FEWEST))] == list(names(case, "T1", FEWEST))


def test_every_name_of_the_table_is_taken_in_some_case_has_a_title_and_stands_once():
    listed = [name for line in LINES for name in line.names]
    assert len(listed) == len(set(listed))
    assert set(listed) | {"confidence_attack"} == set().union(OF_POPULATIONS, *(wanted for _, wanted in CASES.values()))
    assert set(listed) <= set(TITLES)


# ---------------------------------------------------------------- numbers


@pytest.fixture(scope="module")
def pair():
    """The original and an oracle, each measured as if it were the unlearned network."""
    with pytest.MonkeyPatch.context() as patched:  # learning as long as an audit does
        patched.setattr(probing, "relearn", partial(probing.relearn, plan=RELEARNING))
        case = case_of()
        knowing = replace(case, model=case.before)
        return tuple({one.name: one for one in taken(each)} for each in (knowing, case))


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("rmia", 1),
        ("forget_rows", 1),
        ("tug_of_war", -1),
        ("agreement", -1),
        ("total_variation", 1),
        ("relearning", -1),
    ],
)
def test_doing_nothing_stands_out_on_the_side_that_it_says(pair, name, sign):
    knowing, forgot = (found[name] for found in pair)
    assert knowing.p < 0.01
    assert sign * knowing.value > 0
    assert abs(forgot.value) < abs(knowing.value)
    assert forgot.p > 0.01


def test_before_and_after_a_pair_of_equal_networks_tells_nothing(pair):
    """Where nothing moved no attacker learns from the difference: an advantage of 0 there, above it for the oracles."""
    knowing, _ = pair
    assert knowing["before_and_after"].value < 0


def test_the_accuracy_after_recalibration_is_held_against_the_oracles_own():
    case = case_of(Normed)
    found = {one.name: one for one in taken(case, Normed)}["recalibrated_forget_accuracy"]
    rates = [
        probing.prober_for(one, case.split, case.engine, None).look(one, 0.5).recalibrated
        for one in (
            case.model,
            *(built(Normed, state) for state in STATES["oracles"]),
        )
    ]
    assert found.value == pytest.approx(rates[0] - np.mean(rates[1:]))


def test_relearning_in_which_nobody_gets_there_is_left_out_and_nothing_else_is(monkeypatch):
    monkeypatch.setattr(probing, "relearn", partial(probing.relearn, plan=TrainPlan(epochs=4, lr=1e-9)))
    case = case_of()
    named = ["confidence_attack", *(one.name for one in taken(case))]
    assert named == [name for name in names(case, "T1", 5) if name != "relearning"]
    knowing = {one.name: one for one in taken(replace(case, model=case.before))}
    assert knowing["relearning"].value < 0  # one that is there from the start, beside oracles that are not


def test_the_untrained_network_is_probed_beside_its_own_test_accuracy(monkeypatch):
    seen = []

    def spy(prober, models, tests, stage):
        seen.append((models, tests))
        return probing.probed(prober, models, tests, stage)

    monkeypatch.setattr(measuring, "probed", spy)
    case = case_of()
    taken(case)
    ((models, tests),) = seen
    assert len(models) == len(tests) == 3 + 5
    for model, told in zip(models, tests, strict=True):
        with torch.no_grad():
            assert told == pytest.approx(float((model(TEST[0]).argmax(1) == TEST[1]).double().mean()))
    assert tests[2] < min(tests[:2])  # it knows nothing


@pytest.mark.parametrize("obeyed", [False, True])
def test_a_trigger_is_counted_by_hand_and_held_against_clean_rows_where_the_oracles_obey_it(obeyed):
    def stamped(inputs):
        return -inputs if obeyed else inputs * 0.99

    case = case_of(goal=Trigger(stamped, 1))
    found = {one.name: one for one in taken(case)}["trigger_success"]
    others = TEST[1] != 1

    def rate(model, rows):
        with torch.no_grad():
            return float((model(rows)[others].argmax(1) == 1).double().mean())

    null = TEST[0] if obeyed else stamped(TEST[0])
    oracles = [rate(network(state), null) for state in STATES["oracles"]]
    assert found.value == pytest.approx(rate(case.model, stamped(TEST[0])) - np.mean(oracles))
    assert ("oracle itself is still poisoned" in found.sentence) == obeyed


def test_a_confusion_is_counted_by_hand():
    confused = case_of(goal=Confusion(0, 2))
    found = {one.name: one for one in taken(confused)}["interclass_confusion"]

    def swapped(model):
        with torch.no_grad():
            called = model(TEST[0]).argmax(1)
        rows = (TEST[1] == 0) | (TEST[1] == 2)
        return float((called[rows] == 2 - TEST[1][rows]).double().mean())

    oracles = [swapped(network(state)) for state in STATES["oracles"]]
    assert found.value == pytest.approx(swapped(confused.model) - np.mean(oracles))


def test_removing_a_class_is_scored_on_its_test_rows():
    """DUCK: (1 - (original's accuracy on kept classes - own)) / (1 + |own accuracy on the class that is gone|)."""
    case = case_of(split=removal_of_a_class())
    found = {one.name: one for one in taken(case)}["unlearning_score"]
    assert "class removal" in found.sentence
    gone = TEST[1] == 2

    def right(model):
        with torch.no_grad():
            hits = (model(TEST[0]).argmax(1) == TEST[1]).double()
        return float(hits[~gone].mean()), float(hits[gone].mean())

    before = right(case.before)[0]

    def score(model):
        kept, lost = right(model)
        return (1 + kept - before) / (1 + lost)

    oracles = [score(network(state)) for state in STATES["oracles"]]
    assert found.value == pytest.approx(score(case.model) - np.mean(oracles))
    error = np.std(oracles, ddof=1) / np.sqrt(len(oracles))
    assert f"{score(case.model):.3f}, minus the oracles' mean, {np.mean(oracles):.3f} with a" in found.sentence
    assert f"standard error of {error:.3f};" in found.sentence and found.low < found.value < found.high


def test_the_same_request_is_measured_to_the_same_numbers():
    one, other = (taken(case_of()) for _ in range(2))
    assert one == other


def test_the_networks_are_left_alone():
    case = case_of(Normed)
    held = [copy.deepcopy(one.state_dict()) for one in (case.model, case.before)]
    taken(case, Normed)
    for state, model in zip(held, (case.model, case.before), strict=True):
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


# ---------------------------------------------------------------- what is known beforehand


def test_twins_and_removed_classes_are_known_from_the_labels():
    assert case_of().has_twins
    assert not case_of().removes_classes
    removed = case_of(split=removal_of_a_class())
    assert removed.has_twins
    assert removed.removes_classes
    assert any("has no retain row" in note for note in notes(removed, oracles_of(removed)))
    custom = case_of(forward=lambda model, batch: forward_pair(model, batch))
    assert (custom.labels, custom.has_twins, custom.removes_classes) == ({}, False, False)
    for silent in (custom, case_of()):
        assert notes(silent, oracles_of(silent)) == []


class Whole(nn.Module):
    """Takes whole numbers, between which there is no distance to look for twins by."""

    def __init__(self):
        super().__init__()
        self.inner = make()

    def forward(self, inputs):
        return self.inner(inputs.float())


def test_without_twins_membership_attacks_are_left_out_and_it_is_said():
    kept = TEST[1] != TRAIN[1][WRONG[0]]
    missing = excise.Split(TRAIN, forget=list(WRONG), test=(TEST[0][kept], TEST[1][kept]))
    assert {"rmia", "before_and_after"} <= set(
        names(case_of(split=missing), "T1", 5)
    )  # look-alikes of another class do
    whole = excise.Split((TRAIN[0].long(), TRAIN[1]), forget=list(WRONG), test=(TEST[0].long()[kept], TEST[1][kept]))
    case = case_of(Whole, split=whole)
    assert not case.has_twins
    assert not {"rmia", "before_and_after"} & set(names(case, "T1", 5))
    assert ["confidence_attack", *(one.name for one in taken(case, Whole))] == list(names(case, "T1", 5))
    (told,) = notes(case, oracles_of(case, Whole))
    assert "forget rows have no twins among the test rows" in told
    assert notes(case, None) == []
