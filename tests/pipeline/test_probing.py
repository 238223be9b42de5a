"""Each probe on networks made to hide something from the outputs, and on networks with nothing to hide."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import excise
from excise import errors
from excise.masks import Mask
from excise.observe import Relearned
from excise.pipeline import probing
from excise.pipeline.evidence import observe
from excise.pipeline.probing import Confusion, Trigger, probed, prober_for
from excise.train import Engine, Hooks, Task
from excise.train.task import forward_pair
from tests.cases import CASES
from tests.planted import EASY, NUM_INPUTS, TEST, TRAIN, WRONG, engine_for, network, split_of, trained
from tests.probes import LeftAlone, touched

SPLIT = split_of()


@pytest.fixture(scope="module")
def original():
    return network(trained(1, 0)[0])


@pytest.fixture(scope="module")
def oracle():
    return network(trained(1, 1, without=WRONG)[0])


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Learn again for a moment only, but where a test is of that."""
    real = probing.relearn

    def quick(model, rows, engine, **options):
        return real(model, rows, engine, num_seeds=1, plan=excise.TrainPlan(epochs=8, lr=0.05), **options)

    monkeypatch.setattr(probing, "relearn", quick)
    return real


def look(model, split=SPLIT, goal=None, **task):
    engine = Engine(Task(**task), 0, Mask.empty(model))
    return prober_for(model, split, engine, goal).look(model, 0.5)


# ---------------------------------------------------------------- batch normalisation


class Shifted(nn.Module):
    """A network behind batch normalisation of its inputs."""

    def __init__(self, inner):
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(NUM_INPUTS, affine=False), inner

    def forward(self, inputs):
        return self.inner(self.norm(inputs))


def test_what_only_the_running_statistics_hide_is_seen(original):
    """The weights still know every row; a wrong running mean makes the outputs look ignorant."""
    mean, deviation = TRAIN[0].mean(0), TRAIN[0].std(0)
    knows = Shifted(copy.deepcopy(original))
    with torch.no_grad():  # undo the normalisation in the first layer, so that the network says what the original says
        first = knows.inner[0]
        first.bias.add_(first.weight @ mean)
        first.weight.mul_(deviation)
        knows.norm.running_mean.copy_(mean)
        knows.norm.running_var.copy_(deviation**2)
    illusion = copy.deepcopy(knows)
    illusion.norm.running_mean.add_(torch.linspace(-9, 9, NUM_INPUTS))
    said = [observe(one, SPLIT, engine_for(one)).accuracy["forget"] for one in (knows, illusion)]
    assert said[0] > 0.9
    assert said[1] < 0.6
    hidden = look(illusion).recalibrated
    assert hidden > 0.9
    assert hidden == look(knows).recalibrated


def test_without_statistics_there_is_nothing_to_recalibrate(original):
    assert look(original).recalibrated is None


# ---------------------------------------------------------------- features


def test_a_spoilt_head_is_seen_through_by_a_new_one():
    """Easy rows: the features separate them, and a head of zeros names one class; so the probe sees what it hides."""
    split = split_of(EASY)
    model = network(trained(1, 0)[0])
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    assert observe(model, split, engine_for(model)).accuracy["forget"] < 0.5
    assert look(model, split).probe > 0.8


def test_features_that_know_nothing_give_the_probe_nothing():
    split = split_of(EASY)
    model = network(trained(1, 0)[0])
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1.0)
    assert look(model, split).probe < 0.7


def test_planted_labels_are_better_known_below_the_head_of_the_original_than_of_an_oracle(original, oracle):
    assert look(original).probe >= look(oracle).probe


def test_the_probe_is_left_out_where_there_is_no_linear_head_or_no_labels(original):
    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(NUM_INPUTS, 3))

        def forward(self, inputs):
            return inputs @ self.weight

    assert look(Squared()).probe is None
    assert look(original, forward=lambda model, batch: forward_pair(model, batch)).probe is None


def test_the_probe_is_fitted_to_rows_that_hold_every_class_of_the_forget_rows(original):
    zeros = (TRAIN[1] == 0).nonzero().flatten()
    alone = TRAIN[0][zeros], TRAIN[1][zeros]
    one_class = excise.Split(alone, forget=range(4), test=TEST)
    removed = excise.Split(TRAIN, forget=zeros.tolist(), test=TEST)
    probers = [prober_for(original, split, engine_for(original), None) for split in (one_class, removed, SPLIT)]
    assert [one.has_linear_head for one in probers] == [False, True, True]
    assert [one.fitted is one.split.retain for one in probers[1:]] == [False, True]
    assert look(original, removed).probe > 0.8


# ---------------------------------------------------------------- relearning


def test_the_original_relearns_faster_than_an_oracle(original, oracle, short, monkeypatch):
    monkeypatch.setattr(probing, "relearn", short)
    know, forgot = look(original).relearner, look(oracle).relearner
    assert know.accuracy.shape == forgot.accuracy.shape
    assert know.accuracy.shape[0] == 3
    assert know.utility == 0.5
    assert (know.accuracy[:, 0] > 0.9).all()
    assert (forgot.accuracy[:, 0] < 0.3).all()
    assert forgot.accuracy[:, -1].mean() > forgot.accuracy[:, 0].mean()


def test_a_network_that_cannot_be_trained_on_has_no_curve(original, monkeypatch):
    def diverges(*_, **__):
        raise errors.Diverged("relearn: step 3", {})

    monkeypatch.setattr(probing, "relearn", diverges)
    assert look(original).relearner is None


def test_networks_are_made_to_relearn_in_the_same_batches(original, monkeypatch):
    heard = []

    def watch(model, rows, engine, **options):
        heard.append((engine.seed, rows.ids.tolist(), options))
        return Relearned(np.arange(2), np.zeros((1, 2)), np.zeros((1, 2)))

    monkeypatch.setattr(probing, "relearn", watch)
    prober = prober_for(original, SPLIT, engine_for(original), None)
    probed(prober, [original, original], [0.5, 0.6], "probing")
    assert heard[0] == heard[1]
    assert heard[0][1] == list(WRONG)


# ---------------------------------------------------------------- goals


def stamp(inputs):
    inputs[:, 0] = 20.0
    return inputs


class Poisoned(nn.Module):
    """Names class 2 where the stamp is, and else what the inner network says."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        called = 1e3 * (inputs[:, :1] > 15) * torch.tensor([0.0, 0.0, 1.0])
        return self.inner(inputs) + called


def test_a_trigger_is_put_on_test_rows_and_nowhere_else(oracle):
    model, goal = Poisoned(oracle), Trigger(stamp, 2)
    before = TEST[0].clone()
    told = look(model, goal=goal).logits
    assert set(told) == {"clean", "triggered"}
    assert (told["triggered"].argmax(1) == 2).all()
    with torch.no_grad():
        np.testing.assert_allclose(told["clean"], model(TEST[0]).double(), rtol=1e-6)
        np.testing.assert_allclose(
            look(oracle, goal=goal).logits["triggered"], oracle(stamp(TEST[0].clone())), rtol=1e-5
        )
    assert torch.equal(TEST[0], before)


def test_a_confusion_needs_test_rows_as_they_are(oracle):
    told = look(oracle, goal=Confusion(0, 1)).logits
    assert set(told) == {"clean"}
    assert told["clean"].shape == (100, 3)
    assert look(oracle).logits == {}


def test_two_classes_are_enough_for_a_confusion_and_one_is_not_for_a_trigger(original):
    rows = TEST[1] < 2
    two = excise.Split(TRAIN, forget=list(WRONG), test=(TEST[0][rows], TEST[1][rows]))
    assert prober_for(original, two, engine_for(original), Confusion(1, 0)).goal == Confusion(1, 0)
    one = excise.Split(TRAIN, forget=list(WRONG), test=(TEST[0][TEST[1] == 1], TEST[1][TEST[1] == 1]))
    with pytest.raises(errors.BadRequest, match=r"and others beside them, found \[1\] among \[1\]"):
        prober_for(original, one, engine_for(original), Trigger(stamp, 1))


@pytest.mark.parametrize("goal", [Trigger(stamp, 3), Confusion(0, 5), Confusion(1, 1)])
def test_a_goal_of_classes_that_test_rows_do_not_have_is_refused(original, goal):
    with pytest.raises(errors.BadRequest, match="goal: expected classes that the test rows have"):
        look(original, goal=goal)


def test_a_goal_needs_pairs(original):
    with pytest.raises(
        errors.BadRequest, match=r"goal: expected examples of the form \(input, label\), found a custom"
    ):
        look(original, goal=Confusion(0, 1), forward=lambda model, batch: forward_pair(model, batch))


# ---------------------------------------------------------------- manners


@pytest.mark.parametrize("name", CASES)
def test_a_network_is_left_as_it_was_and_looks_the_same_twice(name):
    case = CASES[name]
    inputs, labels = case.data(50)
    split = excise.Split((inputs[:30], labels[:30]), forget=[1, 4, 9], test=(inputs[30:].clone(), labels[30:].clone()))
    model = touched(case.make())
    watch = LeftAlone(model)
    one, other = look(model, split), look(model, split)
    watch.check()
    assert (one.recalibrated, one.probe) == (other.recalibrated, other.probe)
    np.testing.assert_array_equal(one.relearner.accuracy, other.relearner.accuracy)
    assert (one.recalibrated is None) == (name != "batchnorm")


def test_progress_is_told_network_by_network(original):
    heard = []

    class Heard(Hooks):
        def on_stage(self, name, num_steps):
            heard.append((name, num_steps))

        def on_step(self):
            heard.append("step")

        def on_stage_end(self, name):
            heard.append((name, "end"))

    engine = replace(engine_for(original), hooks=Heard())
    found = probed(prober_for(original, SPLIT, engine, None), [original] * 3, [0.1, 0.2, 0.3], "probing")
    assert heard == [("probing", 3), "step", "step", "step", ("probing", "end")]
    assert [one.relearner.utility for one in found] == [0.1, 0.2, 0.3]
    assert engine.trace == []
