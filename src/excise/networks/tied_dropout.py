"""Example-tied dropout: channels that all rows share, and channels of which each row has some of its own.

Trained so, a network keeps what it learns of single rows in those rows' own channels, which can be switched off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from excise import checks, errors, seeds


class ExampleTiedDropout(nn.Module):
    """Keep the first channels for every row, and each of the others for few rows, always the same ones.

    With C channels, the first F = `fixed_fraction` * C, to the nearest, are always on. Each of the rest is on for a row with
    probability p = `tied_fraction`, drawn from a generator seeded by `seed` and the row's id: the same in every epoch,
    whatever the batch and the device. In eval mode the rest are multiplied by p, their expectation over rows.

    In training mode the module must know the rows of the batch: run the network by `tied_forward`. It changes nothing in
    place and leaves the global random numbers alone; the published code seeds torch's generator anew in every call, which
    makes shuffling and augmentation depend on the last id, and shares one table of masks among layers of different widths.
    Two modules of one seed and shape tie the same places to a row; give them seeds of their own.

    `gate`, `[channels]`, multiplies the channels in either mode. It is a parameter so that masks, patches and proofs see
    it, but no gradient reaches it: training leaves it at 1, and to forget is to write 0 into the entries that are tied to
    the forget rows (`localize.TiedChannels` and `methods.SwitchOff`). `DistributedDataParallel` has to be told of a parameter
    without gradient (`find_unused_parameters=True`). Memory: a batch of masks. Time: some microseconds a row, on the CPU.

    References:
        Maini, Mozer, Sedghi, Lipton, Kolter, Zhang, "Can Neural Network Memorization Be Localized?", ICML 2023,
        https://arxiv.org/abs/2307.09542.

    Args:
        num_channels: length of axis 1 of the input.
        fixed_fraction: share of the channels that are always on; at least one is.
        tied_fraction: probability that one of the others is on for a row.
        rescale: once gates are at 0, multiply the channels that remain by (sum of e) / (sum of e * gate), e = 1 for a fixed
            channel and p for a tied one, so that the expected sum over channels of equal mean stays as it was. With all tied
            channels off that is (F + (C - F) p) / F; the published factor, (fixed + tied) / fixed in fractions, takes p
            for a share of all channels, and is larger by p. Off by default: real channels are not of equal mean.
        seed: of the draws.

    Raises:
        errors.BadRequest: a size or fraction out of range, or no channel that is always on.

    >>> dropout = ExampleTiedDropout(10).eval()
    >>> dropout(torch.ones(1, 10))[0].tolist() == torch.tensor([1.0] * 2 + [0.1] * 8).tolist()
    True
    """

    def __init__(
        self,
        num_channels: int,
        *,
        fixed_fraction: float = 0.2,
        tied_fraction: float = 0.1,
        rescale: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_channels = checks.require_positive_int("num_channels", num_channels)
        self.num_fixed = round(checks.require_fraction("fixed_fraction", fixed_fraction) * num_channels)
        if self.num_fixed == 0:
            raise errors.BadRequest(
                f"fixed_fraction: {fixed_fraction:g} of {num_channels} channels leaves none that is always on; raise it"
            )
        self.tied_fraction = checks.require_fraction("tied_fraction", tied_fraction)
        self.rescale = rescale
        self.seed = seed
        self.gate = nn.Parameter(torch.empty(num_channels))
        self.reset_parameters()
        self._ids: Tensor | None = None

    def reset_parameters(self) -> None:
        """Open every gate."""
        nn.init.ones_(self.gate)

    def extra_repr(self) -> str:
        """Give the sizes."""
        return (
            f"{self.num_channels}, num_fixed={self.num_fixed}, tied_fraction={self.tied_fraction:g}, seed={self.seed}"
        )

    def tied(self, ids: Tensor) -> Tensor:
        """Give the channels that are tied to rows, booleans `[rows, channels]`; the fixed ones are tied to none."""
        found = torch.zeros(len(ids), self.num_channels, dtype=torch.bool)
        for place, row in enumerate(ids.tolist()):
            draws = seeds.generator(self.seed, "tied dropout", int(row))
            found[place, self.num_fixed :] = (
                torch.rand(self.num_channels - self.num_fixed, generator=draws) < self.tied_fraction
            )
        return found

    @contextmanager
    def knowing(self, ids: Tensor | None) -> Iterator[None]:
        """Take `ids`, `[batch]`, for those of the rows that come in; what was known before is put back, also on failure."""
        before, self._ids = self._ids, ids
        try:
            yield
        finally:
            self._ids = before

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the input `[batch, channels, ...]` with each channel switched (in training) or scaled (in eval mode).

        Raises:
            errors.BadData: an input of another width; in training mode, rows whose ids are not known.
        """
        if inputs.ndim < 2 or inputs.shape[1] != self.num_channels:
            raise errors.BadData(
                f"ExampleTiedDropout: expected inputs [batch, {self.num_channels}, ...], found {tuple(inputs.shape)}; "
                "build it with the number of channels of the layer before it"
            )
        expected = torch.full((self.num_channels,), self.tied_fraction, dtype=inputs.dtype, device=inputs.device)
        expected[: self.num_fixed] = 1
        gate = self.gate.detach().to(inputs)
        scale = gate * (self._on(len(inputs)).to(inputs) if self.training else expected)
        if self.rescale:
            kept = (expected * gate).sum()
            scale = scale * torch.where(kept > 0, expected.sum() / kept, 1)
        return inputs * scale.reshape(-1, self.num_channels, *(1,) * (inputs.ndim - 2))

    def _on(self, num_rows: int) -> Tensor:
        """Give the channels that are on for the rows of the batch, `[batch, channels]`."""
        if self._ids is None or len(self._ids) != num_rows:
            found = "none" if self._ids is None else f"{len(self._ids)} of them"
            raise errors.BadData(
                f"ExampleTiedDropout: in training mode it needs the ids of the {num_rows} rows of the batch, found {found}; "
                "run the network with forward=excise.networks.tied_forward on excise.data.with_ids(data)"
            )
        on = self.tied(self._ids)
        on[:, : self.num_fixed] = True
        return on


def tied_forward(model: nn.Module, content: Any) -> tuple[Tensor, Tensor]:
    """Give logits and targets of a batch `(inputs, ids, targets)`, the ids known to every `ExampleTiedDropout` inside.

    For `forward=`, on data from `excise.data.with_ids`. A pair `(inputs, targets)` will do in eval mode, where no ids are
    needed: test rows have none. Floating inputs take the network's own precision.

    Raises:
        errors.BadData: examples of another shape.
    """
    if not (isinstance(content, tuple | list) and len(content) in (2, 3)):
        raise errors.BadData(
            f"expected batches (inputs, ids, targets), found {type(content).__name__}; "
            "make the data by excise.data.with_ids(data)"
        )
    inputs, *ids, targets = content
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        inputs = inputs.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), inputs.dtype))
    if isinstance(targets, Tensor) and not targets.is_floating_point():
        targets = targets.long()
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, ExampleTiedDropout):
                stack.enter_context(module.knowing(ids[0] if ids else None))
        return model(inputs), targets
