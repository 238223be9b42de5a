"""The walk of one request: what it checks, what it counts, what it proves. The laws of the methods are in tests/laws."""

import dataclasses
import hashlib
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

import excise
from excise import errors, localize, methods, params, recipes
from excise.distributed import Processes
from excise.masks import Mask
from excise.methods import Method, OneShot
from excise.pipeline import forget
from excise.recipes import Recipe
from excise.store.generations import Generations
from excise.train import Checkpoints, Engine, Hooks, TrainPlan
from excise.train.task import Task, cross_entropy
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, moved, same_bytes, snapshot, touched

CASE = CASES["mlp"]
NORMAL = CASES["batchnorm"]


def split_of(case=CASE, forget=(2, 7, 11), count=60, **more):
    return excise.Split(case.data(count), forget=list(forget), **more)


def del_recipe(**options):
    return recipes.DEL(**{"epochs": 2, "lr": 0.05, "batch_size": 16, **options})


@dataclasses.dataclass(frozen=True)
class Writes(Method):
    """Write to named tensors of the state dict, whatever the mask says."""

    places: tuple = ()
    value: float = 0.125
    asked: frozenset = frozenset()
    rule: str = "follow-mask"

    @property
    def needs(self):
        return self.asked

    @property
    def statistics(self):
        return self.rule

    @torch.no_grad()
    def unlearn_(self, model, split, mask, engine):
        for name in self.places:
            model.state_dict()[name].view(-1)[0] = self.value


# ---------------------------------------------------------------- the proof


def test_a_method_that_leaks_outside_its_mask_is_refused():
    model = CASE.make()
    mask = Mask.of_modules(model, ["4"])
    watch = LeftAlone(model)
    with pytest.raises(errors.Refused, match=r"Writes moved something outside its mask \(frozen digest [0-9a-f]{12}…"):
        excise.unlearn(model, split_of(), Writes(("0.weight",)), mask=mask)
    watch.check()
    inside = excise.unlearn(model, split_of(), Writes(("4.weight",)), mask=mask)
    assert inside.patch.num_changed == {"4.weight": 1}


def test_one_weight_outside_a_row_mask_is_enough():
    model = CASE.make()
    rows = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in model.named_parameters()}
    rows["0.weight"][1:] = True
    with pytest.raises(errors.Refused, match="moved something outside its mask"):
        excise.unlearn(model, split_of(), Writes(("0.weight",)), mask=Mask.from_tensors(rows))
    rows["0.weight"][0] = True
    assert excise.unlearn(model, split_of(), Writes(("0.weight",)), mask=Mask.from_tensors(rows)).patch.num_changed


@pytest.mark.parametrize("buffer", ["1.running_mean", "1.running_var", "1.num_batches_tracked"])
def test_statistics_of_frozen_modules_are_part_of_the_proof(buffer):
    model = NORMAL.make()
    mask = Mask.of_modules(model, ["8"])
    leak = Writes((buffer,), value=3.0)
    with pytest.raises(errors.Refused, match="moved something outside its mask"):
        excise.unlearn(model, split_of(NORMAL), leak, mask=mask)
    found = excise.unlearn(model, split_of(NORMAL), dataclasses.replace(leak, rule="adapt"), mask=mask)
    assert found.patch.num_changed == {buffer: 1}


@pytest.mark.parametrize("free", [("0", "1.weight", "8"), ("3", "4.bias", "8"), ("8",), None])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_frozen_digest_is_the_hash_of_what_must_not_move_before_and_after(free, recompute):
    model = NORMAL.make()
    mask = None if free is None else Mask.of_modules(model, free)
    recipe = del_recipe(budget_fraction=0.2)
    found = excise.unlearn(model, split_of(NORMAL), recipe, seed=1, mask=mask, recompute=recompute)
    assert found.frozen_digest == found.frozen_digest_before
    assert found.recomputed is recompute

    def by_hand(network):
        """Names sorted; of each parameter the coordinates outside, of each wholly frozen normalisation its buffers."""
        kept = {name: value[~found.mask.expand(name)] for name, value in network.named_parameters()}
        for name, value in network.named_buffers():
            module = name.rpartition(".")[0]
            if recompute and name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
                continue
            if not any(bool(found.mask.expand(f"{module}.{kind}").any()) for kind in ("weight", "bias")):
                kept[name] = value
        running = hashlib.sha256()
        for name in sorted(kept):
            value = kept[name].detach()
            running.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode() + value.numpy().tobytes())
        return running.hexdigest()

    assert found.frozen_digest == by_hand(found.model) == by_hand(model)
    assert moved(snapshot(model), snapshot(found.model))


def test_what_a_method_breaks_is_refused_and_the_original_is_untouched():
    model = CASE.make()
    watch = LeftAlone(model)
    with pytest.raises(errors.Diverged, match=r"Writes: '0.weight' holds values that are not finite; the original"):
        excise.unlearn(model, split_of(), Writes(("0.weight",), value=float("nan")))
    watch.check()


def test_a_constant_that_was_infinite_before_may_be_so_afterwards():
    model = CASE.make()
    model.register_buffer("causal", torch.full((2,), -torch.inf))
    assert excise.unlearn(model, split_of(), recipes.Nothing()).patch.num_changed == {}


# ---------------------------------------------------------------- what it reads and when


@pytest.mark.parametrize(
    ("recipe", "forbidden"),
    [
        (recipes.NegGrad(epochs=1, batch_size=8), "retain"),
        (recipes.Finetune(epochs=1, batch_size=8), "forget past the check"),
        (recipes.Nothing(), "retain"),
        (
            Recipe(name="x", paper="", year=0, method=methods.Nothing(), where=localize.Cut(localize.WeightGradient())),
            "retain",
        ),
    ],
)
def test_only_rows_that_the_recipe_needs_are_read(recipe, forbidden):
    inputs, labels = CASE.data(60)
    forget = list(range(20, 40))
    bad = [row for row in range(60) if row not in forget] if forbidden == "retain" else []
    data = Watched(inputs, labels, forbidden=bad)
    split = excise.Split(data, forget=forget)
    data.read.clear()
    excise.unlearn(CASE.make(), split, recipe)
    assert set(data.read) & set(forget)
    if forbidden == "forget past the check":
        read = [row for row in data.read if row in forget]
        # the check runs at most 8 forget rows forward and reads each row's label once
        assert len(read) <= 8 + 20


def test_test_rows_are_never_read():
    test = Watched(*CASE.data(10), forbidden=range(10))
    for recipe in (del_recipe(), recipes.NegGrad(), recipes.Finetune(epochs=1)):
        excise.unlearn(CASE.make(), split_of(test=test, holdout=Watched(*CASE.data(9), forbidden=range(9))), recipe)


def test_a_fresh_network_is_built_only_where_one_is_needed():
    def fresh():
        raise KeyError("built")

    excise.unlearn(CASE.make(), split_of(), recipes.Finetune(epochs=1), fresh=fresh)
    excise.unlearn(CASES["transformer"].make(), split_of(CASES["transformer"]), recipes.NegGrad(epochs=1))
    with pytest.raises(KeyError, match="built"):
        excise.unlearn(CASE.make(), split_of(), del_recipe(), fresh=fresh)


def test_a_network_that_cannot_be_reset_is_refused_before_any_work():
    heard = []

    class Heard(Hooks):
        def on_stage(self, name, num_steps):
            heard.append(name)

    with pytest.raises(errors.UnsupportedModel, match="no module re-initialises position"):
        excise.unlearn(CASES["transformer"].make(), split_of(CASES["transformer"]), del_recipe(), hooks=Heard())
    assert heard == []


# ---------------------------------------------------------------- masks and heads


def test_a_mask_that_does_not_fit_names_the_parameters():
    mask = Mask.full(nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 9)))
    with pytest.raises(errors.MaskMismatch) as caught:
        excise.unlearn(CASE.make(), split_of(), recipes.Finetune(), mask=mask)
    assert all(name in str(caught.value) for name in ("2.weight", "2.bias", "4.weight", "4.bias"))
    assert "0.weight" not in str(caught.value)


def test_a_mask_given_by_hand_is_a_promise_and_the_localizer_rests():
    model = CASE.make()
    mask = Mask.of_modules(model, ["2"])

    class Never(localize.Localizer):
        def score(self, model, split, engine):
            raise KeyError("scored")

    found = excise.unlearn(model, split_of(), del_recipe(localizer=Never()), mask=mask)
    assert found.mask == found.localized == mask
    assert moved(snapshot(model), snapshot(found.model)) <= {"2.weight", "2.bias"}
    with pytest.raises(KeyError, match="scored"):
        excise.unlearn(model, split_of(), del_recipe(localizer=Never()))


def test_the_mask_of_DEL_is_what_was_localized_and_the_head():
    model = CASE.make()
    found = excise.unlearn(model, split_of(), del_recipe(), seed=1)
    scores = localize.WeightGradient(batch_size=16)(model, split_of())
    wanted = scores.select(budget_fraction=0.3, granularity="channel", reduction=localize.Top(0.1))
    assert found.localized == wanted
    for told in ({"reduction": localize.Mean()}, {"granularity": "weight"}, {"budget_fraction": 0.5}):
        other = excise.unlearn(model, split_of(), del_recipe(**told), seed=1)
        options = {"budget_fraction": 0.3, "granularity": "channel", "reduction": localize.Top(0.1), **told}
        assert other.localized == scores.select(**options) != wanted
    assert found.mask == wanted | Mask.of_modules(model, ["4"])
    assert found.localized.fraction <= 0.3


@pytest.mark.parametrize("head", ["2", "4", "0.weight"])
def test_the_head_can_be_named(head):
    model = CASE.make()
    found = excise.unlearn(model, split_of(), del_recipe(budget_fraction=0.0, head=head))
    assert found.mask == Mask.of_modules(model, [head])
    assert moved(snapshot(model), snapshot(found.model)) <= {name for name in found.mask.names if name.startswith(head)}


def test_a_head_that_does_not_exist_is_refused():
    with pytest.raises(errors.MaskMismatch, match="no module or parameter named 'classifier'"):
        excise.unlearn(CASE.make(), split_of(), del_recipe(head="classifier"))


def test_what_the_user_froze_is_in_no_mask():
    model = CASE.make()
    model[0].requires_grad_(False)
    found = excise.unlearn(model, split_of(), recipes.Finetune(epochs=1), mask=Mask.full(model))
    assert found.mask == Mask.of_modules(model, ["2", "4"])
    assert not moved(snapshot(model), snapshot(found.model)) & {"0.weight", "0.bias"}
    assert [value.requires_grad for value in found.model.parameters()] == [False] * 2 + [True] * 4


# ---------------------------------------------------------------- costs


@pytest.mark.parametrize("batch_size", [5, 16, 128])
def test_DEL_costs_one_pass_over_forget_and_its_epochs_over_retain(batch_size):
    plan = TrainPlan(epochs=9, lr=0.1)
    found = excise.unlearn(CASE.make(), split_of(), del_recipe(epochs=3, batch_size=batch_size), plan=plan)
    assert found.cost.trained_rows == 3 + 3 * 57
    assert found.cost.forward_rows == 0
    assert found.cost.retraining_share == (3 + 3 * 57) / (9 * 57)
    assert found.cost.seconds > 0
    assert found.cost.peak_bytes >= 0


@pytest.mark.parametrize(
    ("recipe", "trained"),
    [
        (recipes.Nothing(), 0),
        (recipes.Finetune(epochs=2), 2 * 57),
        (recipes.NegGrad(epochs=4), 4 * 3),
        (recipes.Retrain(plan=TrainPlan(epochs=5, lr=0.1)), 5 * 57),
        (methods.Ascend(plan=TrainPlan(epochs=2, lr=1e-3, batch_size=10), pace="retain"), 2 * 6 * 3),
    ],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_what_the_others_cost(recipe, trained):
    found = excise.unlearn(CASE.make(), split_of(), recipe, plan=TrainPlan(epochs=5, lr=0.1))
    assert found.cost.trained_rows == trained
    assert found.cost.retraining_share == trained / (5 * 57)


def test_without_a_plan_no_share_is_claimed():
    assert excise.unlearn(CASE.make(), split_of(), recipes.Nothing()).cost.retraining_share is None
    function = excise.unlearn(CASE.make(), split_of(), recipes.Nothing(), plan=lambda model, dataset, seed: model)
    assert function.cost.retraining_share is None


# ---------------------------------------------------------------- hooks and traces


def test_hooks_hear_every_step_of_every_stage():
    class Heard(Hooks):
        def __init__(self):
            self.steps, self.stages, self.epochs, self.ended = 0, {}, [], []

        def on_stage(self, name, num_steps):
            self.stages[name], self.steps = num_steps, 0

        def on_step(self):
            self.steps += 1

        def on_epoch(self, trace):
            self.epochs.append(trace)

        def on_stage_end(self, name):
            self.ended.append((name, self.steps))

    heard = Heard()
    found = excise.unlearn(CASE.make(), split_of(forget=range(20)), del_recipe(epochs=3, batch_size=16), hooks=heard)
    assert heard.stages == {"localize": 2, "Finetune": 3 * 3}
    assert heard.ended == list(heard.stages.items())
    assert tuple(heard.epochs) == found.trace
    assert [(trace.stage, trace.epoch, trace.num_steps) for trace in found.trace] == [
        ("Finetune", i, 3) for i in range(3)
    ]
    assert [trace.lr for trace in found.trace] == [TrainPlan(epochs=3, lr=0.05).lr_at(i) for i in range(3)]


# ---------------------------------------------------------------- the result


@pytest.mark.parametrize("name", CASES)
def test_the_users_network_and_the_world_are_left_alone(name):
    case = CASES[name]
    model = touched(case.make())
    watch = LeftAlone(model)
    found = excise.unlearn(model, split_of(case), del_recipe(), fresh=case.make, seed=2)
    watch.check()
    assert not {id(value) for value in model.parameters()} & {id(value) for value in found.model.parameters()}
    assert moved(snapshot(model), snapshot(found.model))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    made = [excise.unlearn(NORMAL.make(), split_of(NORMAL), del_recipe(), seed=seed) for seed in (1, 1, 2)]
    states = [snapshot(one.model) for one in made]
    assert same_bytes(states[0], states[1])
    assert not same_bytes(states[0], states[2])
    assert [one.seed for one in made] == [1, 1, 2]


def test_the_patch_leads_from_the_original_to_the_result_and_back():
    model = NORMAL.make()
    found = excise.unlearn(model, split_of(NORMAL), del_recipe())
    assert same_bytes(snapshot(found.patch.apply(model)), snapshot(found.model))
    assert same_bytes(snapshot(found.patch.revert(found.model)), snapshot(model))


def test_a_recipe_a_method_and_a_function_have_their_names():
    def mine(net, retain, forget, validation):
        return net

    given = (recipes.Finetune(epochs=1), methods.Nothing(), mine)
    assert [excise.unlearn(CASE.make(), split_of(), one).recipe for one in given] == ["Finetune", "Nothing", "mine"]


def test_examples_of_another_shape_come_in_through_forward_and_loss():
    inputs, labels = CASE.data(60)

    class Named:
        def __len__(self):
            return 60

        def __getitem__(self, row):
            return {"x": inputs[row], "y": labels[row]}

    def forward(model, batch):
        return model(batch["x"]), batch["y"]

    def loss(logits, targets):
        return 2 * functional.cross_entropy(logits, targets, reduction="none")

    named = excise.Split(Named(), forget=[2, 7, 11])
    recipe = recipes.Finetune(epochs=2, batch_size=16, momentum=0.0, weight_decay=0.0)
    found = excise.unlearn(CASE.make(), named, recipe, forward=forward, loss=loss)
    doubled = recipes.Finetune(epochs=2, batch_size=16, momentum=0.0, weight_decay=0.0, lr=0.02)
    plain = excise.unlearn(CASE.make(), split_of(), doubled)
    for value, wanted in zip(found.model.parameters(), plain.model.parameters(), strict=True):
        # twice the loss is twice the step; a factor of 2 is exact, lr_at rounds once
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-13)
    with pytest.raises(errors.BadData, match=r"could not be run on forget rows|expected batches"):
        excise.unlearn(CASE.make(), named, recipe)


# ---------------------------------------------------------------- bad input


def test_what_cannot_be_a_recipe_is_refused():
    for wrong in (3, "DEL", None):
        with pytest.raises(errors.BadRequest, match=rf"recipe: expected a recipe .*; found {type(wrong).__name__}"):
            excise.unlearn(CASE.make(), split_of(), wrong)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"model": {"0.weight": torch.ones(1)}}, "model: expected a Module, found dict"),
        ({"split": [1, 2]}, "split: expected a Split, found list"),
        ({"mask": {}}, "mask: expected a Mask, found dict"),
        ({"keep": 2**30}, "keep: expected a Kept, found int"),
        ({"processes": 4}, "processes: expected Processes, found int"),
    ],
)
def test_arguments_of_another_kind_are_named(change, what):
    given = {"model": CASE.make(), "split": split_of(), "recipe": recipes.Nothing(), **change}
    with pytest.raises(errors.BadRequest, match=what):
        excise.unlearn(**given)


class Broken(nn.Module):
    """Give logits that are not finite on rows whose first input is high."""

    def __init__(self):
        super().__init__()
        self.inner = CASE.make()

    def forward(self, inputs):
        return self.inner(inputs) / (inputs[:, :1] != inputs[:, :1].max()).double()


def frozen():
    return CASE.make().requires_grad_(False)


@pytest.mark.parametrize("recipe", [recipes.Nothing(), recipes.DEL(epochs=1)], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize(
    ("make", "error", "what"),
    [
        (Broken, errors.UnsupportedModel, "Broken gives logits that are not finite on forget rows"),
        (nn.ReLU, errors.UnsupportedModel, "expected a network with parameters, found none in ReLU"),
        (frozen, errors.UnsupportedModel, "all 6 parameters of Sequential are frozen"),
        (lambda: nn.LazyLinear(4), errors.UnsupportedModel, "'weight' has no shape yet"),
        (lambda: nn.Linear(7, 4).double(), errors.BadData, "Linear could not be run on forget rows: mat1 and mat2"),
        (lambda: nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)).double(), errors.UnsupportedModel, "expected logits of"),
    ],
)
def test_a_network_that_cannot_be_worked_on_is_refused(make, error, what, recipe):
    with pytest.raises(error, match=what):
        excise.unlearn(make(), split_of(), recipe)


@pytest.mark.parametrize("row", [2, 50])
@pytest.mark.parametrize("label", [-1, 4])
def test_labels_outside_the_head_are_refused_wherever_they_are(row, label):
    inputs, labels = CASE.data(60)
    labels[row] = label
    part = "forget" if row == 2 else "retain"
    with pytest.raises(errors.BadData, match=f"{part}: 1 labels lie outside 0 to 3, the classes of the network's head"):
        excise.unlearn(CASE.make(), excise.Split((inputs, labels), forget=[2, 7, 11]), del_recipe())


def test_a_loss_that_reduces_is_refused():
    with pytest.raises(errors.BadRequest, match="expected one value for each of"):
        excise.unlearn(CASE.make(), split_of(), recipes.Finetune(epochs=1), loss=nn.CrossEntropyLoss())


def test_a_loss_that_is_not_finite_stops_the_run_with_the_last_sound_state():
    model = CASE.make()
    watch = LeftAlone(model)
    steps = []

    def loss(logits, targets):
        steps.append(1)
        each = functional.cross_entropy(logits, targets, reduction="none")
        return each * torch.nan if len(steps) == 7 else each  # in the second epoch of four steps

    with pytest.raises(errors.Diverged, match="Finetune: the loss became nan in epoch 2") as caught:
        excise.unlearn(model, split_of(), recipes.Finetune(epochs=3, batch_size=16), loss=loss)
    watch.check()
    once = excise.unlearn(
        model, split_of(), methods.Finetune(plan=TrainPlan(epochs=3, lr=0.01, batch_size=16, weight_decay=5e-4))
    )
    kept = caught.value.last_finite
    assert set(kept) == set(model.state_dict())
    assert all(bool(value.isfinite().all()) for value in kept.values())
    # not where it began, and not where three epochs lead
    for other in (model, once.model):
        assert not same_bytes(kept, dict(other.state_dict()))
    assert errors.Diverged.exit_code == 8


def test_a_one_shot_method_of_the_users_own_is_enforced_and_not_policed():
    """OneShot edits go through the enforcer: what it gives outside the mask is not written, so nothing leaks."""

    class Zero(OneShot):
        needs = frozenset()

        def edit(self, model, split, mask, engine):
            return {name: torch.zeros_like(value) for name, value in model.named_parameters()}

    model = CASE.make()
    found = excise.unlearn(model, split_of(), Zero(), mask=Mask.of_modules(model, ["2"]))
    assert moved(snapshot(model), snapshot(found.model)) == {"2.weight", "2.bias"}
    assert not found.model[2].weight.any()


@pytest.mark.parametrize("made", [recipes.SCRUB, methods.Finetune, methods.Nothing])
def test_a_recipe_that_was_not_called_is_named(made):
    with pytest.raises(
        errors.BadRequest, match=rf"found the function or class that makes one; call it: {made.__name__}\("
    ):
        excise.unlearn(CASE.make(), split_of(), made)


def test_a_network_instead_of_its_builder_is_refused():
    with pytest.raises(errors.BadRequest, match=r"fresh: expected a callable .* found a network; pass make_model"):
        excise.unlearn(CASE.make(), split_of(), methods.Reset(), fresh=CASE.make())


# ---------------------------------------------------------------- checkpoints; all their laws are in tests/train


def test_a_finished_request_is_not_trained_again_until_its_checkpoints_are_cleared(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    model, place = CASE.make(), tmp_path / "kept"
    first = excise.unlearn(model, split_of(), del_recipe(), fresh=CASE.make, checkpoints=str(place))
    steps = Steps()
    again = excise.unlearn(model, split_of(), del_recipe(), fresh=CASE.make, checkpoints=place, hooks=steps)
    assert same_bytes(snapshot(again.model), snapshot(first.model)) and again.frozen_digest == first.frozen_digest
    assert any("goes on from its checkpoint after 2 epochs" in note for note in steps.notes)
    Generations(place).clear()
    assert not place.exists()
    anew = excise.unlearn(model, split_of(), del_recipe(), fresh=CASE.make, checkpoints=place, hooks=(steps := Steps()))
    assert same_bytes(snapshot(anew.model), snapshot(first.model)) and not any(
        "goes on" in note for note in steps.notes
    )


class Steps(Hooks):
    def __init__(self):
        self.notes = []

    def on_note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize("seconds", [-1, float("inf"), "soon"])
def test_an_interval_that_is_no_time_is_refused(seconds, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with pytest.raises(errors.BadRequest, match="checkpoint_seconds: expected a finite number of at least 0"):
        excise.unlearn(CASE.make(), split_of(), del_recipe(), checkpoints=tmp_path, checkpoint_seconds=seconds)


def test_a_request_whose_rows_cannot_be_hidden_keeps_no_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(errors.DiskError, match="the key that hides row ids in records cannot be kept"):
        excise.unlearn(CASE.make(), split_of(), del_recipe(), fresh=CASE.make, checkpoints=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def weighted(weight):
    return lambda logits, targets: weight * nn.functional.cross_entropy(logits, targets, reduction="none")


def scaled(logits, targets, weight):
    return weight * nn.functional.cross_entropy(logits, targets, reduction="none")


def endless():
    def loss(logits, targets):
        return loss.inner(logits, targets)

    loss.inner = cross_entropy
    return loss


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (weighted(1.0), weighted(2.0)),
        (partial(scaled, weight=1.0), partial(scaled, weight=2.0)),
        (lambda a, b: 1 * cross_entropy(a, b), lambda a, b: 2 * cross_entropy(a, b)),
        (endless(), endless()),
    ],
    ids=["closures", "partials", "lambdas", "what cannot be told apart"],
)
def test_a_checkpoint_made_with_another_loss_is_not_used(tmp_path, one, other):
    class Heard(Hooks):
        def on_note(self, text):
            notes.append(text)

    def run(loss, where):
        return excise.unlearn(
            CASE.make(), split_of(), recipes.Finetune(epochs=2), loss=loss, checkpoints=tmp_path / where, hooks=Heard()
        )

    notes = []
    run(one, "kept")
    assert params.model_digest(run(other, "kept").model) == params.model_digest(run(other, "apart").model)
    assert any("is not used" in note for note in notes)


def test_processes_on_machines_with_other_keys_go_on_from_one_checkpoint(monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr(Checkpoints, "begin", lambda self, about: begun.append(about))
    monkeypatch.setattr(Processes, "digest_from_first", lambda self, digest: first.setdefault("digest", digest))
    first, model, split = {}, CASES["mlp"].make(), excise.Split(CASES["mlp"].data(8), forget=[1])
    for rank, key in enumerate(("one machine's", "another's")):
        monkeypatch.setattr(forget.store, "commitment", partial("{} {}".format, key))
        engine = Engine(Task(), 0, Mask.empty(model), processes=Processes(rank, 2))
        forget._begun(tmp_path, 30.0, recipes.Finetune(epochs=1, lr=0.1), split, engine)
    assert begun == [first["digest"]] * 2
