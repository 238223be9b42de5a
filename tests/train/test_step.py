"""What an objective may look at."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from excise import errors
from excise.data import Rows
from excise.train import Machine, Step, TrainPlan
from excise.train.running import PLAIN, Running
from tests.cases import CASES
from tests.probes import engine_for, raw, snapshot
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


def features_of(name, head, *, run=None, rows=7, **options):
    """Give what a step's features are, with the mean loss they are minimised for, and the network and engine after it."""
    model, seen = options.pop("model", None) or CASES[name].make(), []
    engine = dataclasses.replace(engine_for(model), **options)

    def objective(step):
        seen.append(step.features("retain", head))
        return step.mean(seen[-1].features.square().sum(1), "retain") + 0 * seen[-1].logits.sum()

    if run is not None:
        objective = run(objective)
    data = CASES[name].data(rows)
    plan = TrainPlan(epochs=1, lr=0.1, batch_size=8, momentum=0, schedule="constant", shuffle=False)
    fit(model, Rows.all_of(data), plan, objective=objective, engine=engine)
    return seen, model, engine


def hooks_of(model):
    return [dict(module._forward_pre_hooks) for module in model.modules()]


def test_features_are_what_the_head_is_given_with_their_gradient():
    seen, model, engine = features_of("mlp", "4")
    (inputs, labels), naive = CASES["mlp"].data(7), CASES["mlp"].make()
    hidden = naive[:4](inputs)
    assert len(seen) == 1 and torch.equal(seen[0].features, hidden)
    assert torch.equal(seen[0].logits, naive[4](hidden)) and torch.equal(seen[0].targets, labels)
    hidden.square().sum(1).mean().backward()
    for at in (0, 2):
        torch.testing.assert_close(model[at].weight, naive[at].weight - 0.1 * naive[at].weight.grad, rtol=1e-12, atol=0)
    assert torch.equal(model[4].weight, naive[4].weight)  # features do not depend on the head
    assert hooks_of(model) == hooks_of(naive)
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (7, 0)


def test_features_of_one_row_are_normalised_by_the_running_statistics_and_move_none():
    seen, model, _ = features_of("batchnorm", "8", rows=1)
    naive = CASES["batchnorm"].make()
    assert torch.equal(seen[0].features, naive.eval()[:8](CASES["batchnorm"].data(1)[0]))
    buffers = dict(naive.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())


def test_features_in_bfloat16_are_as_long_as_the_logits():
    model = CASES["mlp"].make().float()
    seen, *_ = features_of("mlp", "4", model=model, machine=Machine(precision="bfloat16"))
    assert seen[0].features.dtype == seen[0].logits.dtype == torch.float32
    plain = CASES["mlp"].make()[:4](CASES["mlp"].data(7)[0]).float()
    assert 0 < float((seen[0].features - plain).detach().abs().max()) < 0.05


def test_features_are_heard_where_a_compiled_network_would_not_call_its_modules():
    """The compiled form is for who listens to nothing inside."""

    class Deaf:
        def run(self, size, work):
            raise AssertionError("compiled")

    def deafened(objective):
        def inside(step):
            running = Running(step.model, step.engine.task, PLAIN, Deaf())
            return objective(dataclasses.replace(step, run=running))

        return inside

    found, *_ = features_of("mlp", "4", run=deafened)
    plain, *_ = features_of("mlp", "4")
    assert torch.equal(found[0].features, plain[0].features)


def test_a_head_that_is_not_there_or_runs_otherwise_is_refused_and_no_hook_is_left():
    for head, message in (("tail", "no module named 'tail'"), ("layers.0", r"to be given \[7, dims\] for 7 rows")):
        model = CASES["transformer"].make()
        with pytest.raises(errors.UnsupportedModel, match=message):
            features_of("transformer", head, model=model)
        assert hooks_of(model) == hooks_of(CASES["transformer"].make())
