import pytest
import torch

from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Finetune
from excise.train import TrainPlan
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.naive.training import naive_fit_
from tests.probes import Watched, engine_for, raw, snapshot

FORGET = [0, 3, 8, 11]
PLAN = TrainPlan(epochs=3, lr=0.1, batch_size=5, shuffle=False, weight_decay=0.01)


@pytest.mark.parametrize("name", CASES)
def test_it_is_plain_training_on_the_retain_rows(name):
    inputs, labels = CASES[name].data(20)
    ours, theirs = CASES[name].make(), CASES[name].make()
    Finetune(plan=PLAN).unlearn_(ours, Split((inputs, labels), forget=FORGET), Mask.full(ours), engine_for(ours))
    retain = torch.tensor([row for row in range(20) if row not in FORGET])
    # 16 rows by fives: where batch statistics are kept, the last single row joins the batch before it
    batches = [retain[0:5], retain[5:10], retain[10:16]] if name == "batchnorm" else list(torch.split(retain, 5))
    naive_fit_(theirs, inputs, labels, None, batches=batches, epochs=3, lr=0.1, decay=0.01)
    for key, value in snapshot(theirs).items():
        torch.testing.assert_close(
            snapshot(ours)[key], value, rtol=1e-12, atol=1e-12
        )  # mean of losses, summed otherwise


def test_one_step_on_a_linear_softmax_is_the_closed_form():
    inputs, labels = CASES["mlp"].data(12)
    model = torch.nn.Linear(6, 4, dtype=torch.float64)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    split = Split((inputs, labels), forget=FORGET)
    Finetune(plan=TrainPlan(epochs=1, lr=0.3)).unlearn_(model, split, Mask.full(model), engine_for(model))
    kept = torch.tensor([row for row in range(12) if row not in FORGET])
    odds = (inputs[kept] @ weight.T + bias).exp()
    error = odds / odds.sum(1, keepdim=True) - torch.eye(4, dtype=torch.float64)[labels[kept]]
    torch.testing.assert_close(model.weight.detach(), weight - 0.3 * error.T @ inputs[kept] / 8, rtol=1e-13, atol=1e-13)


def test_forget_rows_are_never_read_and_retain_rows_once_an_epoch():
    watched = Watched(*CASES["mlp"].data(20), forbidden=FORGET)
    model = CASES["mlp"].make()
    split = Split(watched, forget=FORGET)
    method, engine = Finetune(plan=PLAN), engine_for(model)
    method.unlearn_(model, split, Mask.full(model), engine)
    assert method.needs == {"retain"}
    assert sorted(watched.read) == sorted(split.retain.ids.tolist() * 3)
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (48, 0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("name", CASES)
def test_a_rate_of_zero_is_the_identity_for_parameters(name, optimizer):
    model = CASES[name].make()
    before = snapshot(model)
    plan = TrainPlan(epochs=2, lr=0.0, batch_size=5, optimizer=optimizer, weight_decay=0.3)
    Finetune(plan=plan).unlearn_(model, Split(CASES[name].data(20), forget=FORGET), Mask.full(model), engine_for(model))
    for key, value in model.named_parameters():
        assert torch.equal(raw(before[key]), raw(value))


@pytest.mark.parametrize("rule", STATISTICS)
def test_the_rule_for_buffers_is_the_one_given(rule):
    method = Finetune(plan=PLAN, buffers=rule)
    assert method.statistics == rule
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    mask = Mask.of_modules(model, ["4", "8"])
    method.unlearn_(model, Split(CASES["batchnorm"].data(20), forget=FORGET), mask, engine_for(model))
    moved = {key.partition(".")[0] for key, value in model.named_buffers() if not torch.equal(value, before[key])}
    assert moved == {"adapt": {"1", "4"}, "follow-mask": {"4"}, "hold": set()}[rule]


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(errors.BadRequest, match="buffers: expected one of follow-mask, adapt, hold, found 'train'"):
        Finetune(plan=PLAN, buffers="train")
