"""Whose rows the running statistics remember: known truths, networks trained with the rows and without them."""

import pytest
import torch
from torch import nn

from excise import Split
from excise.data.sets import load
from excise.diagnosis import buffers
from excise.diagnosis.buffers import Lean, Means, leaning, words
from excise.train.hooks import Hooks
from excise.train.task import Task
from tests.cases import CASES
from tests.probes import LeftAlone, touched


def heard(values, size=4):
    """Give rows `[rows, channels]` as they come in batches."""
    batches = values.split(size)
    return Means([batch.mean(0) for batch in batches], [len(batch) for batch in batches])


def test_the_mean_and_its_error():
    values = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(heard(values).mean(), values.mean(0))
    torch.testing.assert_close(heard(values, 7).mean(), values.mean(0))
    direction = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    naive = (values @ direction).std(correction=0) / 40**0.5  # batches of one row: the textbook's
    assert heard(values, 1).error_along(direction) == pytest.approx(float(naive))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, -0.3])
def test_a_mixture_of_known_share_is_measured(share):
    draws = torch.Generator().manual_seed(1)
    forget = torch.randn(30, 8, generator=draws, dtype=torch.float64).mean(0) + 1
    retain = torch.randn(900, 8, generator=draws, dtype=torch.float64)
    stored = share * forget + (1 - share) * retain.mean(0)
    found = leaning("bn", stored, torch.ones(8, dtype=torch.float64), forget, heard(retain))
    assert found.share == pytest.approx(share) and 0 < found.resolution < 0.5
    other = leaning("bn", stored + torch.randn(8, generator=draws), torch.ones(8), forget, heard(retain))
    assert other.resolution > 3 * found.resolution  # what the line does not explain


def test_too_little_to_measure_by():
    rows = torch.ones(9, 2, dtype=torch.float64)
    assert leaning("bn", rows[0], rows[0], rows[0], heard(rows)) is None  # forget rows like retain rows
    assert leaning("bn", rows[0, :1], rows[0, :1], 2 * rows[0, :1], heard(rows[:, :1])) is None  # one channel
    assert leaning("bn", rows[0] * torch.nan, rows[0], 2 * rows[0], heard(rows)) is None


@pytest.mark.parametrize(
    ("share", "resolution", "said", "remembers"),
    [
        (0.10, 0.05, "The forget rows are in them: the stored mean of bn lies +0.100 of the way", True),
        (0.30, 0.05, "The forget rows are in them, and with more than their share", True),
        (0.01, 0.05, "The forget rows do not show in them", False),
        (0.04, 0.05, "The forget rows do not show in them", False),
        (0.06, 0.07, "too few of them to be seen in a mean", False),
        (-0.5, 0.55, "too few of them to be seen in a mean", False),
        (-0.1, 0.05, "They were not computed from these rows with these weights alone", False),
        (1.9, 0.5, "They were not computed from these rows with these weights alone", False),
    ],
)
def test_nothing_is_claimed_below_the_resolution(share, resolution, said, remembers):
    found, remembered = words(Lean("bn", share, resolution), 0.1)
    assert said in found and remembered == remembers
    assert "(0.100 expected if all training rows took part alike)" in found


def network():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


def trained(rows, epochs=8):
    inputs, labels = load("digits").train
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in range(epochs):
            for batch in rows[torch.randperm(len(rows))].split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
                optimizer.step()
            schedule.step()
    return model


@pytest.fixture(scope="module")
def digits():
    """Give the split without the threes, a network trained on all rows, and one trained on the retain rows."""
    train = load("digits").train
    split = Split(train, forget=(train[1] == 3).nonzero().flatten())
    return split, trained(split.train.ids), trained(split.retain.ids)


def visit(model, split):
    return buffers.remembered(model, split, Task(), 0, Hooks())


def test_a_network_that_saw_the_rows_remembers_them_and_one_that_did_not_does_not(digits):
    split, sick, healthy = digits
    (found,) = visit(sick, split)
    assert found.severity == "warning" and "The forget rows are in them" in found.what and found.where == "1, 4"
    assert "recompute=True" in found.remedy
    finest = min(buffers.measured(sick, split, Task(), 0, Hooks()), key=lambda lean: lean.resolution)
    assert finest.share == pytest.approx(len(split.forget) / len(split.train), abs=finest.resolution)
    (found,) = visit(healthy, split)
    assert found.severity == "note" and "The forget rows do not show in them" in found.what


def test_retained_weights_with_the_originals_buffers_are_found_out(digits):
    """The leak that accuracy does not show: retrained weights, buffers of the forget rows."""
    split, _, healthy = digits
    model = network()
    model.load_state_dict(healthy.state_dict())
    inputs = load("digits").train[0]
    for _ in range(3):  # statistics of the forget rows alone, through the healthy weights
        model.train()
        with torch.no_grad():
            model(inputs[split.forget.ids])
    (found,) = visit(model, split)
    assert found.severity == "warning" and "with more than their share" in found.what


def test_a_few_rows_are_not_seen_and_that_is_said(digits):
    split = Split(load("digits").train, forget=[0, 7])
    (found,) = visit(digits[1], split)
    assert found.severity == "note" and "too few of them to be seen in a mean" in found.what


def test_buffers_that_were_never_updated():
    case = CASES["batchnorm"]
    (found,) = visit(case.make(), Split(case.data(40), forget=[1, 2]))
    assert found.severity == "warning" and "never updated" in found.what and found.where == "1, 4"


@pytest.mark.parametrize("name", ["mlp", "separable", "transformer"])
def test_no_buffers_no_finding_and_no_run(name):
    case = CASES[name]
    assert visit(case.make(), Split(case.data(40), forget=[1, 2])) == []


def test_the_network_is_left_alone_and_at_most_so_many_rows_run():
    case = CASES["batchnorm"]
    inputs, labels = case.data(4600)
    model = touched(case.make())
    for module in buffers.tracked(model).values():
        module.num_batches_tracked.fill_(3)
    run = []
    model[0].register_forward_pre_hook(lambda _, given: run.append(len(given[0])))
    watch = LeftAlone(model)
    assert visit(model, Split((inputs, labels), forget=range(2300)))
    watch.check()
    assert sum(run) == 4000 and max(run) == 64


def test_a_layer_that_does_not_run_says_nothing():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.spare = nn.Linear(6, 4), nn.BatchNorm1d(4)

        def forward(self, inputs):
            return self.body(inputs)

    model = Spare().double()
    model.spare.num_batches_tracked.fill_(3)
    (found,) = visit(model, Split(CASES["mlp"].data(40), forget=[1, 2]))
    assert "where they lie could not be measured" in found.what and found.severity == "note"
