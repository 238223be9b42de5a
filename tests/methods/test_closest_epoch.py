import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Ascend, ClosestEpoch, Contrast, Distill, Finetune, Phased, Reset, Widened
from excise.train import Pass, Task, TrainPlan, forward_pair
from excise.train.checkpoints import Checkpoints
from tests.cases import CASES
from tests.methods.scripted import Turns
from tests.probes import KINDS, LeftAlone, Watched, engine_for, moved, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
NUM_ROWS = 60
FORGET = [0, 3, 4, 8, 12, 16, 20, 22]  # of the first class most often
HOLDOUT = range(40, 60)
PLAN = TrainPlan(epochs=6, lr=0.02, batch_size=8, schedule="constant")


@dataclass(frozen=True, kw_only=True)
class Wave(Phased):
    """Loses the forget rows in some epochs and learns them again in the others, so that the last is seldom the closest."""

    plan: TrainPlan
    up: int = 3
    buffers: str = "adapt"

    @property
    def needs(self):
        return frozenset({"forget", "retain"})

    @property
    def statistics(self):
        return self.buffers

    def passes(self, model, split, engine):
        def of(epoch):
            sign = -1 if epoch < self.up else 1
            return (Pass(lambda step: sign * step.mean_loss("forget") + 0.3 * step.mean_loss("retain"), STREAMS),)

        return of


STREAMS = ("forget", "retain")
METHODS = {
    "ascend": Ascend(plan=PLAN, buffers="adapt"),
    "wave": Wave(plan=TrainPlan(epochs=6, lr=0.02, batch_size=4, schedule="constant")),
    "short-wave": Wave(plan=TrainPlan(epochs=6, lr=0.01, batch_size=2, schedule="constant"), up=2),
    "distill": Distill(plan=PLAN, max_epochs=6, alpha=0.1, gamma=0.1, first="min"),
}


class Notes(excise.Hooks):
    def __init__(self):
        self.texts = []

    def on_note(self, text):
        self.texts.append(text)


def trained(name):
    """The network of the case, fitted to the training rows so that it has something to forget."""
    (inputs, labels), model = CASES[name].data(NUM_ROWS), CASES[name].make()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(25):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[:40]), labels[:40]).backward()
        optimizer.step()
    model.zero_grad()
    return model


def split_of(name):
    return Split(CASES[name].data(NUM_ROWS), forget=FORGET, holdout=HOLDOUT)


def run(name, start, method, mask=None, *, split=None, **options):
    model = trained(name) if start is None else type_of(name, start)
    engine = engine_for(model, original=type_of(name, start or snapshot(model)), **options)
    method.unlearn_(model, split or split_of(name), mask or Mask.full(model), engine)
    return model, engine


def type_of(name, start):
    model = CASES[name].make()
    model.load_state_dict(start)
    return model


def stopped(name, start, method, epochs, mask=None, **options):
    fewer = {"max_epochs": epochs} if isinstance(method, Distill) else {}  # it has a max pass in every epoch
    method = replace(method, plan=TrainPlan(**plan_of(method, epochs)), **fewer)
    return run(name, start, method, mask, **options)[0]


def plan_of(method, epochs):
    return {**{field: getattr(method.plan, field) for field in method.plan.__struct_fields__}, "epochs": epochs}


def error(model, data, rows):
    inputs, labels = data
    with torch.no_grad():
        wrong = model.eval()(inputs[rows]).argmax(1) != labels[rows]
        model.train()
    return float(wrong.double().mean())


def brute_force(name, start, method, mask=None):
    """Run to every epoch anew, and choose by hand. Gives the epoch, counted from 1, both errors, and the states."""
    data = CASES[name].data(NUM_ROWS)
    models = [stopped(name, start, method, epochs, mask) for epochs in range(1, method.plan.epochs + 1)]
    forget = [error(model, data, FORGET) for model in models]
    reference = 0.0
    for label in {int(data[1][row]) for row in FORGET}:
        share = sum(int(data[1][row]) == label for row in FORGET) / len(FORGET)
        reference += share * error(models[-1], data, [row for row in HOLDOUT if int(data[1][row]) == label])
    gaps = [round(abs(one - reference), 12) for one in forget]
    best = max(epoch for epoch, gap in enumerate(gaps) if gap == min(gaps))
    return best + 1, forget[best], reference, [snapshot(model) for model in models]


@pytest.mark.parametrize("which", METHODS)
@every_case
def test_it_is_the_epoch_that_brute_force_chooses_bit_for_bit(name, which):
    method, start = METHODS[which], snapshot(trained(name))
    notes = Notes()
    mask = Mask.full(CASES[name].make())
    model, engine = run(name, start, ClosestEpoch(method), mask, hooks=notes)
    epoch, forget, reference, states = brute_force(name, start, method, mask)
    assert notes.texts == [
        f"ClosestEpoch: epoch {epoch} of 6, with a forget error of {forget:.4f} for {reference:.4f} on the holdout"
    ]
    assert same_bytes(snapshot(model), states[epoch - 1])
    assert len(engine.trace) == 6


def test_the_cases_above_choose_different_epochs():
    chosen = []
    for name in ("mlp", "batchnorm", "three-classes"):
        for method in METHODS.values():
            notes = Notes()
            run(name, None, ClosestEpoch(method), hooks=notes)
            chosen.append(notes.texts[0].split()[2])
    assert len(set(chosen)) >= 3
    assert chosen.count("6") <= len(chosen) - 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mlp", "transformer", "tied", "batchnorm"])
def test_under_a_mask_the_same_and_outside_it_no_bit_moves(name, kind):
    method, start = METHODS["wave"], snapshot(trained(name))
    tensors = spelled_out(CASES[name].make(), kind)
    mask = Mask.from_tensors(tensors)
    model, _ = run(name, start, ClosestEpoch(method), mask)
    epoch, _, _, states = brute_force(name, start, method, mask)
    assert same_bytes(snapshot(model), states[epoch - 1])
    after = snapshot(model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(start[key][~chosen])) for key, chosen in tensors.items())
    assert moved(start, after)


def test_of_epochs_as_close_as_each_other_the_last_is_taken():
    still, notes = Finetune(plan=TrainPlan(epochs=4, lr=0.0, batch_size=8)), Notes()
    run("mlp", None, ClosestEpoch(still), hooks=notes)
    assert notes.texts[0].startswith("ClosestEpoch: epoch 4 of 4, ")


def test_gaps_that_are_equal_on_both_sides_are_a_tie_to_the_bit():
    """Forget errors of 0.9, then 0.7, for a reference of 0.8: floating point would take the first."""
    assert 0.9 - 0.8 < 0.8 - 0.7
    answers = {1: 9, 2: 7, 3: 3}  # wrong of ten, after each epoch; the last so that it is no candidate
    epoch = [0]

    def forward(model, content):
        inputs, targets = content
        logits = model(inputs)
        if not model.training and len(inputs):
            wrong = answers.get(epoch[0], 0) if float(inputs[0]) > 0 else 8
            logits = functional.one_hot(torch.arange(len(inputs)).lt(wrong).long() ^ targets, 2) + 0.0 * logits
        return logits, targets

    class Count(excise.Hooks):
        def on_epoch(self, trace):
            epoch[0] += 1

        def on_note(self, text):
            self.text = text

    inputs = torch.cat([torch.ones(20), -torch.ones(10)]).double()[:, None]
    split = Split((inputs, torch.zeros(30, dtype=torch.int64)), forget=range(10), holdout=range(20, 30))
    model, hooks = Turns(0.5), Count()
    method = Finetune(plan=TrainPlan(epochs=3, lr=0.1, batch_size=10, schedule="constant"))
    engine = engine_for(model, task=Task(forward), hooks=hooks)
    ClosestEpoch(method).unlearn_(model, split, Mask.full(model), engine)
    assert hooks.text == "ClosestEpoch: epoch 2 of 3, with a forget error of 0.7000 for 0.8000 on the holdout"
    assert int(model.seen) == 2


class Augmented(Dataset):
    """Draws from a global generator for each example."""

    def __init__(self, inputs, labels):
        self.inputs, self.answers = inputs, labels.tolist()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        return self.inputs[row] * (1 + 0.1 * random.random() + 0.1 * torch.rand(()).item()), self.answers[row]


def test_measuring_does_not_disturb_what_is_drawn():
    """Dropout and augmentation draw from the global generators, also while it looks."""

    def build():
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return nn.Sequential(nn.Linear(6, 12), nn.Dropout(0.4), nn.ReLU(), nn.Linear(12, 4)).double()

    split = Split(Augmented(*CASES["mlp"].data(NUM_ROWS)), forget=FORGET, holdout=HOLDOUT)
    found = []
    for method in (ClosestEpoch(METHODS["ascend"]), *(replace(METHODS["ascend"], plan=p) for p in plans())):
        model = build()
        alone = LeftAlone(build())
        method.unlearn_(model, split, Mask.full(model), engine_for(model))
        alone.check()
        found.append(snapshot(model))
    assert sum(same_bytes(found[0], state) for state in found[1:]) == 1


def plans():
    return [TrainPlan(**plan_of(METHODS["ascend"], epochs)) for epochs in range(1, 7)]


@every_case
def test_from_the_front_door_it_leaves_everything_alone_and_follows_the_seed(name):
    model = touched(trained(name))
    alone, split = LeftAlone(model), split_of(name)
    method = ClosestEpoch(Contrast(plan=PLAN, alpha=0.7))
    one, same, other = (snapshot(excise.unlearn(model, split, method, seed=seed).model) for seed in (0, 0, 1))
    assert same_bytes(one, same)
    assert not same_bytes(one, other)
    kept = excise.unlearn(model, split, method, mask=Mask.empty(model))
    assert same_bytes(snapshot(kept.model), snapshot(model))
    alone.check()


def test_what_the_user_froze_stays():
    model = trained("mlp")
    model[0].weight.requires_grad_(False)
    unlearned = excise.unlearn(model, split_of("mlp"), ClosestEpoch(METHODS["ascend"]))
    assert torch.equal(unlearned.model[0].weight, model[0].weight)
    assert not torch.equal(unlearned.model[2].weight, model[2].weight)


def test_it_reads_forget_after_each_epoch_holdout_twice_and_test_never():
    inputs, labels = CASES["mlp"].data(NUM_ROWS)
    watched = Watched(inputs, labels, forbidden=range(30, 40))
    model = CASES["mlp"].make()
    split = Split(watched, forget=[0, 4, 8, 9], test=range(30, 40), holdout=HOLDOUT)  # classes 0 and 1
    method = ClosestEpoch(Finetune(plan=PLAN))
    assert method.needs == {"forget", "retain", "holdout"}
    assert ClosestEpoch(Ascend(plan=PLAN)).needs == {"forget", "holdout"}
    own = Task(lambda network, content: forward_pair(network, content))
    states = []
    for task, before in ((Task(), 0), (own, 4 + 20)):  # only a forward of one's own is run to tell the classes
        watched.read.clear()
        model = CASES["mlp"].make()
        engine = engine_for(model, task=task)
        method.unlearn_(model, split, Mask.full(model), engine)
        assert [watched.read.count(row) for row in (0, 4, 8, 9)] == [1 + 6] * 4
        assert [watched.read.count(row) for row in HOLDOUT] == [1 + (int(labels[row]) < 2) for row in HOLDOUT]
        assert engine.cost.forward_rows == before + 6 * 4 + 10
        assert engine.cost.trained_rows == 6 * 26
        states.append(snapshot(model))
    assert same_bytes(*states)


def test_rules_for_buffers_are_the_methods():
    for rule in ("adapt", "follow-mask", "hold"):
        method = Finetune(plan=PLAN, buffers=rule)
        assert ClosestEpoch(method).statistics == rule
        assert not ClosestEpoch(method).widens


def test_it_may_be_widened():
    start = snapshot(trained("mlp"))
    model = type_of("mlp", start)
    engine = engine_for(model, besides="4")
    Widened(ClosestEpoch(METHODS["ascend"])).unlearn_(model, split_of("mlp"), Mask.of_modules(model, ["0"]), engine)
    assert {key.partition(".")[0] for key in moved(start, snapshot(model))} == {"0", "4"}


@pytest.mark.parametrize("method", [Reset(), Widened(Finetune(plan=PLAN)), None])
def test_what_has_no_epochs_is_refused(method):
    with pytest.raises(
        errors.BadRequest,
        match=rf"^ClosestEpoch: expected a method of gradient steps, such as Distill, found {type(method).__name__}$",
    ):
        ClosestEpoch(method)


class Loud(excise.Hooks):
    def on_stage(self, name, num_steps):
        raise AssertionError(name)


def refused(kind, message, split, task=None):
    model = touched(CASES["mlp"].make())
    alone = LeftAlone(model)
    with pytest.raises(kind, match=f"^{message}$"):
        method = ClosestEpoch(Finetune(plan=PLAN))
        method.unlearn_(model, split, Mask.full(model), engine_for(model, hooks=Loud(), task=task))
    alone.check()


def test_no_holdout_is_refused():
    message = (
        "ClosestEpoch: expected rows that were never trained on, of the forget rows' classes, found none; "
        r"give them as Split\(..., holdout=...\), on the command line --holdout"
    )
    refused(errors.BadRequest, message, Split(CASES["mlp"].data(20), forget=[0]))


def test_a_holdout_without_some_class_is_refused_by_name():
    message = (
        "ClosestEpoch: expected holdout rows of every class of the forget rows, found none of 1, 3; "
        "add rows of these classes to the holdout"
    )
    split = Split(CASES["mlp"].data(20), forget=[0, 1, 3], holdout=[12, 14, 16, 18])  # classes 0 and 2
    refused(errors.BadRequest, message, split)


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (lambda labels: labels.double(), r"torch\.float64 and shape \(8,\)"),
        (lambda labels: labels == 0, r"torch\.bool and shape \(8,\)"),
        (lambda labels: functional.one_hot(labels, 4), r"torch\.int64 and shape \(8, 4\)"),
    ],
)
def test_targets_that_are_no_classes_are_refused(targets, found):
    message = (
        f"ClosestEpoch: expected one integer class a row, found targets of {found} for 8 rows; "
        "there is no share of wrong answers to compare, so run the method by itself"
    )
    task = Task(lambda model, content: (model(content[0]), targets(content[1])))
    refused(errors.BadData, message, split_of("mlp"), task=task)


@pytest.mark.parametrize("which", ["wave", "distill"])
def test_killed_after_any_epoch_it_still_remembers_the_epochs_before(which, tmp_path):
    """The mask holds whole parameters, rows, and single weights; the closest epoch is one before the kill."""
    name = "batchnorm"
    start = snapshot(trained(name))
    mask = Mask.from_tensors(
        {
            key: torch.rand(value.shape, generator=torch.Generator().manual_seed(8)) < 0.7
            for key, value in type_of(name, start).named_parameters()
        }
    )

    def go(hooks, **more):
        model = type_of(name, start)
        engine = replace(engine_for(model, original=type_of(name, start), hooks=hooks), **more)
        ClosestEpoch(METHODS[which]).unlearn_(model, split_of(name), mask, engine)
        return snapshot(model), engine.cost.forward_rows, len(engine.trace)

    notes = Notes()
    expected = go(notes)
    for epoch in range(6):

        class Ends(Notes):
            def on_epoch(self, trace, last=epoch):
                if trace.epoch == last:
                    raise InterruptedError

        with pytest.raises(InterruptedError):
            go(Ends(), checkpoints=Checkpoints(tmp_path / "kept", 0))
    again = Notes()
    state, *counts = go(again, checkpoints=Checkpoints(tmp_path / "kept", 0))
    assert same_bytes(state, expected[0]) and counts == list(expected[1:])
    assert again.texts[-1] == notes.texts[-1] and "goes on" in again.texts[0]
