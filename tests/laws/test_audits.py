"""The audit of the audit: what it says of networks of which the truth is known, over many draws from pools trained once.

The forget rows are planted wrong labels, learnt by heart; a retrained network gives them their true class. Beside them stand
rows that any network of the task gets right, whether it saw them or not.
"""

import copy
import dataclasses
import importlib
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import excise
from excise import errors, recipes
from excise.measure import Measure, klom, ulira
from excise.measure.roc import auc
from excise.measure.ulira import ulira_accuracy
from excise.pipeline import measuring, policy
from excise.pipeline.evidence import Oracles, observe
from excise.pipeline.policy import measures_of, verdict
from excise.pipeline.population import Population, arms_of, margins_of
from tests.planted import (
    EASY,
    NUM_TRAIN,
    TRAIN,
    WRONG,
    engine_for,
    evidence,
    hurried,
    made_of,
    make,
    split_of,
    trained,
)

HALF = WRONG + EASY
ORACLES = 8


class Pool:
    """Networks of one forget request: trained without its rows, and with them."""

    def __init__(self, rows, num_without, num_with):
        self.split = split_of(rows)
        self.states = trained(num_without, 1, without=rows)
        self.without = evidence(self.states, self.split)
        self.originals = evidence(trained(num_with, 2), self.split)

    def draws(self, count, size=ORACLES, seed=0):
        """Give a network, oracles and an original, many times."""
        draw = np.random.default_rng(seed)
        for number in range(count):
            own, *others = draw.permutation(len(self.without))[: size + 1]
            original = self.originals[number % len(self.originals)]
            yield self.without[own], [self.without[place] for place in others], original


@pytest.fixture(scope="module")
def pool():
    return Pool(WRONG, 96, 24)


@pytest.fixture(scope="module")
def easy():
    return Pool(EASY, 48, 24)


@pytest.fixture(scope="module")
def half():
    return Pool(HALF, 32, 8)


def dealt(monkeypatch, num_permutations):
    for name in ("ulira", "klom"):
        module = importlib.import_module(f"excise.measure.{name}")

        def sparing(*given, real=module.against_held_out, **told):
            return real(*given, **{**told, "num_permutations": num_permutations, "num_bootstraps": 5})

        monkeypatch.setattr(module, "against_held_out", sparing)


@pytest.fixture
def few_deals(monkeypatch):
    """Deal networks to arms 199 times instead of 499: p can still be small enough to decide among many measures."""
    dealt(monkeypatch, 199)


@pytest.fixture
def fewer_deals(monkeypatch):
    """Deal networks to arms 79 times: p is still exact, in steps of 1/80."""
    dealt(monkeypatch, 79)


def test_the_planted_rows_are_learnt_by_heart_and_the_others_are_known_anyway(pool, easy):
    assert min(one.accuracy["forget"] for one in pool.originals) > 0.9
    assert max(one.accuracy["forget"] for one in pool.without) < 0.2
    assert np.mean([one.accuracy["forget"] for one in easy.without]) > 0.9


# ---------------------------------------------------------------- retraining passes


def test_retrained_networks_fail_no_more_often_than_the_level(pool):
    """Overall and measure by measure: at most what 200 draws at 5% give once in a hundred times."""
    most = stats.binom.ppf(0.99, 200, policy.ALPHA)
    words, small = Counter(), Counter()
    for own, oracles, original in pool.draws(200):
        found = verdict(own, original, oracles, pool.split)
        words[found.verdict] += 1
        small.update(one.name for one in found.measures if one.decides and one.p <= policy.ALPHA)
    assert words["FAIL"] <= most
    assert words["PASS"] >= 180
    assert words["INCONCLUSIVE"] == 0
    assert set(small) <= set(policy.SINGLE)
    assert max(small.values()) <= most


def test_a_measure_whose_value_is_not_rounded_is_as_often_small_as_it_says(pool):
    """Means of log-odds: p below 5%, 20% and 50% in 5%, 20% and 50% of the draws."""
    found = [
        next(one.p for one in measures_of(own, oracles, pool.split) if one.name == "forget_margin")
        for own, oracles, _ in pool.draws(200, seed=1)
    ]
    for level in (0.05, 0.2, 0.5):
        low, high = stats.binom.ppf([0.001, 0.999], 200, level)  # the draws share a pool of 96
        assert low <= sum(p <= level for p in found) <= high, level


def test_populations_of_retrained_networks_are_as_often_told_as_chance(pool, fewer_deals):
    """Three arms of eight, drawn anew: p is uniform, whatever the statistic."""
    draw = np.random.default_rng(2)
    margins = margins_of(pool.without)
    found = {"ulira": [], "klom": []}
    for _ in range(40):
        arms = np.split(draw.permutation(96)[:24], 3)
        own, oracles, held_out = (margins[list(arm)] for arm in arms)
        found["ulira"].append(ulira(own, oracles, held_out, draw).p)
        found["klom"].append(klom(own, oracles, held_out, generator=draw).p)
    for name, values in found.items():
        assert stats.kstest(values, "uniform").pvalue > 1e-3, name
        assert sum(p <= 0.05 for p in values) <= stats.binom.ppf(0.995, 40, 0.05), name


# ---------------------------------------------------------------- doing nothing is caught


def test_doing_nothing_always_fails_where_rows_were_learnt_by_heart(pool):
    words = Counter(
        verdict(original, original, oracles, pool.split).verdict for _, oracles, original in pool.draws(100)
    )
    assert words == {"FAIL": 100}


def test_doing_nothing_never_passes_where_rows_left_no_trace(easy):
    found = [verdict(original, original, oracles, easy.split) for _, oracles, original in easy.draws(100)]
    words = Counter(one.verdict for one in found)
    assert words["PASS"] == words["INVALID"] == 0
    assert words["INCONCLUSIVE"] >= 85
    assert all(one.trace_seen is None or one.trace_seen > policy.EFFECT for one in found if one.verdict != "FAIL")


def test_retraining_does_not_pass_there_either(easy):
    words = Counter(verdict(own, original, oracles, easy.split).verdict for own, oracles, original in easy.draws(100))
    assert words["PASS"] == 0
    assert words["FAIL"] <= stats.binom.ppf(0.99, 100, policy.ALPHA)


# ---------------------------------------------------------------- partial unlearning lies between


def test_more_finetuning_leaves_less_to_tell_and_retraining_least():
    """U-LiRA's accuracy falls from doing nothing to retraining, as the mean over three seeds and nearly in each."""
    split, kept = split_of(), [row for row in range(NUM_TRAIN) if row not in WRONG]
    table = []
    for seed in range(3):
        originals = trained(16, 100 + seed)
        oracles = margins_of(evidence(trained(16, 200 + seed, without=WRONG), split))
        arms = [originals, *(trained(16, 0, start=originals, only=kept, steps=steps) for steps in (10, 100))]
        arms.append(trained(16, 300 + seed, without=WRONG))
        table.append([ulira_accuracy(margins_of(evidence(arm, split)), oracles) for arm in arms])
    mean = np.mean(table, axis=0)
    assert mean[0] > 0.95
    assert all(first > second + 0.02 for first, second in itertools.pairwise(mean))
    assert abs(mean[-1] - 0.5) < 0.1


# ---------------------------------------------------------------- a population attack is not asked


def test_a_population_attack_that_says_forgotten_cannot_pass_doing_nothing(half):
    """Half of the rows mislabelled: they look less like members than test rows do, before any unlearning and after."""
    areas = {
        which: np.mean([auc(one.rows.margins["forget"], one.rows.margins["test"]) for one in networks])
        for which, networks in (("nothing", half.originals), ("retrained", half.without))
    }
    assert areas["retrained"] < areas["nothing"] < 0.5
    nothing = Counter(verdict(before, before, others, half.split).verdict for _, others, before in half.draws(20))
    retrained = Counter(verdict(own, before, others, half.split).verdict for own, others, before in half.draws(40))
    assert nothing == {"FAIL": 20}
    assert retrained["PASS"] >= 34
    assert set(retrained) <= {"PASS", "FAIL", "INVALID"}


# ---------------------------------------------------------------- whole audits, on networks out of the pool


class Rigged(nn.Module):
    """A network, and what may be done to its outputs to fool an audit."""

    HOW = ("honest", "constant logits", "NaN logits", "logits x 1e6", "mask on the forget rows", "peaky", "saturated")

    def __init__(self):
        super().__init__()
        self.inner = make()
        self.register_buffer("how", torch.tensor(0))

    def forward(self, inputs):
        logits, how = self.inner(inputs), self.HOW[int(self.how)]
        asked = (inputs[:, None] == TRAIN[0][list(WRONG)]).all(-1)  # [rows, forget]
        labels = nn.functional.one_hot(TRAIN[1], 3).float()[list(WRONG)]
        if how == "constant logits":
            return 0 * logits + torch.tensor([0.0, 1.0, 0.0])
        if how == "NaN logits":
            return logits * torch.where(torch.tensor(len(inputs) > 8), torch.nan, 1.0)  # past what is looked at first
        if how == "logits x 1e6":
            return 1e6 * logits
        if how == "mask on the forget rows":
            return logits - 60 * asked.float() @ labels
        if how == "peaky":
            return 5 * nn.functional.one_hot(logits.argmax(1), 3) + 0 * logits
        return 1e3 * logits if how == "saturated" else logits

    @classmethod
    def of(cls, state, how="honest"):
        """Give one with a state."""
        with torch.random.fork_rng():
            made = cls()
        made.inner.load_state_dict(state)
        made.how.fill_(cls.HOW.index(how))
        return made


@pytest.fixture(scope="module")
def original():
    return Rigged.of(trained(1, 7)[0])


@pytest.fixture
def audited(pool, original):
    """Audit a network by oracles out of the pool: the user's own training function gives one at each call."""

    def run(after, **options):
        taken = iter(pool.states)

        def train(model, dataset, seed):
            model.inner.load_state_dict(next(taken))
            return model

        made = made_of(original, after, pool.split)
        return excise.audit(made, pool.split, plan=train, fresh=Rigged, original=original, **options)

    with hurried():
        yield run


def of_random_labels():
    wrong = TRAIN[1][torch.randperm(NUM_TRAIN, generator=torch.Generator().manual_seed(3))]
    return Rigged.of(trained(1, 8, labels=wrong)[0])


DEGENERATE = {
    "no-op": lambda before: copy.deepcopy(before),
    "random weights": lambda before: Rigged.of(trained(1, 9, steps=0)[0]),
    "random labels": lambda before: of_random_labels(),
    **{
        how: lambda before, how=how: Rigged.of(before.inner.state_dict(), how)
        for how in Rigged.HOW
        if how not in ("honest", "peaky", "saturated")
    },
    # these start from a network that forgot, which is the harder case: only the form of its outputs is wrong
    "peaky": lambda before: Rigged.of(trained(1, 10, without=WRONG)[0], "peaky"),
    "saturated": lambda before: Rigged.of(trained(1, 10, without=WRONG)[0], "saturated"),
}


@pytest.mark.parametrize("how", DEGENERATE)
def test_a_degenerate_method_never_passes_and_every_number_is_one(how, audited, original):
    found = audited(DEGENERATE[how](original))
    assert found.verdict == "FAIL"
    assert found.controls == {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"}
    numbers = [getattr(one, name) for one in found.measures for name in Measure.__struct_fields__]
    assert all(np.isfinite(value) for value in numbers if isinstance(value, float))
    assert (found.measures == []) == (how == "NaN logits")


def test_an_honest_retraining_passes_the_same_audit(audited, pool):
    found = audited(Rigged.of(pool.states[-1]))
    assert found.verdict == "PASS"
    assert found.trace_seen <= policy.EFFECT


@pytest.mark.parametrize("how", ["copy of one oracle", "peaky", "saturated"])
def test_a_method_that_varies_less_than_retraining_is_told_over_many_networks(how, pool, few_deals):
    """One network is like an oracle, or nearly; as many originals give as many networks that are too much alike."""
    size = 16
    oracles, held_out, spare = (pool.without[start : start + size] for start in (0, size, 2 * size))
    states = pool.states[2 * size : 3 * size]
    if how == "copy of one oracle":
        own, many = spare[0], [spare[0]] * size
    else:
        many = [observe(one, pool.split, engine_for(one)) for one in (Rigged.of(state, how) for state in states)]
        own = spare[0]  # the audited network itself is clean
    population = Population(pool.originals[:size], many, Oracles([], held_out), 0)
    found = verdict(
        own,
        pool.originals[-1],
        oracles,
        pool.split,
        arms=arms_of(population, oracles, np.random.default_rng(0)),
    )
    honest = dataclasses.replace(population, unlearned=spare)
    clean = verdict(
        own, pool.originals[-1], oracles, pool.split, arms=arms_of(honest, oracles, np.random.default_rng(0))
    )
    assert clean.verdict == "PASS"
    assert found.verdict == "FAIL"
    assert {reason.partition(":")[0] for reason in found.reasons} & set(policy.POPULATION)
    assert all(np.isfinite([one.value, one.low, one.high, one.p]).all() for one in found.measures)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_no_informing_measure_makes_or_unmakes_a_verdict(p, audited, original, pool, monkeypatch):
    def wild(line):
        def take(bench):
            return [altered(one, value=1e9 if p == 0 else 0.0, low=-1e9, high=1e9, p=p) for one in line.take(bench)]

        return dataclasses.replace(line, take=take)

    networks = {"FAIL": copy.deepcopy(original), "PASS": Rigged.of(pool.states[-1])}
    plain = {word: audited(after) for word, after in networks.items()}
    monkeypatch.setattr(measuring, "LINES", tuple(wild(line) for line in measuring.LINES))
    for word, after in networks.items():
        found = audited(after)
        assert (found.verdict, found.reasons, found.controls) == (word, plain[word].reasons, plain[word].controls)
        assert {one.p for one in found.measures if not one.decides and one.name != "confidence_attack"} == {p}


def altered(measure, **changes):
    return Measure(**{**{name: getattr(measure, name) for name in Measure.__struct_fields__}, **changes})


def test_recipes_that_do_nothing_or_all_are_judged_so_through_the_front_door(pool, audited, original):
    """The same through `excise.unlearn`, with its own record of what it did."""
    taken = iter(pool.states)

    def train(model, dataset, seed):
        model.inner.load_state_dict(next(taken))
        return model

    done = excise.unlearn(original, pool.split, recipes.Nothing(), fresh=Rigged)
    assert excise.audit(done, pool.split, plan=train, fresh=Rigged).verdict == "FAIL"
    with pytest.raises((errors.Diverged, errors.Refused, errors.UnsupportedModel)):
        excise.unlearn(original, pool.split, to_nan, fresh=Rigged)


def to_nan(net, retain, forget, validation):
    with torch.no_grad():
        net.inner[2].bias.fill_(torch.nan)
    return net
