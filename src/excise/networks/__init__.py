"""The networks on which published numbers were measured, and a tiny one: from sizes to an untrained network."""

from collections.abc import Callable

from torch import nn

from excise.networks.resnet import resnet18, resnet50, tiny_resnet
from excise.networks.tied_dropout import ExampleTiedDropout, tied_forward
from excise.networks.vit import vit_small

__all__ = ["NETWORKS", "ExampleTiedDropout", "resnet18", "resnet50", "tied_forward", "tiny_resnet", "vit_small"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "tiny-resnet": tiny_resnet,
    "vit-small": vit_small,
}
