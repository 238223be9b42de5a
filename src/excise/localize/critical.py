"""Critical channels: those without which the network no longer predicts a forget row's label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import checks, errors, params, seeds
from excise.curvature.gradient import resting, trainable
from excise.data.batches import Batch, batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.localize.base import Region
from excise.localize.select import budget_in_weights
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.task import device_of, require_class_targets

Channel = tuple[str, int]
"""A parameter's name and an index along its first axis."""


@dataclass(frozen=True)
class CriticalRow:
    """What the search found for one forget row.

    Attributes:
        id: of the row.
        channels: those put at zero, in order; none if the label was not predicted to begin with.
        flipped: whether the row's label is no longer predicted with them at zero.
    """

    id: int
    channels: tuple[Channel, ...]
    flipped: bool


@dataclass(frozen=True, kw_only=True)
class CriticalChannels(Region):
    """The channels that, one after the other, were put at zero until each forget row's label was no longer predicted.

    For each forget row x*, from the network as it was: find the most critical channel, put it at zero, and again, until the
    predicted label of x* is not its own. The mask is the union over rows. A row that is misclassified already adds nothing.

    Criticality. L = (mean loss of other rows) - (loss of x*). To put channel c at zero changes L to first order by
    -(w . g), summed over c, with g the gradient of L. The loss of x* rises most against the others' where L falls most: the
    most critical channel is the one with the largest *signed* w . g. g is averaged over `num_draws` draws of noise on the
    inputs. The others are retain rows drawn from the seed, once a forget row; never other forget rows, which L would protect.
    All in eval mode.

    A channel is a row of a parameter with two axes or more, and a single weight of any other, as everywhere here; what the
    user froze is none. The search gives up on a row with every channel at zero, or `max_channels`, and ends where the budget
    does; it says how many rows keep their label, and why (`Hooks.on_note`). `search` tells more.

    Reads forget and retain. Cost, for each forget row: channels put at zero times `num_draws` passes forward and backward over
    `batch_size` rows, and as many forward passes of x* alone, and one. Memory: a copy of the network, and a gradient.

    Departs from the published code, which divides the others' losses by the batch and not by their number, and takes every
    weight of a parameter without four axes for a channel of its own. The DEL paper, which compares with this as CritMem,
    reinitialises a channel where the original puts it at zero, as is done here; it gives no code.

    References:
        Maini, Mozer, Sedghi, Lipton, Kolter, Zhang, "Can Neural Network Memorization Be Localized?", ICML 2023,
        https://arxiv.org/abs/2307.09542.
        Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of Memorization", TMLR 2025.

    Args:
        budget_fraction: share of the weights that the mask may hold, in [0, 1]; the first channel that it does not pay for
            ends the search, and rows that come later have no say.
        max_channels: at most so many a row; None for all.
        batch_size: rows in L, x* among them; at least 2, and no more than there are retain rows and one.
        num_draws: of noise.
        noise: norm of a row's noise as a share of the row's own; 0 for one pass without noise.

    Raises:
        errors.BadRequest: an option out of range; (when called) inputs that noise cannot be added to, a budget that does not
            pay for the first channel.
        errors.BadData: (when called) targets that are no integer classes of the network.
        errors.Diverged: (when called) a loss or a gradient that is not finite.
    """

    budget_fraction: float = 1.0
    max_channels: int | None = None
    batch_size: int = 512
    num_draws: int = 5
    noise: float = 0.01

    def __post_init__(self) -> None:
        """Check the options."""
        checks.require_fraction("budget_fraction", self.budget_fraction)
        if self.max_channels is not None:
            checks.require_positive_int("max_channels", self.max_channels)
        checks.require_positive_int("num_draws", self.num_draws)
        checks.require_finite("noise", self.noise)
        if checks.require_positive_int("batch_size", self.batch_size) < 2:
            raise errors.BadRequest("batch_size: expected at least 2, a row and another to compare it with, found 1")

    def __str__(self) -> str:
        least = f", at most {self.budget_fraction:.0%}" if self.budget_fraction < 1 else ""
        return f"the critical channels{least}"

    @property
    def reads_retain(self) -> bool:
        """Yes, to compare with."""
        return True

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the union of the channels found."""
        chosen = {channel for row in self.search(model, split, engine) for channel in row.channels}
        own = params.named_parameters(model)
        entries = {}
        for name, value in own.items():
            rows = torch.tensor([(name, row) in chosen for row in range(_num_channels(value))], dtype=torch.bool)
            entries[name] = rows.reshape(value.shape if value.ndim < 2 else (-1, *(1,) * (value.ndim - 1)))
        return Mask(entries, {name: tuple(value.shape) for name, value in own.items()})

    def search(self, model: nn.Module, split: Split, engine: Engine) -> tuple[CriticalRow, ...]:
        """Give what was found for each forget row, in order of id, as far as the budget went; `model` is left as it was."""
        work = _Work(model)
        purse = _Purse(work, budget_in_weights(self.budget_fraction, work.num_weights))
        found: list[CriticalRow] = []
        engine.hooks.on_stage("localize", len(split.forget))
        with resting(work.model):
            for row in split.forget.ids.tolist():
                found.append(self._search_row(row, work, purse, split, engine))
                engine.hooks.on_step()
                if purse.empty:
                    break
        if purse.empty and self.budget_fraction > 0 and not purse.bought:
            raise errors.BadRequest(
                f"a budget of {self.budget_fraction:g} of the weights does not pay for the first critical channel; raise it"
            )
        self._tell_kept(found, len(split.forget), len(work.channels), engine)
        engine.hooks.on_stage_end("localize")
        return tuple(found)

    def _tell_kept(self, found: Sequence[CriticalRow], num_rows: int, num_channels: int, engine: Engine) -> None:
        """Say how many rows keep their label, and why."""
        given_up = [len(row.channels) for row in found if not row.flipped]
        off = sum(count == num_channels for count in given_up)
        held = sum(count == self.max_channels != num_channels for count in given_up)
        kept = len(given_up) + num_rows - len(found)
        reasons = {
            "with all channels at zero": off,
            "at max_channels": held,
            "not reached within the budget": kept - off - held,
        }
        if kept:
            told = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
            engine.hooks.on_note(f"{kept} of {num_rows} forget rows keep their label: {told}")

    def _search_row(self, row: int, work: _Work, purse: _Purse, split: Split, engine: Engine) -> CriticalRow:
        compared = _compared(row, split, self.batch_size, engine)
        device = device_of(work.model)
        (target,) = batches(Rows(split.train.source, torch.tensor([row])), 1, device)
        (batch,) = batches(compared, len(compared), device)
        limit = min(self.max_channels or len(work.channels), len(work.channels))
        zeroed: list[int] = []
        flipped = not _predicted(work.model, target, engine)
        while not flipped and len(zeroed) < limit:
            draws = seeds.generator(engine.seed, "critical noise", row, len(zeroed))
            scores = self._scores(work, batch, row, draws, engine)
            scores[zeroed] = -torch.inf
            channel = int(scores.argmax())
            if not purse.pays(channel):
                break
            work.zero_(channel)
            zeroed.append(channel)
            flipped = not _predicted(work.model, target, engine)
        for channel in zeroed:
            work.put_back_(channel)
        return CriticalRow(row, tuple(work.channels[channel] for channel in zeroed), flipped)

    def _scores(self, work: _Work, batch: Batch, row: int, draws: torch.Generator, engine: Engine) -> Tensor:
        """Give w . g of every channel, float64 `[channels]`, on the CPU."""
        shares = torch.full((len(batch),), 1 / (len(batch) - 1), dtype=torch.float64)
        shares[batch.ids == row] = -1
        passes = self.num_draws if self.noise else 1
        total = torch.zeros(len(work.channels), dtype=torch.float64)
        for _ in range(passes):
            noisy = Batch(batch.ids, _noisy(batch.content, self.noise, draws)) if self.noise else batch
            losses = engine.task.losses(work.model, noisy)
            gradient = torch.autograd.grad(
                losses @ shares.to(losses), list(work.own.values()), allow_unused=True, materialize_grads=True
            )
            engine.cost.count(trained=len(batch))
            total += work.products(gradient) / passes
        if not bool(total.isfinite().all()):
            raise errors.Diverged("localize: a gradient of these rows is not finite; nothing was changed")
        return total


class _Work:
    """A copy of a network whose channels can be put at zero and back."""

    def __init__(self, model: nn.Module) -> None:
        self.model = params.clone_model(model)
        self.own = trainable(self.model)
        self.channels: list[Channel] = [(name, row) for name, v in self.own.items() for row in range(_num_channels(v))]
        self.num_weights = sum(value.numel() for value in self.own.values())
        self._original = params.named_parameters(model)

    def size(self, channel: int) -> int:
        """Count a channel's weights."""
        name, row = self.channels[channel]
        return _row(self.own[name], row).numel()

    @torch.no_grad()
    def zero_(self, channel: int) -> None:
        """Put a channel at zero."""
        name, row = self.channels[channel]
        _row(self.own[name], row).zero_()

    @torch.no_grad()
    def put_back_(self, channel: int) -> None:
        """Give a channel its original values."""
        name, row = self.channels[channel]
        _row(self.own[name], row).copy_(_row(self._original[name], row))

    @torch.no_grad()
    def products(self, gradient: Sequence[Tensor]) -> Tensor:
        """Give the sum over each channel of weight times gradient, float64 `[channels]`, on the CPU."""
        parts = []
        for value, slope in zip(self.own.values(), gradient, strict=True):
            product = value * slope.to_dense()
            each = product.reshape(-1) if value.ndim < 2 else product.flatten(1).sum(1)
            parts.append(each.cpu().double())
        return torch.cat(parts)


class _Purse:
    """What is left of the budget; a channel is paid for once, however many rows take it."""

    def __init__(self, work: _Work, weights: int) -> None:
        self._work, self._left = work, weights
        self.bought: set[int] = set()
        self.empty = False

    def pays(self, channel: int) -> bool:
        """Pay for a channel, or be empty from now on."""
        if channel in self.bought:
            return True
        if self._work.size(channel) > self._left:
            self.empty = True
            return False
        self._left -= self._work.size(channel)
        self.bought.add(channel)
        return True


def _num_channels(value: Tensor) -> int:
    return len(value) if value.ndim else 1


def _row(value: Tensor, row: int) -> Tensor:
    return value[row] if value.ndim else value


def _compared(row: int, split: Split, batch_size: int, engine: Engine) -> Rows:
    """Give the row and retain rows drawn from the seed, in order of id."""
    draws = seeds.generator(engine.seed, "critical", row)
    others = split.retain.ids[torch.randperm(len(split.retain), generator=draws)[: batch_size - 1]]
    return Rows(split.train.source, torch.cat([torch.tensor([row]), others]).sort().values)


@torch.no_grad()
def _predicted(model: nn.Module, target: Batch, engine: Engine) -> bool:
    """Say whether the network predicts a row's label."""
    logits, labels = engine.task.forward(model, target.content)
    engine.cost.count(forward=1)
    require_class_targets(
        labels, logits, "CriticalChannels", remedy="use a localizer that needs no prediction, such as WeightGradient"
    )
    return bool((logits.argmax(1) == labels).all())


def _noisy(content: object, noise: float, draws: torch.Generator) -> tuple[object, ...]:
    """Add to each row of the inputs normal noise of `noise` times the row's norm."""
    inputs = content[0] if isinstance(content, tuple) and content else None
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        found = type(content).__name__ if inputs is None else getattr(inputs, "dtype", type(inputs).__name__)
        raise errors.BadRequest(
            f"noise: expected batches that begin with inputs of floating point to add it to, found {found}; give noise=0"
        )
    drawn = torch.randn(inputs.shape, generator=draws, dtype=inputs.dtype).to(inputs.device)
    norms = [values.reshape(len(values), -1).norm(dim=1) for values in (inputs, drawn)]
    scale = (noise * norms[0] / norms[1]).reshape(-1, *(1,) * (inputs.ndim - 1))
    return (inputs + scale * drawn, *content[1:])  # type: ignore[index]
