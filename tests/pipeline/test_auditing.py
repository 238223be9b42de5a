"""Audits of a small network that learnt planted wrong labels by heart: truths that anyone can check are known here."""

import dataclasses
import json
import random

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DataParallel

import excise
from excise import errors, methods, params, recipes
from excise.curvature import Moments
from excise.data.content import content_commitment
from excise.data.rows import Rows
from excise.masks import Mask
from excise.oracles import Bank, retrain
from excise.pipeline import auditing, measuring, planning, policy, swapping
from excise.pipeline.planning import NUM_ORACLES, AuditPlan, require_planned
from excise.pipeline.probing import Canaries, Confusion
from excise.train import Hooks, TrainPlan
from tests.cases import CASES
from tests.cluster.fleets import Elsewhere
from tests.planted import EASY, NUM_TRAIN, TEST, TRAIN, TRUE_LABELS, WRONG, engine_for, hurried, make, network, split_of
from tests.probes import LeftAlone, same_bytes, snapshot, touched
from tests.wrapping import compiled

PLAN = TrainPlan(epochs=30, lr=0.1, batch_size=32)
VERDICTS = {"PASS", "FAIL", "INCONCLUSIVE", "INVALID"}


@pytest.fixture(scope="module", autouse=True)
def short():
    with hurried():
        yield


@pytest.fixture(scope="module")
def original():
    return network(retrain(make, Rows.all_of(TRAIN), PLAN, [12345], engine_for(make()))[0].state)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Oracles are trained once, whichever test wants them."""
    return Bank(tmp_path_factory.mktemp("bank"))


class Breaks(nn.Module):
    """Gives numbers for the few rows of each kind that are checked first, and when broken none for more."""

    def __init__(self, inner):
        super().__init__()
        self.inner = make()
        self.inner.load_state_dict(inner.state_dict())
        self.register_buffer("broken", torch.tensor(False))

    def forward(self, inputs):
        return self.inner(inputs) * torch.where(self.broken & (len(inputs) > 8), torch.nan, 1.0)


def unlearned(original, recipe=None, seed=0, split=None, **options):
    return excise.unlearn(
        original, split or split_of(), recipe or recipes.Nothing(), fresh=make, seed=seed, plan=PLAN, **options
    )


def audited(found, split=None, **options):
    return excise.audit(found, split or split_of(), **{"fresh": make, "plan": PLAN, "oracles": 4, "seed": 1, **options})


@pytest.fixture(scope="module")
def nothing(original, bank):
    return audited(unlearned(original), oracles=8, bank=bank)


@pytest.fixture(scope="module")
def rewritten(original, bank):
    return audited(unlearned(original, recipes.Retrain(plan=PLAN)), oracles=8, bank=bank)


# ---------------------------------------------------------------- known truths


def test_the_wrong_labels_were_learnt_by_heart_and_oracles_do_not_know_them(nothing):
    assert nothing.original.accuracy["forget"] > 0.6
    assert all(one.accuracy["forget"] < 0.3 for one in nothing.oracles.evidence)
    assert {tuple(WRONG)} == {tuple((TRAIN[1] != TRUE_LABELS).nonzero().flatten().tolist())}


def test_doing_nothing_fails(nothing):
    assert nothing.verdict == "FAIL"
    assert nothing.controls == {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"}
    named = {one.name: one for one in nothing.measures}
    for name in ("forget_accuracy", "forget_margin", "forget_margin_distance"):
        assert named[name].value > named[name].null_high, name
        assert named[name].p < 0.01
    assert any(reason.startswith("forget_margin: +") for reason in nothing.reasons)


def test_retraining_passes_and_says_what_it_would_have_seen(rewritten):
    """By this seed; over many, 5 in 100 fail (tests/laws/test_audits.py)."""
    assert rewritten.verdict == "PASS"
    assert 0 < rewritten.trace_seen <= policy.EFFECT
    assert f"it would have noticed if {rewritten.trace_seen:.0%} or more of the trace" in " ".join(rewritten.reasons)
    assert rewritten.same_cost.epochs == 30
    assert rewritten.same_cost.outcome == "PASS"


def test_scrambling_the_network_fails_too(original, bank):
    plan = TrainPlan(epochs=20, lr=0.05, schedule="constant")
    found = audited(unlearned(original, methods.Ascend(plan=plan)), bank=bank, oracles=8)
    assert found.verdict == "FAIL"
    assert {one.name: one.value for one in found.measures}["forget_margin"] < 0


def test_constant_logits_and_random_weights_never_pass(original, bank):
    def silenced(net, retain, forget, validation):
        with torch.no_grad():
            for value in net[2].parameters():
                value.zero_()
        return net

    for how in (silenced, methods.Reset()):
        assert audited(unlearned(original, how), bank=bank).verdict == "FAIL"


def test_rows_that_leave_no_trace_give_no_verdict(original):
    """Rows that the network classifies from the others: doing nothing cannot be seen, and the audit says so."""
    split = split_of(EASY[:5])
    found = audited(unlearned(original, split=split), split, oracles=8)
    assert found.verdict == "INCONCLUSIVE"
    assert found.controls == {"nothing": "PASS", "retrained": "PASS", "plan": "PASS"}
    assert found.reasons[0] == "the network is the original, bit for bit: nothing was done"
    assert "the rows left a trace of" in found.reasons[1]
    assert found.trace_seen is None or found.trace_seen > policy.EFFECT


# ---------------------------------------------------------------- reproducible, and leaves everything alone


def plain(found):
    """What does not depend on the clock or on what the process held before."""
    told = found.to_dict()
    for name in ("oracle_seconds", "cost"):
        told.pop(name)
    for name in ("seconds", "peak_bytes", "parts"):
        told["unlearned"].pop(name)
    return told


def test_the_same_request_gives_the_same_numbers_and_another_seed_others(original, nothing):
    fleet = Elsewhere()  # nor does it matter who trains
    again = audited(unlearned(original), oracles=8, fleet=fleet)
    assert plain(again) == plain(nothing)
    assert [name for name, _ in fleet.jobs] == ["train_there"] * (8 + 4)  # oracles, and those of the SWAP test
    one, other = (audited(unlearned(original), seed=seed, oracles=3) for seed in (1, 2))
    for first, second in zip(one.oracles.evidence, other.oracles.evidence, strict=True):
        assert not np.array_equal(first.margins, second.margins)


def test_networks_and_the_world_are_left_alone(original):
    found = unlearned(original, recipes.Finetune(epochs=1))
    touched(found.model)
    watches = [LeftAlone(found.model), LeftAlone(original)]
    audited(found, oracles=2)
    for watch in watches:
        watch.check()


class Noisy:
    """Rows augmented at random, from every global generator."""

    def __len__(self):
        return NUM_TRAIN

    def __getitem__(self, row):
        noise = torch.randn(12) + np.random.normal() + random.random()  # noqa: NPY002 - what a user may do
        return TRAIN[0][row] + 0.1 * noise.float(), TRAIN[1][row]


def test_augmented_rows_make_no_difference_to_that(original):
    split = excise.Split(Noisy(), forget=list(WRONG), test=TEST)
    done = excise.unlearn(original, split, recipes.Nothing())
    plan = TrainPlan(epochs=1, lr=0.1, batch_size=32)
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    one = audited(done, split, oracles=2, plan=plan)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
    assert random.getstate() == python_state
    torch.rand(3)
    other = audited(done, split, oracles=2, plan=plan)
    assert plain(one) == plain(other)


# ---------------------------------------------------------------- what it is given


def test_the_original_is_what_the_patch_leads_back_to_or_what_is_given(original, rewritten, nothing):
    np.testing.assert_array_equal(rewritten.original.margins, nothing.original.margins)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        other = make()
    found = audited(unlearned(original), oracles=1, original=other)
    assert found.original.accuracy["forget"] != nothing.original.accuracy["forget"]


def test_without_fresh_oracles_start_from_the_modules_own_reset(original, nothing):
    found = audited(unlearned(original), fresh=None)
    assert (found.verdict, found.controls) == (nothing.verdict, nothing.controls)
    # the same modules in the same order draw the same numbers but for the order of the draws
    assert not same_bytes(found.oracles.trained[0].state, nothing.oracles.trained[0].state)


def test_the_users_own_training_is_taken_as_a_plan(original):
    def train(model, dataset, seed):
        loader = torch.utils.data.DataLoader(dataset, 32, shuffle=True, generator=torch.Generator().manual_seed(seed))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(8):
            for inputs, labels in loader:
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
        return model

    found = audited(excise.unlearn(original, split_of(), recipes.Finetune(epochs=1)), plan=train)
    assert found.verdict in VERDICTS - {"INCONCLUSIVE"}
    assert found.unlearned.cost.retraining_share is None
    assert (found.same_cost, found.plan.training) == (None, train.__qualname__)
    assert len(found.oracles.trained) == 4


def test_the_share_of_a_retraining_is_filled_in_from_the_plan_of_the_audit(original):
    done = excise.unlearn(original, split_of(), recipes.Finetune(epochs=3))
    assert done.cost.retraining_share is None
    found = audited(done, oracles=1)
    assert found.unlearned.cost.retraining_share == 3 / 30
    assert done.cost.retraining_share is None


class Heard(Hooks):
    """Writes down every stage."""

    def __init__(self):
        self.stages = []

    def on_stage(self, name, num_steps):
        self.stages.append(name)


def test_oracles_are_found_again_in_a_bank(original, nothing, bank, tmp_path):
    heard = Heard(), Heard()
    found = [audited(unlearned(original), bank=tmp_path / "own", hooks=one) for one in heard]
    wanted = [f"oracle {number}/4" for number in range(1, 5)]
    assert [name for name in heard[0].stages if name.startswith("oracle")] == wanted
    assert not [name for name in heard[1].stages if name.startswith("oracle")]
    assert plain(found[0]) == plain(found[1])
    assert {one.data for one in Bank(tmp_path / "own").entries()} == {content_commitment(Rows.all_of(TRAIN))}
    assert plain(audited(unlearned(original), oracles=8, bank=bank)) == plain(nothing)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_oracles_decide_nothing(original, count, bank):
    found = audited(unlearned(original), oracles=count, bank=bank)
    assert found.verdict == "INCONCLUSIVE"
    named = [one.name for one in found.measures if one.decides]
    assert named == [name for name in policy.SINGLE if count > 1 and (count > 2 or name != "forget_margin_distance")]
    assert found.to_dict()["num_oracles"] == count
    assert require_planned(found.to_dict()) == found.plan


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_network_can_be_audited(name, tmp_path):
    case = CASES[name]
    inputs, labels = case.data(60)
    split = excise.Split((inputs[:40], labels[:40]), forget=[3, 4, 9], test=(inputs[40:].clone(), labels[40:].clone()))
    build = lambda: case.build().double()  # noqa: E731
    done = excise.unlearn(case.make(), split, recipes.Finetune(epochs=1), fresh=build)
    found = excise.audit(done, split, fresh=build, plan=TrainPlan(epochs=2, lr=0.05, batch_size=16), oracles=4)
    assert found.verdict in VERDICTS
    informing = [one.name for one in found.measures if not one.decides]
    knew = found.original.accuracy["forget"] > 0  # else there is nothing to relearn
    assert set(informing) == {one for one in found.plan.informing if knew or one != "relearning"}
    assert found.save(tmp_path / "report.html").stat().st_size > 1000


def test_a_network_that_gives_no_numbers_fails_and_is_not_refused(original, tmp_path):
    def poison(net, retain, forget, validation):
        with torch.no_grad():
            next(net.parameters()).fill_(1e30)
            list(net.parameters())[-2].mul_(1e30)
        return net

    found = audited(excise.unlearn(original, split_of(), poison))
    assert found.verdict == "FAIL" and found.measures == []
    assert found.reasons[0] == "the network gives logits that are not finite"
    assert found.save(tmp_path / "report.html").is_file()


def test_a_network_whose_logits_break_past_the_probe_fails_and_still_has_a_page(original, tmp_path):
    def break_it(net, retain, forget, validation):
        net.broken.fill_(True)
        return net

    done = excise.unlearn(Breaks(original), split_of(), break_it)
    found = audited(done, fresh=lambda: Breaks(make()))
    assert found.verdict == "FAIL"
    assert found.reasons[0] == "the network gives logits that are not finite"
    assert found.measures == []
    assert found.same_cost is None
    assert "not finite" in found.save(tmp_path / "report.html").read_text()
    assert require_planned(json.loads(found.save(tmp_path / "audit.json").read_text())) == found.plan


# ---------------------------------------------------------------- the plan comes first


class Told(Hooks):
    """Writes down whatever it hears, in one list with others."""

    def __init__(self, heard):
        self.heard = heard

    def on_stage(self, name, num_steps):
        self.heard.append(name)

    def on_note(self, text):
        self.heard.append(text)


@pytest.mark.parametrize("tier", ["T0", "T1"])
def test_the_plan_is_given_before_any_network_is_observed_or_trained(original, tier, monkeypatch):
    heard = []
    for name in ("observe", "gather_oracles"):
        real = getattr(auditing, name)
        monkeypatch.setattr(
            auditing, name, lambda *given, name=name, real=real, **told: heard.append(name) or real(*given, **told)
        )
    options = {"oracles": 4} if tier == "T1" else {"oracles": None}
    found = audited(unlearned(original), tier=tier, on_plan=heard.append, hooks=Told(heard), **options)
    assert isinstance(heard[0], AuditPlan)
    assert [one for one in heard if isinstance(one, AuditPlan)] == [found.plan]
    assert heard[1:3] == ["observe", "observe"]
    assert ("gather_oracles" in heard) == (tier == "T1")


def test_the_plan_names_every_measure_and_the_numbers_keep_to_it(nothing, rewritten):
    for found in (nothing, rewritten):
        assert [one.name for one in found.measures if one.decides] == list(policy.SINGLE) == list(found.plan.deciding)
        informing = [one.name for one in found.measures if not one.decides]
        assert set(found.plan.informing) - {"relearning"} <= set(informing) <= set(found.plan.informing)
        assert len(informing) == len(set(informing))
        assert require_planned(json.loads(json.dumps(found.to_dict()))) == found.plan
        assert found.plan.audited == params.model_digest(found.unlearned.model)
        assert found.plan.failing == policy.FAILING
    assert msgspec.structs.replace(nothing.plan, audited=rewritten.plan.audited) == rewritten.plan
    assert nothing.plan.digest != rewritten.plan.digest


def test_the_plans_digest_depends_on_the_network_what_is_measured_and_how(original, bank):
    def digest(recipe=None, **options):
        return audited(unlearned(original, recipe), oracles=2, bank=bank, **options).plan.digest

    one = digest()
    assert digest() == one  # the same network and request
    assert digest(recipes.Nothing().named("Otherwise")) == one  # whatever made it
    others = [
        digest(recipes.Finetune(epochs=1)),
        digest(seed=2),
        digest(effect=0.4),
        digest(goal=Confusion(0, 1)),
        audited(unlearned(original), oracles=1, bank=bank).plan.digest,
        audited(unlearned(original), oracles=2, plan=TrainPlan(epochs=1, lr=0.1)).plan.digest,
        audited(unlearned(original), oracles=None, tier="T0").plan.digest,
    ]
    assert len({one, *others}) == 7  # a goal adds nothing where two oracles are too few for any informing measure
    assert others[3] == one


# ---------------------------------------------------------------- tiers


@pytest.mark.parametrize(
    "how", [recipes.Nothing(), recipes.Finetune(epochs=1), recipes.Retrain(plan=PLAN), methods.Reset()]
)
def test_tier_t0_trains_nothing_and_never_passes(original, how):
    found = audited(unlearned(original, how), tier="T0", oracles=None, hooks=NoTraining())
    assert found.verdict == "INCONCLUSIVE"
    assert (found.oracles, found.measures, found.audit_retrainings) == (None, [], None)
    assert "tier T0 retrains nothing: it can find fault and found none, and passes nothing" in found.reasons
    assert set(found.controls.values()) == {"not run"}
    assert (found.plan.tier, found.plan.deciding, found.plan.informing, found.plan.num_oracles) == ("T0", (), (), 0)


@pytest.mark.parametrize("tier", [None, "T1", "T2"])
def test_only_tier_t0_needs_no_plan(original, tier):
    found = audited(unlearned(original), plan=None, tier="T0", oracles=None, hooks=NoTraining())
    assert (found.verdict, found.plan.training) == ("INCONCLUSIVE", "none")
    assert require_planned(json.loads(json.dumps(found.to_dict()))) == found.plan
    with pytest.raises(errors.BadRequest, match=r"plan: expected how the network was trained.*found NoneType"):
        audited(unlearned(original), plan=None, tier=tier, hooks=NoTraining())
    with pytest.raises(errors.BadRequest, match=r"plan: expected how the network was trained.*found NoneType"):
        audited(unlearned(original), plan=None, oracles=None, budget_seconds=1e6, hooks=NoTraining())


def test_tier_t0_finds_fault(original):
    def silenced(net, retain, forget, validation):
        with torch.no_grad():
            net[2].weight.zero_()
        return net

    found = audited(unlearned(original, silenced), tier="T0", oracles=None, hooks=NoTraining())
    assert found.verdict == "FAIL"
    assert found.reasons == ["the network's output no longer depends on its input: every row gets the same class"]


def test_a_weight_outside_the_mask_fails_a_network_that_would_pass(original, rewritten, bank):
    """As numbers of another network put into the run's directory would be."""
    done = unlearned(original, recipes.Retrain(plan=PLAN))
    narrow = dataclasses.replace(done, mask=Mask.of_modules(done.model, ["2"]))
    found = audited(narrow, oracles=8, bank=bank)
    assert rewritten.verdict == "PASS"
    assert found.verdict == "FAIL"
    assert found.reasons[0].startswith("0.weight differs from the original outside the mask")
    assert sum(reason == found.reasons[0] for reason in found.reasons) == 1


def test_tier_t2_puts_the_recipe_to_many_networks(original, bank):
    few = TrainPlan(epochs=8, lr=0.1, batch_size=32)
    directory = Bank(bank.directory.with_name("t2"))
    found = audited(unlearned(original), tier="T2", oracles=8, plan=few, bank=directory, keep_originals=True)
    assert (found.plan.num_oracles, found.plan.num_per_arm) == (8, 8)
    originals = 8 * 160 / 144  # they are trained on all the rows
    rows = {name: one.trained_rows for name, one in found.spent.items()}
    assert rows["oracles"] == 8 * 8 * 144
    assert rows["population"] == (8 + originals * 6 / 8) * 8 * 144  # the SWAP test trained two of them before
    beside = sum(rows[name] for name in ("swap", "measuring"))
    assert beside > 4 * 8 * 144  # the SWAP test trains four, and what informs learns again
    assert found.audit_retrainings == pytest.approx(8 + 8 + originals + beside / (8 * 144))
    assert found.plan.deciding == (*policy.SINGLE, *policy.POPULATION)
    assert {one.name for one in found.measures if one.decides} == set(found.plan.deciding)
    informing = {one.name for one in found.measures if not one.decides}
    assert set(found.plan.informing) - {"relearning"} <= informing <= set(found.plan.informing)
    assert found.verdict in ("FAIL", "INVALID")
    assert set(found.spent) >= {"oracles", "population", "measuring"} and "same cost" not in found.spent
    assert require_planned(json.loads(json.dumps(found.to_dict()))) == found.plan
    kinds = [one.kind for one in directory.entries()]
    assert kinds.count("original") >= 8 and kinds.count("oracle") >= 16
    again = audited(unlearned(original), tier="T2", oracles=8, plan=few, bank=directory)
    assert [one.value for one in again.measures] == [one.value for one in found.measures]
    assert (again.verdict, list(again.reasons), again.notes) == (found.verdict, list(found.reasons), found.notes)
    assert [one.kind for one in directory.entries()] == [one for one in kinds if one != "original"]


def test_networks_that_know_the_rows_go_from_the_bank_unless_they_are_to_stay(original, tmp_path):
    """The SWAP test trains two with them; what others left in the bank, or this very object used before, stays."""
    held, others = Bank(tmp_path / "bank"), "7" * 64
    told = {"architecture": "A", "num_parameters": 1, "num_rows": 2}
    held.keep(
        others,
        retrain(make, split_of().retain, TrainPlan(epochs=1, lr=0.1), [0], engine_for(make()))[0],
        kind="original",
        **told,
    )

    def originals():
        return {one.key for one in held.entries() if one.kind == "original"}

    first = audited(unlearned(original), bank=held)
    assert "swap" in first.plan.informing
    assert originals() == {others}
    audited(unlearned(original), bank=held, keep_originals=True)
    kept = originals()
    assert len(kept) > 1
    audited(unlearned(original), bank=held, seed=2)  # of another seed: uses others
    assert originals() == kept
    audited(unlearned(original), bank=str(held.directory))
    assert originals() == {others}


MADE_FOR_ONE = {
    "DEL": lambda original: recipes.DEL(initial=make().state_dict(), epochs=1),
    "a tensor in a method": lambda original: methods.Reset(to=make().state_dict()),
}


@pytest.mark.parametrize("name", MADE_FOR_ONE)
def test_tier_t2_refuses_a_recipe_made_for_one_network(original, name, monkeypatch):
    done = unlearned(original, MADE_FOR_ONE[name](original))
    why = "the recipe brings weights or values that were made for one network or its rows"
    with pytest.raises(errors.BadRequest, match=f"tier T2 puts the recipe to other networks; {why}.*audit it at T1"):
        audited(done, tier="T2", oracles=None, hooks=NoTraining())
    unknown = dataclasses.replace(done, how=None)
    with pytest.raises(
        errors.BadRequest, match=r"tier T2 .*; it is not known how the network was made.*audit it at T1"
    ):
        audited(unknown, tier="T2", oracles=None, hooks=NoTraining())
    monkeypatch.setattr(planning, "seconds_of_training", lambda *_: 1e-3)
    few = TrainPlan(epochs=1, lr=0.1, batch_size=32)
    found = audited(done, oracles=None, budget_seconds=1e6, plan=few)  # a budget for T2 buys T1
    assert (found.plan.tier, found.plan.num_oracles) == ("T1", NUM_ORACLES)
    assert found.plan.left_out == (f"populations of 64 networks: {why}, and fits no others",)


def test_what_is_prepared_for_rows_or_anew_fits_other_networks(original):
    """Moments are taken anew for each network; targets are of rows, whoever is brought to them."""
    kept = Moments({"0.weight": torch.eye(2, dtype=torch.float64)[None]}, 3, "network", "reading")
    for how in (recipes.PGU(moments=kept), recipes.OracleMatching(models=[make()])):
        assert swapping.tied(how) is None
    assert swapping.tied(recipes.PGU(moments=kept), to_rows=True) is None


@pytest.mark.parametrize("num", [1, 4, 7])
def test_tier_t2_with_too_few_networks_is_refused_before_any_training(original, num):
    with pytest.raises(
        errors.BadRequest, match=f"oracles: expected at least 8 networks an arm at tier T2.*found {num}"
    ):
        audited(unlearned(original), tier="T2", oracles=num, hooks=NoTraining())


def test_a_budget_picks_the_tier_and_says_what_it_left_out(original, monkeypatch):
    monkeypatch.setattr(planning, "seconds_of_training", lambda *_: 2.0)
    few = TrainPlan(epochs=1, lr=0.1, batch_size=32)
    monkeypatch.setattr(planning, "seconds_of", lambda work: 0.5)
    done = unlearned(original)
    done = dataclasses.replace(done, cost=dataclasses.replace(done.cost, seconds=0.25))
    enough = 5 * (2.0 + 0.5) + planning.SWAP_TRAININGS * (2.0 + 0.25) + 0.25 + 3 * 0.5
    found = audited(done, oracles=None, budget_seconds=enough / 0.8 * 1.01, plan=few)
    assert (found.plan.tier, found.plan.num_oracles) == ("T1", 5)
    assert len(found.to_dict()["left_out"]) == 2
    none = audited(unlearned(original), oracles=None, budget_seconds=1.0, hooks=NoTraining())
    assert (none.plan.tier, none.verdict) == ("T0", "INCONCLUSIVE")
    assert "every comparison with retrained networks" in " ".join(none.plan.left_out)


# ---------------------------------------------------------------- wrappers, canaries, same cost


@pytest.mark.parametrize("wrap", [compiled, DataParallel], ids=["compiled", "parallel"])
def test_a_wrapped_network_is_audited_like_the_one_inside(original, bank, wrap):
    recipe = recipes.Finetune(epochs=1)
    bare = audited(unlearned(original, recipe), bank=bank)
    found = audited(unlearned(wrap(original), recipe), bank=bank, original=wrap(original))
    assert type(found.unlearned.model) is type(wrap(original))
    assert (found.verdict, found.controls) == (bare.verdict, bare.controls)
    assert [one.value for one in found.measures] == pytest.approx([one.value for one in bare.measures], abs=1e-6)


def canaries_of(original, *, planted):
    draws = torch.Generator().manual_seed(8)
    rows = list(WRONG)
    noise = torch.randn(len(rows), 12, generator=draws)
    if planted:  # that the gradient lies along the noise is what training on it leaves behind
        inputs = TRAIN[0][rows].clone().requires_grad_()
        functional.cross_entropy(original(inputs), TRAIN[1][rows], reduction="sum").backward()
        noise = 3 * inputs.grad / inputs.grad.norm(dim=1, keepdim=True).clamp_min(1e-12) + noise
    return Canaries(TRAIN[0][rows], TRAIN[1][rows], noise, 1.0)


@pytest.mark.parametrize("tier", ["T0", "T1"])
def test_canaries_that_are_still_there_fail_at_every_tier(original, tier, bank):
    options = {"tier": tier, "oracles": None if tier == "T0" else 4, "bank": bank}
    found = audited(unlearned(original), canaries=canaries_of(original, planted=True), **options)
    assert found.verdict == "FAIL"
    assert any("the noise planted in 16 canaries is still there" in reason for reason in found.reasons)
    assert found.plan.deciding == ("canaries", *(() if tier == "T0" else policy.SINGLE))
    assert {one.name: one.decides for one in found.measures}["canaries"]
    assert require_planned(json.loads(json.dumps(found.to_dict()))) == found.plan
    silent = audited(unlearned(original), canaries=canaries_of(original, planted=False), tier="T0", oracles=None)
    assert silent.verdict == "INCONCLUSIVE"
    assert any("canaries' noise cannot be seen in the original either" in note for note in silent.notes)


@pytest.mark.parametrize(("p", "word"), [(0.0011, "PASS"), (0.001, "FAIL")])
def test_canaries_fail_at_a_level_of_their_own(original, rewritten, bank, p, word, monkeypatch):
    """Above it they leave a pass alone, though they decide and p is below the level that the others share."""
    monkeypatch.setattr(Canaries, "test", lambda *_: msgspec.structs.replace(real, p=p, name="canaries"))
    real = rewritten.measures[-1]
    done = unlearned(original, recipes.Retrain(plan=PLAN))
    found = audited(done, canaries=canaries_of(original, planted=False), oracles=8, bank=bank)
    assert found.verdict == word
    assert require_planned(json.loads(json.dumps(found.to_dict()))) == found.plan
    assert [one.name for one in found.measures if one.decides] == [*policy.SINGLE, "canaries"]


# ---------------------------------------------------------------- what is said beside


def test_what_informs_is_counted_beside_chance(nothing, rewritten):
    for found in (nothing, rewritten):
        informing = [one for one in found.measures if not one.decides]
        outside = sum(not one.null_low <= one.value <= one.null_high for one in informing)
        start = f"{outside} of {len(informing)} informing measures lie outside the band"
        assert sum(note.startswith(start) for note in found.notes) == 1
        missing = sorted({*found.plan.informing} - {one.name for one in informing})  # relearning, if nobody relearnt
        said = [note.rpartition(": ")[2] for note in found.notes if note.startswith("planned and not taken")]
        assert said == ([", ".join(missing)] if missing else [])


def test_what_was_planned_and_could_not_be_taken_is_named(original, monkeypatch, bank):
    real = measuring.informing
    monkeypatch.setattr(
        measuring, "informing", lambda *given: [one for one in real(*given) if one.name not in ("rmia", "relearning")]
    )
    notes = audited(unlearned(original), oracles=4, bank=bank).notes
    assert any(
        note.startswith("planned and not taken, since there was nothing to take: relearning, rmia") for note in notes
    )


def test_the_retraining_at_the_same_cost_is_told_and_counted_only_if_it_ran(nothing, rewritten):
    told = "a retraining from scratch at the same cost (30 epochs), judged alike, comes to PASS; it gets "
    assert sum(note.startswith(told) for note in rewritten.notes) == 1
    assert rewritten.spent["same cost"].trained_rows == 30 * 144
    assert "same cost" not in nothing.spent
    assert not any("at the same cost" in note for note in nothing.notes)


def test_retraining_of_the_same_cost_is_cut_to_what_was_spent(original, bank):
    plan = TrainPlan(epochs=8, lr=0.1, batch_size=32, schedule="milestones", milestones=(3, 6))
    found = audited(unlearned(original, recipes.Finetune(epochs=2)), plan=plan, bank=bank)
    assert found.same_cost.epochs == 2
    assert found.same_cost.spent.trained_rows == 2 * 144
    assert found.to_dict()["same_cost"]["epochs"] == 2
    assert audited(unlearned(original), oracles=1, bank=bank).same_cost is None


# ---------------------------------------------------------------- bad input


class NoTraining(Hooks):
    def on_stage(self, name, num_steps):
        raise AssertionError(f"{name} was trained")


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"tier": "T3"}, errors.BadRequest, "tier: expected one of T0, T1, T2, found 'T3'"),
        ({"budget_seconds": 5.0}, errors.BadRequest, "budget_seconds: it chooses tier and number of oracles itself"),
        ({"budget_seconds": 5.0, "oracles": None, "tier": "T1"}, errors.BadRequest, "budget_seconds: it chooses tier"),
        ({"budget_seconds": float("nan"), "oracles": None}, errors.BadRequest, "budget_seconds"),
        (
            {"budget_seconds": 5.0, "oracles": None, "plan": make},
            errors.BadRequest,
            "expected a TrainPlan, whose steps",
        ),
        ({"effect": 0.0}, errors.BadRequest, "effect: expected a share of the rows' trace.*found 0.0"),
        ({"effect": 1.5}, errors.BadRequest, "effect: expected a share of the rows' trace.*found 1.5"),
        ({"goal": Confusion(0, 7)}, errors.BadRequest, "goal: expected classes that the test rows have"),
        ({"oracles": 0}, errors.BadRequest, "oracles: expected an integer of at least 1, found 0"),
        ({"oracles": 2.0}, errors.BadRequest, "oracles: expected an integer of at least 1, found 2.0"),
        ({"plan": None}, errors.BadRequest, "plan: expected how the network was trained.*found NoneType"),
        ({"plan": {"epochs": 3}}, errors.BadRequest, "plan: expected how the network was trained.*found dict"),
        ({"fresh": lambda: nn.Linear(12, 3)}, errors.MaskMismatch, "fresh: built another architecture"),
        ({"fresh": lambda: None}, errors.BadRequest, "fresh: expected a callable that builds the network"),
        ({"loss": nn.CrossEntropyLoss()}, errors.BadRequest, 'loss: expected one value for each .*reduction="none"'),
        ({"original": nn.Linear(2, 3)}, errors.BadData, "Linear could not be run on forget rows"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_does_not_go_together_is_refused_before_any_training(original, change, error, what):
    with pytest.raises(error, match=what):
        audited(unlearned(original), hooks=NoTraining(), **change)


def test_a_network_that_was_not_unlearned_here_is_refused(original):
    with pytest.raises(errors.BadRequest, match=r"unlearned: expected what excise.unlearn gives, found Sequential"):
        audited(original, hooks=NoTraining())


def test_another_split_than_the_runs_is_refused(original):
    others = split_of(WRONG[1:]), split_of((*WRONG, 0)), split_of(EASY)
    for split in others:
        with pytest.raises(errors.BadRequest, match="split: expected the split that the network was unlearned on"):
            audited(unlearned(original), split, hooks=NoTraining())
    forgotten = dataclasses.replace(unlearned(original), rows_digest=None)  # a result of which that is not known
    assert audited(forgotten, others[0], tier="T0", oracles=None).verdict == "INCONCLUSIVE"


def test_a_network_that_is_one_of_the_oracles_is_refused(original, nothing, bank):
    done = unlearned(original, recipes.Retrain(plan=PLAN))
    done.model.load_state_dict(nothing.oracles.trained[2].state)
    with pytest.raises(
        errors.BadRequest, match=r"one of the oracles it would be held against, bit for bit.*another seed"
    ):
        audited(done, bank=bank, original=original)


def test_an_original_that_breaks_past_the_first_rows_is_refused(original):
    model = Breaks(original)
    done = excise.unlearn(model, split_of(), recipes.Nothing(), fresh=lambda: Breaks(original))
    model.broken.fill_(True)
    with pytest.raises(
        errors.BadData, match="the original network gives logits that are not finite; nothing can be held"
    ):
        audited(done, fresh=lambda: Breaks(make()), original=model, hooks=NoTraining())


def test_without_test_rows_there_is_no_audit(original):
    with pytest.raises(errors.BadSplit, match="test: an audit needs rows the network never saw; pass test= to Split"):
        audited(unlearned(original), excise.Split(TRAIN, forget=list(WRONG)), hooks=NoTraining())


def test_labels_outside_the_head_are_refused_in_test_rows_too(original):
    test = TEST[0], TEST[1].clone()
    test[1][70] = 3
    split = excise.Split(TRAIN, forget=list(WRONG), test=test)
    with pytest.raises(errors.BadData, match="test: 1 labels lie outside 0 to 2"):
        audited(unlearned(original), split, hooks=NoTraining())


def test_targets_that_are_no_classes_are_refused(original):
    options = {
        "forward": lambda model, batch: (model(batch[0]), batch[1].float()),
        "loss": lambda logits, targets: (logits[:, 0] - targets) ** 2,
    }
    done = excise.unlearn(original, split_of(), recipes.Finetune(epochs=1), **options)
    with pytest.raises(errors.BadData, match=r"an audit needs logits \[examples, classes\]"):
        audited(done, hooks=NoTraining(), **options)


def test_a_network_that_cannot_be_reset_needs_fresh():
    case = CASES["transformer"]
    inputs, labels = case.data(30)
    split = excise.Split((inputs[:20], labels[:20]), forget=[1], test=(inputs[20:].clone(), labels[20:].clone()))
    done = excise.unlearn(case.make(), split, recipes.Nothing())
    with pytest.raises(errors.UnsupportedModel, match="no module re-initialises position"):
        excise.audit(done, split, plan=PLAN, oracles=2, hooks=NoTraining())


def test_an_oracle_whose_training_diverges_is_an_error(original):
    with pytest.raises(errors.Diverged, match="train: "):
        audited(unlearned(original), plan=TrainPlan(epochs=5, lr=1e30, batch_size=32), oracles=2)


def test_the_same_network_for_every_oracle_is_refused(original):
    with torch.random.fork_rng():
        one = make()
    with pytest.raises(
        errors.BadRequest, match=r"fresh: expected a new untrained network at each call.*the same ones twice"
    ):
        audited(unlearned(original), fresh=lambda: one, oracles=2)


def test_oracles_keep_the_precision_of_the_network(original):
    found = audited(excise.unlearn(snapshot_in_double(original), split_of(), recipes.Nothing()), oracles=1)
    assert {value.dtype for value in found.oracles.trained[0].state.values()} == {torch.float64}


def snapshot_in_double(model):
    with torch.random.fork_rng():
        other = make().double()
    other.load_state_dict({name: value.double() for name, value in snapshot(model).items()})
    return other
