"""What an objective may look at."""

import copy

import torch
from torch import nn
from torch.nn import functional

from excise.data import Rows
from excise.train import Step, TrainPlan
from tests.cases import CASES
from tests.probes import raw, snapshot
from tests.train.fitting import fit


def test_observing_moves_the_statistics_by_the_batchs_own_and_nothing_else():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).double()
    inputs, labels = CASES["mlp"].data(8)
    before = snapshot(model)
    plan = TrainPlan(epochs=1, lr=0.5, batch_size=8)
    graphs = []
    model.register_forward_hook(lambda module, args, out: graphs.append(out.requires_grad))

    def objective(step):
        step.observe("retain")
        return torch.zeros(())

    fit(model, Rows.all_of((inputs, labels)), plan, objective=objective)
    hidden = inputs @ before["0.weight"].T + before["0.bias"]
    torch.testing.assert_close(model[1].running_mean, 0.1 * hidden.mean(0), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(model[1].running_var, 0.9 + 0.1 * hidden.var(0), rtol=1e-14, atol=1e-14)
    assert all(torch.equal(raw(before[key]), raw(value)) for key, value in model.named_parameters())
    assert graphs == [False]  # forward only: nothing is kept for a backward pass


def test_a_step_shows_the_objective_what_it_may_look_at():
    model = CASES["mlp"].make().eval()
    seen = []

    def objective(step):
        assert isinstance(step, Step)
        seen.append((step.model is model, step.model.training, step.epoch, sorted(step.batches)))
        return step.mean_loss("retain")

    fit(model, Rows.all_of(CASES["mlp"].data(4)), TrainPlan(epochs=2, lr=0.1), objective=objective)
    assert seen == [(True, True, 0, ["retain"]), (True, True, 1, ["retain"])]
    assert not model.training


def test_a_batch_of_one_row_is_normalised_by_the_running_statistics_and_moves_none():
    model, start = CASES["batchnorm"].make(), CASES["batchnorm"].make()
    rows = Rows.all_of(CASES["batchnorm"].data(9)).head(1)
    fit(model, rows, TrainPlan(epochs=1, lr=0.1, batch_size=4))
    buffers = dict(start.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    inputs, labels = (tensor[:1] for tensor in CASES["batchnorm"].data(9))
    naive = copy.deepcopy(start).eval()
    functional.cross_entropy(naive(inputs), labels).backward()
    for (name, value), before in zip(model.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(value, before - 0.1 * before.grad, msg=name)


def test_the_drift_is_the_squared_distance_of_all_weights_from_given_ones():
    model = CASES["tied"].make()
    start = {name: value.detach() - 0.5 for name, value in model.named_parameters()}
    seen = []

    def objective(step):
        seen.append(step.drift(start))
        return step.mean_loss("retain")

    fit(model, Rows.all_of(CASES["tied"].data(4)), TrainPlan(epochs=1, lr=0.1), objective=objective)
    torch.testing.assert_close(
        seen[0].item(), 0.25 * sum(value.numel() for value in start.values()), rtol=1e-12, atol=0
    )
    assert seen[0].requires_grad


def test_on_other_inputs_each_copy_of_the_batch_is_answered_as_by_the_network_itself():
    model, rows = CASES["mlp"].make(), Rows.all_of(CASES["mlp"].data(4))
    seen = []

    def objective(step):
        inputs = step.inputs("retain")
        logits = step.outputs_on(torch.cat([inputs, 2 * inputs]), "retain")
        with torch.no_grad():
            quiet = step.outputs_on(3 * inputs, "retain")
        seen.append(((logits[:4], model(inputs)), (logits[4:], model(2 * inputs)), (quiet, model(3 * inputs))))
        assert logits.requires_grad and not quiet.requires_grad
        return step.mean(logits.sum(1)[:4], "retain")

    engine = fit(model, rows, TrainPlan(epochs=1, lr=0.0), objective=objective)
    for ours, theirs in seen[0]:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (8, 4)


def test_eval_mode_lasts_to_the_end_of_the_training_and_no_longer():
    model, modes = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)).double(), []

    def objective(step):
        modes.append(model[1].training)
        step.eval_()
        return step.mean_loss("retain")

    fit(model, Rows.all_of(CASES["mlp"].data(8)), TrainPlan(epochs=1, lr=0.1, batch_size=4), objective=objective)
    assert modes == [True, False] and all(module.training for module in model.modules())


def test_a_row_draws_the_same_in_whatever_batch_and_other_numbers_in_another_epoch():
    drawn = {}

    def objective(step):
        for row, generator in zip(step.batches["retain"].ids.tolist(), step.row_generators("retain", "x"), strict=True):
            drawn.setdefault(row, []).append(float(torch.rand((), generator=generator)))
        return step.mean_loss("retain")

    rows = Rows.all_of(CASES["mlp"].data(8))
    for size in (3, 8):
        fit(CASES["mlp"].make(), rows, TrainPlan(epochs=2, lr=0.1, batch_size=size), objective=objective)
    assert all(one[:2] == one[2:] and one[0] != one[1] for one in drawn.values())
    assert len({one[0] for one in drawn.values()}) == 8
