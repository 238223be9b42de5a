"""When losses are looked at."""

import pytest
import torch

from excise.train.losses import EVERY, Losses, looks_every


class Looked:
    """Stands for the last sound state: gives values, and refuses those that are not finite."""

    def __init__(self):
        self.values = []

    def __call__(self, loss, epoch):
        if not loss.isfinite():
            raise FloatingPointError(f"step {len(self.values)} of epoch {epoch}")
        self.values.append(float(loss))
        return self.values[-1]


@pytest.mark.parametrize("every", [1, 3, 50])
def test_the_sum_is_that_of_the_steps_in_order_whenever_it_is_looked_at(every):
    numbers = torch.randn(10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses = Losses(Looked(), every, 0, total=0.25)
    for number in numbers:
        losses.add(number)
    expected = 0.25
    for number in numbers.tolist():
        expected += number
    assert losses.total() == losses.total() == expected


@pytest.mark.parametrize(("every", "seen"), [(1, 4), (3, 6), (50, 7)])
def test_a_loss_that_is_not_finite_is_found_at_the_next_look(every, seen):
    losses, count = Losses(Looked(), every, 2), 0
    with pytest.raises(FloatingPointError, match="step 3 of epoch 2"):
        for number in [1.0, 2.0, 3.0, float("nan"), 5.0, 6.0, 7.0]:
            count += 1
            losses.add(torch.tensor(number))
        losses.total()
    assert count == seen


def test_a_cpu_looks_at_every_step():
    assert looks_every("cpu") == 1
    assert looks_every("cuda") == looks_every("xpu") == EVERY
