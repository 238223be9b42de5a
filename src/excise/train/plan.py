"""`TrainPlan`: how a network is trained, as a value that can be saved, compared and repeated."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import msgspec
import torch
from torch import Tensor

from excise import checks, errors
from excise.train.augment import Augment


class TrainPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """Epochs, optimizer, learning rate and batches of one training.

    Attributes:
        epochs: passes over the rows that pace the training.
        lr: learning rate at the start.
        optimizer: `sgd`, `adam` or `adamw`, torch's own.
        momentum: of SGD.
        weight_decay: as torch's optimizer takes it (decoupled for AdamW).
        schedule: `constant`; or per epoch: `cosine`, from `lr` down towards `final_lr_fraction * lr`; `milestones`, times
            `milestone_factor` from each epoch in `milestones` on; `triangle`, up in equal steps to `lr` in the middle and
            down in equal steps towards 0; `exponential`, from `lr` by one factor an epoch, which `epochs` times over make
            `final_lr_fraction`.
        final_lr_fraction: floor of the cosine schedule, and where an exponential one would be after the last epoch, as a
            fraction of `lr`.
        milestones: epochs, counted from 0, ascending.
        milestone_factor: what each multiplies the learning rate by.
        batch_size: examples a step.
        shuffle: a new order each epoch, drawn from the seed; else ascending ids.
        drop_last: leave out a final batch that is not full.
        clip_norm: upper bound on the norm of the gradient of the weights that may change; None for no bound.
        implementation: torch's `foreach` or `fused` optimizer loop, or its `default` choice.
        augment: what is done to images at random in training steps; false (`None`) for nothing. It is written down only
            where there is any, so that keys and records of plans without it are those of earlier versions.

    Raises:
        errors.BadRequest: a value out of range, by name.

    >>> plan = TrainPlan(epochs=2, lr=0.1)
    >>> [round(plan.lr_at(epoch), 4) for epoch in range(2)]
    [0.1, 0.0505]
    """

    epochs: int
    lr: float
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "milestones", "triangle", "exponential"] = "cosine"
    final_lr_fraction: float = 0.01
    milestones: tuple[int, ...] = ()
    milestone_factor: float = 0.1
    batch_size: int = 128
    shuffle: bool = True
    drop_last: bool = False
    clip_norm: float | None = None
    implementation: Literal["default", "foreach", "fused"] = "default"
    augment: Augment | msgspec.UnsetType | None = msgspec.UNSET

    def __post_init__(self) -> None:
        """Check every field."""
        if self.augment is None:
            msgspec.structs.force_setattr(self, "augment", msgspec.UNSET)
        elif self.augment is not msgspec.UNSET and not isinstance(self.augment, Augment):
            raise errors.BadRequest(f"augment: expected an Augment, or None, found {type(self.augment).__name__}")
        checks.require_positive_int("epochs", self.epochs)
        checks.require_positive_int("batch_size", self.batch_size)
        for name in ("lr", "momentum", "weight_decay", "final_lr_fraction", "milestone_factor"):
            checks.require_finite(name, getattr(self, name))
        if self.clip_norm is not None:
            checks.require_finite("clip_norm", self.clip_norm)
        for name, kind in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("implementation", IMPLEMENTATIONS)):
            if getattr(self, name) not in kind:
                raise errors.BadRequest(f"{name}: expected one of {', '.join(kind)}, found {getattr(self, name)!r}")
        places = tuple(self.milestones)
        if places != tuple(sorted(set(places))) or not all(type(place) is int and place > 0 for place in places):
            raise errors.BadRequest(f"milestones: expected epochs from 1 on, ascending, found {self.milestones!r}")
        if (self.schedule == "milestones") != bool(places):
            raise errors.BadRequest(
                f"milestones: expected epochs with schedule milestones and none with another, found {self.milestones!r} "
                f"with {self.schedule}"
            )

    def lr_at(self, epoch: int) -> float:
        """Give the learning rate of an epoch, counted from 0 (Loshchilov and Hutter 2017, eq. 5, without restarts)."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "milestones":
            return self.lr * self.milestone_factor ** sum(epoch >= place for place in self.milestones)
        if self.schedule == "triangle":  # as in MSG: 0 before the first epoch and after the last, neither of them run
            top = (self.epochs + 1) // 2
            up, down = (epoch + 1) / top, (self.epochs - epoch) / (self.epochs + 1 - top)
            return self.lr * min(up, down)
        if self.schedule == "exponential":
            return self.lr * math.pow(self.final_lr_fraction, epoch / self.epochs)
        floor = self.final_lr_fraction * self.lr
        return floor + (self.lr - floor) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def of_epochs(self, epochs: int) -> TrainPlan:
        """Give the same plan over other epochs: milestones beyond them are dropped, other schedules are stretched."""
        kept = tuple(place for place in self.milestones if place < epochs)
        schedule = "constant" if self.schedule == "milestones" and not kept else self.schedule
        return msgspec.structs.replace(self, epochs=epochs, milestones=kept, schedule=schedule)

    def make_optimizer(self, tensors: Iterable[Tensor]) -> torch.optim.Optimizer:
        """Give torch's optimizer over `tensors`, at the learning rate of the first epoch."""
        chosen: dict[str, bool] = {} if self.implementation == "default" else {self.implementation: True}
        shared = {"lr": self.lr, "weight_decay": self.weight_decay, **chosen}
        if self.optimizer == "sgd":
            return torch.optim.SGD(tensors, momentum=self.momentum, **shared)  # type: ignore[arg-type]
        make = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return make(tensors, **shared)  # type: ignore[arg-type]


def require_plan(value: object, who: str) -> None:
    """Refuse what is no `TrainPlan`, such as a training function, which only an audit can run."""
    if not isinstance(value, TrainPlan):
        raise errors.BadRequest(
            f"{who}: expected plan to be an excise.TrainPlan, such as TrainPlan(epochs=10, lr=0.1), found "
            f"{getattr(value, '__name__', type(value).__name__)}"
        )


OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "milestones", "triangle", "exponential")
IMPLEMENTATIONS = ("default", "foreach", "fused")
