"""Match: regression onto the logits that each row should have once the forget rows are forgotten."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from excise import checks, errors, params, seeds
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, Phased, answers
from excise.methods.distill import divergence, require_classes
from excise.methods.targets import TargetProvider
from excise.train.engine import Engine
from excise.train.masked import Statistics, require_statistics
from excise.train.plan import TrainPlan
from excise.train.step import Pass, Passes, Step

ROUNDING = 32
"""Units in the last place, of a row's largest target, within which an answer counts as its target."""

MOST_LISTED = 2**31
"""Forget rows, as often as they are listed, beyond which a list is refused before it takes all memory."""


@dataclass(frozen=True, kw_only=True)
class Match(Phased):
    """Minimise the mean over batch and classes of (logits - targets)^2, inside the mask, over forget and some retain rows.

    Each row is handed the answer that a retrained network would give it, so that training on does no harm: a row that has
    arrived stays. What the targets are is the `targets`' to say; with `OracleMean` this is oracle matching, which no request
    can afford and which shows what can be reached, with `attribution.DatamodelTargets` it is datamodel matching (DMM).

    An epoch is one pass, in the plan's order, over a list of rows: `forget_multiplier` copies of the forget rows, of a
    fractional one the rows of lowest ids once more, and `retain_multiplier` times as many retain rows as there are forget
    rows, rounded down, drawn once a run from its seed; all of them, with a note, where there are fewer. No label is used.

    `excise.unlearn` recomputes running statistics at the end, since those of the original tell of the forget rows; that moves
    the answers of a network with batch normalisation once more. `recompute=False` keeps what was matched, and what they tell.

    Targets belong to rows as they are read once: with augmentation, or data that draw, a step shows another view of the row.
    An answer within `ROUNDING` units in the last place of a row's largest target counts as that target: a row's logits
    differ so much from one batch to another, and Adam would make whole steps of it. So targets that are the network's own
    answers change no bit, where nothing else (dropout, decay, a rule for buffers other than `hold`) moves the logits.

    Reads forget, retain unless its multiplier is 0, and what the targets need. Outside the mask nothing moves. Cost: that of
    the targets, once, and `plan.epochs` passes forward and backward over the list. Memory: `[rows, classes]` numbers, and a
    copy of the weights with an anchor.

    Departs from the published code. By default buffers are held and their layers run in eval mode (`buffers="hold"`): targets
    are answers in eval mode, and batches that hold forget rows several times over would move running statistics towards the
    very rows that are to be forgotten; that code trains with batch statistics and lets them move (`buffers="adapt"`). Retain
    rows are what the request retains and not what a loader's data set leaves over. Each run draws its retain rows from its
    own seed, there it is always 42. Without shuffling rows come in order of id. The cross-entropy is given less its least
    value, the entropy of the targets, which changes no gradient.

    References:
        Georgiev, Rinberg, Park, Garg, Ilyas, Madry, Neel, "Attribute-to-Delete: Machine Unlearning via Datamodel Matching",
        2024, arXiv:2410.23232.

    Args:
        plan: epochs, optimizer, schedule, batches; the paper's code has Adam and a rate that falls by a factor of 0.95 an
            epoch: `schedule="exponential", final_lr_fraction=0.95**epochs`.
        targets: who says what logits each row should have.
        retain_multiplier: retain rows in the list over forget rows, at least 0.
        forget_multiplier: how often forget rows are in the list, above 0.
        loss: `mse`, the squared difference of logits; or `ce`, the cross-entropy against the softmax of the targets.
        anchor: weight of the sum of squared distances of the weights from where the run began, at least 0.
        buffers: rule for running statistics, see `excise.train.masked`.

    Raises:
        errors.BadRequest: options out of range; before any work, a list without forget rows, logits other than
            `[batch, classes]`, and what the targets refuse; targets of another shape or not finite, when they are given.
    """

    plan: TrainPlan
    targets: TargetProvider
    retain_multiplier: float = 3.0
    forget_multiplier: float = 1.0
    loss: Literal["mse", "ce"] = "mse"
    anchor: float = 0.0
    buffers: Statistics = "hold"

    def __post_init__(self) -> None:
        """Check the options."""
        require_statistics(self.buffers)
        for name in ("retain_multiplier", "forget_multiplier", "anchor"):
            checks.require_finite(name, getattr(self, name))
        if self.forget_multiplier == 0:
            raise errors.BadRequest("forget_multiplier: expected a finite number above 0, found 0")
        if self.loss not in ("mse", "ce"):
            raise errors.BadRequest(f"loss: expected mse or ce, found {self.loss!r}")
        if not isinstance(self.targets, TargetProvider):
            raise errors.BadRequest(
                f"targets: expected who gives them, such as OracleMean([...]), found {type(self.targets).__name__}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Forget rows, retain rows unless their multiplier is 0, and what the targets need."""
        own: frozenset[Need] = frozenset({"forget", "retain"} if self.retain_multiplier else {"forget"})
        return own | self.targets.needs

    @property
    def statistics(self) -> Statistics:
        """As given."""
        return self.buffers

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse a list without forget rows, logits that are not one a class (of 8 rows), and what the targets refuse."""
        super().require(model, split, mask, engine)
        if self.forget_multiplier * len(split.forget) > MOST_LISTED:
            raise errors.BadRequest(
                f"forget_multiplier: {self.forget_multiplier:g} of {len(split.forget)} forget rows is more than a list of "
                f"{MOST_LISTED:,} rows; lower it"
            )
        if _floor(self.forget_multiplier * len(split.forget)) == 0:
            raise errors.BadRequest(
                f"forget_multiplier: {self.forget_multiplier:g} of {len(split.forget)} forget rows is less than one row; "
                "raise it"
            )
        logits, _ = answers(model, split.forget, engine)
        self._require_logits(logits)
        self.targets.require(model, split, engine)

    def rows(self, split: Split, engine: Engine) -> Mapping[str, Rows]:
        """Give the list of rows, ids ascending and some of them several times, as one stream `matched`."""
        forget, whole = split.forget.ids, math.floor(self.forget_multiplier)
        again = _floor((self.forget_multiplier - whole) * len(forget))
        listed = torch.cat([forget.repeat(whole), forget[:again], self._retained(split, engine)])
        return {"matched": Rows(split.train.source, listed.sort().values)}

    def passes(self, model: nn.Module, split: Split, engine: Engine) -> Passes:
        """Ask for the targets, and give one pass over the list."""
        wanted = _floor(self.retain_multiplier * len(split.forget))
        if wanted > len(split.retain):
            engine.hooks.on_note(
                f"Match: {self.retain_multiplier:g} times {len(split.forget)} forget rows are {wanted:,} retain rows; "
                f"all {len(split.retain):,} that there are take part"
            )
        rows = Rows(split.train.source, torch.unique_consecutive(self.rows(split, engine)["matched"].ids))
        logits, _ = answers(model, split.forget, engine)
        table = self.targets.targets(rows, split, engine)
        _require_table(table, (len(rows), logits.shape[1]), _precision(logits))
        start = {name: value.detach().clone() for name, value in _anchored(model, self.anchor).items()}
        objective = partial(self._objective, ids=rows.ids, table=table, start=start)
        return lambda _: (Pass(objective, ("matched",)),)

    def _retained(self, split: Split, engine: Engine) -> Tensor:
        """Give the ids of the retain rows that take part, the same ones in each call."""
        count = _floor(self.retain_multiplier * len(split.forget))
        if count == 0:
            return split.forget.ids[:0]
        order = torch.randperm(len(split.retain), generator=seeds.generator(engine.seed, "retain sample"))
        return split.retain.ids[order[:count]]

    def _objective(self, step: Step, *, ids: Tensor, table: Tensor, start: Mapping[str, Tensor]) -> Tensor:
        logits, _ = step.outputs("matched")
        self._require_logits(logits)
        logits = logits.to(_precision(logits))
        wanted = table[torch.searchsorted(ids, step.batches["matched"].ids)].to(logits)
        wanted = _reached(logits, wanted)
        each = (logits - wanted).square().mean(1) if self.loss == "mse" else divergence(logits, wanted)
        found = step.mean(each, "matched")
        return found + self.anchor * step.drift(start) if self.anchor else found

    def _require_logits(self, logits: Tensor) -> None:
        if logits.ndim != 2:
            raise errors.BadRequest(
                f"Match: expected logits [batch, classes], found shape {tuple(logits.shape)}; give a forward= that has one "
                "answer a row"
            )
        if self.loss == "ce":
            require_classes("Match", logits)


def _floor(value: float) -> int:
    return math.floor(min(value, 2.0**62) + 1e-9)  # 0.29 * 100 is 28.999999999999996


def _anchored(model: nn.Module, anchor: float) -> Mapping[str, Tensor]:
    return params.named_parameters(model) if anchor else {}


def _reached(logits: Tensor, wanted: Tensor) -> Tensor:
    """Give the targets, and in their place the answers themselves where they are as near as rounding lets them be."""
    found = logits.detach()
    near = ROUNDING * torch.finfo(found.dtype).eps * wanted.abs().amax(1, keepdim=True)
    return torch.where((found - wanted).abs() <= near, found, wanted)


def _precision(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _require_table(table: object, shape: tuple[int, int], precision: torch.dtype) -> None:
    """Refuse targets that are not a number for each row and class, finite in the precision that they are matched in."""
    found = tuple(table.shape) if isinstance(table, Tensor) else type(table).__name__
    if not isinstance(table, Tensor) or found != shape or not table.is_floating_point():
        kind = f" of {table.dtype}" if isinstance(table, Tensor) else ""
        raise errors.BadRequest(
            f"targets: expected floating-point numbers [rows, classes] of shape {shape}, found {found}{kind}; give targets of "
            "the network that is to forget"
        )
    finite = table.to(precision).isfinite()
    if not bool(finite.all()):
        row = int((~finite).any(1).nonzero()[0])
        raise errors.BadRequest(f"targets: expected finite numbers, found others for row {row} of {shape[0]}")
