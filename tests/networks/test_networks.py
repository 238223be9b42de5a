import inspect

import pytest
import torch
from torch import nn

from excise import networks
from excise.networks import NETWORKS, resnet, vit

each_network = pytest.mark.parametrize("name", NETWORKS)


def test_the_table_and_the_public_names_hold_every_builder_of_the_files():
    builders = {
        name
        for module in (resnet, vit)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and "num_classes" in inspect.signature(value).parameters and name[0] != "_"
    }
    assert {function.__name__ for function in NETWORKS.values()} == builders
    assert {name.replace("-", "_") for name in NETWORKS} == builders
    assert sorted(networks.__all__) == sorted({"NETWORKS", "ExampleTiedDropout", "tied_forward", *builders})


@each_network
def test_a_network_of_the_table_gives_ten_logits_by_default(name):
    shape = (2, 1, 8, 8) if name == "tiny-resnet" else (2, 3, 32, 32)
    model = NETWORKS[name]().eval()
    with torch.no_grad():
        assert model(torch.zeros(shape)).shape == (2, 10)


@each_network
def test_resetting_every_module_leaves_no_parameter_as_it_was(name):
    model = NETWORKS[name]()
    for parameter in model.parameters():
        nn.init.constant_(parameter, torch.nan)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()] == []
