"""Twin: a training loop written out in plain torch, to the bit. And the cache: found again only where nothing differs."""

import dataclasses
import math
import sys

import msgspec
import pytest
import torch
from torch import nn
from torch.nn import functional

from excise import errors, params, seeds, store
from excise.data.rows import Rows
from excise.masks import Mask
from excise.oracles import Trained, retrain
from excise.train import Engine, Hooks, Task, TrainPlan
from tests.cases import CASES
from tests.probes import Watched, same_bytes

PLAN = TrainPlan(epochs=3, lr=0.1, batch_size=8, weight_decay=1e-3)
CASE = CASES["mlp"]


def mlp():
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).double()


def with_dropout():
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 4)).double()


def normalised():
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 4)).double()


def engine_for(**options):  # no training here reads the engine's head
    return Engine(options.pop("task", Task()), seed=0, besides=Mask.empty(CASE.make()), **options)


def every_row(count=30):
    return Rows.all_of(CASE.data(count))


def by_hand(make, inputs, labels, ids, plan, seed):
    """Fresh weights, shuffled batches, dropout: each from its own stream of the seed."""
    with seeds.isolated(seed, "fresh"):
        model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay)
    model.train()
    with seeds.isolated(seed, "train", "loop"):
        for epoch in range(plan.epochs):
            floor = 0.01 * plan.lr
            optimizer.param_groups[0]["lr"] = (
                floor + (plan.lr - floor) * (1 + math.cos(math.pi * epoch / plan.epochs)) / 2
            )
            order = ids[torch.randperm(len(ids), generator=seeds.generator(seed, "retain", epoch, 0))]
            for start in range(0, len(order), plan.batch_size):
                batch = order[start : start + plan.batch_size]
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
                optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("make", [mlp, with_dropout, normalised])
def test_a_retrained_network_is_that_of_a_plain_loop(make):
    inputs, labels = CASE.data(30)
    ids = torch.tensor([place for place in range(30) if place not in (3, 4, 17)])
    found = retrain(make, Rows(every_row().source, ids), PLAN, [7], engine_for())[0]
    assert same_bytes(found.state, by_hand(make, inputs, labels, ids, PLAN, 7))
    assert found.seed == 7
    assert found.seconds > 0


@pytest.mark.parametrize("make", [mlp, with_dropout, normalised])
def test_a_network_depends_on_its_seed_and_on_nothing_around_it(make):
    together = retrain(make, every_row(), PLAN, [4, 5, 6], engine_for())
    alone = retrain(make, every_row(), PLAN, [5], engine_for(), stage="original")
    assert same_bytes(alone[0].state, together[1].state)
    assert [one.seed for one in together] == [4, 5, 6]
    digests = {params.digest(one.state) for one in together}
    assert len(digests) == 3
    weights = [torch.cat([value.flatten().double() for value in one.state.values()]) for one in together]
    assert all((one - other).norm() > 0.1 for one in weights for other in weights if one is not other)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    retrain(with_dropout, every_row(), PLAN, [1], engine_for())
    assert torch.equal(torch.get_rng_state(), before)


def test_training_learns():
    state = retrain(mlp, every_row(), TrainPlan(epochs=20, lr=0.1, batch_size=8), [1], engine_for())[0].state
    model = mlp()
    model.load_state_dict(state)
    inputs, labels = CASE.data(30)
    assert functional.cross_entropy(model(inputs), labels) < 0.4 < math.log(4)


def test_running_statistics_are_trained_too():
    state = retrain(normalised, every_row(), PLAN, [1], engine_for())[0].state
    assert state["1.num_batches_tracked"] == 3 * 4
    assert not torch.equal(state["1.running_mean"], torch.zeros(10))


@pytest.mark.parametrize("cached", [False, True])
def test_the_forget_rows_are_never_read(cached, tmp_path):
    inputs, labels = CASE.data(30)
    data = Watched(inputs, labels, forbidden=[3, 4, 17])
    ids = torch.tensor([row for row in range(30) if row not in data.forbidden])
    rows = Rows(Rows.all_of(data).source, ids)
    retrain(mlp, rows, PLAN, [1], engine_for(), cache=tmp_path if cached else None)
    assert set(data.read) == set(ids.tolist())


def test_cost_and_progress_are_counted():
    class Heard(Hooks):
        def __init__(self):
            self.said = []

        def on_stage(self, name, num_steps):
            self.said.append((name, num_steps))

        def on_step(self):
            self.said.append("step")

        def on_epoch(self, trace):
            self.said.append((trace.stage, trace.epoch, trace.num_steps))

        def on_stage_end(self, name):
            self.said.append(f"end {name}")

    heard = Heard()
    engine = engine_for(hooks=heard)
    found = retrain(mlp, every_row(), PLAN, [1, 2], engine)
    assert [one.trained_rows for one in found] == [90, 90]
    assert engine.cost.trained_rows == 180
    assert engine.trace == []
    wanted = []
    for number in (1, 2):
        stage = f"oracle {number}/2"
        wanted.append((stage, 12))
        for epoch in range(3):
            wanted += ["step"] * 4 + [(stage, epoch, 4)]
        wanted.append(f"end {stage}")
    assert heard.said == wanted


def counted(plan=PLAN, make=mlp, rows=None, seed=3, cache=None, task=None):
    """Retrain one network; give it, and whether it was trained rather than found."""
    engine = engine_for(task=task or Task())
    found = retrain(make, rows or every_row(), plan, [seed], engine, cache=cache)[0]
    return found, engine.cost.trained_rows > 0


def test_an_unchanged_request_is_found_again_to_the_bit(tmp_path):
    first, trained = counted(cache=tmp_path / "new" / "cache")
    again, retrained = counted(cache=tmp_path / "new" / "cache")
    assert (trained, retrained) == (True, False)
    assert same_bytes(first.state, again.state)
    assert list(again.state) == sorted(first.state) or list(again.state) == list(first.state)
    assert (again.seed, again.trained_rows) == (first.seed, first.trained_rows) == (3, 90)
    assert again.seconds == pytest.approx(first.seconds, abs=1e-3)  # kept to the millisecond
    assert same_bytes(first.state, counted()[0].state)


def one_input_changed():
    inputs, labels = CASE.data(30)
    inputs[11, 2] = torch.nextafter(inputs[11, 2], torch.tensor(math.inf, dtype=inputs.dtype))
    return Rows.all_of((inputs, labels))


def one_label_changed():
    inputs, labels = CASE.data(30)
    labels[29] = (labels[29] + 1) % 4
    return Rows.all_of((inputs, labels))


def one_weight_changed():
    model = mlp()
    with torch.no_grad():
        model[2].weight[1, 1] += 1e-15
    return model


def other_activation():
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4)).double()


class Functional(nn.Module):
    """The same parameters and the same printed form, whatever it computes."""

    def __init__(self, activation):
        super().__init__()
        self.one, self.two = nn.Linear(6, 10), nn.Linear(10, 4)
        self.activation = activation

    def forward(self, inputs):
        return self.two(self.activation(self.one(inputs), self.training))


def functional_relu():
    return Functional(lambda hidden, training: torch.relu(hidden)).double()


def functional_tanh():
    return Functional(lambda hidden, training: torch.tanh(hidden)).double()


def functional_dropout():
    return Functional(lambda hidden, training: functional.dropout(torch.relu(hidden), 0.5, training)).double()


def with_idle_weight(value):
    model = mlp()
    model.register_parameter("idle", nn.Parameter(torch.full((1,), value).double()))
    return model


def idle_at_0():
    return with_idle_weight(0.0)


def idle_at_1():
    return with_idle_weight(1.0)


def other_momentum():
    model = normalised()
    model[1].momentum = 0.2
    return model


CHANGES = {
    "seed": {"seed": 4},
    "a weight of the fresh network": {"make": one_weight_changed},
    "an activation": {"make": other_activation},
    "one input value": {"rows": one_input_changed},
    "one label": {"rows": one_label_changed},
    "one row less": {"rows": lambda: Rows(every_row().source, torch.arange(29))},
    "ids": {
        "rows": lambda: Rows(Rows.all_of([part[:30].clone() for part in CASE.data(31)]).source, torch.arange(1, 30))
    },
    "plan.milestones": {"plan": msgspec.structs.replace(PLAN, schedule="milestones", milestones=(1,))},
    **{
        f"plan.{name}": {"plan": msgspec.structs.replace(PLAN, **{name: value})}
        for name, value in {
            "epochs": 4,
            "lr": 0.2,
            "optimizer": "adam",
            "momentum": 0.8,
            "weight_decay": 0.0,
            "schedule": "constant",
            "final_lr_fraction": 0.1,
            "batch_size": 9,
            "shuffle": False,
            "drop_last": True,
            "clip_norm": 1.0,
            "implementation": "foreach",
            "milestone_factor": 0.2,
        }.items()
    },
}


def test_every_field_of_a_plan_is_among_the_changes():
    assert {name for name in CHANGES if name.startswith("plan.")} == {f"plan.{name}" for name in PLAN.__struct_fields__}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_changed_request_is_trained_anew(change, tmp_path):
    counted(cache=tmp_path)
    options = dict(CHANGES[change])
    if "rows" in options:
        options["rows"] = options["rows"]()
    _, trained = counted(cache=tmp_path, **options)
    assert trained
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (functional_relu, functional_tanh),
        (functional_relu, functional_dropout),
        (normalised, other_momentum),
        (idle_at_0, idle_at_1),
    ],
)
def test_equal_weights_in_unequal_code_and_unequal_weights_of_no_effect_are_trained_anew(one, other, tmp_path):
    assert counted(make=one, cache=tmp_path)[1]
    assert not counted(make=one, cache=tmp_path)[1]
    assert counted(make=other, cache=tmp_path)[1]


def test_another_number_of_threads_or_another_version_is_trained_anew(tmp_path, monkeypatch):
    counted(cache=tmp_path)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert counted(cache=tmp_path)[1]
    monkeypatch.undo()
    monkeypatch.setattr(sys.modules[retrain.__module__], "__version__", "0.0.0")
    assert counted(cache=tmp_path)[1]
    monkeypatch.undo()
    assert not counted(cache=tmp_path)[1]


@pytest.mark.parametrize(
    "task",
    [
        Task(loss=lambda logits, targets: functional.multi_margin_loss(logits, targets, reduction="none")),
        Task(forward=lambda model, batch: (model(batch[0]), batch[1])),
    ],
)
def test_networks_trained_with_the_users_own_code_are_not_kept(task, tmp_path):
    counted(cache=tmp_path)
    assert counted(cache=tmp_path, task=task)[1]
    assert counted(cache=tmp_path, plan=lambda model, dataset, seed: model)[0].trained_rows is None
    assert len(list(tmp_path.iterdir())) == 1


def test_augmented_rows_are_found_again_and_move_no_random_state(tmp_path):
    class Noisy(Watched):
        def __getitem__(self, row):
            inputs, label = super().__getitem__(row)
            return inputs + torch.randn(6), label

    rows = Rows.all_of(Noisy(*CASE.data(30)))
    first, trained = counted(rows=rows, cache=tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        again, retrained = counted(rows=rows, cache=tmp_path)
        assert torch.equal(torch.get_rng_state(), before)
    assert (trained, retrained) == (True, False)
    assert same_bytes(first.state, again.state)


def flip(path, place):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 0x40
    path.write_bytes(raw)


def the_file(directory):
    (path,) = directory.glob("*.safetensors")
    return path


@pytest.mark.parametrize("place", [-1, -100, -500, 3])
def test_a_flipped_bit_in_the_cache_is_an_error_and_not_a_network(place, tmp_path):
    counted(cache=tmp_path)
    flip(the_file(tmp_path), place)
    with pytest.raises(errors.Corrupt, match=r"remove it to have the network trained again"):
        counted(cache=tmp_path)


def test_a_truncated_file_in_the_cache_is_an_error(tmp_path):
    counted(cache=tmp_path)
    path = the_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(errors.Corrupt, match=r"not a readable safetensors file.*remove it"):
        counted(cache=tmp_path)


@pytest.mark.parametrize("what", ["another network", "another cost", "no seal"])
def test_a_whole_file_that_is_another_is_an_error(what, tmp_path):
    counted(cache=tmp_path)
    path = the_file(tmp_path)
    state, told = store.read_tensors(path)
    if what == "another network":
        counted(cache=tmp_path / "beside", seed=4)
        path.write_bytes(the_file(tmp_path / "beside").read_bytes())
    elif what == "another cost":
        store.write_tensors(path, state, {**told, "trained_rows": "1"})
    else:
        store.write_tensors(path, state, {})
    with pytest.raises(errors.Corrupt, match="is not what was put there"):
        counted(cache=tmp_path)


def test_the_users_own_training_is_given_a_fresh_network_the_rows_and_the_seed():
    inputs, labels = CASE.data(30)
    seen = []

    def train(model, dataset, seed):
        seen.append(
            (params.model_digest(model), model.training, [int(dataset[i][1]) for i in range(len(dataset))], seed)
        )
        assert torch.equal(dataset[1][0], inputs[5])
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn(value.shape))  # the global generator is lent
        return model

    rows = Rows(every_row().source, torch.tensor([2, 5, 9]))
    found, again = (retrain(mlp, rows, train, [7, 8], engine_for()) for _ in range(2))
    with seeds.isolated(8, "fresh"):
        untouched = mlp()
    assert seen[1] == seen[3] == (params.model_digest(untouched), True, labels[[2, 5, 9]].tolist(), 8)
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, again, strict=True))
    assert not same_bytes(found[0].state, found[1].state)
    assert [one.trained_rows for one in found] == [None, None]


def test_the_users_own_training_may_return_another_object_and_is_heard_of():
    class Heard(Hooks):
        said = ()

        def on_stage(self, name, num_steps):
            self.said += ((name, num_steps),)

        def on_stage_end(self, name):
            self.said += (name,)

    heard, other = Heard(), one_weight_changed()
    found = retrain(mlp, every_row(), lambda model, dataset, seed: other, [1], engine_for(hooks=heard), stage="mine")
    assert same_bytes(found[0].state, other.state_dict())
    assert heard.said == (("mine 1/1", 1), "mine 1/1")
    with torch.no_grad():
        other[0].weight.zero_()
    assert found[0].state["0.weight"].abs().sum() > 0


@pytest.mark.parametrize("wrong", [None, {}, "a network"])
def test_training_that_returns_no_network_is_refused(wrong):
    with pytest.raises(
        errors.BadRequest, match=rf"plan: expected train.* to return the network, found {type(wrong).__name__}"
    ):
        retrain(mlp, every_row(), lambda model, dataset, seed: wrong, [1], engine_for())


def test_training_that_returns_another_architecture_is_refused():
    with pytest.raises(errors.BadRequest, match=r"plan: train.* returned a network of another architecture"):
        retrain(mlp, every_row(), lambda model, dataset, seed: nn.Linear(6, 4), [1], engine_for())


def test_the_same_object_twice_is_refused():
    one = mlp()
    with pytest.raises(
        errors.BadRequest, match=r"fresh: expected a new untrained network at each call, .* same object"
    ):
        retrain(lambda: one, every_row(), PLAN, [1, 2], engine_for())


def test_a_training_that_diverges_says_so():
    with pytest.raises(errors.Diverged, match=r"train: the loss became|train: a weight stopped"):
        retrain(mlp, every_row(), TrainPlan(epochs=50, lr=1e200, batch_size=8), [1], engine_for())


def test_trained_is_frozen():
    found = Trained(1, {}, 0.0, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.seed = 2
