"""`Scores`: how much each weight matters to some rows, and the cut from them to a mask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from excise import checks, errors, params
from excise.localize.granularity import Reduction, Top, channel_scores
from excise.localize.select import (
    Ranked,
    Remainder,
    budget_in_weights,
    rank_channels,
    select_channels,
    select_weights,
)
from excise.masks import Mask

Granularity = Literal["weight", "channel", "module"]
Count = Literal["weights", "channels"]
Scope = Literal["network", "layer"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
COUNTS: tuple[Count, ...] = get_args(Count)
SCOPES: tuple[Scope, ...] = get_args(Scope)


class Scores:
    """Nonnegative scores, one a weight, larger where the weight matters more. Immutable.

    Args:
        values: scores by parameter name, each of its parameter's shape; only weights that may be chosen have one.
        shapes: shapes of all the network's parameters, chosen from or not.

    Raises:
        errors.BadRequest: scores that are negative or not finite, by parameter.
    """

    __slots__ = ("_held", "_ranking", "_shapes")

    def __init__(self, values: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, value in values.items():
            if not are_scores(value):
                raise errors.BadRequest(
                    f"scores of {name!r} are negative or not finite; "
                    "check that the network's weights and its loss on these rows are finite"
                )
        self._held = dict(values)
        self._shapes = dict(shapes)
        self._ranking: tuple[Reduction, bool, Ranked] | None = None

    @classmethod
    def of(cls, model: nn.Module, values: Mapping[str, Tensor]) -> Self:
        """Give the scores of a network's weights; parameters without a value cannot be chosen."""
        return cls(values, {name: tuple(value.shape) for name, value in params.named_parameters(model).items()})

    def __repr__(self) -> str:
        return f"Scores({self.num_weights:,} weights in {len(self._values)} parameters)"

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    @property
    def _values(self) -> Mapping[str, Tensor]:
        """Whole scores, by parameter."""
        return self._held

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that have scores, in the network's order."""
        return tuple(self._held)

    @property
    def num_weights(self) -> int:
        """Weights that can be chosen; budgets are fractions of this."""
        return sum(self._num_weights_of(name) for name in self._held)

    def _num_weights_of(self, name: str) -> int:
        return math.prod(self._shapes[name])

    def among(self, mask: Mask) -> Scores:
        """Give the scores of the parameters in a mask alone; the others can no longer be chosen.

        Raises:
            errors.MaskMismatch: the mask is of another network, or holds a part of a parameter.
        """
        if mask.shapes != self._shapes:
            raise errors.MaskMismatch("the mask is of another network than the scores; cut both from the same one")
        for name in self._held:
            if 0 < mask.count(name) < self._num_weights_of(name):
                raise errors.MaskMismatch(
                    f"expected whole parameters to choose among, found {mask.count(name)} of the "
                    f"{self._num_weights_of(name)} weights of {name!r}; cut the mask of the result with & instead"
                )
        return self._only([name for name in self._held if mask.count(name)])

    def _only(self, names: Sequence[str]) -> Scores:
        return Scores({name: self._held[name] for name in names}, self._shapes)

    def above(self, threshold: float) -> Mask:
        """Give the mask of the weights whose score is higher than a threshold, however many they are."""
        return self._mask({name: value > threshold for name, value in self._values.items()})

    def select(
        self,
        *,
        budget_fraction: float,
        granularity: Granularity = "channel",
        count: Count = "weights",
        scope: Scope = "network",
        lowest: bool = False,
        reduction: Reduction | None = None,
        partial: bool = False,
    ) -> Mask:
        """Give the mask of the highest scores that a budget pays for. One pass of scoring serves any number of budgets.

        Args:
            budget_fraction: share of the weights (or channels) that may be chosen, in [0, 1]; floor(share * number) is the
                budget.
            granularity: `channel` chooses whole rows (and single weights of one-axis parameters); `weight` chooses single
                weights and meets the budget exactly; `module` chooses all of a module's own parameters, by their mean score.
            count: what the budget is a share of: `weights`, or `channels` whatever their size (for channels only).
            scope: `network` lets all layers compete for one budget; `layer` gives each parameter the same share of its own
                weights or channels, rounded to the nearest.
            lowest: choose the lowest scores instead of the highest.
            reduction: how a row's scores become one, `Top(0.1)` if None.
            partial: with channels or modules, let the last one be cut so that the budget is met exactly, as in the
                published DEL code; not with a share of each layer.

        Returns:
            A mask of at most the budget; for channels and modules short of it by less than the next one's size.

        Raises:
            errors.BadRequest: a fraction outside [0, 1], unknown or contradicting words, or a budget that does not pay for
                the first channel or module.
        """
        checks.require_fraction("budget_fraction", budget_fraction)
        require_cut(granularity, count, scope, partial=partial)
        if scope == "layer":
            chosen = {
                name: picked
                for name, value in self._values.items()
                for picked in self._of_layer(name, value, budget_fraction, granularity, reduction, lowest=lowest)
            }
            if budget_fraction > 0 and not any(bool(entry.any()) for entry in chosen.values()):
                raise errors.BadRequest(
                    f"a share of {budget_fraction:g} of each parameter is less than half a {granularity} everywhere; raise it"
                )
            return self._mask(chosen)
        if granularity == "weight":
            return self._mask(
                select_weights(self._values, budget_in_weights(budget_fraction, self.num_weights), lowest=lowest)
            )
        if granularity == "module":
            return self._modules(budget_fraction, partial=partial, lowest=lowest)
        return self._channels(budget_fraction, reduction or Top(), count, partial=partial, lowest=lowest)

    def _of_layer(
        self,
        name: str,
        value: Tensor,
        budget_fraction: float,
        granularity: Granularity,
        reduction: Reduction | None,
        *,
        lowest: bool,
    ) -> list[Tensor]:
        if granularity == "weight":
            return [select_weights({name: value}, round(budget_fraction * value.numel()), lowest=lowest)[name]]
        channels = {name: channel_scores(value, reduction or Top()).cpu()}
        budget = round(budget_fraction * len(channels[name]))
        rows, _ = select_channels(rank_channels(channels, lowest=lowest), {name: 1}, budget)
        return [_spread(rows[name], value.ndim)]

    def _channels(
        self, budget_fraction: float, reduction: Reduction, count: Count, *, partial: bool, lowest: bool
    ) -> Mask:
        ranked = self._ranked(reduction, lowest=lowest)
        sizes = {name: self._num_weights_of(name) // max(ranked.counts[name], 1) for name in self._held}
        costs = sizes if count == "weights" else dict.fromkeys(sizes, 1)
        budget = budget_in_weights(budget_fraction, sum(costs[name] * ranked.counts[name] for name in costs))
        if budget == 0:
            return self._mask({})
        picked, cut = select_channels(ranked, costs, budget)
        if cut and not partial:
            _require_some(picked, cut, budget, sizes, "channel")
        entries = {name: _spread(rows, len(self._shapes[name])) for name, rows in picked.items()}
        if cut and partial and count == "weights":
            full = entries[cut.name].expand(self._shapes[cut.name]).clone()
            full[cut.row].view(-1)[: cut.num_weights] = True
            entries[cut.name] = full
        return self._mask(entries)

    def _ranked(self, reduction: Reduction, *, lowest: bool) -> Ranked:
        """Rank the channels. The last ranking is kept: a second budget costs no further look at the weights' scores."""
        if self._ranking is None or self._ranking[:2] != (reduction, lowest):
            self._ranking = reduction, lowest, rank_channels(self._by_channel(reduction), lowest=lowest)
        return self._ranking[2]

    def _by_channel(self, reduction: Reduction) -> dict[str, Tensor]:
        """Give one score a channel of each parameter, on the CPU."""
        return {name: channel_scores(value, reduction).cpu() for name, value in self._values.items()}

    def _modules(self, budget_fraction: float, *, partial: bool, lowest: bool) -> Mask:
        inside: dict[str, list[str]] = {}
        for name in self._values:
            inside.setdefault(name.rpartition(".")[0] or name, []).append(name)
        sizes = {module: sum(self._values[name].numel() for name in names) for module, names in inside.items()}
        means = {
            module: (sum(self._values[name].sum(dtype=torch.float64) for name in names) / max(sizes[module], 1))
            for module, names in inside.items()
        }
        budget = budget_in_weights(budget_fraction, self.num_weights)
        if budget == 0:
            return self._mask({})
        units = {module: torch.as_tensor(mean).reshape(1).cpu() for module, mean in means.items()}
        picked, cut = select_channels(rank_channels(units, lowest=lowest), sizes, budget)
        if cut and not partial:
            _require_some(picked, cut, budget, sizes, "module")
        whole = {name for module, row in picked.items() if bool(row.any()) for name in inside[module]}
        entries = {
            name: torch.ones((1,) * value.ndim, dtype=torch.bool)
            for name, value in self._values.items()
            if name in whole
        }
        left = cut.num_weights if cut and partial else 0
        for name in inside[cut.name] if cut and partial else ():
            flat = torch.arange(self._values[name].numel()) < left
            entries[name] = flat.reshape(self._values[name].shape)
            left = max(left - self._values[name].numel(), 0)
        return self._mask(entries)

    def _mask(self, chosen: Mapping[str, Tensor]) -> Mask:
        entries = {
            name: chosen[name] if name in chosen else torch.zeros((1,) * len(shape), dtype=torch.bool)
            for name, shape in self._shapes.items()
        }
        return Mask(entries, self._shapes)


def are_scores(value: Tensor) -> bool:
    """Say whether all are nonnegative and finite, by the extremes of one pass; both are nan where any is."""
    if not value.numel():
        return True
    lowest, highest = torch.aminmax(value)
    return bool(lowest >= 0) and bool(highest.isfinite())


def require_cut(granularity: str, count: str, scope: str, *, partial: bool) -> None:
    """Refuse unknown words, and words that contradict each other."""
    for name, found, known in (
        ("granularity", granularity, GRANULARITIES),
        ("count", count, COUNTS),
        ("scope", scope, SCOPES),
    ):
        if found not in known:
            raise errors.BadRequest(f"{name}: expected {' or '.join(known)}, found {found!r}")
    if count == "channels" and granularity != "channel":
        raise errors.BadRequest(f"count: a budget of channels chooses channels, found granularity {granularity!r}")
    if scope == "layer" and granularity == "module":
        raise errors.BadRequest("scope: a share of each layer has no whole modules; take granularity channel or weight")
    if scope == "layer" and partial:
        raise errors.BadRequest(
            "partial: a share of each layer is a rounded number of whole channels or weights; leave it out, or take "
            'scope="network"'
        )


def _require_some(
    picked: Mapping[str, Tensor], cut: Remainder, budget: int, sizes: Mapping[str, int], unit: str
) -> None:
    if not bool(torch.cat(list(picked.values())).any()):
        raise errors.BadRequest(
            f"a budget of {budget} weights does not pay for the first {unit}, of {cut.name!r} "
            f'({sizes[cut.name]} weights); raise the budget, or use granularity="weight"'
        )


def _spread(rows: Tensor, num_axes: int) -> Tensor:
    """Give one boolean a row as an entry that broadcasts to a parameter of so many axes."""
    return rows.reshape(-1, *(1,) * (num_axes - 1)) if num_axes else rows.reshape(())
