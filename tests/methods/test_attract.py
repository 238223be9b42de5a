import inspect
from dataclasses import replace

import msgspec
import pytest
import torch
from torch import nn
from torch.nn import functional

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Attract, BelowAccuracy, Finetune, Sequence, Until, attract
from excise.methods.centroids import centroids_of
from excise.train import Hooks, Task, TrainPlan, forward_pair
from excise.train.checkpoints import Checkpoints
from excise.train.engine import Kept
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, engine_for, moved, raw, same_bytes, snapshot, spelled_out, touched

FORGET = [0, 3, 8, 11, 14, 15, 18]
ADAM = TrainPlan(epochs=3, lr=0.02, optimizer="adam", batch_size=8, schedule="constant")
SGD = TrainPlan(epochs=3, lr=0.05, batch_size=6, momentum=0.9, schedule="constant")
HEADS = {"mlp": "4", "separable": "7", "transformer": "head", "tied": "head", "three-classes": "4", "batchnorm": "8"}
every_case = pytest.mark.parametrize("name", CASES)


def split_of(name, num_rows=30, forget=FORGET, **more):
    return Split(CASES[name].data(num_rows), forget=forget, **more)


def run(name, method, *, mask=None, split=None, start=None, **options):
    model = start or CASES[name].make()
    own = {key: options.pop(key) for key in ("task", "hooks", "seed") if key in options}
    engine = replace(engine_for(model, original=CASES[name].make(), **own), **options)
    method.unlearn_(model, split or split_of(name), mask or Mask.full(model), engine)
    return model, engine


def embeddings(name, model, inputs):
    """What stands before the head in eval mode, by hand."""
    seen = []
    handle = model.get_submodule(HEADS[name]).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model.eval()(inputs)
    handle.remove()
    return seen[0]


def naive(name, *, epochs, lr, lambda1, lambda2, temperature, smoothing=0.0):
    """DUCK by hand on whole batches: one forget batch, two of retain, plain SGD, no shuffling."""
    (inputs, labels), model = CASES[name].data(30), CASES[name].make()
    forget = torch.tensor(FORGET)
    retain = torch.tensor([row for row in range(30) if row not in FORGET])
    psi = embeddings(name, model, inputs)
    centres = {k: psi[retain[labels[retain] == k]].mean(0) for k in set(labels[retain].tolist())}

    def nearest(row):
        own = int(labels[row])
        others = [k for k in centres if k != own]
        return min(others, key=lambda k: float(1 - functional.cosine_similarity(psi[row], centres[k], dim=0)))

    goals = torch.stack([centres[nearest(row)] for row in FORGET])
    model.train()
    for _ in range(epochs):
        for batch in (retain[:12], retain[12:]):
            seen = []
            handle = model.get_submodule(HEADS[name]).register_forward_pre_hook(
                lambda _, x, seen=seen: seen.append(x[0])
            )
            model(inputs[forget])
            handle.remove()
            away = (1 - functional.cosine_similarity(seen[0], goals, dim=1)).mean()
            kept = functional.cross_entropy(
                model(inputs[batch]) / temperature, labels[batch], label_smoothing=smoothing
            )
            model.zero_grad()
            (lambda1 * away + lambda2 * kept).backward()
            with torch.no_grad():
                for value in model.parameters():
                    value -= lr * value.grad
    return model


@pytest.mark.parametrize(("smoothing", "buffers"), [(0.0, "adapt"), (0.2, "follow-mask")])
@every_case
def test_it_is_the_naive_loop_of_the_paper(name, smoothing, buffers):
    plan = TrainPlan(epochs=2, lr=0.1, batch_size=12, momentum=0.0, schedule="constant", shuffle=False)
    numbers = {"lambda1": 1.5, "lambda2": 0.7, "temperature": 3.0}
    method = Attract(plan=plan, repeats=6, label_smoothing=smoothing, buffers=buffers, **numbers)
    found, engine = run(name, method)
    expected = naive(name, epochs=2, lr=0.1, smoothing=smoothing, **numbers)
    for (key, value), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-11, msg=key)
    assert [one.num_steps for one in engine.trace] == [2, 2]
    assert engine.cost.forward_rows == 30 and engine.cost.trained_rows == 2 * (2 * 7 + 23)


@pytest.mark.parametrize("ratio", [0, 1, 5, 40])
def test_each_forget_batch_takes_as_many_steps_as_it_is_told_or_as_retain_has_batches(ratio):
    """Seven forget rows are batches of 3, 3 and 1; 23 retain rows are 3 batches of 8."""
    _, engine = run("mlp", Attract(plan=ADAM, repeats=ratio + 1, forget_batch_size=3))
    assert [one.num_steps for one in engine.trace] == [3 * min(ratio + 1, 3)] * 3


@pytest.mark.parametrize("name", ["mlp", "batchnorm", "transformer"])
def test_without_a_pull_it_is_finetuning_on_the_same_batches_bit_for_bit(name):
    """Twelve forget rows in three batches, each beside two of the six retain batches that `Finetune` has an epoch."""
    split = Split(CASES[name].data(30), forget=range(12))
    plan = msgspec.structs.replace(SGD, batch_size=3, weight_decay=0.1)
    attract = Attract(plan=plan, lambda1=0, lambda2=1, temperature=1, repeats=2, forget_batch_size=4, buffers="adapt")
    paced = replace(attract, pace="retain")
    expected, _ = run(name, Finetune(plan=plan, buffers="adapt"), split=split)
    for method in (attract, paced):
        found, engine = run(name, method, split=split)
        assert same_bytes(snapshot(found), snapshot(expected))
        assert engine.cost.forward_rows == 0 and [one.num_steps for one in engine.trace] == [6] * 3


def test_with_nothing_but_the_pull_rows_come_to_lie_in_the_direction_of_their_centroid():
    (inputs, _), model = CASES["mlp"].data(30), CASES["mlp"].make()
    model[3] = nn.Tanh()  # a ReLU may leave a row without a slope
    original = CASES["mlp"].make()
    original[3] = nn.Tanh()
    split, engine = split_of("mlp"), engine_for(model, original=original)
    plan = TrainPlan(epochs=150, lr=0.02, optimizer="adam", batch_size=30, schedule="constant")
    Attract(plan=plan, lambda2=0).unlearn_(model, split, Mask.full(model), engine)
    centroids = centroids_of(original, split.retain, engine, head="4", batch_size=30)
    psi = original[:4](inputs[FORGET]).detach()
    goals = centroids.means[centroids.nearest_wrong(psi, split.forget.labels())]
    cosines = functional.cosine_similarity(model[:4](inputs[FORGET]), goals, dim=1).detach()
    before = functional.cosine_similarity(psi, goals, dim=1)
    assert float(cosines.min()) > 0.999 > float(before.max())
    assert torch.equal(raw(model[4].weight), raw(original[4].weight))  # the pull does not reach the head


def test_softened_cross_entropy_has_the_slope_of_the_paper():
    """d CE(z / T) / dz = (softmax(z / T) - onehot) / T, through the loss of a step."""
    seen = {}

    def forward(model, content):
        logits, targets = forward_pair(model, content)
        if logits.requires_grad and model.training:
            logits.retain_grad()
            seen.update(logits=logits, targets=targets)
        return logits, targets

    plan = TrainPlan(epochs=1, lr=0.0, batch_size=40)
    run("mlp", Attract(plan=plan, lambda1=0, lambda2=1.4, temperature=2.5), task=Task(forward))
    logits, targets = seen["logits"], seen["targets"]
    expected = 1.4 * (functional.softmax(logits / 2.5, 1) - functional.one_hot(targets, 4)) / 2.5 / len(targets)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-12, atol=1e-15)


def goals_of(monkeypatch, method, **options):
    """Run it, and give the classes that it chose for the forget rows, each time it chose, and in which network."""
    chosen, inside = [], attract.nearest_wrong_of

    def listen(model, *args, **more):
        goals = inside(model, *args, **more)
        chosen.append((goals.tolist(), snapshot(model)))
        return goals

    with monkeypatch.context() as patch:
        patch.setattr(attract, "nearest_wrong_of", listen)
        run("mlp", method, **options)
    return chosen


@pytest.mark.parametrize("pace", ["forget", "retain"])
def test_each_row_keeps_its_goal_whatever_batches_and_epochs_it_comes_in(pace, monkeypatch):
    """They are chosen once, a value a row, in the original: no later step looks at a moved network."""
    chosen = goals_of(monkeypatch, Attract(plan=ADAM, forget_batch_size=2, pace=pace))
    assert len(chosen) == 1 and len(chosen[0][0]) == len(FORGET)
    assert same_bytes(chosen[0][1], snapshot(CASES["mlp"].make()))


def test_goals_are_looked_up_by_row_and_not_by_batch():
    """A rate of 0: every epoch's mean distance is that of all rows to their own goals, in any order and batch."""
    still = TrainPlan(epochs=3, lr=0.0, batch_size=50, schedule="constant")
    (inputs, labels), model, split = CASES["mlp"].data(30), CASES["mlp"].make(), split_of("mlp", forget=range(6))
    psi = embeddings("mlp", model, inputs)
    found = centroids_of(model, split.retain, engine_for(model), head="4", batch_size=50)
    goals = found.means[found.nearest_wrong(psi[:6], labels[:6])]
    expected = float((1 - functional.cosine_similarity(psi[:6], goals, dim=1)).mean())
    for size in (1, 2, 3, 6):
        _, engine = run("mlp", Attract(plan=still, lambda2=0, forget_batch_size=size), split=split)
        assert [one.loss for one in engine.trace] == pytest.approx([expected] * 3, rel=1e-12)


def test_scaling_what_the_head_sees_does_not_move_the_pull():
    """The layer before the head twice as large gives the same distances and, with the step, the same directions."""
    doubled = CASES["mlp"].make()
    with torch.no_grad():
        doubled[2].weight.mul_(2), doubled[2].bias.mul_(2)
    losses = []
    for start in (CASES["mlp"].make(), doubled):
        engine = engine_for(start, original=excise.params.shadow_of(start))
        plan = TrainPlan(epochs=1, lr=0.0, batch_size=50)
        Attract(plan=plan, lambda2=0).unlearn_(start, split_of("mlp"), Mask.full(start), engine)
        losses.append(engine.trace[0].loss)
    assert losses[0] == losses[1] > 0


def test_a_removed_class_is_no_goal_be_it_named_or_without_retain_rows(monkeypatch):
    labels = CASES["mlp"].data(30)[1]
    every = [row for row in range(30) if int(labels[row]) == 2]
    (gone,), (free,) = (
        goals_of(monkeypatch, Attract(plan=ADAM), split=split_of("mlp", forget=rows)) for rows in (every, FORGET)
    )
    assert 2 not in gone[0] and 2 in free[0]
    (named,) = goals_of(monkeypatch, Attract(plan=ADAM, removed=(2, 3)))
    assert set(named[0]) == {0, 1}


def test_a_row_before_whose_head_nothing_is_left_is_not_pulled_and_poisons_nothing():
    """All units of such a row are dead; others of its batch are pulled as ever."""
    model = CASES["mlp"].make()
    with torch.no_grad():
        for at in (0, 2):
            model[at].bias.zero_()
    inputs, labels = CASES["mlp"].data(30)
    inputs[FORGET[0]] = 0
    split = Split((inputs, labels), forget=FORGET)
    engine = engine_for(model, original=excise.params.shadow_of(model))
    before = snapshot(model)
    Attract(plan=msgspec.structs.replace(ADAM, epochs=1)).unlearn_(model, split, Mask.full(model), engine)
    assert all(bool(value.isfinite().all()) for value in model.parameters())
    assert moved(before, snapshot(model))


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_under_a_mask_nothing_outside_moves(name, kind):
    start = CASES[name].make()
    tensors, before = spelled_out(start, kind), snapshot(start)
    mask = Mask.from_tensors(tensors)
    found, _ = run(name, Attract(plan=msgspec.structs.replace(ADAM, epochs=1, weight_decay=0.1)), mask=mask)
    after = snapshot(found)
    for key, chosen in tensors.items():
        assert torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])), key
    assert moved(before, after)


class Ends(Hooks):
    def __init__(self, steps):
        self.left, self.notes = steps, []

    def on_step(self):
        self.left -= 1
        if self.left < 0:
            raise InterruptedError

    def on_note(self, text):
        self.notes.append(text)


def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path):
    """Inside the repeats of a batch too; whichever row comes next finds its own goal again."""
    method = Attract(plan=msgspec.structs.replace(ADAM, epochs=2), forget_batch_size=3, buffers="adapt")
    expected, whole = run("batchnorm", method)
    for steps in (1, 5, 9, 11):
        checkpoints = tmp_path / str(steps)
        with pytest.raises(InterruptedError):
            run("batchnorm", method, hooks=Ends(steps), checkpoints=Checkpoints(checkpoints, 0))
        again = Ends(99)
        found, engine = run("batchnorm", method, hooks=again, checkpoints=Checkpoints(checkpoints, 0))
        assert same_bytes(snapshot(found), snapshot(expected)) and engine.cost.forward_rows == whole.cost.forward_rows
        assert engine.cost.trained_rows == whole.cost.trained_rows and "goes on" in again.notes[0]


@pytest.mark.parametrize(("where", "head"), [("2", "4"), ("4", "4"), ("4", "2")])
def test_kept_activations_give_the_same_bits(where, head):
    """They serve the pull where the head lies behind the cut; one before it is heard in a whole pass."""
    model = CASES["mlp"].make()
    mask, notes = Mask.of_modules(model, [where]), Ends(999)
    method = Attract(plan=ADAM, head=head)
    kept, engine = run("mlp", method, mask=mask, hooks=notes, keep=Kept(least_products=0))
    plain, other = run("mlp", method, mask=mask, keep=None)
    assert same_bytes(snapshot(kept), snapshot(plain))
    assert any(": kept " in note and "forget rows" in note for note in notes.notes)
    assert engine.cost.forward_rows > other.cost.forward_rows


def test_its_parts_go_on_from_the_original_whatever_came_before():
    """A second stage pulls to the centroids of the first: both are taken from the network before the whole run."""
    first = Finetune(plan=SGD)
    model, engine = run("mlp", Sequence((first, Attract(plan=ADAM))))
    moved_first, _ = run("mlp", first)
    expected = CASES["mlp"].make()
    expected.load_state_dict(moved_first.state_dict())
    engine = engine_for(expected, original=CASES["mlp"].make())
    Attract(plan=ADAM).unlearn_(expected, split_of("mlp"), Mask.full(expected), engine)
    assert same_bytes(snapshot(model), snapshot(expected))


def test_a_forward_of_ones_own_will_do_and_a_head_may_be_named():
    def forward(model, content):
        return model(content["x"] if isinstance(content, dict) else content[0]), content[1]

    plain, _ = run("mlp", Attract(plan=ADAM))
    own, _ = run("mlp", Attract(plan=ADAM), task=Task(forward))
    named, _ = run("mlp", Attract(plan=ADAM, head="4"))
    other, _ = run("mlp", Attract(plan=ADAM, head="2"))
    assert same_bytes(snapshot(plain), snapshot(own)) and same_bytes(snapshot(plain), snapshot(named))
    assert not same_bytes(snapshot(plain), snapshot(other))


def test_from_the_front_door_it_leaves_everything_alone_and_follows_the_seed():
    model = touched(CASES["batchnorm"].make())
    alone, split = LeftAlone(model), split_of("batchnorm", holdout=range(24, 30))
    method = Until(Attract(plan=ADAM, buffers="adapt"), BelowAccuracy())
    one, same, other = (snapshot(excise.unlearn(model, split, method, seed=seed).model) for seed in (0, 0, 1))
    alone.check()
    assert same_bytes(one, same) and not same_bytes(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda1": -1.0}, "lambda1: expected a finite number of at least 0, found -1.0"),
        ({"lambda2": float("nan")}, "lambda2: expected a finite number of at least 0, found nan"),
        (
            {"lambda1": 0.0, "lambda2": 0.0},
            "lambda1, lambda2: expected one above 0, found both 0: there is nothing to .*",
        ),
        ({"temperature": 0.0}, "temperature: expected a finite number above 0, found 0.0"),
        ({"label_smoothing": 1.5}, "label_smoothing: expected a fraction between 0 and 1, found 1.5"),
        ({"repeats": 0}, "repeats: expected an integer of at least 1, found 0"),
        ({"pace": "both"}, "pace: expected forget or retain, found 'both'"),
        ({"removed": [1]}, r"removed: expected a tuple of classes from 0 on, found \[1\]"),
        ({"removed": (-1,)}, r"removed: expected a tuple of classes from 0 on, found \(-1,\)"),
        ({"forget_batch_size": 0}, "forget_batch_size: expected an integer of at least 1, found 0"),
        ({"buffers": "move"}, "buffers: .*"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Attract(plan=ADAM, **options)


def refused(kind, message, method=None, *, split=None, model=None, task=None, with_original=True):
    model = touched(model or CASES["mlp"].make())
    alone = LeftAlone(model)
    engine = engine_for(model, task=task, original=model if with_original else None)
    with pytest.raises(kind, match=message):
        (method or Attract(plan=ADAM)).require(model, split or split_of("mlp"), Mask.full(model), engine)
    assert engine.cost.forward_rows == 0
    alone.check()


def test_what_cannot_be_done_is_refused_before_any_work():
    refused(errors.BadRequest, "learns from the network as it was", with_original=False)
    one_class = Split((CASES["mlp"].data(30)[0], torch.ones(30, dtype=torch.int64)), forget=[0])
    refused(errors.BadRequest, r"^Attract: expected retain rows of another class, .* class 1;", split=one_class)
    refused(
        errors.BadRequest,
        r"^removed: expected classes of the network, from 0 to 3, found 7$",
        Attract(plan=ADAM, removed=(7,)),
    )
    refused(errors.UnsupportedModel, "no module named 'tail'", Attract(plan=ADAM, head="tail"))
    normal = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)).double()
    refused(errors.UnsupportedModel, r"head is an nn.Linear, .*; name the module whose input is wanted", model=normal)
    vague = Task(lambda model, content: (model(content[0]), content[1].double()))
    refused(errors.BadData, r"^Attract: expected one integer class a row, .* Contrast$", task=vague)


def test_smoothing_is_the_cross_entropys():
    squares = Task(loss=lambda logits, targets: (logits - functional.one_hot(targets, 4)).square().sum(1))
    message = r"^label_smoothing: expected 0 beside a loss of your own, .* found 0.1$"
    refused(errors.BadRequest, message, Attract(plan=ADAM, label_smoothing=0.1), task=squares)
    run("mlp", Attract(plan=ADAM), task=squares)


def test_where_only_a_pass_can_tell_classes_apart_they_are_refused_by_it():
    labels = torch.ones(30, dtype=torch.int64)
    own = Task(lambda model, content: forward_pair(model, content))
    with pytest.raises(errors.BadRequest, match=r"^Attract: expected retain rows of another class"):
        run("mlp", Attract(plan=ADAM), split=Split((CASES["mlp"].data(30)[0], labels), forget=[0]), task=own)


def test_what_it_reads_is_both():
    method = Attract(plan=ADAM, buffers="adapt")
    assert method.needs == {"forget", "retain"} and method.statistics == "adapt" and not method.widens
    assert inspect.signature(Attract).parameters["lambda2"].default == 1.4
