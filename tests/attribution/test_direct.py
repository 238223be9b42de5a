"""Least squares, where removal is known exactly; the identity; and what predictions are not."""

import pytest
import torch
from torch import nn

from excise import errors
from excise.attribution import Datamodel, DirectPredictor, Made, Part, Shrink
from excise.attribution.origin import network_digest, row_digests
from excise.data import Rows


def axes():
    """Rows along the axes, two or three an axis, so that rows of different axes do not know of one another."""
    inputs = torch.zeros(7, 3, dtype=torch.float64)
    for row, (axis, size) in enumerate([(0, 1.0), (0, 2.0), (1, 1.5), (1, -1.0), (1, 0.5), (2, 1.0), (2, 3.0)]):
        inputs[row, axis] = size
    return inputs, torch.randn(7, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def fitted(inputs, outputs):
    """The least-squares fit as a network without bias."""
    network = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        network.weight.copy_(torch.linalg.lstsq(inputs, outputs).solution.T)
    return network


def leave_one_out(inputs, outputs):
    """beta[i, x] = x' A^-1 x_i e_i / (1 - h_i), what removing row i alone takes from the fit at x."""
    inverse = torch.linalg.inv(inputs.T @ inputs)
    residuals = outputs - inputs @ inverse @ inputs.T @ outputs
    leverage = (inputs @ inverse * inputs).sum(1)
    return torch.einsum("xd,de,ie,ic->ixc", inputs, inverse, inputs, residuals / (1 - leverage)[:, None])


def known(inputs, outputs, beta=None):
    rows = Rows.all_of((inputs, torch.zeros(7, dtype=torch.int64)))
    beta = leave_one_out(inputs, outputs) if beta is None else beta
    part = Part(rows.ids, torch.zeros(7, 2), beta.transpose(0, 1).contiguous(), content=row_digests(rows))
    made = Made(by="leave one out", network=network_digest(nn.Linear(3, 2, bias=False)))
    return Datamodel(weights=torch.eye(7), parts={"train": part}, made=made), rows


def test_one_row_an_axis_is_removed_exactly():
    inputs, outputs = axes()
    model, rows = known(inputs, outputs)
    forget = torch.tensor([1, 4, 5])
    stay = torch.tensor([0, 2, 3, 6])
    direct = DirectPredictor(fitted(inputs, outputs), model, forget)
    wanted = fitted(inputs[stay], outputs[stay])(inputs).detach()
    torch.testing.assert_close(direct.forward_indexed(inputs, rows.ids), wanted, rtol=0, atol=1e-14)
    torch.testing.assert_close(direct.logits(rows, batch_size=3), wanted, rtol=0, atol=1e-14)


def test_two_rows_of_an_axis_are_not_for_effects_add_and_leverage_does_not():
    inputs, outputs = axes()
    model, rows = known(inputs, outputs)
    stay = torch.tensor([0, 1, 2, 5, 6])
    direct = DirectPredictor(fitted(inputs, outputs), model, torch.tensor([3, 4]))
    away = direct.forward_indexed(inputs, rows.ids) - fitted(inputs[stay], outputs[stay])(inputs)
    assert away.abs().max() > 0.01


def test_without_effects_it_is_the_network():
    inputs, outputs = axes()
    network = fitted(inputs, outputs)
    none, rows = known(inputs, outputs, torch.zeros(7, 7, 2))
    model, _ = known(inputs, outputs)
    shrunk = Datamodel(weights=model.weights, parts=model.parts, made=model.made, shrink=Shrink(own=0, other=0))
    for one, multiplier in ((none, 1.0), (model, 0.0), (shrunk, 1.0)):
        direct = DirectPredictor(network, one, torch.tensor([2, 0]), multiplier=multiplier)
        assert torch.equal(direct.forward_indexed(inputs, rows.ids), network(inputs))


def test_forget_rows_may_be_a_plain_list():
    inputs, outputs = axes()
    model, rows = known(inputs, outputs)
    network = fitted(inputs, outputs)
    one, other = (DirectPredictor(network, model, ids) for ids in ([1, 2], torch.tensor([1, 2])))
    assert torch.equal(one.forget, other.forget)
    torch.testing.assert_close(one.logits(rows), other.logits(rows))


def test_it_is_linear_in_the_multiplier():
    inputs, outputs = axes()
    model, rows = known(inputs, outputs)
    network = fitted(inputs, outputs)

    def moved(multiplier):
        direct = DirectPredictor(network, model, torch.tensor([2, 0]), multiplier=multiplier)
        return direct.forward_indexed(inputs, rows.ids) - network(inputs)

    torch.testing.assert_close(moved(2.5), 2.5 * moved(1.0), rtol=0, atol=1e-14)


def test_it_answers_in_eval_mode_by_id_and_leaves_the_network():
    inputs, outputs = axes()
    noisy = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Dropout(0.5)).double()
    model, _ = known(inputs, outputs)
    model = Datamodel(weights=model.weights, parts=model.parts, made=Made(by="any"))
    direct = DirectPredictor(noisy, model, torch.tensor([1]))
    order = torch.tensor([4, 1, 1, 6])
    every = direct.forward_indexed(inputs, torch.arange(7))
    assert torch.equal(direct.forward_indexed(inputs[order].float(), order), every[order])
    assert noisy.training
    with torch.no_grad():
        noisy[0].weight.zero_()
    assert torch.equal(direct.forward_indexed(inputs, torch.arange(7)), every)


def test_it_is_no_network():
    inputs, outputs = axes()
    model, rows = known(inputs, outputs)
    direct = DirectPredictor(fitted(inputs, outputs), model, torch.tensor([1]))
    assert direct.prediction_only and not isinstance(direct, nn.Module)
    with pytest.raises(errors.BadRequest, match="these are predictions for rows known by id, and no network"):
        direct(inputs)
    with pytest.raises(errors.BadRequest, match="there are no weights to save that have forgotten anything"):
        direct.state_dict()
    with pytest.raises(errors.BadRequest, match="forward_indexed: expected one id for each of 7 inputs, found 1"):
        direct.forward_indexed(inputs, rows.ids[:1])
    with pytest.raises(errors.BadRequest, match="7 of 7 rows of 'train' have another content"):
        direct.logits(Rows.all_of((inputs + 1, torch.zeros(7, dtype=torch.int64))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": nn.Linear(3, 4)}, "found another Linear"),
        ({"forget": torch.tensor([9])}, "forget: 1 ids"),
        ({"multiplier": -1.0}, "multiplier: expected a finite number of at least 0, found -1.0"),
    ],
)
def test_what_it_cannot_predict_is_refused(options, message):
    inputs, outputs = axes()
    model, _ = known(inputs, outputs)
    given = {"model": fitted(inputs, outputs), "datamodel": model, "forget": torch.tensor([1]), **options}
    with pytest.raises(errors.BadRequest, match=message):
        DirectPredictor(**given)
