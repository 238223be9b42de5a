"""Targets are the direct predictions, of the network before the run; least squares matched to them is the exact removal."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import excise
from excise import errors
from excise.attribution import Datamodel, DatamodelTargets, DirectPredictor, Made, Part
from excise.attribution.origin import network_digest
from excise.data import Rows, Split
from excise.masks import Mask
from excise.methods import Match
from excise.train import Engine, Task, TrainPlan
from tests.attribution.test_direct import axes, fitted, known
from tests.cases import CASES
from tests.probes import same_bytes, snapshot


def problem(forget=(1, 4, 5)):
    inputs, outputs = axes()
    model, _ = known(inputs, outputs)
    split = Split((inputs, torch.zeros(7, dtype=torch.int64)), forget=list(forget))
    network = fitted(inputs, outputs)
    return model, split, network, Engine(Task(), 0, Mask.empty(network), original=network)


def test_targets_are_the_direct_predictions():
    model, split, network, engine = problem()
    rows = Rows(split.train.source, torch.tensor([0, 1, 5]))
    provider = DatamodelTargets(model, multiplier=0.7, batch_size=2)
    provider.require(network, split, engine)
    wanted = DirectPredictor(network, model, split.forget.ids, multiplier=0.7).logits(rows)
    assert torch.equal(provider.targets(rows, split, engine), wanted)
    assert engine.cost.forward_rows == 3


def test_a_file_does_as_well(tmp_path):
    model, split, _, engine = problem()
    model.save(tmp_path / "model.safetensors")
    found = DatamodelTargets(tmp_path / "model.safetensors").targets(split.forget, split, engine)
    wanted = DatamodelTargets(model).targets(split.forget, split, engine)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_matching_them_is_exact_removal_in_least_squares():
    model, split, network, _ = problem()
    inputs, outputs = axes()
    plan = TrainPlan(epochs=100, optimizer="sgd", lr=0.5, momentum=0.0, batch_size=7)
    method = Match(plan=plan, targets=DatamodelTargets(model), retain_multiplier=2.0)
    done = excise.unlearn(network, split, method)
    stay = split.retain.ids
    torch.testing.assert_close(done.model.weight, fitted(inputs[stay], outputs[stay]).weight, rtol=0, atol=1e-6)


def test_without_effects_no_bit_moves_where_statistics_stand_still():
    model, data = CASES["batchnorm"].make(), CASES["batchnorm"].data(12)
    ids, num_classes = torch.arange(12), model(data[0]).shape[1]
    part = Part(ids, torch.zeros(12, num_classes), torch.ones(12, 1, num_classes))
    nothing = Datamodel(weights=torch.zeros(12, 1), parts={"train": part}, made=Made(by="none"))
    plan, before = TrainPlan(epochs=2, lr=0.1, optimizer="adam", batch_size=5), snapshot(model)
    method = Match(plan=plan, targets=DatamodelTargets(nothing))
    done = excise.unlearn(model, Split(data, forget=[1, 2]), method, recompute=False)
    assert same_bytes(snapshot(done.model), before) and [one.loss for one in done.trace] == [0.0, 0.0]


def test_what_is_not_known_is_refused_before_any_work():
    model, split, network, engine = problem()
    with pytest.raises(errors.BadRequest, match="expected a network with parameters of the names and shapes"):
        DatamodelTargets(model).require(nn.Linear(3, 4), split, engine)
    gone = model.without(torch.tensor([4]))
    with pytest.raises(errors.BadRequest, match="forget: 1 ids"):
        DatamodelTargets(gone).require(network, split, engine)
    inputs, _ = axes()
    other = Split((inputs + 1, torch.zeros(7, dtype=torch.int64)), forget=[1])
    with pytest.raises(errors.BadRequest, match="1 of 1 rows of 'train' have another content"):
        DatamodelTargets(model).require(network, other, engine)
    with pytest.raises(errors.BadRequest, match="7 of 7 rows of 'train' have another content"):
        DatamodelTargets(model).targets(other.train, other, engine)


def test_a_network_of_other_classes_is_refused():
    model, split, _, engine = problem()
    wide = nn.Linear(3, 4, bias=False).double()
    unnamed = Datamodel(weights=model.weights, parts=model.parts, made=Made(by="any"))
    with pytest.raises(errors.BadRequest, match=r"datamodel: expected a network of 2 classes, found logits .3, 4."):
        DatamodelTargets(unnamed).targets(split.forget, split, replace(engine, original=wide))
    assert network_digest(wide) != model.made.network


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((3,), "datamodel: expected one of `excise datamodel`, or the path of its file, found int"),
        (("nowhere.safetensors",), "expected a datamodel at nowhere.safetensors, found no such file"),
    ],
)
def test_what_is_no_datamodel_is_refused(given, message):
    with pytest.raises(errors.BadRequest, match=message):
        DatamodelTargets(*given)


def test_numbers_out_of_range_are_refused():
    model, *_ = problem()
    with pytest.raises(errors.BadRequest, match="multiplier: expected a finite number"):
        DatamodelTargets(model, multiplier=-1.0)
    with pytest.raises(errors.BadRequest, match="batch_size: expected an integer of at least 1"):
        DatamodelTargets(model, batch_size=0)
