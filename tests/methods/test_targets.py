"""The mean of oracles against the mean taken by hand."""

import pytest
import torch
from torch import nn

from excise import errors
from excise.data import Split
from excise.data.rows import Rows
from excise.methods import OracleMean
from excise.oracles import Trained
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, touched

FORGET = [0, 3, 8, 11, 14]


def other(name, seed):
    """The network of the case with other weights and, where it has any, other running statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CASES[name].build().double()
        for key, value in model.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    return model


def ask(provider, name="batchnorm", rows=(1, 3, 8), **options):
    split = Split(CASES[name].data(20), forget=FORGET)
    model = CASES[name].make()
    engine, alone = engine_for(model, original=model, **options), LeftAlone(touched(model))
    provider.require(model, split, engine)
    found = provider.targets(Rows(split.train.source, torch.tensor(rows)), split, engine)
    alone.check()
    return found, engine


@pytest.mark.parametrize(
    "form", [lambda one: one, nn.Module.state_dict, lambda one: Trained(0, one.state_dict(), 0.0, None)]
)
@pytest.mark.parametrize("name", ["mlp", "batchnorm", "tied"])
def test_it_is_the_mean_of_the_networks_logits_in_eval_mode(name, form):
    networks = [other(name, seed) for seed in (1, 2, 3)]
    inputs = CASES[name].data(20)[0][[1, 3, 8]]
    wanted = torch.stack([network.eval()(inputs) for network in networks]).mean(0).detach()
    found, engine = ask(OracleMean([form(network.train()) for network in networks], batch_size=2), name)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    assert found.dtype == torch.float64
    assert (engine.cost.forward_rows, engine.cost.trained_rows) == (9, 0)


def test_of_probabilities_it_is_the_logarithm_of_the_mean_softmax():
    networks = [other("mlp", seed) for seed in (1, 2, 3)]
    inputs = CASES["mlp"].data(20)[0][[1, 3, 8]]
    wanted = torch.stack([network(inputs).softmax(1) for network in networks]).mean(0).detach()
    found, _ = ask(OracleMean(networks, average="probabilities"), "mlp")
    torch.testing.assert_close(found.exp(), wanted, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.softmax(1), wanted, rtol=1e-13, atol=0)


def test_one_network_is_given_to_the_bit_and_left_alone():
    network, inputs = touched(other("batchnorm", 1)), CASES["batchnorm"].data(20)[0]
    alone = LeftAlone(network)
    found, _ = ask(OracleMean([network]))
    alone.check()
    assert torch.equal(found, network.eval()(inputs[[1, 3, 8]]).detach())


def test_only_the_rows_asked_for_are_read():
    watched = Watched(*CASES["mlp"].data(20), forbidden=[row for row in range(20) if row not in (1, 3, 8)])
    split = Split(watched, forget=FORGET)
    provider = OracleMean([other("mlp", 1)])
    assert provider.needs == frozenset()
    provider.targets(Rows(split.train.source, torch.tensor([1, 3, 8])), split, engine_for(CASES["mlp"].make()))
    assert sorted(watched.read) == [1, 3, 8]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "models: expected at least one network that never saw the forget rows, found none"),
        (CASES["mlp"].make(), "models: expected a list of networks.*found Sequential; give several, or one in a list"),
        (["oracle.pt"], "models: expected networks, state dicts or excise.oracles.Trained, found str among them"),
    ],
)
def test_what_is_no_list_of_networks_is_refused(models, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        OracleMean(models)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(errors.BadRequest, match=r"^average: expected logits or probabilities, found 'median'$"):
        OracleMean([CASES["mlp"].make()], average="median")
    with pytest.raises(errors.BadRequest, match=r"^batch_size: "):
        OracleMean([CASES["mlp"].make()], batch_size=0)


def test_weights_of_another_architecture_are_refused_before_any_work():
    state = other("three-classes", 1).state_dict()
    with pytest.raises(
        errors.BadRequest,
        match=r"^models: weights 2 do not fit .*'4.bias' has shape \(3,\) there and \(4,\) here; give oracles of its",
    ):
        ask(OracleMean([other("mlp", 1).state_dict(), state]), "mlp")
    with pytest.raises(errors.BadRequest, match="this method learns from the network as it was"):
        split = Split(CASES["mlp"].data(20), forget=FORGET)
        OracleMean([state]).require(CASES["mlp"].make(), split, engine_for(CASES["mlp"].make()))


def test_a_network_without_weights_is_refused_before_any_work():
    with pytest.raises(errors.UnsupportedModel, match="parameters"):
        ask(OracleMean([nn.Identity()]), "mlp")


def test_networks_of_unequal_classes_are_refused():
    with pytest.raises(errors.BadRequest, match=r"^models: expected logits of one shape, found \(3, 4\) and \(3, 3\)"):
        ask(OracleMean([other("mlp", 1), other("three-classes", 1)]), "mlp")
