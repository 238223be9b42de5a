"""Whoever holds the rows to forget and no other: what works without them, and what says before any work that it does not."""

import inspect

import pytest
import torch

import excise
from excise import errors, localize, methods, recipes
from excise.data import Split, random_fraction
from excise.diagnosis import doctor
from excise.localize import Cut, Gradient, Random, TiedChannels, WeightGradient
from excise.masks import Mask
from excise.params import model_digest
from excise.patch import Patch
from excise.pipeline import audit, bench, tune
from excise.pipeline.evidence import observe
from excise.pipeline.forget import rows_digest
from excise.train import TrainPlan
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, moved, same_bytes, snapshot, touched
from tests.train import resuming

FORGET = [0, 3, 8, 11, 14]
PLAN = TrainPlan(epochs=2, lr=0.01, batch_size=2)
WITHOUT = {
    "JiT": recipes.JiT(num_draws=2, lr=0.01, batch_size=2),
    "NegGrad": recipes.NegGrad(epochs=2, batch_size=2, lr=0.01),
}


def data(case="batchnorm"):
    inputs, labels = CASES[case].data(20)
    return inputs[FORGET], labels[FORGET]


def alone(case="batchnorm", **unseen):
    return Split.of_forget(data(case), **unseen)


def test_every_row_is_to_be_forgotten_and_none_is_retained():
    split = alone("mlp", test=CASES["mlp"].data(4), holdout=CASES["mlp"].data(3))
    assert (split.forget.ids.tolist(), split.train.ids.tolist(), len(split.retain)) == ([*range(5)], [*range(5)], 0)
    assert (len(split.test), len(split.holdout)) == (4, 3)
    assert repr(split) == "Split(forget 5, retain 0, test 4)"
    assert split.retain.fingerprint() != split.forget.fingerprint()
    held = Split.of_forget(data("mlp"), test=[1, 4])
    assert held.forget.ids.tolist() == [0, 2, 3]
    assert rows_digest(split) != rows_digest(held)
    small = split.smaller(2, seed=0)
    assert (len(small.forget), len(small.retain), len(small.train)) == (2, 0, 2)
    with pytest.raises(errors.BadRequest, match="num_rows: expected 1 to 5, found 6"):
        split.smaller(6, seed=0)
    with pytest.raises(errors.BadSplit, match="expected training rows, found an empty data set"):
        Split.of_forget((torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)))


@pytest.mark.parametrize("forget", [range(5), random_fraction(1.0)])
def test_it_is_asked_for_by_name_and_never_by_naming_every_row(forget):
    with pytest.raises(errors.BadSplit, match=r"nothing is left to retain.*call Split.of_forget\(rows\)"):
        Split(data(), forget=forget)


@pytest.mark.parametrize("name", WITHOUT)
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_reads_forget_rows_alone_gives_the_very_bits_that_it_gives_with_the_others(name, by_hand):
    model = CASES["batchnorm"].make()
    mask = Mask.of_modules(model, ["3", "8"]) if by_hand else None
    recipe = WITHOUT[name] if name == "NegGrad" else WITHOUT[name].at(Cut(WeightGradient(), 0.4))
    found = excise.unlearn(model, alone(), recipe, mask=mask, plan=PLAN)
    # ids are those of the rows in their own data: noise and order follow them
    rest = CASES["batchnorm"].data(20)
    joined = tuple(torch.cat([one, other]) for one, other in zip(data(), rest, strict=True))
    whole = excise.unlearn(model, Split(joined, forget=range(5)), recipe, mask=mask, plan=PLAN)
    assert same_bytes(snapshot(found.model), snapshot(whole.model)) and found.mask == whole.mask
    assert moved(snapshot(model), snapshot(found.model)) and not found.recomputed
    assert found.cost.trained_rows == whole.cost.trained_rows
    assert found.cost.retraining_share is None and whole.cost.retraining_share > 0
    assert model_digest(found.patch.apply(model)) == model_digest(found.model)


def test_what_is_saved_is_read_again(tmp_path):
    model = CASES["mlp"].make()
    found = excise.unlearn(model, alone("mlp"), WITHOUT["JiT"])
    found.save(tmp_path)
    assert Mask.load(tmp_path / "mask.safetensors") == found.mask
    assert model_digest(Patch.load(tmp_path / "patch.safetensors").apply(model)) == model_digest(found.model)


@pytest.mark.parametrize("name", WITHOUT)
def test_a_killed_run_goes_on_to_the_same_bits(name, tmp_path):
    model = CASES["mlp"].make()

    def go(checkpoints, hooks):
        return excise.unlearn(model, alone("mlp"), WITHOUT[name], hooks=hooks, checkpoints=checkpoints)

    assert resuming.resume_at_every_step(go, tmp_path) >= 4


@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if name not in (*WITHOUT, "Nothing")])
def test_a_recipe_that_reads_retain_rows_says_so_before_any_work_and_names_those_that_do_not(name):
    make = recipes.RECIPES[name]
    required = [key for key, one in inspect.signature(make).parameters.items() if one.default is one.empty]
    if required not in ([], ["plan"]):
        pytest.skip(f"it is made from {required[0]}, which comes from retain rows")
    recipe = make(**({"plan": PLAN} if required else {}))
    model = touched(CASES["separable"].make())
    before = LeftAlone(model)
    watched = Watched(*data("separable"), forbidden=range(5))
    with pytest.raises(errors.BadSplit) as refused:
        excise.unlearn(model, Split.of_forget(watched), recipe)
    assert str(refused.value) == (
        f"retain: {name} reads rows that stay, and this split has none: it is of rows to forget alone (Split.of_forget, "
        "--forget all); give all training rows, as Split(train, forget=...); recipes that read no row that stays: "
        f"{', '.join(recipes.without_retain())}"
    )
    before.check()


def test_the_recipes_that_are_named_run_and_are_all_that_do():
    assert set(recipes.without_retain()) >= {*WITHOUT, "Nothing"}
    for name in recipes.without_retain():
        assert excise.unlearn(CASES["mlp"].make(), alone("mlp"), recipes.RECIPES[name]()).recipe == name


@pytest.mark.parametrize(
    ("method", "what"),
    [
        (lambda net, retain, forget, validation: net, "<lambda>"),
        (methods.Ascend(plan=PLAN, pace="retain"), "Ascend"),
        (recipes.JiT().at(Cut(WeightGradient(rows="train"), 0.3)), "JiT's place .*"),
    ],
)
def test_so_does_a_method_or_a_place_of_ones_own(method, what):
    with pytest.raises(errors.BadSplit, match=f"^retain: {what} reads rows that stay"):
        excise.unlearn(CASES["mlp"].make(), alone("mlp"), method)


def test_a_mask_given_by_hand_spares_the_place_that_reads_others():
    recipe = recipes.JiT(num_draws=1).at(Cut(WeightGradient(rows="train"), 0.3))
    model = CASES["mlp"].make()
    assert excise.unlearn(model, alone("mlp"), recipe, mask=Mask.full(model)).recipe == "JiT"


def test_places_of_forget_rows_are_found_and_others_refused():
    model = CASES["mlp"].make()
    whole = Split(CASES["mlp"].data(20), forget=FORGET)
    del_place = recipes.DEL().where
    assert not del_place.reads_retain
    for place in (del_place, Cut(Gradient(), 0.5, granularity="weight"), localize.Head(), Cut(Random(), 0.3)):
        assert place(model, alone("mlp")) == place(model, whole)
    for place, name in (
        (localize.Above(localize.FisherRatio(), 1.0), "Above"),
        (localize.CriticalChannels(), "Critical"),
    ):
        with pytest.raises(errors.BadSplit, match=rf"^retain: {name}\w* reads rows that stay.*WeightGradient\(\)"):
            place(model, alone("mlp"))
    tied = torch.nn.Sequential(torch.nn.Linear(6, 8), excise.networks.ExampleTiedDropout(8))
    with pytest.raises(errors.BadSplit, match=r"^retain: TiedChannels\(shared=False\), the ids alone, reads"):
        TiedChannels(shared=False).locate(tied, alone("mlp"), engine_for(tied))


def test_an_audit_a_search_and_a_retraining_beside_say_what_they_need():
    model, split = CASES["mlp"].make(), alone("mlp", test=CASES["mlp"].data(8), holdout=CASES["mlp"].data(6))
    done = excise.unlearn(model, split, WITHOUT["JiT"])
    with pytest.raises(errors.BadSplit, match=r"^retain: an audit reads rows that stay.*unlearn with that split"):
        audit(done, split, plan=PLAN)
    with pytest.raises(errors.BadSplit, match=r"^retain: an audit reads rows that stay"):
        observe(model, split, engine_for(model))
    with pytest.raises(errors.BadSplit, match=r"^retain: a search for settings, which .* reads rows that stay"):
        tune(model, split, recipes.JiT, trials=1)
    with pytest.raises(errors.BadSplit, match=r"^retain: a retraining, .* reads rows that stay.*leave the plan out"):
        bench(model, split, WITHOUT["JiT"], plan=PLAN)
    assert bench(model, split, WITHOUT["JiT"], budget_seconds=0.0).num_rows == 5


def test_the_doctor_looks_at_what_there_is():
    found = doctor(CASES["batchnorm"].make(), alone(test=CASES["batchnorm"].data(8)))
    assert not [one for one in found if one.severity == "error" or "training rows are to be forgotten" in one.what]
    doubled = tuple(torch.cat([part, part[:1]]) for part in data())
    copies = doctor(CASES["batchnorm"].make(), Split.of_forget(data(), test=doubled))
    assert any("test" in one.where or "test" in one.what for one in copies)
