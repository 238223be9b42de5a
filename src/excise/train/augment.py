"""Images moved and mirrored at random while a network trains: a whole batch at once, where it lies.

What is drawn is a pure function of seed, stream, epoch and step, from a generator on the CPU: every device, a run that goes
on from a checkpoint, and networks trained together see the same images. Nothing is augmented where a network is only looked
at: scores, statistics recomputed at the end, observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from excise import errors, seeds
from excise.data.moving import moved


class Augment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Random horizontal flips and random crops of padded images.

    Attributes:
        flip: mirror each image left to right with probability one half.
        pad: rows and columns of zeros put around each image, of which a window of the image's own size is then cut out at
            random; 0 for none. For CIFAR 4 is usual.

    Raises:
        errors.BadRequest: a value out of range, by name; or nothing to do.

    References:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
    """

    flip: bool = True
    pad: int = 4

    def __post_init__(self) -> None:
        """Check every field."""
        if type(self.flip) is not bool:
            raise errors.BadRequest(f"augment: expected flip to be true or false, found {self.flip!r}")
        if type(self.pad) is not int or self.pad < 0:
            raise errors.BadRequest(f"augment: expected pad to be a whole number from 0 on, found {self.pad!r}")
        if not self.flip and not self.pad:
            raise errors.BadRequest("augment: expected flip, or pad above 0; leave augment out for neither")


class Drawn(NamedTuple):
    """What was drawn for a batch.

    Attributes:
        flipped: bool `[batch]`.
        corners: int64 `[batch, 2]`, row and column of the padded image at which the window begins.
    """

    flipped: Tensor
    corners: Tensor


def draw(augment: Augment, num_images: int, seed: int, stream: str, epoch: int, step: int) -> Drawn:
    """Draw for the batch of one step."""
    generator = seeds.generator(seed, stream, "augment", epoch, step)
    flipped = torch.randint(0, 2, (num_images,), generator=generator) == 1
    corners = torch.randint(0, 2 * augment.pad + 1, (num_images, 2), generator=generator)
    return Drawn(flipped & augment.flip, corners)


def joined(drawn: Sequence[Drawn]) -> Drawn:
    """Give what was drawn for several batches as that of one, in their order."""
    return Drawn(torch.cat([one.flipped for one in drawn]), torch.cat([one.corners for one in drawn]))


def augmented(content: Any, augment: Augment, drawn: Drawn) -> Any:
    """Give a batch with its images augmented; targets and whatever else stay.

    Args:
        content: `(images, ...)`, the images `[batch, channels, rows, columns]`.
        augment: as it was drawn for.
        drawn: of as many images.

    Raises:
        errors.BadData: a batch that does not begin with images.
    """
    images = content[0] if isinstance(content, tuple) and content else content
    if not isinstance(images, Tensor) or images.ndim != 4:
        found = f"a tensor of shape {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise errors.BadData(
            "augment: expected batches that begin with images [batch, channels, rows, columns], found "
            f"{found}; leave augment out of the plan, or have the data set transform its examples itself"
        )
    whole = _windows(images, augment.pad, drawn)
    return (whole, *content[1:]) if isinstance(content, tuple) else whole


def _windows(images: Tensor, pad: int, drawn: Drawn) -> Tensor:
    """Cut all windows out with one gather."""
    num_images, _, height, width = images.shape
    rows = drawn.corners[:, :1] + torch.arange(height)
    columns = torch.arange(width).expand(num_images, -1)
    columns = drawn.corners[:, 1:] + torch.where(drawn.flipped[:, None], columns.flip(1), columns)
    rows, columns = (moved(places, images.device) for places in (rows, columns))
    padded = functional.pad(images, (pad, pad, pad, pad)) if pad else images
    each = torch.arange(num_images, device=images.device)
    cut = padded.permute(0, 2, 3, 1)[each[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).contiguous()
