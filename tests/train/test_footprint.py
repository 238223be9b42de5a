import itertools

import pytest
import torch
from torch import nn

from excise import errors
from excise.masks import Mask
from excise.networks import tiny_resnet
from excise.train import Footprint, TrainPlan, enforced, footprint
from excise.train.footprint import optimizer_bytes

BATCH, WIDTHS = 32, (5, 40, 30, 7)


def perceptron():
    """Give linear layers with a sigmoid between, each of which keeps what it needs and no more."""
    layers = [[nn.Linear(a, b), nn.Sigmoid()] for a, b in itertools.pairwise(WIDTHS)]
    return nn.Sequential(*[part for pair in layers for part in pair][:-1])


def rows(count=BATCH, width=WIDTHS[0]):
    return torch.zeros(count, width), torch.zeros(count, dtype=torch.int64)


WEIGHTS = 4 * sum(a * b + b for a, b in itertools.pairwise(WIDTHS))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_the_parts_of_a_perceptron_are_those_of_the_closed_form(fraction, optimizer):
    plan = TrainPlan(epochs=1, lr=0.1, optimizer=optimizer)
    held = footprint(perceptron(), rows(), fraction, plan=plan)
    chosen = round(fraction * WEIGHTS)
    unlearn = held.phases["unlearn"]
    assert held.num_weights == WEIGHTS // 4
    assert {unlearn["weights"], unlearn["working copy"], held.phases["localize"]["gradients"]} == {WEIGHTS}
    assert held.phases["reset"] == {
        "weights": WEIGHTS, "buffers": 0, "working copy": WEIGHTS, "untrained network": WEIGHTS
    }  # fmt: skip
    assert unlearn["compact leaves"] == (chosen if fraction < 1 else 0)
    assert unlearn["optimizer"] == chosen * (1 if optimizer == "sgd" else 2)
    assert unlearn["last sound state"] == chosen
    places = 8 * round(fraction * WEIGHTS / 4)
    assert held.phases["finish"]["patch"] == 2 * chosen + places  # an old value, a new one and a place each
    assert held.peak == max(sum(parts.values()) for parts in held.phases.values()) == max(held.totals.values())
    assert held.per_weight["reset"] == 12


@pytest.mark.parametrize("count", [500, 1000])
def test_a_layer_more_keeps_its_sigmoid_for_the_way_back(count):
    def activations(depth):
        model = nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(16, 16), nn.Sigmoid())])
        return footprint(model, rows(count, 16)).phases["localize"]["activations"]

    assert activations(14) - activations(4) == 10 * count * 16 * 4  # a sigmoid's derivative is told by its output


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_optimizer_holds_what_torch_holds(optimizer):
    plan = TrainPlan(epochs=1, lr=0.1, optimizer=optimizer)
    model = perceptron()
    mask = Mask.of_modules(model, ["2"])
    with enforced(model, mask, "follow-mask") as free:
        made = plan.make_optimizer(free.leaves)
        free.backward(model(torch.ones(2, WIDTHS[0])).sum())
        free.step(made, None)
        state = [value for own in made.state_dict()["state"].values() for value in own.values()]
    chosen = 4 * mask.num_selected
    real = sum(value.numel() * value.element_size() for value in state if value is not None and value.ndim)
    assert optimizer_bytes(plan, chosen) == real > 0


def test_of_layers_whose_chosen_rows_are_computed_alone_a_gradient_is_of_those_rows():
    wide = nn.Sequential(nn.Linear(512, 512, bias=False), nn.Sigmoid(), nn.Linear(512, 4, bias=False))
    layer, few = 4 * 512 * 512, rows(2, 512)

    def held(fraction):
        phase = footprint(wide, few, fraction).phases["unlearn"]
        return phase["gradients"] + phase["activations"]

    assert layer <= held(1.0) < 1.2 * layer  # besides: the last layer's, and a few rows of activations
    assert layer / 4 <= held(0.25) < 0.5 * layer


def test_without_momentum_the_optimizer_holds_nothing():
    plan = TrainPlan(epochs=1, lr=0.1, momentum=0.0)
    assert footprint(perceptron(), rows(), plan=plan).phases["unlearn"]["optimizer"] == 0


def test_a_network_without_content_has_the_footprint_of_a_real_one_and_the_real_one_is_left_alone():
    model = tiny_resnet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    with torch.device("meta"):
        empty = tiny_resnet()
    on_paper = footprint(empty, tuple(value.to("meta") for value in batch))
    assert footprint(model, batch) == on_paper
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    assert on_paper.phases["unlearn"]["buffers"] == sum(b.numel() * b.element_size() for b in model.buffers())


def test_frozen_parameters_have_no_gradient():
    model = perceptron()
    for value in model[0].parameters():
        value.requires_grad_(False)
    own = 4 * sum(value.numel() for value in model[0].parameters())
    assert footprint(model, rows()).phases["localize"]["gradients"] == WEIGHTS - own


def test_it_says_itself():
    text = str(Footprint({"localize": {"weights": 2**20}, "unlearn": {"weights": 2**21}}, 2**18))
    assert text.splitlines() == [
        "262,144 weights, peak 0.00 GiB",
        "localize: 1 MiB (weights 1)",
        "unlearn: 2 MiB (weights 2)",
    ]


class _Looking(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 7)

    def forward(self, x):
        return self.inner(x) if float(x.sum()) == 0 else self.inner(-x)


def test_what_has_no_shape_on_paper_is_refused():
    with pytest.raises(errors.UnsupportedModel, match=r"^_Looking has no shape on paper: .*Measure a run instead"):
        footprint(_Looking(), rows())
    with pytest.raises(errors.UnsupportedModel, match="does not take this batch"):
        footprint(perceptron(), rows(width=6))
    with pytest.raises(errors.BadRequest, match=r"^example_batch: expected tensors, .*, found list"):
        footprint(perceptron(), [])
    with pytest.raises(errors.BadRequest, match="mask_fraction"):
        footprint(perceptron(), rows(), 1.5)
