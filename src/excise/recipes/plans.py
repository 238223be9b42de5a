"""Training plans that several recipes share."""

from __future__ import annotations

from excise import checks
from excise.train.plan import TrainPlan


def constant(
    *, epochs: int, lr: float, batch_size: int, momentum: float, weight_decay: float = 0.0, shuffle: bool = True
) -> TrainPlan:
    """Give a plan of SGD at one learning rate throughout."""
    return TrainPlan(
        epochs=epochs,
        lr=lr,
        schedule="constant",
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
        shuffle=shuffle,
    )


def decaying(*, epochs: int, lr: float, decay: float, batch_size: int) -> TrainPlan:
    """Give a plan of Adam whose learning rate is multiplied by `decay` after each epoch."""
    return TrainPlan(
        epochs=epochs,
        lr=lr,
        optimizer="adam",
        schedule="exponential",
        final_lr_fraction=checks.require_finite("decay", decay) ** epochs,
        batch_size=batch_size,
    )
