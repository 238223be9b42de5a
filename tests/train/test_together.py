"""Twin: every network by itself through `fit_`."""

import dataclasses

import msgspec
import pytest
import torch
from torch import nn

from excise import errors, params
from excise.data import Rows
from excise.masks import Mask
from excise.networks import tiny_resnet
from excise.train import Hooks, Machine, Pass, TrainPlan, fit_
from excise.train import together as room
from excise.train.together import fit_together_, networks_at_once, why_not_together, why_slower_together
from tests.cases import CASES
from tests.probes import LeftAlone, engine_for, same_bytes, snapshot, touched

PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=8, weight_decay=1e-3)


def different(model, seed):
    """Give a copy whose weights are moved at random, as if drawn from another seed."""
    copy, draws = params.clone_model(model), torch.Generator().manual_seed(seed)
    for value in copy.parameters():
        if value.is_floating_point():
            value.data.add_(0.05 * torch.randn(value.shape, generator=draws, dtype=torch.float64).to(value.dtype))
    return copy


def alone_(model, rows, plan, engine, stage="Test"):
    only = Pass(lambda step: step.mean_loss("retain"), ("retain",))
    everything = Mask.full(model)
    fit_(model, lambda _: (only,), {"retain": rows}, plan, everything, engine, stage=stage, statistics="adapt")


def both(model, rows, plan, seeds=(4, 9, 5)):
    """Train networks alone and together; give the two lists of states and the two engines."""
    ones, others = ([different(model, seed) for seed in seeds] for _ in range(2))
    apart, joined = engine_for(model), engine_for(model)
    for one, some, seed in zip(ones, rows, seeds, strict=True):
        alone_(one, some, plan, apart.reseeded(seed))
    fit_together_(others, rows, plan, seeds, joined, stage="Test")
    return [snapshot(one) for one in ones], [snapshot(one) for one in others], apart, joined


def furthest(ones, others):
    """Give the largest difference of an entry; integers must be equal."""
    assert all(one.keys() == other.keys() for one, other in zip(ones, others, strict=True))
    pairs = [(one[name], other[name]) for one, other in zip(ones, others, strict=True) for name in one]
    assert all(torch.equal(a, b) for a, b in pairs if not a.is_floating_point())
    return max(float((a - b).abs().max()) for a, b in pairs if a.is_floating_point())


def rows_of(name, count=30):
    return Rows.all_of(CASES[name].data(count))


@pytest.mark.parametrize("name", ["mlp", "separable", "transformer", "tied", "batchnorm"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "lr": 0.01},
        {"optimizer": "adamw", "lr": 0.01, "schedule": "constant"},
        {"clip_norm": 0.3, "momentum": 0.5},
        {"drop_last": True, "shuffle": False, "batch_size": 7},
    ],
    ids=["sgd", "adam", "adamw", "clip", "order"],
)
def test_training_together_is_training_alone(name, changes):
    plan = msgspec.structs.replace(PLAN, **changes)
    ones, others, _, _ = both(CASES[name].make(), [rows_of(name)] * 3, plan)
    near = 1e-8 if "optimizer" in changes else 1e-10  # Adam divides by gradients that may be zero but for rounding
    assert furthest(ones, others) < near
    first = next(CASES[name].make().named_parameters())
    assert all(float((one[first[0]] - first[1]).detach().abs().max()) > 1e-3 for one in ones)


def embedding():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.LayerNorm(30), nn.Linear(30, 4)).double()


def grouped():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        images = [nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2)]
        images += [nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()]
        return nn.Sequential(*images, nn.Linear(8, 10)).double()


def pictures(count=30, dtype=torch.float64):
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    return Rows.all_of((torch.rand(count, 1, 8, 8, generator=draws, dtype=torch.float64).to(dtype), labels))


def tokens():
    draws = torch.Generator().manual_seed(0)
    return Rows.all_of((torch.randint(11, (30, 5), generator=draws), torch.arange(30) % 4))


@pytest.mark.parametrize(
    ("make", "rows"),
    [(embedding, tokens()), (grouped, pictures()), (lambda: tiny_resnet(width=4).double(), pictures())],
    ids=["embedding", "grouped", "resnet"],
)
def test_other_kinds_of_layers_train_together(make, rows):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ones, others, _, _ = both(make(), [rows] * 3, PLAN)
    assert furthest(ones, others) < 1e-9


def test_in_single_precision_the_difference_is_of_rounding():
    for model, some in (
        (CASES["mlp"].make().float(), rows_of("mlp")),
        (grouped().float(), pictures(30, torch.float32)),
    ):
        ones, others, _, _ = both(model, [some] * 3, PLAN)
        assert 0 <= furthest(ones, others) < 1e-5


@pytest.mark.parametrize("count", [1, 9, 17])
@pytest.mark.parametrize("name", ["mlp", "batchnorm"])
def test_a_last_batch_of_one_row_is_treated_as_alone(name, count):
    ones, others, apart, joined = both(CASES[name].make(), [rows_of(name, count)] * 3, PLAN)
    assert furthest(ones, others) < 1e-10
    assert joined.cost.trained_rows == apart.cost.trained_rows == 3 * 2 * count


def test_networks_may_have_rows_of_their_own_and_of_other_number():
    source = rows_of("batchnorm", 40).source
    halves = [Rows(source, torch.arange(first, 40, 2)) for first in (0, 1)]
    rows = [halves[0], Rows(source, torch.arange(13)), halves[1], Rows(source, torch.arange(20, 33))]
    ones, others, apart, joined = both(CASES["batchnorm"].make(), rows, PLAN, seeds=(1, 2, 3, 4))
    assert furthest(ones, others) < 1e-10
    assert joined.cost.trained_rows == apart.cost.trained_rows


def test_a_network_depends_neither_on_its_company_nor_on_its_place():
    model, rows = CASES["batchnorm"].make(), [rows_of("batchnorm")] * 3
    _, forwards, _, _ = both(model, rows, PLAN, seeds=(4, 9, 5))
    _, backwards, _, _ = both(model, rows, PLAN, seeds=(5, 9, 4))
    _, single, _, _ = both(model, rows[:1], PLAN, seeds=(9,))
    assert furthest(forwards, backwards[::-1]) < 1e-12
    assert furthest(forwards[1:2], single) < 1e-12


def test_frozen_parameters_stay():
    model = CASES["mlp"].make()
    next(model.parameters()).requires_grad_(False)
    ones, others, _, _ = both(model, [rows_of("mlp")] * 3, PLAN)
    assert furthest(ones, others) < 1e-10


def test_groups_change_nothing_but_rounding(monkeypatch):
    model, rows = CASES["mlp"].make(), [rows_of("mlp")] * 3
    _, whole, _, _ = both(model, rows, PLAN)
    monkeypatch.setattr(room, "networks_at_once", lambda *_: 2)
    _, parts, _, joined = both(model, rows, PLAN)
    assert furthest(whole, parts) < 1e-12
    assert [trace.epoch for trace in joined.trace] == [0, 1, 0, 1]


class Counting(Hooks):
    def __init__(self):
        self.heard = []

    def on_stage(self, name, num_steps):
        self.heard.append((name, num_steps))

    def on_step(self):
        self.heard.append("step")

    def on_stage_end(self, name):
        self.heard.append(name)


def test_hooks_hear_every_step_and_the_mean_loss_of_every_epoch(monkeypatch):
    monkeypatch.setattr(room, "networks_at_once", lambda *_: 2)
    model, rows, hooks = CASES["mlp"].make(), rows_of("mlp"), Counting()
    engine = engine_for(model, hooks=hooks)
    fit_together_([different(model, seed) for seed in range(4)], [rows] * 4, PLAN, range(4), engine, stage="half")
    steps = 2 * 2 * 4  # groups, epochs, batches
    assert hooks.heard == [("half", steps), *["step"] * steps, "half"]
    losses = []
    for seed in range(2):
        own = engine_for(model, seed=seed)
        alone_(different(model, seed), rows, PLAN, own)
        losses.append([trace.loss for trace in own.trace])
    first = engine.trace[:2]
    assert [trace.loss for trace in first] == pytest.approx([sum(pair) / 2 for pair in zip(*losses, strict=True)])
    assert [(trace.stage, trace.num_steps, trace.lr) for trace in first] == [
        ("half", 4, PLAN.lr_at(0)),
        ("half", 4, PLAN.lr_at(1)),
    ]


def test_only_weights_and_buffers_of_the_networks_change():
    models = [touched(CASES["batchnorm"].make()) for _ in range(2)]
    pictures_before = [LeftAlone(model) for model in models]
    fit_together_(models, [rows_of("batchnorm")] * 2, PLAN, (0, 1), engine_for(models[0]), stage="Test")
    for before in pictures_before:
        before.before["bytes"] = before._picture(before.model)["bytes"]
        before.check()


def test_asking_leaves_everything_alone():
    model = touched(CASES["batchnorm"].make())
    before, engine = LeftAlone(model), engine_for(model)
    assert why_not_together(model, [rows_of("batchnorm")], PLAN, engine) is None
    why_slower_together(model, [rows_of("batchnorm")], PLAN, engine, 4)
    networks_at_once(model, rows_of("batchnorm"), PLAN, engine)
    before.check()
    assert engine.cost.trained_rows == engine.cost.forward_rows == 0
    assert engine.trace == []


def test_the_network_that_diverges_is_named():
    models = [different(CASES["mlp"].make(), seed) for seed in range(3)]
    with torch.no_grad():
        next(models[1].parameters()).mul_(1e300)
    with pytest.raises(
        errors.Diverged, match=r"half: network 2 of 3 \(seed 8\): the loss became (nan|inf) in epoch 1"
    ) as caught:
        fit_together_(models, [rows_of("mlp")] * 3, PLAN, (7, 8, 9), engine_for(models[0]), stage="half")
    assert same_bytes(caught.value.last_finite, params.state_of(models[1]))
    assert furthest([snapshot(models[0])], [snapshot(different(CASES["mlp"].make(), 0))]) == 0


def test_a_weight_that_overflows_in_the_last_step_is_named():
    models = [different(CASES["mlp"].make().float(), seed) for seed in range(2)]
    plan = TrainPlan(epochs=1, lr=3e38, batch_size=30, schedule="constant", weight_decay=3e38)
    with pytest.raises(
        errors.Diverged, match=r"network 1 of 2 \(seed 0\): a weight, '.*', stopped being finite in epoch 1"
    ):
        fit_together_(models, [rows_of("mlp")] * 2, plan, (0, 1), engine_for(models[0]), stage="half")


def test_bad_requests_are_refused():
    model, rows = CASES["mlp"].make(), rows_of("mlp")
    engine, other = engine_for(model), CASES["transformer"].make()
    with pytest.raises(errors.BadRequest, match="found 1 networks, 2 sets of rows and 1 seeds"):
        fit_together_([model], [rows] * 2, PLAN, [0], engine, stage="Test")
    with pytest.raises(errors.BadRequest, match="found the same object twice"):
        fit_together_([model, model], [rows] * 2, PLAN, [0, 1], engine, stage="Test")
    with pytest.raises(errors.BadRequest, match="network 2 has other modules"):
        fit_together_([model, other], [rows] * 2, PLAN, [0, 1], engine, stage="Test")
    with pytest.raises(errors.BadRequest, match="cannot be trained together: it draws random numbers"):
        noisy = nn.Sequential(model, nn.Dropout(0.5))
        fit_together_([noisy], [rows], PLAN, [0], engine_for(noisy), stage="Test")
    fit_together_([], [], PLAN, [], engine, stage="Test")


def test_what_rows_and_engine_do_not_allow_is_said():
    model, rows = CASES["mlp"].make(), rows_of("mlp")
    engine = engine_for(model)
    assert why_not_together(model, rows, PLAN, engine) is None
    assert why_not_together(model, [], PLAN, engine) == "there are no rows"
    assert "all differ (10 to 30)" in why_not_together(model, [rows, rows.head(10)], PLAN, engine)
    slow = dataclasses.replace(engine, slow=(Mask.full(model), 0.5))
    assert "more slowly" in why_not_together(model, [rows], PLAN, slow)


def test_the_size_of_a_group_follows_from_activations(monkeypatch):
    model, rows = nn.Sequential(nn.Linear(6, 100), nn.Tanh(), nn.Linear(100, 4)).double(), rows_of("mlp", 16)
    engine, plan = engine_for(model), msgspec.structs.replace(PLAN, batch_size=16)
    row = 8 * (6 + 100 + 2 * 4 + 1)  # input, tanh, log-softmax and its input or output, target
    monkeypatch.setattr(room, "NEAR_BYTES", 40 * 16 * row)
    assert 36 <= networks_at_once(model, rows, plan, engine) <= 46
    assert networks_at_once(model, rows, msgspec.structs.replace(plan, batch_size=1), engine) == room.MOST
    monkeypatch.setattr(room, "NEAR_BYTES", 1)
    assert networks_at_once(model, rows, plan, engine) == room.FEWEST
    monkeypatch.setattr(room, "MOST_BYTES", 3 * 16 * row)
    assert 2 <= networks_at_once(model, rows, plan, engine) <= 3
    monkeypatch.setattr(room, "MOST_BYTES", 1)
    assert networks_at_once(model, rows, plan, engine) == 1


def test_what_is_slower_together_is_said(monkeypatch):
    model, rows = CASES["mlp"].make(), [rows_of("mlp")]
    seconds = {"alone": 0.002, "together": 0.016}
    calls = []

    def step_seconds(clock):
        calls.append(clock)
        return seconds["together" if len(calls) % 2 else "alone"]

    monkeypatch.setattr(room._Clock, "step_seconds", step_seconds)
    engine = engine_for(model)
    assert why_slower_together(model, rows, PLAN, engine, 4) == (
        "one at a time is faster here (2 ms against 4 ms a network and step)"
    )
    seconds["together"] = 0.004
    assert why_slower_together(model, rows, PLAN, engine, 4) is None


@pytest.mark.parametrize(
    ("activations", "weights", "total", "expected"),
    [
        (1, 1, 80 * 2**30, room.MOST_ON_ACCELERATOR),
        (2**30, 0, 80 * 2**30, 20),
        (2**20, 100 * 2**20, 80 * 2**30, 34),  # weights count: 601 MiB each of 20 GiB
        (2**40, 1, 80 * 2**30, 1),
        (1, 1, None, room.MOST),
    ],
)
def test_on_an_accelerator_a_group_takes_a_share_of_the_memory(activations, weights, total, expected):
    assert room.group_size(activations, weights, total) == expected


def test_a_loss_that_is_looked_at_late_names_the_same_network(monkeypatch):
    monkeypatch.setattr(room, "looks_every", lambda kind: 50)
    rows, plan = rows_of("mlp"), msgspec.structs.replace(PLAN, lr=1e200, momentum=0.0)
    models = [CASES["mlp"].make() for _ in range(2)]
    starts = [snapshot(model) for model in models]
    with pytest.raises(
        errors.Diverged, match=r"network [12] of 2 \(seed [47]\): the loss became .* in epoch 1"
    ) as caught:
        fit_together_(models, [rows] * 2, plan, [4, 7], engine_for(models[0]), stage="Test")
    assert same_bytes(dict(caught.value.last_finite), starts[0])
    assert all(same_bytes(snapshot(model), start) for model, start in zip(models, starts, strict=True))


@pytest.mark.parametrize("name", ["mlp", "batchnorm"])
def test_together_in_bfloat16_is_alone_in_bfloat16_but_for_rounding(name):
    inputs, labels = CASES[name].data(30)
    rows, model = Rows.all_of((inputs.float(), labels)), CASES[name].make().float()
    plain, short = (
        dataclasses.replace(engine_for(model), machine=Machine(precision=word)) for word in ("auto", "bfloat16")
    )
    losses = {}
    for name, engine in (("plain", plain), ("short", short)):
        fit_together_([params.clone_model(model)], [rows], PLAN, [3], engine, stage="Test")
        losses[name] = [trace.loss for trace in engine.trace]
    alone = dataclasses.replace(short, trace=[])
    alone_(params.clone_model(model), rows, PLAN, alone.reseeded(3))
    assert losses["short"] != losses["plain"]
    assert losses["short"] == pytest.approx(losses["plain"], rel=0.05)  # 8 bits of mantissa
    assert losses["short"] == pytest.approx([trace.loss for trace in alone.trace], rel=0.02)
