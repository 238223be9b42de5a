"""Training plans that several recipes share."""

from __future__ import annotations

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
