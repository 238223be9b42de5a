import pytest
import torch

from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Ascend
from excise.train import TrainPlan
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.naive.training import naive_fit_
from tests.probes import Watched, engine_for, raw, snapshot

FORGET = [0, 3, 8, 11, 14]
PLAN = TrainPlan(epochs=2, lr=0.02, batch_size=2, shuffle=False, weight_decay=0.01)


def forget_loss(model, inputs, labels):
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model.eval()(inputs[FORGET]), labels[FORGET]))


@pytest.mark.parametrize("name", CASES)
def test_it_is_plain_training_on_the_forget_rows_with_the_sign_turned(name):
    inputs, labels = CASES[name].data(20)
    ours, theirs = CASES[name].make(), CASES[name].make()
    method = Ascend(plan=PLAN, buffers="adapt")
    method.unlearn_(ours, Split((inputs, labels), forget=FORGET), Mask.full(ours), engine_for(ours))
    batches = [[0, 3], [8, 11, 14]] if name == "batchnorm" else [[0, 3], [8, 11], [14]]
    naive_fit_(theirs, inputs, labels, None, batches=batches, epochs=2, lr=0.02, decay=0.01, sign=-1.0)
    for key, value in snapshot(theirs).items():
        torch.testing.assert_close(
            snapshot(ours)[key], value, rtol=1e-12, atol=1e-12
        )  # mean of losses, summed otherwise


def test_one_step_on_a_linear_softmax_is_the_closed_form():
    inputs, labels = CASES["mlp"].data(20)
    model = torch.nn.Linear(6, 4, dtype=torch.float64)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    split = Split((inputs, labels), forget=FORGET)
    Ascend(plan=TrainPlan(epochs=1, lr=0.3)).unlearn_(model, split, Mask.full(model), engine_for(model))
    odds = (inputs[FORGET] @ weight.T + bias).exp()
    error = odds / odds.sum(1, keepdim=True) - torch.eye(4, dtype=torch.float64)[labels[FORGET]]
    torch.testing.assert_close(
        model.weight.detach(), weight + 0.3 * error.T @ inputs[FORGET] / 5, rtol=1e-13, atol=1e-13
    )
    torch.testing.assert_close(model.bias.detach(), bias + 0.3 * error.mean(0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_the_loss_on_the_forget_rows_rises(name):
    inputs, labels = CASES[name].data(20)
    model = CASES[name].make()
    before = forget_loss(model, inputs, labels)
    plan = TrainPlan(epochs=3, lr=0.01, momentum=0.0)
    Ascend(plan=plan).unlearn_(model, Split((inputs, labels), forget=FORGET), Mask.full(model), engine_for(model))
    assert forget_loss(model, inputs, labels) > before


def test_by_default_it_needs_and_reads_forget_rows_only():
    retain = set(range(20)) - set(FORGET)
    watched = Watched(*CASES["mlp"].data(20), forbidden=retain)
    model = CASES["mlp"].make()
    method, engine = Ascend(plan=PLAN), engine_for(model)
    method.unlearn_(model, Split(watched, forget=FORGET), Mask.full(model), engine)
    assert method.needs == {"forget"}
    assert sorted(watched.read) == sorted(FORGET * 2)
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (10, 0)


@pytest.mark.parametrize(
    ("name", "buffers", "forwarded"), [("mlp", "adapt", 30), ("mlp", "hold", 0), ("batchnorm", "follow-mask", 30)]
)
def test_paced_by_retain_it_takes_as_many_steps_as_retain_has_batches(name, buffers, forwarded):
    watched = Watched(*CASES[name].data(20))
    model = CASES[name].make()
    plan = TrainPlan(epochs=2, lr=0.01, batch_size=4)
    method = Ascend(plan=plan, pace="retain", forget_batch_size=3, buffers=buffers)
    engine = engine_for(model)
    method.unlearn_(model, Split(watched, forget=FORGET), Mask.full(model), engine)
    assert method.needs == {"forget", "retain"}
    # 15 retain rows: four steps an epoch; forget rows in rounds of 3 and 2
    assert {trace.num_steps for trace in engine.trace} == {4}
    assert engine.cost.trained_rows == 2 * (3 + 2 + 3 + 2)
    assert engine.cost.forward_rows == forwarded


def test_the_published_pace_is_that_many_plain_steps_on_cycled_forget_batches():
    inputs, labels = CASES["mlp"].data(20)
    ours, theirs = CASES["mlp"].make(), CASES["mlp"].make()
    plan = TrainPlan(epochs=2, lr=0.02, batch_size=4, shuffle=False)
    method = Ascend(plan=plan, pace="retain", forget_batch_size=3, buffers="adapt")
    method.unlearn_(ours, Split((inputs, labels), forget=FORGET), Mask.full(ours), engine_for(ours))
    rounds = [[0, 3, 8], [11, 14], [0, 3, 8], [11, 14]]
    naive_fit_(theirs, inputs, labels, None, batches=rounds, epochs=2, lr=0.02, sign=-1.0)
    for key, value in snapshot(theirs).items():
        torch.testing.assert_close(snapshot(ours)[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pace", ["forget", "retain"])
@pytest.mark.parametrize("rule", [None, *STATISTICS])
def test_statistics_are_held_unless_asked_otherwise(rule, pace):
    given = {} if rule is None else {"buffers": rule}
    method = Ascend(plan=PLAN, pace=pace, **given)
    assert method.statistics == (rule or "hold")
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    mask = Mask.of_modules(model, ["4", "8"])
    method.unlearn_(model, Split(CASES["batchnorm"].data(20), forget=FORGET), mask, engine_for(model))
    moved = {key.partition(".")[0] for key, value in model.named_buffers() if not torch.equal(value, before[key])}
    assert moved == {"adapt": {"1", "4"}, "follow-mask": {"4"}, "hold": set(), None: set()}[rule]


def test_a_single_forget_row_does_not_break_a_held_normalisation():
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 4)).double()
    before = snapshot(model)
    Ascend(plan=PLAN).unlearn_(model, Split(CASES["mlp"].data(20), forget=[3]), Mask.full(model), engine_for(model))
    after = snapshot(model)
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert {key for key in before if not torch.equal(raw(before[key]), raw(after[key]))} == set(
        dict(model.named_parameters())
    )


@pytest.mark.parametrize("pace", ["forget", "retain"])
def test_a_rate_of_zero_is_the_identity(pace):
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    plan = TrainPlan(epochs=2, lr=0.0, weight_decay=0.5, batch_size=4)
    split = Split(CASES["batchnorm"].data(20), forget=FORGET)
    Ascend(plan=plan, pace=pace).unlearn_(model, split, Mask.full(model), engine_for(model))
    assert all(torch.equal(raw(before[key]), raw(value)) for key, value in snapshot(model).items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pace": "test"}, "pace: expected forget or retain, found 'test'"),
        ({"forget_batch_size": 0}, "forget_batch_size: expected an integer of at least 1, found 0"),
        ({"buffers": "train"}, "buffers: expected one of follow-mask, adapt, hold, found 'train'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Ascend(plan=PLAN, **options)
