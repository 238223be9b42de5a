"""A small network that learnt wrong labels by heart, and a ledger of its life in a directory of its own."""

import pytest
import torch

from excise.data.rows import Rows
from excise.lifecycle import Ledger
from excise.methods import FromFunction
from excise.oracles import Bank, retrain
from excise.recipes import Recipe
from excise.train import TrainPlan
from tests.planted import TEST, TRAIN, engine_for, hurried, make, network

PLAN = TrainPlan(epochs=30, lr=0.1, batch_size=32)


def collapse(net, retain, forget, validation):
    """Forget everything: every row gets the same class, and every audit fails."""
    with torch.no_grad():
        for value in net.parameters():
            value.zero_()
    return net


COLLAPSE = Recipe(name="Collapse", paper="-", year=0, method=FromFunction(collapse))


@pytest.fixture(scope="session")
def original():
    return network(retrain(make, Rows.all_of(TRAIN), PLAN, [12345], engine_for(make()))[0].state)


@pytest.fixture(scope="session")
def bank(tmp_path_factory):
    """Oracles are trained once, whichever test wants them."""
    return Bank(tmp_path_factory.mktemp("bank"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Keys lie in a directory of the test's own; the audits' probes are short."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with hurried():
        yield tmp_path / "state"


@pytest.fixture
def opened(tmp_path, original):
    """Begin a ledger, some of its options changed."""

    def call(name="life", model=original, train=TRAIN, **changes):
        given = {"test": TEST, "plan": PLAN, "fresh": make, "max_drop": 0.5, **changes}
        return Ledger.open(tmp_path / name, model, train, **given)

    return call


@pytest.fixture
def ledger(opened):
    return opened()
