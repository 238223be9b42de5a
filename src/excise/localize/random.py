"""Random: scores and masks that know nothing, the controls of every comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import errors, seeds
from excise.curvature import trainable
from excise.data.split import Split
from excise.localize.base import Localizer, Region
from excise.localize.scores import GRANULARITIES, Granularity, Scores
from excise.masks import Mask
from excise.train.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Random(Localizer):
    """Score weights by chance: uniform in [0, 1), from the seed and the parameter's name alone.

    The same seed gives the same scores, whatever the rows and whatever the values of the weights. Reads no rows, costs no
    pass, changes nothing. Memory: one number a unit that is drawn.

    All weights of a unit share one draw, so that whatever reduction a cut takes, units of any size have the same chance.
    (Were every weight drawn by itself, the highest tenth of a long row would be close to 0.95 each time, and rows would be
    chosen by their length.) The unit must therefore be the granularity of the cut: `Cut` refuses another.

    Args:
        unit: what is drawn: a `channel` (see `excise.localize.granularity`), a `weight`, or a `module`.
    """

    unit: Granularity = "channel"

    def __post_init__(self) -> None:
        """Check the unit."""
        if self.unit not in GRANULARITIES:
            raise errors.BadRequest(f"unit: expected {' or '.join(GRANULARITIES)}, found {self.unit!r}")

    @property
    def reads_forget(self) -> bool:
        """No."""
        return False

    def score(self, model: nn.Module, split: Split, engine: Engine) -> Scores:
        """Give the draws."""
        return Scores.of(
            model, {name: self._draw(name, value, engine.seed) for name, value in trainable(model).items()}
        )

    def _draw(self, name: str, value: Tensor, seed: int) -> Tensor:
        purpose, shape = name, tuple(value.shape)
        if self.unit == "module":
            purpose, shape = name.rpartition(".")[0] or name, (1,) * value.ndim
        elif self.unit == "channel":
            shape = (*shape[:1], *(1,) * (value.ndim - 1))
        drawn = torch.rand(shape, generator=seeds.generator(seed, "random", self.unit, purpose), dtype=torch.float32)
        return drawn.to(value.device).expand(value.shape)


def require_same_unit(localizer: Localizer, granularity: Granularity) -> None:
    """Refuse to cut random draws by another granularity than they were drawn by; other localizers have none."""
    if isinstance(localizer, Random) and localizer.unit != granularity:
        raise errors.BadRequest(
            f"granularity: expected {localizer.unit}, the unit that Random draws, found {granularity}; "
            f"give Random(unit={granularity!r})"
        )


@dataclass(frozen=True)
class RandomLike(Region):
    """As many weights of every parameter as another mask has, at random: the control that keeps the layers' shares.

    Where the other mask takes whole rows (channels) of a parameter, as many of its rows are drawn; if one more row is
    taken in part, as `Cut(partial=True)` leaves it, another row is drawn in part. Elsewhere weights are drawn, each by
    itself. Counts are equal, exactly, parameter by parameter. Of what the other mask holds wholly nothing can be drawn
    otherwise: matched to whole layers, this is the same mask.

    A frozen parameter has as much drawn as the other mask holds of it, which training takes out again.

    Drawn from the seed and the parameter's name alone. Reads and costs what the region does; a mask that is given reads
    nothing. Changes nothing.

    References:
        Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of Memorization", TMLR 2025, Table 3.

    Args:
        like: the region that is matched, or a mask of the network.
    """

    like: Region | Mask

    def __post_init__(self) -> None:
        """Check what is to be matched."""
        if not isinstance(self.like, Region | Mask):
            raise errors.BadRequest(f"like: expected a region or a mask, found {type(self.like).__name__}")

    def __str__(self) -> str:
        what = f"a mask of {self.like.fraction:.1%}" if isinstance(self.like, Mask) else str(self.like)
        return f"at random, as much of each parameter as {what}"

    @property
    def reads_forget(self) -> bool:
        """As the region; a mask reads nothing."""
        return isinstance(self.like, Region) and self.like.reads_forget

    @property
    def reads_retain(self) -> bool:
        """As the region; a mask reads nothing."""
        return isinstance(self.like, Region) and self.like.reads_retain

    def locate(self, model: nn.Module, split: Split, engine: Engine) -> Mask:
        """Give the mask.

        Raises:
            errors.MaskMismatch: a mask that was given is of another network.
        """
        other = self.like if isinstance(self.like, Mask) else self.like.locate(model, split, engine)
        other.require_fit(model)
        entries = {}
        for name in other.names:
            draws = seeds.generator(engine.seed, "random", "like", name)
            entries[name] = _shuffled(other.entry(name), draws)
        return Mask(entries, other.shapes)


def _shuffled(entry: Tensor, draws: torch.Generator) -> Tensor:
    """Give an entry with its rows in another order, or its weights where they are chosen one by one."""
    if entry.numel() == 1:
        return entry
    rows = entry.reshape(entry.shape[0], -1)
    num_whole, num_cut = int(rows.all(1).sum()), int((rows.any(1) & ~rows.all(1)).sum())
    if num_cut == 0 or (num_cut == 1 and num_whole > 0):
        rows = rows[torch.randperm(rows.shape[0], generator=draws)]
        return rows[:, torch.randperm(rows.shape[1], generator=draws)].reshape(entry.shape)
    flat = torch.zeros(entry.numel(), dtype=torch.bool)
    flat[torch.randperm(entry.numel(), generator=draws)[: int(entry.sum())]] = True
    return flat.reshape(entry.shape)
