"""Residual networks: ResNet-18 and ResNet-50 under torchvision's names, and a tiny one for 8 x 8 images.

Every layer draws its weights in its own `reset_parameters`, which its constructor calls: a network built anew and one
whose modules were reset start from the same distribution. Draws come from torch's global generator, whose state is the
caller's affair.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from excise import errors


class Convolution(nn.Conv2d):
    """A convolution without bias that keeps the image size at stride 1, initialised Kaiming-normal by fan out."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights: normal with variance 2 / (out_channels * kernel area)."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


# Activations are not in place, unlike torchvision's: a hook then keeps the output that it was given.
class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, the stride on the first, and a shortcut; the output is `width` channels wide."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Convolution(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Give relu(f(x) + shortcut(x))."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions and a shortcut; the stride is on the 3 x 3, the output 4 times as wide."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Convolution(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = Convolution(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _shortcut(in_channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Give relu(f(x) + shortcut(x))."""
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(x))


class ResNet(nn.Sequential):
    """A residual network: stem, stages `layer1` and on, global average pool, head `fc`, run in that order."""


def resnet18(
    num_classes: int = 10,
    *,
    width: int = 64,
    in_channels: int = 3,
    stem: Literal["small", "imagenet"] = "small",
) -> ResNet:
    """Build ResNet-18: four stages of two basic blocks, `width`, 2, 4 and 8 `width` channels wide.

    A block gives relu(f(x) + shortcut(x)), f two convolutions with batch normalisation. With w = `width`, c =
    `in_channels`, k = `num_classes`, the small stem makes it 2724 w^2 + (150 + 9 c + 8 k) w + k parameters: 11,173,962
    at the defaults. Names and order of parameters are those of torchvision's `resnet18`, so its weights load where
    shapes agree.

    The small stem is the default because this network's images usually have 32 pixels a side, of which the other leaves
    a single one before the pool. The published DEL code chooses the stem by the class count: small for 10, `imagenet`
    otherwise; its checkpoints carry a prefix `resnet18.` on every name. It starts a small stem's `conv1` from torch's
    default initialisation; here all convolutions are Kaiming-normal.

    References:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385.
        Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of Memorization", TMLR 2025.

    Args:
        num_classes: length of a row of logits.
        width: channels of the first stage; scales all stages.
        in_channels: channels of an image.
        stem: `small` is a 3 x 3 convolution at stride 1; `imagenet` is a 7 x 7 at stride 2 and a max-pool, which leaves
            a quarter of the image's side.

    Returns:
        A network from images `[batch, in_channels, rows, columns]` to logits `[batch, classes]`.

    Raises:
        errors.BadRequest: a size that is not an integer of at least 1, an unknown stem.

    >>> import torch
    >>> resnet18(width=8)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return _build(BasicBlock, (2, 2, 2, 2), num_classes=num_classes, width=width, in_channels=in_channels, stem=stem)


def resnet50(
    num_classes: int = 10,
    *,
    width: int = 64,
    in_channels: int = 3,
    stem: Literal["small", "imagenet"] = "imagenet",
) -> ResNet:
    """Build ResNet-50: four stages of 3, 4, 6 and 3 bottlenecks, 4, 8, 16 and 32 `width` channels wide at their ends.

    As `resnet18`, with bottlenecks. With w = `width`, c = `in_channels`, k = `num_classes`, s = 3 (small stem) or 7, it
    has 5724 w^2 + (830 + s^2 c + 32 k) w + k parameters: for 10 classes 23,520,842 with the small stem and 23,528,522
    with the other. Parameters are named and ordered as torchvision's `resnet50`, so its weights load where shapes
    agree; as there, and unlike the paper, a stage's stride is on the 3 x 3 convolution.

    The `imagenet` stem is the default because that is what the published DEL code runs on ImageNet-100 at 128 pixels:
    there the small stem is for 200 classes only, and every feature map has 16 times as many pixels with it. Its
    checkpoints carry a prefix `resnet50.` on every name. For images of 32 pixels, ask for `stem="small"`.

    References:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385.
        Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of Memorization", TMLR 2025.

    Args:
        num_classes: length of a row of logits.
        width: channels inside the first stage's bottlenecks; scales all stages.
        in_channels: channels of an image.
        stem: as for `resnet18`.

    Returns:
        A network from images `[batch, in_channels, rows, columns]` to logits `[batch, classes]`.

    Raises:
        errors.BadRequest: a size that is not an integer of at least 1, an unknown stem.

    >>> import torch
    >>> resnet50(100, width=4)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 100])
    """
    return _build(Bottleneck, (3, 4, 6, 3), num_classes=num_classes, width=width, in_channels=in_channels, stem=stem)


def tiny_resnet(num_classes: int = 10, *, width: int = 8, in_channels: int = 1) -> ResNet:
    """Build a residual network for 8 x 8 images: stages of one basic block, `width`, 2 and 4 `width` channels wide.

    For scikit-learn's digits: an epoch of 1,300 rows takes about a tenth of a second on one thread. With w = `width`,
    c = `in_channels`, k = `num_classes`, it has 298 w^2 + (42 + 9 c + 4 k) w + k parameters: 19,810 at the defaults.

    References:
        The blocks and the stem are `resnet18`'s: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition",
        CVPR 2016, https://arxiv.org/abs/1512.03385.

    Args:
        num_classes: length of a row of logits.
        width: channels of the first stage; scales all stages.
        in_channels: channels of an image.

    Returns:
        A network from images `[batch, in_channels, rows, columns]` to logits `[batch, classes]`.

    Raises:
        errors.BadRequest: a size that is not an integer of at least 1.

    >>> import torch
    >>> tiny_resnet()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    return _build(BasicBlock, (1, 1, 1), num_classes=num_classes, width=width, in_channels=in_channels, stem="small")


def _small_stem(in_channels: int, width: int) -> dict[str, nn.Module]:
    return {"conv1": Convolution(in_channels, width, 3), "bn1": nn.BatchNorm2d(width), "relu": nn.ReLU()}


def _imagenet_stem(in_channels: int, width: int) -> dict[str, nn.Module]:
    return {
        "conv1": Convolution(in_channels, width, 7, stride=2),
        "bn1": nn.BatchNorm2d(width),
        "relu": nn.ReLU(),
        "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
    }


_STEMS: dict[str, Callable[[int, int], dict[str, nn.Module]]] = {"small": _small_stem, "imagenet": _imagenet_stem}


def _build(
    block: type[BasicBlock] | type[Bottleneck],
    depths: Sequence[int],
    *,
    num_classes: int,
    width: int,
    in_channels: int,
    stem: str,
) -> ResNet:
    """Put stem, stages and head together; each stage after the first halves the image and doubles the width."""
    for name, size in {"num_classes": num_classes, "width": width, "in_channels": in_channels}.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise errors.BadRequest(f"{name}: expected an integer of at least 1, found {size!r}; give a larger one")
    if stem not in _STEMS:
        raise errors.BadRequest(f"stem: expected one of {', '.join(_STEMS)}, found {stem!r}; give one of these")
    modules = OrderedDict(_STEMS[stem](in_channels, width))
    channels = width
    for stage, depth in enumerate(depths):
        blocks = []
        for index in range(depth):
            blocks.append(block(channels, width * 2**stage, stride=2 if stage > 0 and index == 0 else 1))
            channels = width * 2**stage * block.expansion
        modules[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    modules.update(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(channels, num_classes))
    return ResNet(modules)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(Convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
