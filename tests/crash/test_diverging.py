"""What stops being finite, wherever it does: no network comes out, the original stays, the last finite state is kept."""

import pytest
import torch
from torch import nn

import excise
from excise import errors, methods, params
from excise.train import TrainPlan
from tests.crash import mine

PLAN = TrainPlan(epochs=3, lr=0.05, batch_size=24)
METHODS = {
    "finetune": methods.Finetune(plan=PLAN),
    "contrast": methods.Contrast(plan=PLAN, alpha=0.8, forget_batch_size=4),
    "relabel": methods.Relabel(plan=PLAN),
}
AT = 5
"""The forward pass of training in which it happens: past the first epoch's beginning."""


class Spoilt(nn.Module):
    """Spoils one thing in one training pass."""

    def __init__(self, what, value):
        super().__init__()
        self.layers, self.what, self.value, self.passes = mine.make(), what, value, 0

    def forward(self, inputs):
        self.passes += self.training
        now = self.training and self.passes == AT
        if now and self.what == "inputs":
            inputs = torch.cat([inputs[:-1], torch.full_like(inputs[-1:], self.value)])
        if now and self.what == "buffers":
            self.layers[1].running_mean.fill_(self.value)
        logits = self.layers(inputs)
        if now and self.what == "logits":
            logits = logits * self.value
        if now and self.what == "gradients":
            logits.register_hook(lambda gradient: gradient * self.value)
        if now and self.what == "weights":
            logits.register_hook(self._spoil)
        return logits

    def _spoil(self, gradient):
        with torch.no_grad():
            self.layers[0].weight[0, 0] = self.value
        return gradient


def lost(what, value):
    """Give the loss, spoilt in one training pass as everything else is."""
    passes = []

    def loss(logits, targets):
        passes.extend([1] * logits.requires_grad)
        found = nn.functional.cross_entropy(logits, targets, reduction="none")
        return found * value if what == "loss" and len(passes) == AT else found

    return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("what", ["inputs", "logits", "loss", "gradients", "weights", "buffers"])
def test_what_stops_being_finite_stops_the_run(what, name, value):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Spoilt(what, value).eval()
    before = params.model_digest(model)
    split = excise.Split(mine.train(), forget=range(0, 80, 10))
    with pytest.raises(errors.Diverged) as found:
        excise.unlearn(model, split, METHODS[name], seed=0, loss=lost(what, value))
    assert found.value.exit_code == 8
    assert params.model_digest(model) == before
    assert found.value.last_finite is not None
    assert all(bool(value.isfinite().all()) for value in found.value.last_finite.values())
