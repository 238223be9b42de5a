"""Twins: a direct forward pass in eval mode, row by row."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from excise import errors
from excise.data.rows import Rows
from excise.masks import Mask
from excise.observe import Outputs, collect
from excise.train.engine import Engine
from excise.train.task import Task
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, touched


def engine_for(model, **task):
    return Engine(Task(**task), seed=0, besides=Mask.empty(model))


def rows_of(case, ids, total=30):
    return Rows(Rows.all_of(case.data(total)).source, torch.tensor(ids))


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return CASES[request.param]


def moved_statistics(model, inputs):
    """Train mode forward passes, so that running statistics differ from those of a batch."""
    with torch.no_grad():
        model.train()
        for start in range(0, 24, 8):
            model(inputs[start : start + 8])
    return model


def test_outputs_are_those_of_a_forward_pass_in_eval_mode_row_by_row(case):
    inputs, labels = case.data(30)
    model = moved_statistics(case.make(), inputs)
    ids = [1, 4, 5, 11, 29]
    found = collect(model, rows_of(case, ids), engine_for(model))
    model.eval()
    with torch.no_grad():
        wanted = torch.cat([model(inputs[row : row + 1]) for row in ids])
    assert len(found) == 5
    assert found.ids.tolist() == ids
    assert found.targets.tolist() == labels[ids].tolist()
    # one row at a time against a batch: the order of sums differs
    np.testing.assert_allclose(found.logits, wanted.numpy(), rtol=1e-12, atol=1e-14)
    losses = [-torch.log_softmax(row, 0)[labels[i]].item() for row, i in zip(wanted, ids, strict=True)]
    np.testing.assert_allclose(found.losses, losses, rtol=1e-10)


def test_the_batch_size_does_not_matter(case):
    model = case.make()
    engine = engine_for(model)
    ids = list(range(0, 30, 2))
    whole = collect(model, rows_of(case, ids), engine)
    for size in (1, 4, 15):
        part = collect(model, rows_of(case, ids), engine, batch_size=size)
        assert part.ids.tolist() == ids
        np.testing.assert_array_equal(part.targets, whole.targets)
        np.testing.assert_allclose(part.logits, whole.logits, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(part.losses, whole.losses, rtol=1e-10, atol=1e-14)
    assert engine.cost.forward_rows == 4 * len(ids)
    assert engine.cost.trained_rows == 0


def test_network_and_world_are_left_alone(case):
    model = touched(case.make())
    watch = LeftAlone(model)
    collect(model, rows_of(case, [0, 1, 2]), engine_for(model))
    watch.check()


def test_the_network_is_left_alone_after_a_failure_too():
    case = CASES["batchnorm"]
    model = touched(case.make())
    watch = LeftAlone(model)

    def fails(network, batch):
        network(batch[0])
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        collect(model, rows_of(case, [0, 1, 2]), engine_for(model, forward=fails))
    watch.check()


def test_arrays_are_float64_and_int64_whatever_the_network(case):
    for dtype in (torch.float32, torch.float64):
        model = case.make().to(dtype)
        found = collect(model, rows_of(case, [0, 3]), engine_for(model))
        kinds = {name: getattr(found, name).dtype for name in ("ids", "logits", "targets", "losses")}
        assert kinds == {"ids": np.int64, "logits": np.float64, "targets": np.int64, "losses": np.float64}


def test_losses_of_a_half_precision_network_are_taken_in_single_precision():
    model = CASES["mlp"].make().bfloat16()
    found = collect(model, rows_of(CASES["mlp"], [0, 1, 2, 3]), engine_for(model))
    wanted = functional.cross_entropy(torch.from_numpy(found.logits), torch.from_numpy(found.targets), reduction="none")
    np.testing.assert_allclose(found.losses, wanted.numpy(), rtol=1e-5)  # float32; bfloat16 is good to 1e-2


def test_only_the_rows_asked_for_are_read():
    inputs, labels = CASES["mlp"].data(30)
    data = Watched(inputs, labels, forbidden=range(5, 30))
    model = CASES["mlp"].make()
    collect(model, Rows(Rows.all_of(data).source, torch.tensor([0, 2, 4])), engine_for(model))
    assert data.read == [0, 2, 4]


def test_the_tasks_own_forward_and_loss_are_used():
    model = CASES["mlp"].make()
    task = {
        "forward": lambda net, batch: (2 * net(batch[0]), batch[1]),
        "loss": lambda logits, targets: logits[:, 0] ** 2,
    }
    found = collect(model, rows_of(CASES["mlp"], [0, 1, 2]), engine_for(model, **task))
    plain = collect(model, rows_of(CASES["mlp"], [0, 1, 2]), engine_for(model))
    np.testing.assert_allclose(found.logits, 2 * plain.logits)
    np.testing.assert_allclose(found.losses, 4 * plain.logits[:, 0] ** 2)


def test_what_is_not_finite_is_passed_on():
    model = CASES["mlp"].make()
    with torch.no_grad():
        model[-1].bias[0] = torch.nan
    found = collect(model, rows_of(CASES["mlp"], [0, 1]), engine_for(model))
    assert np.isnan(found.logits[:, 0]).all()
    assert np.isfinite(found.logits[:, 1:]).all()
    assert np.isnan(found.losses).all()


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), lambda logits, targets: logits])
def test_a_loss_that_is_not_one_value_a_row_is_refused(loss):
    model = CASES["mlp"].make()
    with pytest.raises(errors.BadRequest, match=r"loss: expected one value for each of 3 examples.*reduction=\"none\""):
        collect(model, rows_of(CASES["mlp"], [0, 1, 2]), engine_for(model, loss=loss))


def test_outputs_are_frozen():
    empty = np.zeros(0)
    with pytest.raises(AttributeError):
        Outputs(empty, empty, empty, empty).ids = empty
