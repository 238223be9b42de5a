"""Populations of a recipe: who is trained on what from which seed, what is put to whom, and what the arms come to."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import excise
from excise import errors, methods, params, recipes, seeds
from excise.curvature import second_moments
from excise.localize import Everything
from excise.masks import Mask
from excise.measure import ulira
from excise.oracles import Bank
from excise.pipeline import forget as walk
from excise.pipeline.evidence import Oracles, observe
from excise.pipeline.policy import POPULATION
from excise.pipeline.population import AMONG, Population, arms_of, gather_population, margins_of
from excise.train import Hooks, TrainPlan
from tests.cluster.fleets import Elsewhere
from tests.planted import WRONG, engine_for, evidence, made_of, make, network, split_of, trained
from tests.probes import same_bytes

SPLIT = split_of()
PLAN = TrainPlan(epochs=2, lr=0.1, batch_size=32)


@pytest.fixture(scope="module")
def original():
    return network(trained(1, 0)[0])


def gathered(unlearned, num=2, bank=None, seed=4, hooks=None):
    engine = replace(engine_for(make(), seed), hooks=hooks or Hooks())
    return gather_population(unlearned, SPLIT, make, PLAN, num, engine, bank), engine


def unlearned_by(original, recipe, **options):
    return excise.unlearn(original, SPLIT, recipe, fresh=make, plan=PLAN, **options)


# ---------------------------------------------------------------- gathering


def test_originals_are_trained_on_every_row_and_held_out_oracles_on_the_retain_rows(original):
    asked = []

    def train(model, dataset, seed):
        asked.append((len(dataset), seed))
        with torch.no_grad():
            model[2].bias.add_(torch.rand(3))
        return model

    engine = engine_for(make(), 4)
    found = gather_population(unlearned_by(original, recipes.Finetune(epochs=1)), SPLIT, make, train, 3, engine)
    chosen = {family: [seeds.derive(4, family, number) for number in range(3)] for family in ("original", "held out")}
    assert asked == [*((160, seed) for seed in chosen["original"]), *((144, seed) for seed in chosen["held out"])]
    assert len(found.originals) == len(found.unlearned) == len(found.held_out.trained) == 3
    assert found.broken == 0
    fleet = Elsewhere()
    away = gather_population(unlearned_by(original, recipes.Nothing()), SPLIT, make, train, 3, engine, fleet=fleet)
    assert len(fleet.jobs) == 3 + 3
    for one, other in zip(away.held_out.trained, found.held_out.trained, strict=True):
        assert one.seed == other.seed
    assert not {*chosen["original"], *chosen["held out"]} & {seeds.derive(4, "oracle", number) for number in range(3)}


def test_the_recipe_is_put_to_every_original_from_a_seed_of_its_own(original, monkeypatch):
    heard = []

    def method(net, retain, forget, validation):
        heard.append({name: value.clone() for name, value in net.state_dict().items()})
        with torch.no_grad():
            net[2].bias.add_(torch.rand(3))
        return net

    done = unlearned_by(original, method, seed=7)
    heard.clear()
    found, engine = gathered(done)
    assert len(heard) == 2
    for number, (one, evidence_before, evidence_after) in enumerate(
        zip(heard[:2], found.originals, found.unlearned, strict=True)
    ):
        model = network(one)
        np.testing.assert_array_equal(observe(model, SPLIT, engine).margins, evidence_before.margins)
        by_hand = excise.unlearn(
            model, SPLIT, done.how, fresh=make, seed=seeds.derive(4, "unlearning", number), plan=PLAN
        )
        np.testing.assert_array_equal(observe(by_hand.model, SPLIT, engine).margins, evidence_after.margins)
    assert not same_bytes(heard[0], heard[1])


def test_doing_nothing_gives_the_originals_themselves(original):
    found, _ = gathered(unlearned_by(original, recipes.Nothing()))
    np.testing.assert_array_equal(margins_of(found.unlearned), margins_of(found.originals))


def test_a_mask_by_hand_and_statistics_left_alone_are_used_again(original, monkeypatch):
    heard, real = [], walk.unlearn

    def watch(*given, **options):
        heard.append(options)
        return real(*given, **options)

    monkeypatch.setattr(walk, "unlearn", watch)
    mask = Mask.of_modules(original, ["2"])
    done = unlearned_by(original, excise.methods.Finetune(plan=PLAN), mask=mask, recompute=False)
    gathered(done)
    assert [one["mask"] for one in heard] == [mask, mask]
    assert [one["recompute"] for one in heard] == [done.recomputed] * 2
    heard.clear()
    gathered(unlearned_by(original, recipes.Finetune(epochs=1)))
    assert [one["mask"] for one in heard] == [None, None]


def test_what_was_prepared_on_one_network_is_prepared_on_every_other(original):
    """Moments given for the network under audit are taken anew for each original: as if none had been given."""
    given = methods.Project(plan=PLAN, moments=second_moments(original, SPLIT.train))
    ways = (methods.Sequence((given,)), methods.Within(where=Everything(), method=replace(given, moments=None)))
    one, other = (margins_of(gathered(unlearned_by(original, way))[0].unlearned) for way in ways)
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_only_the_masked_layer_moves_in_the_population_too(original, monkeypatch):
    kept, real = [], walk.unlearn

    def watch(model, *given, **options):
        found = real(model, *given, **options)
        kept.append((params.state_of(model), params.state_of(found.model)))
        return found

    monkeypatch.setattr(walk, "unlearn", watch)
    gathered(unlearned_by(original, excise.methods.Finetune(plan=PLAN), mask=Mask.of_modules(original, ["2"])))
    for before, after in kept:
        assert torch.equal(before["0.weight"], after["0.weight"])
        assert not torch.equal(before["2.weight"], after["2.weight"])


@pytest.mark.parametrize("how", ["diverges", "not finite"])
def test_a_recipe_that_breaks_some_networks_is_counted_and_they_are_left_out(original, how):
    calls = []

    class Breaking(nn.Module):
        """Finite on the few rows that are checked first, and not on all."""

        def __init__(self):
            super().__init__()
            self.inner = make()
            self.register_buffer("broken", torch.tensor(False))

        def forward(self, inputs):
            return self.inner(inputs) * torch.where(self.broken & (len(inputs) > 8), torch.nan, 1.0)

    def method(net, retain, forget, validation):
        calls.append(net)
        with torch.no_grad():
            net.inner[2].bias.add_(0.1)
        if len(calls) == 3:  # the second of the population; the first call was the audited network's
            if how == "diverges":
                raise errors.Diverged("method: step 1", {})
            net.broken.fill_(True)
        return net

    first = Breaking()
    first.inner.load_state_dict(original.state_dict())
    done = excise.unlearn(first, SPLIT, method, fresh=Breaking)
    found = gather_population(done, SPLIT, Breaking, PLAN, 3, engine_for(first, 4))
    assert (found.broken, len(found.unlearned), len(found.originals)) == (1, 2, 3)
    assert all(one.finite for one in found.unlearned)


def test_the_same_seed_gives_the_same_population_and_another_another(original):
    done = unlearned_by(original, recipes.Finetune(epochs=1))
    one, again, other = (gathered(done, seed=seed)[0] for seed in (4, 4, 5))
    for name in ("originals", "unlearned"):
        np.testing.assert_array_equal(margins_of(getattr(one, name)), margins_of(getattr(again, name)))
        assert not np.array_equal(margins_of(getattr(one, name)), margins_of(getattr(other, name)))
    np.testing.assert_array_equal(margins_of(one.held_out.evidence), margins_of(again.held_out.evidence))


def test_a_bank_keeps_originals_as_what_they_are(original, tmp_path):
    done, bank = unlearned_by(original, recipes.Nothing()), Bank(tmp_path)
    first, engine = gathered(done, bank=bank)
    assert engine.cost.trained_rows == 2 * 2 * 160 + 2 * 2 * 144
    kinds = sorted(entry.kind for entry in bank.entries())
    assert kinds == ["oracle", "oracle", "original", "original"]
    again, engine = gathered(done, bank=bank)
    assert engine.cost.trained_rows == 0
    np.testing.assert_array_equal(margins_of(first.originals), margins_of(again.originals))


def test_the_cost_of_unlearning_every_original_is_counted(original):
    done = unlearned_by(original, recipes.Finetune(epochs=3))
    _, engine = gathered(done)
    assert engine.cost.trained_rows == 2 * (2 * 160 + 2 * 144 + done.cost.trained_rows)


def test_a_recipe_that_is_not_known_cannot_be_put_to_others(original):
    done = replace(unlearned_by(original, recipes.Nothing()), how=None)
    with pytest.raises(
        errors.BadRequest, match="tier T2 puts the recipe to many networks, and it is not known how this"
    ):
        gathered(done)
    assert made_of(original, original, SPLIT).how is None


def test_progress_is_told_original_by_original(original):
    heard = []

    class Heard(Hooks):
        def on_stage(self, name, num_steps):
            heard.append(name)

        def on_stage_end(self, name):
            heard.append(f"{name} ends")

    gathered(unlearned_by(original, recipes.Nothing()), hooks=Heard())
    begin = heard.index("Nothing on 2 originals")
    assert "Nothing on 2 originals ends" in heard[begin:]
    assert heard[0].startswith("original")
    assert heard[-1].startswith("held-out oracle")


# ---------------------------------------------------------------- arms


POOL = {
    "oracles": evidence(trained(12, 1, without=WRONG), SPLIT),
    "held out": evidence(trained(12, 2, without=WRONG), SPLIT),
    "more": evidence(trained(12, 3, without=WRONG), SPLIT),
    "originals": evidence(trained(12, 4), SPLIT),
}


def of(unlearned, broken=0):
    return Population(POOL["originals"], unlearned, Oracles([], POOL["held out"]), broken)


def arms(unlearned, seed=0, broken=0):
    return arms_of(of(unlearned, broken), POOL["oracles"], np.random.default_rng(seed))


@pytest.fixture(scope="module")
def retrained():
    return arms(POOL["more"])


@pytest.fixture
def few_deals(monkeypatch):
    """Deal networks 19 times instead of 499, where no p is asked for."""
    for name in ("ulira", "klom"):
        module = importlib.import_module(f"excise.measure.{name}")
        quick = module.against_held_out

        def sparing(*given, quick=quick, **told):
            return quick(*given, **{**told, "num_permutations": 19, "num_bootstraps": 5})

        monkeypatch.setattr(module, "against_held_out", sparing)


def test_retrained_networks_are_not_told_and_originals_are(retrained):
    found = retrained
    for which in (found.unlearned, found.nothing, found.retrained):
        assert [one.name for one in which] == list(POPULATION)
        assert all(one.decides for one in which)
    # dealt 499 times: the smallest p is 1/500
    assert all(one.p == 1 / 500 for one in found.nothing)
    assert all(one.p > 0.01 for one in (*found.unlearned, *found.retrained))
    assert found.nothing[0].value > 0.95
    assert 0.3 < found.unlearned[0].value < 0.7


def test_doing_nothing_is_told_as_the_control_is(few_deals):
    found = arms(POOL["originals"])
    assert [one.value for one in found.unlearned] == [one.value for one in found.nothing]
    assert [one.p for one in found.unlearned] == [one.p for one in found.nothing] == [1 / 20] * 2


def test_copies_of_one_oracle_are_told_from_networks_that_vary(few_deals):
    found = {one.name: one for one in arms([POOL["more"][0]] * 12).unlearned}
    assert all(np.isfinite([one.value, one.low, one.high, one.p]).all() for one in found.values())
    assert min(one.p for one in found.values()) == 1 / 20


def test_the_same_generator_deals_the_same_arms(few_deals):
    one, again, other = (arms(POOL["more"], seed) for seed in (1, 1, 2))
    assert one == again
    assert [m.value for m in one.unlearned] == [m.value for m in other.unlearned]
    assert [m.p for m in one.unlearned] != [m.p for m in other.unlearned]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_that_are_left_are_not_measured_and_are_told_of(count, few_deals):
    found = arms(POOL["more"][:count], broken=12 - count)
    assert list(found.unlearned) == []
    assert found.broken == 12 - count
    assert len(found.nothing) == len(found.retrained) == 2


def test_the_control_is_one_half_of_the_held_out_oracles_against_the_other(few_deals):
    """Were half of them networks that saw the rows, it would tell."""
    mixed = Oracles([], POOL["originals"][:6] + POOL["held out"][:6])
    spoilt = arms_of(replace(of(POOL["more"]), held_out=mixed), POOL["oracles"], np.random.default_rng(0))
    assert min(one.p for one in spoilt.retrained) == 1 / 20


def test_what_could_be_seen_is_reckoned_among_all_that_decide(retrained):
    """Holm's first step at 5% over seven."""
    assert AMONG == 7
    given = [margins_of(POOL[name]) for name in ("more", "oracles", "held out")]
    wide = ulira(*given, np.random.default_rng(0), among=7)
    assert retrained.unlearned[0].least_detectable == wide.least_detectable


def test_margins_are_stacked_network_by_network():
    stacked = margins_of(POOL["oracles"])
    assert stacked.shape == (12, 16)
    np.testing.assert_array_equal(stacked[3], POOL["oracles"][3].margins)
