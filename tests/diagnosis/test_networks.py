"""Each illness of a network: a patient that has it, and one that has not."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from excise.diagnosis import networks
from tests.cases import CASES
from tests.probes import LeftAlone, touched


def healthy():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.0), nn.Linear(4, 3))


def quantised_linear(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of its quantised tensors
        return kind(4, 4)


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))


def partly_frozen():
    model = CASES["mlp"].make()
    model[0].requires_grad_(False)
    return model


def integer():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    return model


SICK = {
    "no parameters": (nn.Flatten, "no_parameters", "error", "Flatten (the network itself)"),
    "scripted": (lambda: nn.Sequential(nn.Linear(4, 4), scripted()), "scripted", "error", "1"),
    "all scripted": (scripted, "scripted", "error", "(the network itself)"),
    "lazy": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3)), "lazy", "error", "1.weight, 1.bias"),
    "dynamic": (
        lambda: nn.Sequential(nn.Linear(4, 4), quantised_linear(torch.ao.nn.quantized.dynamic.Linear)),
        "quantised",
        "error",
        "1",
    ),
    "static": (
        lambda: nn.Sequential(nn.Linear(4, 4), quantised_linear(torch.ao.nn.quantized.Linear)),
        "quantised",
        "error",
        "1",
    ),
    "integers": (integer, "quantised", "error", "1"),
    "frozen": (partly_frozen, "frozen", "note", "0.weight, 0.bias"),
    "all frozen": (lambda: nn.Linear(2, 2).requires_grad_(False), "frozen", "error", "weight, bias"),
    "tied": (CASES["tied"].make, "tied", "note", "embed.weight = head.weight"),
    "untracked": (lambda: nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)), "untracked", "warning", "0"),
    "dropout": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2)), "dropout", "note", "1"),
    "attention": (lambda: nn.Sequential(nn.MultiheadAttention(4, 2, dropout=0.1)), "dropout", "note", "0"),
    "recurrent": (lambda: nn.Sequential(nn.GRU(2, 2, num_layers=2, dropout=0.1)), "dropout", "note", "0"),
}
EXAMINATIONS = (
    "no_parameters",
    "scripted",
    "lazy",
    "quantised",
    "frozen",
    "tied",
    "untracked",
    "dropout",
)


@pytest.mark.parametrize("name", SICK)
def test_a_sick_network_is_found_out(name):
    make, examination, severity, where = SICK[name]
    model = make()
    found = getattr(networks, examination)(model)
    assert found.severity == severity and found.where.endswith(where) and found.remedy
    assert found in networks.look_at(model)
    others = [one for one in networks.look_at(model) if one.severity == "error" and one != found]
    assert not others or name == "all scripted"


@pytest.mark.parametrize("examination", EXAMINATIONS)
def test_a_healthy_network_is_not(examination):
    assert getattr(networks, examination)(healthy()) is None


def test_a_healthy_network_gives_nothing_and_is_left_alone():
    for make in (healthy, CASES["mlp"].make, CASES["separable"].make, lambda: nn.InstanceNorm1d(4, affine=True)):
        model = touched(make())
        watch = LeftAlone(model)
        assert networks.look_at(model) == []
        watch.check()


def test_parametrizations_and_dropouts_that_drop_nothing_are_healthy():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Dropout(0.0), nn.GRU(4, 4))
    assert networks.look_at(model) == []


class DropPath(nn.Module):
    def __init__(self, drop_prob):
        super().__init__()
        self.drop_prob = drop_prob


def test_dropped_paths_count_as_dropout():
    assert networks.dropout(nn.Sequential(DropPath(0.1))).where == "0"
    assert networks.dropout(nn.Sequential(DropPath(0.0))) is None


def test_many_modules_are_one_finding():
    found = networks.dropout(nn.Sequential(*(nn.Dropout(0.5) for _ in range(9))))
    assert found.where == "0, 1, 2, 3, 4 and 4 more" and found.what.startswith("9 modules")
