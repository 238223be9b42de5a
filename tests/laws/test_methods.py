"""Laws of every method: the promise of the mask, and what a user's network, rows and random numbers are owed."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Ascend, Finetune, FromFunction, Nothing, OneShot, Reset, Retrain, Sequence, Widened
from excise.train import TrainPlan, frozen_digest, held_modules
from tests.cases import CASES
from tests.probes import (
    KINDS,
    LeftAlone,
    Watched,
    engine_for,
    moved,
    plans_of,
    raw,
    same_bytes,
    snapshot,
    spelled_out,
    touched,
)

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [0, 3, 8, 11, 14, 15, 18]
PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=5, weight_decay=0.1)
OPTIMIZERS = ("sgd", "adam", "adamw")


def shift(net, retain, forget, validation):
    """Change every weight and every statistic, whatever the mask."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=0.1)
    for inputs, targets in [*retain, *forget]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    return net


def methods(plan=PLAN):
    return {
        "finetune": Finetune(plan=plan),
        "ascend": Ascend(plan=plan),
        "ascend-by-retain": Ascend(plan=plan, pace="retain", forget_batch_size=3, buffers="follow-mask"),
        "reset": Reset(),
        "retrain": Retrain(plan=plan),
        "reset-then-finetune": Sequence((Reset(), Widened(Finetune(plan=plan)))),
        "function": FromFunction(shift, batch_size=5),
        "nothing": Nothing(),
    }


every_method = pytest.mark.parametrize("method", methods().values(), ids=methods())


def split_of(name, num_rows=24, forget=FORGET):
    return Split(CASES[name].data(num_rows), forget=forget)


def fresh_of(name):
    return lambda: CASES[name].build().double()


def unlearn(name, method, *, model=None, split=None, **options):
    return excise.unlearn(model or CASES[name].make(), split or split_of(name), method, fresh=fresh_of(name), **options)


# --- the promise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Finetune, Ascend])
@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_outside_the_mask_every_coordinate_is_equal_bit_for_bit(name, kind, make):
    start, split = CASES[name].make(), split_of(name)
    before, tensors = snapshot(start), spelled_out(start, kind)
    mask = Mask.from_tensors(tensors)
    for optimizer, implementation, clip in plans_of(0.1):
        plan = TrainPlan(
            epochs=2,
            lr=0.05,
            batch_size=6,
            optimizer=optimizer,
            momentum=0.9,
            weight_decay=0.3,
            clip_norm=clip,
            implementation=implementation,
        )
        method, model = make(plan=plan), CASES[name].make()
        ties = [value.data_ptr() for value in model.state_dict(keep_vars=True).values()]
        proof = frozen_digest(model, mask, method.statistics)
        method.unlearn_(model, split, mask, engine_for(model))
        for key, value in model.named_parameters():
            assert torch.equal(raw(value[~tensors[key]]), raw(before[key][~tensors[key]])), (key, plan)
        assert any(not torch.equal(value, before[key]) for key, value in model.named_parameters()), plan
        held = held_modules(start, mask, method.statistics)
        changed = moved(before, snapshot(model)) & {key for key, _ in model.named_buffers()}
        assert {key.rpartition(".")[0] for key in changed}.isdisjoint(held)
        assert frozen_digest(model, mask, method.statistics) == proof
        assert [value.data_ptr() for value in model.state_dict(keep_vars=True).values()] == ties


@pytest.mark.parametrize("kind", KINDS)
@every_method
@every_case
def test_the_promise_holds_from_the_front_door_and_is_proved(name, method, kind):
    model = CASES[name].make()
    tensors = spelled_out(model, kind)
    unlearned = unlearn(name, method, model=model, mask=Mask.from_tensors(tensors))
    before, after = snapshot(model), snapshot(unlearned.model)
    for key, chosen in tensors.items():
        assert torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])), key
    assert unlearned.mask == unlearned.localized == Mask.from_tensors(tensors)
    assert unlearned.frozen_digest == unlearned.frozen_digest_before
    assert unlearned.frozen_digest == frozen_digest(model, unlearned.mask, method.statistics)
    assert bool(moved(before, after)) == (method != Nothing())
    assert set(unlearned.patch.num_changed) == moved(dict(model.state_dict()), dict(unlearned.model.state_dict()))


@every_method
def test_tied_weights_stay_tied(method):
    for mask in (None, Mask.from_tensors(spelled_out(CASES["tied"].make(), "weights"))):
        found = unlearn("tied", method, mask=mask).model
        assert found.head.weight is found.embed.weight


@pytest.mark.parametrize("rule", ["adapt", "follow-mask", "hold"])
@pytest.mark.parametrize("make", [Finetune, Ascend])
def test_buffers_follow_the_rule(make, rule):
    model = CASES["batchnorm"].make()
    mask = Mask.of_modules(model, ["4", "8"])
    found = unlearn("batchnorm", make(plan=PLAN, buffers=rule), model=model, mask=mask, recompute=False).model
    changed = {key.partition(".")[0] for key in moved(snapshot(model), snapshot(found)) if "running" in key}
    assert changed == {"adapt": {"1", "4"}, "follow-mask": {"4"}, "hold": set()}[rule]


@every_method
@every_case
def test_parameters_the_user_froze_never_move(name, method):
    model = CASES[name].make()
    frozen = [key for place, (key, _) in enumerate(model.named_parameters()) if place % 2 == 0]
    for key, value in model.named_parameters():
        value.requires_grad_(key not in frozen)
    for mask in (None, Mask.full(model)):
        unlearned = unlearn(name, method, model=model, mask=mask)
        after = snapshot(unlearned.model)
        assert all(torch.equal(raw(after[key]), raw(value)) for key, value in model.named_parameters() if key in frozen)
        assert all(unlearned.mask.count(key) == 0 for key in frozen)
        flags = {key: value.requires_grad for key, value in unlearned.model.named_parameters()}
        assert flags == {key: key not in frozen for key in flags}


@every_method
@every_case
def test_an_empty_mask_keeps_every_byte_buffers_included(name, method):
    model = CASES[name].make()
    unlearned = unlearn(name, method, model=model, mask=Mask.empty(model))
    assert same_bytes(snapshot(unlearned.model), snapshot(model))
    assert unlearned.patch.num_changed == {}


@every_method
@every_case
def test_a_full_mask_is_no_mask_where_nothing_is_localized(name, method):
    model = CASES[name].make()
    one, other = unlearn(name, method, mask=Mask.full(model)), unlearn(name, method)
    assert same_bytes(snapshot(one.model), snapshot(other.model))
    assert one.mask == other.mask


@pytest.mark.parametrize("which", ["finetune", "ascend", "ascend-by-retain"])
@every_case
def test_a_rate_of_zero_moves_no_parameter(name, which):
    for optimizer in OPTIMIZERS:
        still = methods(TrainPlan(epochs=2, lr=0.0, batch_size=5, weight_decay=0.3, optimizer=optimizer))[which]
        model = CASES[name].make()
        found = unlearn(name, still, model=model).model
        assert all(torch.equal(raw(a), raw(b)) for a, b in zip(found.parameters(), model.parameters(), strict=True))


# --- the user's own ------------------------------------------------------------------------------------------------------


@every_method
@every_case
def test_the_users_network_and_random_numbers_are_left_alone(name, method):
    model = touched(CASES[name].make())
    alone = LeftAlone(model)
    unlearned = unlearn(name, method, model=model, seed=3)
    alone.check()
    assert unlearned.model is not model
    mine = {value.data_ptr() for value in model.state_dict().values()}
    assert mine.isdisjoint(value.data_ptr() for value in unlearned.model.state_dict().values())
    assert [module.training for module in unlearned.model.modules()] == [m.training for m in model.modules()]
    assert all(value.grad is None for value in unlearned.model.parameters())


@pytest.mark.parametrize("mask", [None, "mixed"])
@pytest.mark.parametrize("make", [Finetune, Ascend, Retrain])
@every_case
def test_a_run_that_diverges_leaves_everything_alone_and_keeps_the_last_finite_state(name, make, mask):
    model = touched(CASES[name].make())
    alone = LeftAlone(model)
    chosen = None if mask is None else Mask.from_tensors(spelled_out(model, mask))
    plan = TrainPlan(epochs=40, lr=1e30, batch_size=5, weight_decay=0.1, schedule="constant")  # decay: *(1 - 1e29)
    with pytest.raises(errors.Diverged, match=f"^{'Finetune' if make is Retrain else make.__name__}: ") as caught:
        unlearn(name, make(plan=plan), model=model, mask=chosen)
    alone.check()
    assert caught.value.exit_code == 8
    last = caught.value.last_finite
    assert set(last) == set(model.state_dict())
    assert all(bool(value.isfinite().all()) for value in last.values())


@every_case
def test_an_interrupted_run_leaves_everything_alone(name):
    class Interrupting(excise.Hooks):
        steps = 0

        def on_step(self):
            self.steps += 1
            if self.steps == 4:
                raise KeyboardInterrupt

    model = touched(CASES[name].make())
    alone = LeftAlone(model)
    with pytest.raises(KeyboardInterrupt):
        unlearn(name, Finetune(plan=PLAN), model=model, hooks=Interrupting())
    alone.check()


class Augmented(Dataset):
    """Draws from every global generator for each example."""

    def __init__(self, inputs, labels):
        self.inputs, self.answers = inputs, labels.tolist()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        noise = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002 - as users' augmentations do
        return self.inputs[row] * (1 + 0.1 * noise), self.answers[row]


@every_method
def test_random_augmentation_follows_the_seed(method):
    def run(seed):
        split = Split(Augmented(*CASES["mlp"].data(24)), forget=FORGET)
        model = CASES["mlp"].make()
        alone = LeftAlone(model)
        found = unlearn("mlp", method, model=model, split=split, seed=seed).model
        alone.check()
        return snapshot(found)

    assert same_bytes(run(0), run(0))


@every_method
@every_case
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name, method):
    one, same, other = (snapshot(unlearn(name, method, seed=seed).model) for seed in (0, 0, 1))
    assert same_bytes(one, same)
    assert same_bytes(one, other) == (method == Nothing())


@pytest.mark.parametrize("seed", [0, 7])
@every_case
def test_the_callers_random_state_has_no_say(name, seed):
    found = []
    for world in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(world)
            found.append(snapshot(unlearn(name, methods()["reset-then-finetune"], seed=seed).model))
    assert same_bytes(*found)


@every_method
def test_rows_a_method_does_not_need_are_never_read(method):
    """Forget rows are always looked at before the run; retain rows only where they are needed; test rows never."""
    inputs, labels = CASES["mlp"].data(24)
    test = Watched(inputs + 1, labels, forbidden=range(24))
    retain = set(range(24)) - set(FORGET)
    watched = Watched(inputs, labels, forbidden=() if "retain" in method.needs else retain)
    unlearn("mlp", method, split=Split(watched, forget=FORGET, test=test))
    assert test.read == []
    assert (set(watched.read) >= retain) == ("retain" in method.needs)
    model = CASES["mlp"].make()  # without the look beforehand, forget rows are as safe
    watched = Watched(inputs, labels, forbidden=() if "forget" in method.needs else FORGET)
    engine = engine_for(model, fresh=fresh_of("mlp"))
    method.unlearn_(model, Split(watched, forget=FORGET), Mask.full(model), engine)
    assert (set(watched.read) >= set(FORGET)) == ("forget" in method.needs)


@every_method
def test_a_fresh_network_is_built_only_where_it_is_needed(method):
    built = []

    def build():
        built.append(1)
        return fresh_of("mlp")()

    excise.unlearn(CASES["mlp"].make(), split_of("mlp"), method, fresh=build)
    assert bool(built) == ("fresh" in method.needs)


@every_method
def test_it_works_whatever_the_callers_gradient_mode(method):
    with torch.no_grad():
        inside = unlearn("batchnorm", method)
    assert same_bytes(snapshot(inside.model), snapshot(unlearn("batchnorm", method).model))


@every_method
@every_case
def test_what_is_saved_is_what_was_found(name, method, tmp_path):
    model = CASES[name].make()
    mask = Mask.from_tensors(spelled_out(model, "mixed"))
    unlearned = unlearn(name, method, model=model, mask=mask)
    unlearned.save(tmp_path)
    state = unlearned.model.state_dict()
    assert same_bytes(load_file(tmp_path / "model.safetensors"), state)
    assert Mask.load(tmp_path / "mask.safetensors") == mask
    assert same_bytes(dict(unlearned.patch.apply(model).state_dict()), state)
    assert same_bytes(dict(unlearned.patch.revert(unlearned.model).state_dict()), dict(model.state_dict()))


# --- the named recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_forget", [1, 7, 200])
@every_case
def test_localized_deletion_runs_on_every_network_and_size_of_request(name, num_forget):
    model = CASES[name].make()
    forget = torch.randperm(230, generator=torch.Generator().manual_seed(num_forget))[:num_forget]
    split = split_of(name, 230, forget)
    alone = LeftAlone(model)
    recipe = excise.recipes.DEL(epochs=2, lr=0.05, batch_size=16)
    plan = TrainPlan(epochs=8, lr=0.05)
    unlearned = unlearn(name, recipe, model=model, split=split, plan=plan)
    alone.check()
    assert 0 < unlearned.localized.fraction <= 0.3
    assert (unlearned.localized - unlearned.mask).num_selected == 0
    before, after = snapshot(model), snapshot(unlearned.model)
    for key in unlearned.mask.names:
        outside = ~unlearned.mask.expand(key)
        assert torch.equal(raw(after[key][outside]), raw(before[key][outside]))
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert unlearned.cost.trained_rows == num_forget + 2 * (230 - num_forget)
    assert unlearned.cost.retraining_share == unlearned.cost.trained_rows / (8 * (230 - num_forget))
    assert [trace.stage for trace in unlearned.trace] == ["Finetune"] * 2


@every_case
def test_scores_of_all_rows_read_retain_even_where_the_method_does_not(name):
    recipe = excise.recipes.Recipe(
        name="own",
        paper="",
        year=0,
        method=Ascend(plan=PLAN),
        where=excise.localize.Cut(excise.localize.WeightGradient(rows="train"), 0.4),
    )
    assert unlearn(name, recipe).cost.trained_rows == 24 + 2 * len(FORGET)


# --- refusals ---------------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Changes a buffer in every forward pass, or in training only."""

    def __init__(self, *, factor=1.0, in_eval=True):
        super().__init__()
        self.register_buffer("seen", torch.ones((), dtype=torch.float64))
        self.factor, self.in_eval = factor, in_eval

    def forward(self, inputs):
        if self.training or self.in_eval:
            self.seen.mul_(self.factor).add_(1)
        return inputs


def test_a_network_that_writes_to_what_is_frozen_gives_no_result():
    model = nn.Sequential(nn.Linear(6, 4), Counting()).double()
    with pytest.raises(
        errors.Refused,
        match=r"Finetune moved something outside its mask \(frozen digest .*… became .*…\); the result was dropped",
    ) as caught:
        excise.unlearn(model, split_of("mlp"), Finetune(plan=PLAN), mask=Mask.empty(model))
    assert caught.value.exit_code == 3


def test_a_buffer_that_stops_being_finite_stops_the_run():
    model = nn.Sequential(nn.Linear(6, 4), Counting(factor=1e20, in_eval=False)).double()
    alone = LeftAlone(model)
    plan = TrainPlan(epochs=9, lr=0.1, batch_size=6)  # three steps an epoch: 1e60, 1e120, ..., 1e300, and on
    with pytest.raises(errors.Diverged, match=r"Finetune: buffer '1.seen' stopped being finite in epoch 6") as caught:
        excise.unlearn(model, split_of("mlp"), Finetune(plan=plan))
    alone.check()
    assert caught.value.last_finite["1.seen"] == pytest.approx(1e300)


class Broken(OneShot):
    """Writes no numbers into one bias."""

    needs = frozenset()

    def edit(self, model, split, mask, engine):
        return {"2.bias": torch.full((8,), torch.nan, dtype=torch.float64)}


def test_a_stroke_that_writes_what_is_not_finite_gives_no_result():
    model = CASES["mlp"].make()
    with pytest.raises(
        errors.Diverged, match=r"Broken: '2.bias' holds values that are not finite; the original is"
    ) as caught:
        excise.unlearn(model, split_of("mlp"), Broken())
    assert same_bytes(dict(caught.value.last_finite), dict(model.state_dict()))


def test_a_network_may_hold_infinities_of_its_own():
    """A causal mask is often a buffer of minus infinity."""
    model = CASES["mlp"].make()
    model.register_buffer("causal", torch.full((3, 3), -torch.inf).triu(1))
    unlearned = excise.unlearn(model, split_of("mlp"), Finetune(plan=PLAN))
    assert moved(snapshot(model), snapshot(unlearned.model)) == set(dict(model.named_parameters()))


@pytest.mark.parametrize("recipe", [3, "DEL", None])
def test_what_is_no_recipe_is_refused(recipe):
    with pytest.raises(errors.BadRequest, match=r"recipe: expected a recipe such as .*; found (int|str|NoneType)"):
        excise.unlearn(CASES["mlp"].make(), split_of("mlp"), recipe)


def test_a_mask_of_another_network_is_refused():
    with pytest.raises(errors.MaskMismatch, match="the mask does not fit Sequential"):
        unlearn("mlp", Finetune(plan=PLAN), mask=Mask.full(CASES["three-classes"].make()))
