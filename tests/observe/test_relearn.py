"""Twins: gradient descent by hand on the whole set; and retrained networks, which relearn as each other do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from excise import errors, params
from excise.data.rows import Rows
from excise.data.sets import load
from excise.masks import Mask
from excise.measure import Relearner, relearning
from excise.observe import collect, hint, relearn
from excise.oracles import retrain
from excise.train.loop import fit_
from excise.train.plan import TrainPlan
from excise.train.step import Pass
from excise.train.task import Task
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, snapshot, touched

SHORT = TrainPlan(epochs=3, lr=0.1, batch_size=4, schedule="constant")


def rows_of(case, ids, total=40):
    return Rows(Rows.all_of(CASES[case].data(total)).source, torch.tensor(list(ids)))


def test_the_curve_is_that_of_gradient_descent_by_hand():
    model, rows = CASES["mlp"].make(), rows_of("mlp", range(8))
    plan = TrainPlan(epochs=6, lr=0.3, momentum=0.0, batch_size=8, schedule="constant")
    found = relearn(model, rows, engine_for(model), plan=plan, num_seeds=2)
    inputs, labels = (part[:8] for part in CASES["mlp"].data(40))
    twin, accuracy, losses = CASES["mlp"].make(), [], []
    for _ in range(7):
        loss = nn.functional.cross_entropy(twin(inputs), labels)
        accuracy.append((twin(inputs).argmax(1) == labels).double().mean().item())
        losses.append(loss.item())
        for value, slope in zip(twin.parameters(), torch.autograd.grad(loss, list(twin.parameters())), strict=True):
            value.data -= 0.3 * slope
    assert found.steps.tolist() == list(range(7))
    np.testing.assert_allclose(found.losses, [losses] * 2, rtol=1e-9)  # the order of the sum differs
    np.testing.assert_array_equal(found.accuracy, [accuracy] * 2)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("case", ["mlp", "batchnorm"])
def test_looking_less_often_gives_the_same_points(case):
    model, rows = CASES[case].make(), rows_of(case, range(10))
    engine = engine_for(model)
    all_points = relearn(model, rows, engine, plan=SHORT)
    some = relearn(model, rows, engine, plan=SHORT, every=4)
    assert all_points.steps.tolist() == list(range(10))  # three steps an epoch
    assert some.steps.tolist() == [0, 4, 8]
    np.testing.assert_array_equal(some.losses, all_points.losses[:, ::4])
    np.testing.assert_array_equal(some.accuracy, all_points.accuracy[:, ::4])


def test_looking_does_not_change_what_is_learnt_by_networks_that_draw_numbers():
    model = nn.Sequential(nn.Linear(6, 10), nn.Dropout(0.5), nn.ReLU(), nn.Linear(10, 4)).double()
    draws = []

    def noisy(network, batch):  # augmentation from the global generator, in looking too
        draws.append(1)
        return network(batch[0] + torch.randn(batch[0].shape, dtype=torch.float64) / 10), batch[1]

    engine = engine_for(model, task=Task(forward=noisy))
    rows = rows_of("mlp", range(10))
    one, other = (relearn(model, rows, engine, plan=SHORT, num_seeds=1, every=every) for every in (1, 3))
    np.testing.assert_array_equal(one.losses[:, ::3], other.losses)
    assert len(draws) == 2 * 9 + 10 + 4


def test_the_first_point_is_the_network_as_it_is_whatever_the_seed():
    model, rows, judged = CASES["batchnorm"].make(), rows_of("batchnorm", range(8)), rows_of("batchnorm", range(8, 25))
    engine = engine_for(model)
    found = relearn(model, rows, engine, judged=judged, plan=SHORT)
    plain = collect(model, judged, engine)
    assert found.losses[:, 0].tolist() == [plain.losses.mean()] * 3
    assert found.accuracy[:, 0].tolist() == [(plain.logits.argmax(1) == plain.targets).mean()] * 3
    assert len({*found.losses[:, -1]}) == 3  # each seed has batches of its own


def test_the_same_seed_gives_the_same_curves_and_networks_learn_in_the_same_batches():
    order = []

    def heard(network, batch):
        if network.training:
            order.append(batch[0][:, 0].tolist())
        return network(batch[0]), batch[1]

    rows = rows_of("mlp", range(10))
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Linear(6, 4).double()
        relearn(model, rows, engine_for(model, task=Task(forward=heard)), plan=SHORT)
    assert order[: len(order) // 2] == order[len(order) // 2 :]
    model = CASES["mlp"].make()
    curves = [relearn(model, rows, engine_for(model, seed=seed), plan=SHORT).losses for seed in (0, 0, 1)]
    np.testing.assert_array_equal(curves[0], curves[1])
    assert (curves[0][:, 1:] != curves[2][:, 1:]).all()


@pytest.mark.parametrize("case", ["mlp", "batchnorm", "tied"])
def test_network_engine_and_world_are_left_alone(case):
    model = touched(CASES[case].make())
    engine, watch = engine_for(model), LeftAlone(model)
    relearn(model, rows_of(case, range(6)), engine, plan=SHORT, num_seeds=1)
    watch.check()
    assert engine.trace == []
    assert engine.cost.trained_rows == 3 * 6
    assert engine.cost.forward_rows == 7 * 6  # two steps an epoch, and the point before any


def test_only_rows_and_judged_rows_are_read():
    inputs, labels = CASES["mlp"].data(40)
    data = Watched(inputs, labels, forbidden=range(12, 40))
    source, model = Rows.all_of(data).source, CASES["mlp"].make()
    part = [Rows(source, torch.arange(*ends)) for ends in ((0, 6), (6, 12))]
    relearn(model, part[0], engine_for(model), judged=part[1], plan=SHORT, num_seeds=1)
    assert set(data.read) == set(range(12))


def test_weights_that_were_slowed_down_for_unlearning_learn_at_full_pace():
    model, rows = CASES["mlp"].make(), rows_of("mlp", range(8))
    engine = engine_for(model)
    plain = relearn(model, rows, engine, plan=SHORT, num_seeds=1)
    slowed = relearn(model, rows, replace(engine, slow=(Mask.full(model), 0.1)), plan=SHORT, num_seeds=1)
    np.testing.assert_array_equal(plain.losses, slowed.losses)


def test_running_statistics_follow_the_rule():
    model, rows = CASES["batchnorm"].make(), rows_of("batchnorm", range(12))
    frozen = params.clone_model(model)
    for value in frozen.parameters():
        value.requires_grad_(False)
    curves = {
        rule: relearn(frozen, rows, engine_for(model), plan=SHORT, num_seeds=1, statistics=rule).losses
        for rule in ("adapt", "hold")
    }
    assert (curves["hold"] == curves["hold"][:, :1]).all()
    assert (curves["adapt"][:, 1:] != curves["adapt"][:, :1]).all()


def test_a_single_row_can_be_learnt_again():
    model, rows = CASES["batchnorm"].make(), rows_of("batchnorm", [3])
    found = relearn(model, rows, engine_for(model), plan=SHORT)
    assert found.losses.shape == (3, 4)
    assert (found.losses[:, -1] < found.losses[:, 0]).all()


def test_a_network_that_breaks_says_so():
    model = CASES["mlp"].make()
    with torch.no_grad():
        model[-1].bias[0] = torch.nan
    before = snapshot(model)
    with pytest.raises(errors.Diverged, match="relearn: the loss became nan"):
        relearn(model, rows_of("mlp", range(6)), engine_for(model), plan=SHORT)
    assert set(before) == set(snapshot(model))


@pytest.mark.parametrize("option", [{"num_seeds": 0}, {"every": 0}])
def test_no_seed_and_no_point_are_refused(option):
    model = CASES["mlp"].make()
    with pytest.raises(errors.BadRequest, match=f"{next(iter(option))}: expected an integer of at least 1, found 0"):
        relearn(model, rows_of("mlp", range(6)), engine_for(model), plan=SHORT, **option)


def test_targets_without_classes_are_refused():
    model = CASES["mlp"].make()
    task = Task(forward=lambda net, batch: (net(batch[0]), batch[0][:, :4]), loss=lambda a, b: ((a - b) ** 2).mean(1))
    with pytest.raises(errors.BadData, match=r"relearn: expected one integer class a row.*no accuracy to watch"):
        relearn(model, rows_of("mlp", range(6)), engine_for(model, task=task), plan=SHORT)


def test_a_hint_is_drawn_by_the_generator_and_never_empty():
    rows = rows_of("mlp", range(5, 35))
    found = hint(rows, 0.2, torch.Generator().manual_seed(0))
    assert found.source is rows.source
    assert len(found) == 6
    assert set(found.ids.tolist()) <= set(rows.ids.tolist())
    assert found.ids.tolist() == sorted(found.ids.tolist())
    assert torch.equal(found.ids, hint(rows, 0.2, torch.Generator().manual_seed(0)).ids)
    assert not torch.equal(found.ids, hint(rows, 0.2, torch.Generator().manual_seed(1)).ids)
    assert len(hint(rows, 0.0, torch.Generator())) == 1
    assert hint(rows, 1.0, torch.Generator()).ids.tolist() == rows.ids.tolist()
    with pytest.raises(errors.BadRequest, match="fraction: expected a fraction between 0 and 1, found 3"):
        hint(rows, 3, torch.Generator())


PLAN = TrainPlan(epochs=60, lr=0.1, batch_size=50)
LEARNING = TrainPlan(epochs=32, lr=0.1, momentum=0.0, batch_size=20, schedule="constant")


def noisy_digits():
    """Two hundred digits, of which the forty to forget have wrong labels drawn at random: they can only be known by heart."""
    inputs, labels = (part[:200] for part in load("digits").train)
    labels = labels.clone()
    labels[:40] = (labels[:40] + torch.randint(1, 10, (40,), generator=torch.Generator().manual_seed(4))) % 10
    source = Rows.all_of((inputs.flatten(1), labels)).source
    return Rows(source, torch.arange(200)), Rows(source, torch.arange(40)), Rows(source, torch.arange(40, 200))


def wide():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def test_retrained_networks_relearn_in_each_others_time_and_hidden_memory_is_faster():
    every_row, forget, retain = noisy_digits()
    engine = engine_for(wide())
    made = [*retrain(wide, retain, PLAN, range(1, 4), engine), *retrain(wide, every_row, PLAN, [9], engine)]
    networks = [wide() for _ in made]
    for network, trained in zip(networks, made, strict=True):
        params.load_strictly_(network, trained.state, "a training")
    finetuned, short = params.clone_model(networks[-1]), TrainPlan(epochs=8, lr=0.1, batch_size=50)
    objective = (Pass(lambda step: step.mean_loss("retain"), ("retain",)),)
    fit_(finetuned, lambda _: objective, {"retain": retain}, short, Mask.full(finetuned), engine, stage="finetune")

    def learner(network):
        found = relearn(network, forget, engine, plan=LEARNING)
        plain = collect(network, retain, engine)
        return Relearner(accuracy=found.accuracy, utility=float((plain.logits.argmax(1) == plain.targets).mean()))

    with torch.random.fork_rng():
        torch.manual_seed(77)
        untrained = learner(wide())
    *oracles, original = [learner(network) for network in networks]
    found = relearning(learner(finetuned), oracles, original=original, untrained=untrained)
    assert found.num_censored == {"own": 0, "oracles": 0, "original": 0, "untrained": 0}
    assert found.oracle_steps > 20
    assert all(0.8 <= index <= 1.25 for index in found.index_oracles), found.index_oracles
    assert found.index_original == pytest.approx(1 / found.oracle_steps)
    assert found.index < 0.5
    assert found.measure.p < 0.01
    assert found.utility["own"] == pytest.approx(found.utility["oracles"], abs=0.05)
