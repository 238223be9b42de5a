import itertools

import pytest
import torch
from scipy import stats
from torch.nn import functional

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Relabel
from excise.train import Task, TrainPlan, forward_pair
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, moved, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
every_redraw = pytest.mark.parametrize("redraw", ["batch", "epoch", "once"])
every_order = pytest.mark.parametrize("order", ["apart", "mixed"])
FORGET = [0, 3, 8, 11, 14]
RETAIN = [row for row in range(20) if row not in FORGET]
PLAN = TrainPlan(epochs=2, lr=0.02, batch_size=6, weight_decay=0.01, schedule="constant")


class Recorder:
    """A task that writes down the rows of each batch and the labels that they were trained on."""

    def __init__(self, inputs):
        self.row_of = {bytes(raw(one).tolist()): row for row, one in enumerate(inputs)}
        self.ids, self.labels, self.given = [], [], []
        self.task = Task(self.forward, self.loss)

    def forward(self, model, content):
        logits, targets = forward_pair(model, content)
        self.ids.append([self.row_of[bytes(raw(one).tolist())] for one in content[0]])
        self.given.append((targets, targets.clone()))
        return logits, targets

    def loss(self, logits, targets):
        self.labels.append(targets.tolist())
        return functional.cross_entropy(logits, targets, reduction="none")

    def by_row(self, forget):
        """Give each forget row's labels, in order of time."""
        pairs = [pair for ids, labels in zip(self.ids, self.labels, strict=True) for pair in zip(ids, labels)]  # noqa: B905
        return {row: [label for one, label in pairs if one == row] for row in forget}


def recorded(name="mlp", *, num_rows=20, forget=FORGET, plan=PLAN, seed=0, model=None, **options):
    data = CASES[name].data(num_rows)
    model, recorder = model or CASES[name].make(), Recorder(data[0])
    engine = engine_for(model, seed=seed, task=recorder.task)
    Relabel(plan=plan, **options).unlearn_(model, Split(data, forget=forget), Mask.full(model), engine)
    return recorder, snapshot(model)


def still(**options):
    return TrainPlan(lr=0.0, **{"epochs": 1, **options})


@every_order
@every_redraw
@pytest.mark.parametrize("exclude_true", [True, False])
def test_labels_are_uniform_over_all_classes_or_all_others(exclude_true, redraw, order):
    forget = list(range(3000))
    plan = still(batch_size=500)
    recorder, _ = recorded(
        num_rows=3008, forget=forget, plan=plan, seed=1, exclude_true=exclude_true, redraw=redraw, order=order
    )
    found = recorder.by_row(forget)
    for true in range(4):
        counts = [0, 0, 0, 0]
        for row in forget[true::4]:
            (label,) = found[row]
            counts[label] += 1
        if exclude_true:
            assert counts.pop(true) == 0
        assert stats.chisquare(counts).pvalue > 0.01
        assert sum(counts) == 750


@every_order
@every_redraw
def test_labels_are_drawn_as_often_as_asked(redraw, order):
    forget = list(range(48))
    plan = still(epochs=4, batch_size=12, shuffle=False)
    recorder, _ = recorded(num_rows=60, forget=forget, plan=plan, redraw=redraw, order=order)
    found = recorder.by_row(forget)
    assert {len(labels) for labels in found.values()} == {4}
    for one, other in itertools.combinations(range(4), 2):
        same = sum(labels[one] == labels[other] for labels in found.values())
        assert (same == 48) == (redraw == "once")
        assert redraw == "once" or same < 30  # 16 are expected to agree
    batches = [
        [found[row][0] for row in range(start, start + 12)] for start in range(0, 48, 12)
    ]  # of equal true labels
    assert all(one != other for one, other in itertools.combinations(batches, 2))


@pytest.mark.parametrize("redraw", ["epoch", "once"])
def test_labels_follow_from_seed_and_row_and_not_from_the_batches(redraw):
    forget = [1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22]

    def labels(seed, order, **plan):
        options = {"num_rows": 30, "forget": forget, "plan": still(epochs=2, **plan), "redraw": redraw, "order": order}
        return recorded(seed=seed, **options)[0].by_row(forget)

    wanted = labels(0, "apart", batch_size=12)
    for order, shuffle, size in itertools.product(("apart", "mixed"), (True, False), (5, 30)):
        assert labels(0, order, shuffle=shuffle, batch_size=size) == wanted
    assert labels(1, "apart", batch_size=12) != wanted


@every_order
@every_redraw
def test_what_is_retained_keeps_its_labels_and_the_data_keep_all(redraw, order):
    inputs, labels = CASES["mlp"].data(20)
    recorder, _ = recorded(redraw=redraw, order=order)
    for ids, trained_on in zip(recorder.ids, recorder.labels, strict=True):
        for row, label in zip(ids, trained_on, strict=True):
            assert (label == int(labels[row])) == (row in RETAIN)
    assert all(torch.equal(now, then) for now, then in recorder.given)  # what forward gave may be the data's own memory
    kept = labels.clone()
    data = torch.utils.data.TensorDataset(inputs, labels)
    excise.unlearn(CASES["mlp"].make(), Split(data, forget=FORGET), Relabel(plan=PLAN, redraw=redraw, order=order))
    assert torch.equal(labels, kept)


def all_of(batches):
    return sorted(itertools.chain.from_iterable(batches))


def naive(name, ids, labels):
    """Train on given batches with given labels, one after another."""
    (inputs, _), model = CASES[name].data(20), CASES[name].make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    for rows, wanted in zip(ids, labels, strict=True):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[rows]), torch.tensor(wanted)).backward()
        optimizer.step()
    return snapshot(model)


@every_order
@every_redraw
@every_case
def test_it_is_plain_training_on_the_labels_drawn(name, redraw, order):
    size = None if order == "mixed" else 3
    recorder, ours = recorded(name, redraw=redraw, order=order, forget_batch_size=size, buffers="adapt")
    for key, value in naive(name, recorder.ids, recorder.labels).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-12, atol=1e-12)  # mean of losses, summed otherwise
    if order == "apart":
        assert [len(ids) for ids in recorder.ids] == [3, 2, 6, 6, 3] * 2
        for start in (0, 5):
            epoch = recorder.ids[start : start + 5]
            assert (all_of(epoch[:2]), all_of(epoch[2:])) == (FORGET, RETAIN)
    else:
        assert [len(ids) for ids in recorder.ids] == [6, 6, 6, 2] * 2
        for start in (0, 4):
            assert all_of(recorder.ids[start : start + 4]) == list(range(20))
    half = len(recorder.ids) // 2
    assert recorder.ids[:half] != recorder.ids[half:]


def test_by_default_forget_rows_come_in_batches_of_the_plans_apart_and_anew_each_batch():
    method = Relabel(plan=PLAN)
    assert (method.redraw, method.exclude_true, method.order) == ("batch", True, "apart")
    assert [len(ids) for ids in recorded()[0].ids] == [5, 6, 6, 3] * 2


@pytest.mark.parametrize("rule", [None, *STATISTICS])
def test_the_rule_for_buffers_is_the_one_given(rule):
    method = Relabel(plan=PLAN, **({} if rule is None else {"buffers": rule}))
    assert method.statistics == (rule or "follow-mask")
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    mask = Mask.of_modules(model, ["4", "8"])
    method.unlearn_(model, Split(CASES["batchnorm"].data(20), forget=FORGET), mask, engine_for(model))
    changed = {key.partition(".")[0] for key, value in model.named_buffers() if not torch.equal(value, before[key])}
    assert changed == {"adapt": {"1", "4"}, "follow-mask": {"4"}, "hold": set()}[method.statistics]


@every_order
def test_it_reads_every_training_row_once_an_epoch_and_no_other(order):
    watched = Watched(*CASES["mlp"].data(24), forbidden=range(20, 24))
    model = CASES["mlp"].make()
    method, engine = Relabel(plan=PLAN, order=order), engine_for(model)
    method.unlearn_(model, Split(watched, forget=FORGET, test=range(20, 24)), Mask.full(model), engine)
    assert method.needs == {"forget", "retain"}
    assert sorted(watched.read) == sorted([*range(20), *range(20)])
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (40, 0)


@every_order
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["transformer", "tied", "batchnorm"])
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind, order):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(20), forget=FORGET)
    method = Relabel(plan=PLAN, order=order)
    mask = Mask.from_tensors(tensors)
    unlearned, again, other = (excise.unlearn(model, split, method, mask=mask, seed=seed) for seed in (0, 0, 1))
    before, after = snapshot(model), snapshot(unlearned.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert moved(before, after)
    assert same_bytes(after, snapshot(again.model))
    assert not same_bytes(after, snapshot(other.model))
    kept = excise.unlearn(model, split, method, mask=Mask.empty(model))
    assert same_bytes(snapshot(kept.model), before)
    alone.check()


def refused(kind, message, *, task=None, model=None):
    model, plan = model or CASES["mlp"].make(), TrainPlan(epochs=1, lr=0.1, batch_size=20)
    split, before = Split(CASES["mlp"].data(20), forget=FORGET), snapshot(model)
    for order in ("apart", "mixed"):
        with pytest.raises(kind, match=f"^{message}$"):
            Relabel(plan=plan, order=order).unlearn_(model, split, Mask.full(model), engine_for(model, task=task))
    assert same_bytes(snapshot(model), before)


def test_a_network_of_one_class_is_refused():
    model = torch.nn.Linear(6, 1, dtype=torch.float64)
    message = (
        "Relabel: expected a network of two classes or more to draw a wrong label from, found 1; "
        "use a method that draws no labels, such as Ascend"
    )
    task = Task(lambda model, content: (model(content[0]), torch.zeros(len(content[1]), dtype=torch.int64)))
    refused(errors.BadRequest, message, task=task, model=model)


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (lambda labels: labels.double(), r"torch\.float64 and shape \((5|20),\)"),
        (lambda labels: labels == 0, r"torch\.bool and shape \((5|20),\)"),
        (lambda labels: functional.one_hot(labels, 4), r"torch\.int64 and shape \((5|20), 4\)"),
    ],
)
def test_targets_that_are_no_classes_are_refused(targets, found):
    message = (
        f"Relabel: expected one integer class a row, found targets of {found} for (5|20) rows; "
        "use a method that draws no labels, such as Ascend"
    )
    refused(errors.BadData, message, task=Task(lambda model, content: (model(content[0]), targets(content[1]))))


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_that_the_network_does_not_have_are_refused(label):
    message = f"Relabel: expected classes from 0 to 3, those of the network, found {label}; correct the labels"
    task = Task(lambda model, content: (model(content[0]), torch.full_like(content[1], label)))
    refused(errors.BadData, message, task=task)


def test_a_loss_that_is_reduced_is_refused():
    task = Task(loss=functional.cross_entropy)
    refused(
        errors.BadRequest, r'loss: expected one value for each of (5|20) examples, .*; use reduction="none"', task=task
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"redraw": "never"}, "redraw: expected one of batch, epoch, once, found 'never'"),
        ({"order": "last"}, "order: expected one of apart, mixed, found 'last'"),
        ({"exclude_true": "no"}, "exclude_true: expected one of True, False, found 'no'"),
        ({"forget_batch_size": 0}, "forget_batch_size: expected an integer of at least 1, found 0"),
        (
            {"forget_batch_size": 2, "order": "mixed"},
            "forget_batch_size: expected None with order mixed, found 2; forget rows have no batches of their own there; "
            "leave it out, or take the order apart",
        ),
        ({"buffers": "train"}, "buffers: expected one of follow-mask, adapt, hold, found 'train'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Relabel(plan=PLAN, **options)
