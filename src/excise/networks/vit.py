"""The vision transformer for small data sets: patches that see their surroundings, tokens that do not see themselves.

Parameters are named, ordered and shaped as in the common public implementation, which the published DEL code uses
(`vit_pytorch/vit_for_small_dataset.py`), so that its checkpoints load. As in `excise.networks.resnet`, every module
draws its own weights in `reset_parameters`.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from excise import errors

# Pixels down and pixels right, in the order in which the copies are stacked.
_SHIFTS = ((0, 1), (0, -1), (1, 0), (-1, 0))


class Patches(nn.Module):
    """Cut images `[batch, channels, side, side]` into `[batch, patches, pixels * channels]`, channels fastest."""

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Give the patches, row by row, each pixel by pixel."""
        batch, channels, side, _ = images.shape
        count, size = side // self.patch_size, self.patch_size
        blocks = images.reshape(batch, channels, count, size, count, size)
        return blocks.permute(0, 2, 4, 3, 5, 1).reshape(batch, count**2, size**2 * channels)


class ShiftedPatchTokens(nn.Module):
    """Map images and their shifted copies, `[batch, channels, side, side]`, to tokens `[batch, patches, width]`."""

    def __init__(self, in_channels: int, patch_size: int, width: int) -> None:
        super().__init__()
        values = (1 + len(_SHIFTS)) * in_channels * patch_size**2
        self.to_patch_tokens = nn.Sequential(Patches(patch_size), nn.LayerNorm(values), nn.Linear(values, width))

    def forward(self, images: Tensor) -> Tensor:
        """Give one token a patch."""
        tokens: Tensor = self.to_patch_tokens(with_shifts(images))
        return tokens


class LocalitySelfAttention(nn.Module):
    """Self-attention with a learned scale in which no token sees itself, on `[batch, tokens, width]`."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = head_width
        # Logarithm of the factor on the dot products: the inverse of a temperature in spite of the (published) name.
        self.temperature = nn.Parameter(torch.empty(()))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.to_qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_width, width), nn.Dropout(dropout))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from the usual factor, 1 / sqrt(head width)."""
        nn.init.constant_(self.temperature, -0.5 * math.log(self.head_width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Give what each token gathers from the others."""
        parts = self.to_qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, self.head_width))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.dropout(locality_weights(query, key, self.temperature.exp()))
        gathered: Tensor = self.to_out((weights @ value).transpose(1, 2).flatten(2))
        return gathered


class Residual(nn.Sequential):
    """Modules in a row, each adding to its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Give x + f(x) for each module in turn."""
        for module in self:
            x = x + module(x)
        return x


class SmallDataViT(nn.Module):
    """The network that `vit_small` builds: tokens, layers of attention and perceptron, a head on the class token."""

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        head_width: int,
        mlp_width: int,
        in_channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.image_shape = (in_channels, image_size, image_size)
        self.pos_embedding = nn.Parameter(torch.empty(1, 1 + (image_size // patch_size) ** 2, width))
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.to_patch_embedding = ShiftedPatchTokens(in_channels, patch_size, width)
        layers = [
            Residual(LocalitySelfAttention(width, heads, head_width, dropout), _perceptron(width, mlp_width, dropout))
            for _ in range(depth)
        ]
        self.transformer = nn.Sequential(OrderedDict(layers=nn.Sequential(*layers)))
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the position embedding and the class token, standard normal."""
        nn.init.normal_(self.pos_embedding)
        nn.init.normal_(self.cls_token)

    def forward(self, images: Tensor) -> Tensor:
        """Give logits `[batch, classes]` of images `[batch, in_channels, image_size, image_size]`."""
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise errors.BadRequest(
                f"images: expected shape [batch, {', '.join(map(str, self.image_shape))}], found {list(images.shape)}; "
                "resize them, or build the network for their size"
            )
        patches = self.to_patch_embedding(images)
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], dim=1) + self.pos_embedding
        logits: Tensor = self.mlp_head(self.transformer(tokens)[:, 0])
        return logits


def vit_small(
    num_classes: int = 10,
    *,
    image_size: int = 32,
    patch_size: int = 8,
    width: int = 512,
    depth: int = 4,
    heads: int = 8,
    head_width: int = 64,
    mlp_width: int = 1536,
    in_channels: int = 3,
    dropout: float = 0.0,
) -> SmallDataViT:
    """Build the vision transformer for small data sets: shifted patch tokens, locality self-attention.

    Tokens: the image and four shifted copies of it, stacked along the channels and cut into patches; each patch is
    layer-normalised and mapped to `width` values. A class token is put before them and a position embedding added. Each
    of `depth` layers adds locality self-attention, then a perceptron (GELU), both on layer-normalised input. The head
    reads the class token. With queries q, keys k and values v of one head, token i gathers

        sum_j a_ij v_j,   a_i. = softmax over j != i of exp(t) <q_i, k_j>,

    where t is learned and starts at log(1 / sqrt(head_width)). The defaults, with 11,013,518 parameters, are what the
    published DEL code trains on SVHN.

    Where the authors' code and the common public implementation (which DEL uses) differ, this is the latter: t is one
    number a layer (authors: one factor a head, not its logarithm); the copies are shifted by one pixel right, left,
    down and up (authors: by half a patch along the four diagonals); linear layers keep torch's initialisation
    (authors: Xavier normal).

    References:
        Lee, Lee, Song, "Vision Transformer for Small-Size Datasets", 2021, https://arxiv.org/abs/2112.13492.
        Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of Memorization", TMLR 2025.

    Args:
        num_classes: length of a row of logits.
        image_size: side of the square images, in pixels.
        patch_size: side of a patch, in pixels; divides `image_size`.
        width: length of a token.
        depth: number of layers.
        heads: attention heads a layer.
        head_width: length of a head's queries, keys and values.
        mlp_width: hidden units of each layer's perceptron.
        in_channels: channels of an image.
        dropout: fraction dropped of attention weights, of what attention gives, and of the perceptron's two outputs.

    Returns:
        A network from images `[batch, in_channels, image_size, image_size]` to logits `[batch, classes]`.

    Raises:
        errors.BadRequest: a size that is not an integer of at least 1, patches that do not tile the image, a dropout
            outside [0, 1); when run, images of another shape.

    >>> import torch
    >>> vit_small(width=16, depth=1, heads=2, head_width=8, mlp_width=32)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    sizes = {
        "num_classes": num_classes,
        "image_size": image_size,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "heads": heads,
        "head_width": head_width,
        "mlp_width": mlp_width,
        "in_channels": in_channels,
    }
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise errors.BadRequest(f"{name}: expected an integer of at least 1, found {size!r}; give a larger one")
    if image_size % patch_size:
        raise errors.BadRequest(
            f"patch_size: expected a divisor of the image size {image_size}, found {patch_size}; "
            "give a patch size that divides it, or resize the images"
        )
    if not (isinstance(dropout, int | float) and 0 <= dropout < 1):
        raise errors.BadRequest(f"dropout: expected a fraction of at least 0 and below 1, found {dropout!r}; 0 is none")
    return SmallDataViT(dropout=dropout, **sizes)


def with_shifts(images: Tensor) -> Tensor:
    """Stack images and their copies moved one pixel right, left, down and up, zeros moving in.

    From `[batch, channels, rows, columns]` to `[batch, 5 * channels, rows, columns]`.
    """
    moved = [F.pad(images, (right, -right, down, -down)) for down, right in _SHIFTS]
    return torch.cat([images, *moved], dim=1)


def locality_weights(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    """Give softmax(scale * query key^T) over the other tokens.

    From `[..., tokens, width]` twice to `[..., tokens, tokens]`; the diagonal is exactly 0. There must be two tokens or
    more: the class token sees to that.
    """
    products = query @ key.mT * scale
    own = torch.eye(products.shape[-1], dtype=torch.bool, device=products.device)
    return products.masked_fill(own, -torch.inf).softmax(-1)


def _perceptron(width: int, hidden: int, dropout: float) -> nn.Sequential:
    net = nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width),
        nn.Dropout(dropout),
    )
    return nn.Sequential(OrderedDict(net=net))
