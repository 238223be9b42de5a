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
