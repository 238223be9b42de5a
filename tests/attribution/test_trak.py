"""The definition, computed by torch.func on tiny networks without projection; and dattri's own scores."""

import contextlib
import io
import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from excise import errors
from excise.attribution.origin import network_digest
from excise.attribution.trak import require_dattri, trak
from excise.data import Rows, Split
from excise.seeds import derive
from tests.probes import LeftAlone, touched

NUM_ROWS, NUM_CLASSES = 48, 3
pytest.importorskip("dattri.func")


def data(num_rows=NUM_ROWS):
    draws = torch.Generator().manual_seed(3)
    labels = torch.arange(num_rows) % NUM_CLASSES
    return torch.randn(num_rows, 4, generator=draws, dtype=torch.float64) + labels[:, None], labels


def network(seed=0):
    """25 weights, running statistics, and dropout, which is not to act."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Tanh(), nn.Dropout(0.5), nn.Linear(2, 3)).double()
        made(torch.randn(64, 4, dtype=torch.float64) + 1)
    return made


def by_definition(networks, ridge=0.0):
    """tau[i, x, c], with the two factors averaged apart over networks."""
    inputs, labels = data()
    products, doubts = [], []
    for one in networks:
        twin = one.eval()
        names = [name for name, _ in twin.named_parameters()]
        values = {name: value.detach() for name, value in twin.named_parameters()}

        def logits(values, x, twin=twin):
            return functional_call(twin, values, (x[None],))[0]

        def margin(values, x, y, logits=logits):
            p = logits(values, x).softmax(0).gather(0, y[None])[0]
            return (p / (1 - p)).log()

        def flat(found, names=names):
            return torch.cat([found[name].reshape(NUM_ROWS, -1) for name in names], dim=1)

        own = flat(vmap(grad(margin), (None, 0, 0))(values, inputs, labels))
        size = own.shape[1]
        gram = own.T @ own + ridge * size * torch.eye(size, dtype=torch.float64)
        each = [
            flat(vmap(grad(lambda v, x, c=c: logits(v, x)[c]), (None, 0))(values, inputs)) for c in range(NUM_CLASSES)
        ]
        products.append(torch.stack([own @ torch.linalg.solve(gram, one.T) for one in each], dim=2))
        doubts.append(1 - twin(inputs).detach().softmax(1).gather(1, labels[:, None])[:, 0])
    return torch.stack(products).mean(0) * torch.stack(doubts).mean(0)[:, None, None]


def whole(model):
    return torch.einsum("ik,xkc->ixc", model.weights, model.parts["train"].factors)


@pytest.mark.parametrize(("num_networks", "ridge"), [(1, 1e-3), (2, 0.3)])
def test_without_projection_it_is_the_definition(num_networks, ridge):
    networks = [network(seed) for seed in range(num_networks)]
    found = trak(networks, Rows.all_of(data()), projection=None, ridge=ridge, batch_size=20)
    wanted = by_definition(networks, ridge)
    torch.testing.assert_close(whole(found), wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))
    forget = torch.tensor([3, 7])
    torch.testing.assert_close(found.effects(forget, torch.tensor([9, 3])), wanted[forget][:, [9, 3]].sum(0))


def test_projected_it_is_what_dattri_attributes():
    made, dattri = network().eval(), require_dattri()
    model = trak(made, Rows.all_of(data()), projection=11, batch_size=20, seed=4)
    settings = {"proj_dim": 11, "proj_max_batch_size": 32, "proj_type": "rademacher", "device": "cpu"}
    settings["proj_seed"] = derive(4, "projection") % 2**31

    def margin(values, example):
        z = functional_call(made, values, (example[0][None],))[0]
        other = z.masked_fill(torch.arange(3) == example[1], -torch.inf)
        return z.gather(0, example[1][None])[0] - other.logsumexp(0)

    def confidence(values, example):
        return functional_call(made, values, (example[0][None],))[0].softmax(0).gather(0, example[1][None])[0]

    task = dattri.task.AttributionTask(
        loss_func=margin,
        model=made,
        checkpoints=made.state_dict(),
        target_func=lambda values, example: functional_call(made, values, (example[0][None],))[0][1],
    )
    attributor = dattri.trak.TRAKAttributor(task, confidence, projector_kwargs=settings)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=16)
    with contextlib.redirect_stderr(io.StringIO()):
        attributor.cache(loader)
        theirs = attributor.attribute(loader)
    torch.testing.assert_close(whole(model)[:, :, 1], theirs.detach(), rtol=1e-8, atol=1e-8 * float(theirs.abs().max()))


def test_nothing_of_dattris_is_left_behind_and_the_networks_are_left_alone(capfd):
    made, dattri = touched(network()), require_dattri()
    alone, before = LeftAlone(made), dict(dattri.trak.DEFAULT_PROJECTOR_KWARGS)
    first, again, other = (trak(made, Rows.all_of(data()), projection=7, seed=seed) for seed in (0, 0, 1))
    alone.check()
    assert before == dattri.trak.DEFAULT_PROJECTOR_KWARGS  # which it lets an attributor write to
    assert capfd.readouterr() == ("", "")
    assert torch.equal(whole(first), whole(again)) and not torch.equal(whole(first), whole(other))


def test_parts_bases_and_costs():
    made, (inputs, labels) = network(), data(60)
    split = Split((inputs[:48], labels[:48]), forget=[1, 2], test=(inputs[48:], labels[48:]))
    model = trak(made, split, projection=7)
    assert {name: len(part.ids) for name, part in model.parts.items()} == {"train": 48, "test": 12}
    logits = made.eval()(inputs[48:]).detach()
    every = model.effects(model.train, torch.arange(12), part="test")
    torch.testing.assert_close(model.parts["test"].base.double() + every / 2, logits, rtol=0, atol=1e-5)
    assert (model.made.by, model.made.num_models, model.made.network) == ("trak", 1, network_digest(made))
    assert (model.made.trained_rows, model.made.forward_rows) == (48 + 4 * 60, 60)
    differences = model.parts["test"].margins - model.parts["test"].factors[torch.arange(12), :, labels[48:]]
    assert differences.abs().max() > 0.01  # a margin is no logit
    of_margins = model.matrix(torch.arange(12), part="test")
    assert of_margins.shape == (12, 48) and bool(of_margins.isfinite().all())


def test_a_forward_of_ones_own_and_frozen_weights():
    made, (inputs, labels) = network(), data()
    made[0].weight.requires_grad_(False)
    plain = trak(made, Rows.all_of((inputs, labels)), projection=None, ridge=0.1)
    named = [{"x": x, "y": y} for x, y in zip(inputs, labels.tolist(), strict=True)]
    own = trak(
        made, Rows.all_of(named), projection=None, ridge=0.1, forward=lambda one, batch: (one(batch["x"]), batch["y"])
    )
    assert plain.weights.shape == (48, 2 + 4 + 9)
    torch.testing.assert_close(whole(own), whole(plain), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"projection": 48},
            "projection: expected fewer features than the 48 training rows and the 23 weights, found 48",
        ),
        ({"projection": None}, "found 23; project to fewer, or give a ridge"),
        ({"projection": 0}, "projection: expected"),
        ({"ridge": -1.0}, "ridge: expected a finite number of at least 0"),
        ({"networks": []}, "networks: expected a trained network, or a list of such"),
        ({"networks": [network(), nn.Linear(4, 3)]}, "networks: expected one architecture, found several"),
        ({"rows": 3}, "rows: expected a Split, Rows, or Rows by name"),
    ],
)
def test_what_cannot_be_attributed_is_refused(change, message):
    asked = {"networks": network(), "rows": Rows.all_of(data()), "projection": 7, **change}
    with pytest.raises(errors.BadRequest, match=message):
        trak(asked.pop("networks"), asked.pop("rows"), **asked)


def test_labels_that_are_no_classes_are_refused():
    inputs, labels = data()
    with pytest.raises(errors.BadData, match="trak: expected one integer class a row"):
        trak(network(), Rows.all_of((inputs, labels.double())), projection=7)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_gradients_without_an_inverse_are_refused(scale):
    """Those of one row over and over, which rounding lets pass for one that is regular, and those of nothing."""
    inputs, labels = data()
    alike = Rows.all_of((scale * inputs[:1].repeat(48, 1), labels[:1].repeat(48)))
    with pytest.raises(errors.BadRequest, match="trak: the projected gradients of the training rows have no inverse"):
        trak(nn.Linear(4, 3, bias=False).double(), alike, projection=7)


def test_without_dattri_it_is_said_what_to_install(monkeypatch):
    for name in [one for one in sys.modules if one.partition(".")[0] == "dattri"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dattri", None)
    with pytest.raises(errors.MissingExtra, match=r"trak needs dattri.*pip install 'excise\[attribution\]'"):
        trak(network(), Rows.all_of(data()), projection=7)
