"""Twins: the network cut before its head by hand, and the head applied to the features."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from excise import errors
from excise.data.rows import Rows
from excise.observe import collect, features
from excise.train.task import Task
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, touched


def rows_of(data, ids):
    return Rows(Rows.all_of(data).source, torch.tensor(ids))


HEADS = {name: ("head" if name in ("transformer", "tied") else None) for name in CASES}


@pytest.fixture(params=CASES, ids=str)
def name(request):
    return request.param


def head_of(model, name):
    return model.head if HEADS[name] else model[-1]


def test_the_head_of_the_features_gives_the_logits(name):
    model, ids = CASES[name].make(), [1, 4, 5, 11, 29]
    rows, engine = rows_of(CASES[name].data(30), ids), engine_for(model)
    found = features(model, rows, engine)
    head = head_of(model, name)
    assert found.shape == (5, head.in_features)
    assert found.dtype == np.float64
    with torch.no_grad():
        logits = head(torch.from_numpy(found)).numpy()
    np.testing.assert_array_equal(logits, collect(model, rows, engine).logits)


def test_features_of_a_sequence_are_what_stands_before_its_last_layer():
    for name in ("mlp", "separable", "batchnorm"):
        model, data = CASES[name].make(), CASES[name].data(30)
        model.train()
        with torch.no_grad():
            for _ in range(3):
                model(data[0][:20])  # running statistics that are not those of a batch
            found = features(model, rows_of(data, list(range(0, 30, 3))), engine_for(model))
            model.eval()
            np.testing.assert_array_equal(found, model[:-1](data[0][::3]).numpy())


def test_the_batch_size_does_not_matter_and_rows_come_in_order_of_id(name):
    model, data = CASES[name].make(), CASES[name].data(30)
    engine = engine_for(model)
    whole = features(model, rows_of(data, list(range(30))), engine)
    assert engine.cost.forward_rows == 30
    part = features(model, rows_of(data, [2, 3, 17]), engine, batch_size=2)
    np.testing.assert_allclose(part, whole[[2, 3, 17]], rtol=1e-12, atol=1e-14)


def test_network_and_world_are_left_alone(name):
    model = touched(CASES[name].make())
    watch = LeftAlone(model)
    features(model, rows_of(CASES[name].data(30), [0, 1, 2]), engine_for(model))
    watch.check()


def test_the_network_is_left_alone_after_a_failure_too():
    model = touched(CASES["batchnorm"].make())
    watch = LeftAlone(model)
    passes = iter(range(2))

    def fails(network, batch):
        network(batch[0])
        if next(passes) == 1:
            raise KeyError("mine")
        return batch

    with pytest.raises(KeyError, match="mine"):
        features(model, rows_of(CASES["batchnorm"].data(30), [0, 1]), engine_for(model, task=Task(forward=fails)))
    watch.check()


def test_only_the_rows_asked_for_are_read():
    inputs, labels = CASES["mlp"].data(30)
    data = Watched(inputs, labels, forbidden=range(5, 30))
    model = CASES["mlp"].make()
    features(model, rows_of(data, [0, 2, 4]), engine_for(model))
    assert set(data.read) == {0, 2, 4}


class Net(nn.Module):
    """A network of two layers whose forward pass is given."""

    def __init__(self, forward):
        super().__init__()
        self.body, self.head, self.run = nn.Linear(6, 5).double(), nn.Linear(5, 5).double(), forward

    def forward(self, inputs):
        return self.run(self, inputs)


def seen_by(forward, **options):
    model = Net(forward)
    return model, features(model, rows_of(CASES["mlp"].data(30), [0, 1, 2]), engine_for(model), **options)


def test_an_input_that_the_network_writes_into_later_is_given_as_the_head_saw_it():
    def forward(net, inputs):
        hidden = net.body(inputs)
        logits = net.head(hidden)
        hidden.zero_()
        return logits

    model, found = seen_by(forward)
    np.testing.assert_array_equal(found, model.body(CASES["mlp"].data(30)[0][:3]).detach().numpy())


def test_a_head_that_runs_twice_is_refused():
    with pytest.raises(errors.UnsupportedModel, match="expected the head 'head' to run once a batch, it ran 2 times"):
        seen_by(lambda net, inputs: net.head(net.head(net.body(inputs))))


def test_a_head_that_does_not_run_is_refused():
    with pytest.raises(errors.UnsupportedModel, match="the head 'head' to run once a batch, it ran 0 times"):
        seen_by(lambda net, inputs: net.body(inputs), head="head")


@pytest.mark.parametrize(
    ("forward", "found"),
    [
        (lambda net, inputs: net.head(net.body(inputs)[:, None]).mean(1), r"\[3, 1, 5\]"),
        (lambda net, inputs: net.head(net.body(inputs)[:1]).expand(3, -1), r"\[1, 5\]"),
        (lambda net, inputs: net.head(input=net.body(inputs)), "NoneType"),
    ],
)
def test_a_head_that_is_not_given_one_vector_a_row_is_refused(forward, found):
    with pytest.raises(errors.UnsupportedModel, match=rf"to be given \[3, dims\] for 3 rows, found {found}"):
        seen_by(forward)


def test_a_network_without_a_linear_head_is_refused_with_what_stands_there():
    model = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)).double()
    rows = rows_of(CASES["mlp"].data(30), [0, 1])
    with pytest.raises(
        errors.UnsupportedModel, match=r"head is an nn.Linear, found that in Sequential .*'1', a LayerNorm"
    ):
        features(model, rows, engine_for(model))
    named = features(model, rows, engine_for(model), head="1")
    np.testing.assert_array_equal(named, model[0](CASES["mlp"].data(30)[0][:2]).detach().numpy())


def test_a_network_none_of_whose_modules_run_is_refused():
    model = Net(lambda net, inputs: functional.linear(inputs, net.body.weight))
    with pytest.raises(errors.UnsupportedModel, match="found that in Net no module with weights runs"):
        features(model, rows_of(CASES["mlp"].data(30), [0]), engine_for(model))


def test_a_head_that_is_not_there_is_refused_with_the_modules_that_are():
    with pytest.raises(errors.UnsupportedModel, match="no module named 'tail'; it has body, head"):
        seen_by(lambda net, inputs: net.head(net.body(inputs)), head="tail")


def test_a_parametrized_head_is_a_head():
    model = Net(lambda net, inputs: net.head(net.body(inputs)))
    nn.utils.parametrizations.weight_norm(model.head)
    rows = rows_of(CASES["mlp"].data(30), [0, 1])
    np.testing.assert_array_equal(
        features(model, rows, engine_for(model)), model.body(CASES["mlp"].data(30)[0][:2]).detach().numpy()
    )
