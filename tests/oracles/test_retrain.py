"""Twin: a training loop written out in plain torch, to the bit. And the bank: found again only where nothing differs."""

import math
import os
import signal
import stat
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn
from torch.nn import functional

from excise import errors, params, seeds, store
from excise.data.rows import Rows
from excise.masks import Mask
from excise.oracles import Bank, keys, retrain
from excise.store.generations import Generations
from excise.train import Engine, Hooks, Task, TrainPlan
from excise.train.checkpoints import Checkpoints
from tests.cases import CASES
from tests.probes import Watched, same_bytes

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("kept", [False, True])
def test_the_forget_rows_are_never_read(kept, tmp_path):
    inputs, labels = CASE.data(30)
    data = Watched(inputs, labels, forbidden=[3, 4, 17])
    ids = torch.tensor([row for row in range(30) if row not in data.forbidden])
    rows = Rows(Rows.all_of(data).source, ids)
    retrain(mlp, rows, PLAN, [1], engine_for(), bank=Bank(tmp_path) if kept else None)
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


def counted(plan=PLAN, make=mlp, rows=None, seed=3, bank=None, task=None):
    """Retrain one network; give it, and whether it was trained rather than found."""
    engine = engine_for(task=task or Task())
    found = retrain(make, rows or every_row(), plan, [seed], engine, bank=Bank.of(bank))[0]
    return found, engine.cost.trained_rows > 0


def test_an_unchanged_request_is_found_again_to_the_bit(tmp_path):
    first, trained = counted(bank=tmp_path / "new" / "bank")
    again, retrained = counted(bank=tmp_path / "new" / "bank")
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
    every = {f"plan.{name}" for name in PLAN.__struct_fields__}
    assert {name for name in CHANGES if name.startswith("plan.")} == every - {
        "plan.augment"
    }  # of images, see test_keys


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_changed_request_is_trained_anew(change, tmp_path):
    counted(bank=tmp_path)
    options = dict(CHANGES[change])
    if "rows" in options:
        options["rows"] = options["rows"]()
    _, trained = counted(bank=tmp_path, **options)
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
    assert counted(make=one, bank=tmp_path)[1]
    assert not counted(make=one, bank=tmp_path)[1]
    assert counted(make=other, bank=tmp_path)[1]


def test_another_number_of_threads_or_another_version_is_trained_anew(tmp_path, monkeypatch):
    counted(bank=tmp_path)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert counted(bank=tmp_path)[1]
    monkeypatch.undo()
    monkeypatch.setattr(keys, "__version__", "0.0.0")
    assert counted(bank=tmp_path)[1]
    monkeypatch.undo()
    assert not counted(bank=tmp_path)[1]


@pytest.mark.parametrize(
    "task",
    [
        Task(loss=lambda logits, targets: functional.multi_margin_loss(logits, targets, reduction="none")),
        Task(forward=lambda model, batch: (model(batch[0]), batch[1])),
    ],
)
def test_networks_trained_with_the_users_own_code_are_not_kept(task, tmp_path):
    counted(bank=tmp_path)
    assert counted(bank=tmp_path, task=task)[1]
    assert counted(bank=tmp_path, plan=lambda model, dataset, seed: model)[0].trained_rows is None
    assert len(list(tmp_path.iterdir())) == 1


def test_augmented_rows_are_found_again_and_move_no_random_state(tmp_path):
    class Noisy(Watched):
        def __getitem__(self, row):
            inputs, label = super().__getitem__(row)
            return inputs + torch.randn(6), label

    rows = Rows.all_of(Noisy(*CASE.data(30)))
    first, trained = counted(rows=rows, bank=tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        again, retrained = counted(rows=rows, bank=tmp_path)
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
def test_a_flipped_bit_in_the_bank_is_an_error_and_not_a_network(place, tmp_path):
    counted(bank=tmp_path)
    flip(the_file(tmp_path), place)
    with pytest.raises(errors.Corrupt, match=r"remove it to have the network trained again"):
        counted(bank=tmp_path)


def test_a_truncated_file_in_the_bank_is_an_error(tmp_path):
    counted(bank=tmp_path)
    path = the_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(errors.Corrupt, match=r"not a readable safetensors file.*remove it"):
        counted(bank=tmp_path)


@pytest.mark.parametrize("what", ["another network", "another cost", "no seal"])
def test_a_whole_file_that_is_another_is_an_error(what, tmp_path):
    counted(bank=tmp_path)
    path = the_file(tmp_path)
    state, told = store.read_tensors(path)
    if what == "another network":
        counted(bank=tmp_path / "beside", seed=4)
        path.write_bytes(the_file(tmp_path / "beside").read_bytes())
    elif what == "another cost":
        store.write_tensors(path, state, {**told, "trained_rows": "1"})
    else:
        store.write_tensors(path, state, {})
    with pytest.raises(errors.Corrupt, match="is not what was put there"):
        counted(bank=tmp_path)


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


# one set of rows a seed


def test_each_network_may_have_rows_of_its_own():
    source = every_row().source
    several = [Rows(source, torch.arange(start, start + 20)) for start in (0, 5, 10)]
    found = retrain(mlp, several, PLAN, [1, 2, 3], engine_for())
    for one, rows, seed in zip(found, several, (1, 2, 3), strict=True):
        assert same_bytes(one.state, retrain(mlp, rows, PLAN, [seed], engine_for())[0].state)


def test_another_number_of_sets_than_of_seeds_is_refused():
    with pytest.raises(errors.BadRequest, match="rows: expected one set of rows for each of 3 seeds, found 2"):
        retrain(mlp, [every_row(), every_row()], PLAN, [1, 2, 3], engine_for())


def test_networks_that_share_weights_are_refused():
    body = nn.Linear(6, 10).double()

    def shared():
        return nn.Sequential(body, nn.ReLU(), nn.Linear(10, 4).double())

    with pytest.raises(errors.BadRequest, match="it gave two networks that share weights, trained by then"):
        retrain(shared, every_row(), PLAN, [1, 2], engine_for())
    body.requires_grad_(False)
    assert len(retrain(shared, every_row(), PLAN, [1, 2], engine_for())) == 2


# a run that is broken off


class Heard(Hooks):
    """Writes down stages and notes; may break off as one begins or after so many of its steps."""

    def __init__(self, stop_at=None, steps=0):
        self.stages, self.notes, self._stop, self._left = [], [], stop_at, steps

    def on_stage(self, name, num_steps):
        self.stages.append(name)

    def on_note(self, text):
        self.notes.append(text)

    def on_step(self):
        if self.stages[-1] == self._stop:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize("steps", [0, 7])
def test_after_an_interrupt_only_what_is_missing_is_trained(tmp_path, steps):
    bank, wanted = Bank(tmp_path), retrain(mlp, every_row(), PLAN, range(5), engine_for())
    with pytest.raises(KeyboardInterrupt):
        retrain(mlp, every_row(), PLAN, range(5), engine_for(hooks=Heard("oracle 3/5", steps)), bank=bank)
    assert {entry.seed for entry in bank.entries()} == {0, 1}
    engine = engine_for(hooks=Heard())
    found = retrain(mlp, every_row(), PLAN, range(5), engine, bank=bank)
    assert engine.hooks.stages == ["oracle 3/5", "oracle 4/5", "oracle 5/5"]
    assert engine.cost.trained_rows == 270
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, wanted, strict=True))


def test_more_networks_of_the_same_seeds_are_only_the_further_ones(tmp_path):
    bank, heard = Bank(tmp_path), Heard()
    retrain(mlp, every_row(), PLAN, [1, 2], engine_for(), bank=bank)
    retrain(mlp, every_row(), PLAN, [3, 2, 1], engine_for(hooks=heard), bank=bank)
    assert heard.stages == ["oracle 1/3"]


def test_a_bank_says_what_lies_in_it(tmp_path):
    bank = Bank(tmp_path)
    retrain(mlp, every_row(), PLAN, [7], engine_for(), bank=bank, kind="half")
    (entry,) = bank.entries()
    assert (entry.kind, entry.architecture, entry.num_rows, entry.seed) == ("half", "Sequential", 30, 7)
    assert entry.num_parameters == 6 * 10 + 10 + 10 * 4 + 4
    assert 0 < entry.seconds < 60


def test_networks_asked_for_as_another_kind_are_others(tmp_path):
    bank = Bank(tmp_path)
    for kind in ("oracle", "original", "original"):
        retrain(mlp, every_row(), PLAN, [7], engine_for(), bank=bank, kind=kind)
    assert [entry.kind for entry in bank.entries()] == ["oracle", "original"]
    assert len(bank.prune(kinds=["original"])) == 1


def test_an_unknown_kind_and_a_bank_that_may_not_be_written_are_told_before_any_training(tmp_path, monkeypatch):
    heard, bank = Heard(), Bank(tmp_path / "deep" / "bank")
    with pytest.raises(errors.BadRequest, match="kind: expected one of oracle, original, half, found 'retain'"):
        retrain(mlp, every_row(), PLAN, [7], engine_for(hooks=heard), bank=bank, kind="retain")
    retrain(mlp, every_row(), PLAN, [7], engine_for(), bank=bank)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(errors.DiskError, match=r"bank: .* may not be written by this user; choose another directory"):
        retrain(mlp, every_row(), PLAN, [7, 8], engine_for(hooks=heard), bank=bank)
    assert heard.stages == []
    retrain(mlp, every_row(), PLAN, [7], engine_for(hooks=heard), bank=bank)  # found, so nothing is to be written
    assert heard.stages == []


def test_ones_own_code_is_told_once_that_it_is_not_kept(tmp_path):
    heard = Heard()
    bank = Bank(tmp_path / "bank")
    retrain(mlp, every_row(), lambda model, dataset, seed: model, [1, 2], engine_for(hooks=heard), bank=bank)
    (note,) = heard.notes
    assert note.startswith("oracle: trained one at a time and not kept in ") and "code cannot be hashed" in note
    assert bank.entries() == []
    quiet = Heard()
    retrain(mlp, every_row(), lambda model, dataset, seed: model, [1, 2], engine_for(hooks=quiet))
    assert quiet.notes == []


def test_what_another_run_slows_down_slows_no_training_from_scratch():
    slowed = engine_for(slow=(Mask.full(mlp()), 0.1))
    one, other = (retrain(mlp, every_row(), PLAN, [7], engine)[0] for engine in (engine_for(), slowed))
    assert same_bytes(one.state, other.state)


# many at once


class Stack:
    """Stands in for training together: trains each alone by this file's loop, and writes down who was in which stack."""

    def __init__(self):
        self.reason, self.slower, self.asked, self.timed, self.stacks = None, None, [], [], []

    def why_not(self, model, rows, plan, engine):
        assert engine.slow is None
        self.asked.append([len(some) for some in rows])
        return self.reason

    def why_slower(self, model, rows, plan, engine, num_models):
        self.timed.append(num_models)
        return self.slower

    def at_once(self, model, rows, plan, engine):
        return 16

    def fit_(self, models, rows, plan, train_seeds, engine, *, stage):
        assert len({len(some) for some in rows}) == 1
        self.stacks.append(tuple(train_seeds))
        engine.hooks.on_stage(stage, len(models))
        for model, some, seed in zip(models, rows, train_seeds, strict=True):
            inputs, labels = (part[some.ids] for part in CASE.data(60))
            state = by_hand(lambda model=model: model, inputs, labels, torch.arange(len(labels)), plan, seed)
            model.load_state_dict(state)
            engine.cost.count(trained=plan.epochs * len(some))
            engine.hooks.on_step()
        engine.hooks.on_stage_end(stage)


@pytest.fixture
def stack(monkeypatch):
    found, module = Stack(), sys.modules[retrain.__module__]
    monkeypatch.setattr(module, "why_not_together", found.why_not)
    monkeypatch.setattr(module, "why_slower_together", found.why_slower)
    monkeypatch.setattr(module, "networks_at_once", found.at_once)
    monkeypatch.setattr(module, "fit_together_", found.fit_)
    return found


def several(count, **options):
    """Retrain networks of the seeds 0, 1, ...; give them and what was heard."""
    heard = options.pop("hooks", None) or Heard()
    rows = Rows.all_of(CASE.data(60)).head(30)
    return retrain(mlp, rows, PLAN, range(count), engine_for(hooks=heard), **options), heard


def test_one_at_a_time_unless_asked(stack):
    several(20)
    assert stack.stacks == stack.asked == stack.timed == []


def test_all_go_together_in_chunks_where_that_is_asked(stack):
    found, heard = several(37, together=True)
    assert stack.stacks == [tuple(range(13)), tuple(range(13, 26)), tuple(range(26, 37))]
    assert heard.stages == ["oracle 1-13/37", "oracle 14-26/37", "oracle 27-37/37"] and heard.notes == []
    assert stack.asked == [[30] * 37] and stack.timed == []
    assert [one.seed for one in found] == list(range(37))
    assert [one.trained_rows for one in found] == [90] * 37
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, several(37)[0], strict=True))


def test_seconds_of_a_chunk_are_shared_out(stack, monkeypatch):
    ticks = iter([10.0, 14.0])
    clock = types.SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr(sys.modules[retrain.__module__], "time", clock)
    assert [one.seconds for one in several(5, together=True)[0]] == [0.8] * 5


def sized(counts):
    source = Rows.all_of(CASE.data(60)).source
    return [Rows(source, torch.arange(count)) for count in counts]


def test_networks_go_together_with_those_of_equally_many_rows(stack):
    engine, counts = engine_for(hooks=Heard()), [10, 20, 10, 30, 10, 10, 20, 10]
    found = retrain(mlp, sized(counts), PLAN, range(8), engine, together=True)
    assert sorted(stack.stacks) == [(0, 2, 4, 5, 7), (1, 6), (3,)] and stack.asked == [counts]
    assert [one.trained_rows for one in found] == [3 * count for count in counts]
    assert engine.cost.trained_rows == 3 * sum(counts)
    stack.stacks.clear()
    heard = Heard()
    retrain(mlp, sized(counts), PLAN, range(8), engine_for(hooks=heard), together=None)
    assert stack.stacks == [(0, 2, 4, 5, 7)] and stack.timed == [5]
    assert heard.stages == ["oracle 2/8", "oracle 4/8", "oracle 7/8", "oracle 1-8/8"] and heard.notes == []


def test_left_free_rows_of_many_sizes_go_alone_and_that_is_told(stack):
    heard = Heard()
    retrain(mlp, sized([10, 10, 10, 20, 20, 20]), PLAN, range(6), engine_for(hooks=heard), together=None)
    assert heard.notes == ["oracle: trained one at a time, since fewer than 4 of them have equally many rows"]
    assert heard.stages == [f"oracle {number}/6" for number in range(1, 7)] and stack.asked == []


@pytest.mark.parametrize(
    ("count", "stacks", "alone"), [(1, [], [0]), (3, [], [0, 1, 2]), (4, [4], []), (16, [16], []), (18, [9, 9], [])]
)
def test_left_free_four_or_more_go_together(stack, count, stacks, alone):
    found, heard = several(count, together=None)
    assert [len(one) for one in stack.stacks] == stacks and heard.notes == []
    assert stack.timed == [count] * bool(stacks)
    assert [int(name.split()[1].split("/")[0]) - 1 for name in heard.stages if "-" not in name] == alone
    assert [one.seed for one in found] == list(range(count))


@pytest.mark.parametrize("what", ["reason", "slower"])
def test_left_free_what_cannot_or_should_not_go_together_goes_alone_and_is_told_why(stack, what):
    setattr(stack, what, "it draws random numbers")
    found, heard = several(9, together=None)
    assert stack.stacks == [] and len(stack.asked) == 1
    assert heard.notes == ["oracle: trained one at a time, since it draws random numbers"]
    assert heard.stages == [f"oracle {number}/9" for number in range(1, 10)]
    assert len(found) == 9


def test_a_chunk_that_is_found_to_differ_goes_alone_where_the_choice_is_free(stack, monkeypatch):
    """The first rows of a later chunk may show what those of the first did not."""
    module, fit_, told = (
        sys.modules[retrain.__module__],
        stack.fit_,
        "these networks cannot be trained together: so it is",
    )

    def differs(models, rows, plan, train_seeds, *more, **options):
        if 0 not in train_seeds:
            raise errors.BadRequest(told)
        fit_(models, rows, plan, train_seeds, *more, **options)

    monkeypatch.setattr(module, "fit_together_", differs)
    found, heard = several(18, together=None)
    assert [len(one) for one in stack.stacks] == [9]
    assert heard.notes == [f"oracle: trained one at a time, since of 9 of them it was found that {told}"]
    assert [one.seed for one in found] == list(range(18))
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, several(18)[0], strict=True))
    with pytest.raises(errors.BadRequest, match=told):
        several(18, together=True)


def test_together_that_cannot_be_is_refused_before_any_training(stack):
    stack.reason = "it draws random numbers"
    heard = Heard()
    with pytest.raises(errors.BadRequest, match="together: it draws random numbers; leave it False, or None"):
        several(3, together=True, hooks=heard)
    assert heard.stages == []


def test_together_that_is_slower_is_done_where_it_is_asked(stack):
    stack.slower = "one at a time is faster here"
    several(5, together=True)
    assert stack.stacks == [(0, 1, 2, 3, 4)]


def test_ones_own_code_goes_alone(stack):
    train = lambda model, dataset, seed: model  # noqa: E731
    with pytest.raises(errors.BadRequest, match=r"together: networks trained by code of your own .*; leave it False"):
        retrain(mlp, every_row(), train, range(5), engine_for(), together=True)
    heard = Heard()
    retrain(mlp, every_row(), train, range(5), engine_for(hooks=heard), together=None)
    own = Task(loss=lambda logits, targets: functional.cross_entropy(logits, targets, reduction="none"))
    retrain(mlp, every_row(), PLAN, range(5), engine_for(hooks=heard, task=own), together=None)
    assert stack.asked == [] and len(heard.notes) == 2
    assert all(note.startswith("oracle: trained one at a time, since networks trained by code") for note in heard.notes)


def test_what_was_trained_together_is_not_found_by_who_wants_it_alone_nor_the_reverse(stack, tmp_path):
    bank = Bank(tmp_path)
    several(5, together=True, bank=bank)
    assert len(bank.entries()) == 5
    assert several(5, together=True, bank=bank)[1].stages == []
    assert len(several(5, bank=bank)[1].stages) == 5
    assert several(5, bank=bank)[1].stages == [] and len(bank.entries()) == 10
    bank.prune(everything=True)
    several(5, bank=bank)
    assert several(5, together=True, bank=bank)[1].stages == ["oracle 1-5/5"]


@pytest.mark.parametrize("before", [False, True])
def test_left_free_either_will_do(stack, tmp_path, before):
    bank = Bank(tmp_path)
    first = several(5, together=before, bank=bank)[0]
    again, heard = several(7, together=None, bank=bank)
    assert heard.stages == ["oracle 6/7", "oracle 7/7"]  # two are too few for a stack
    assert all(same_bytes(one.state, other.state) for one, other in zip(first, again, strict=False))


def test_only_what_is_missing_is_stacked(stack, tmp_path):
    bank = Bank(tmp_path)
    several(9, together=True, bank=bank)
    lost = {entry.seed: entry.key for entry in bank.entries()}
    for seed in (1, 2, 4, 7):
        (tmp_path / f"{lost[seed]}.safetensors").unlink()
    stack.stacks.clear()
    assert several(9, together=None, bank=bank)[1].stages == ["oracle 2-8/9"]
    assert stack.stacks == [(1, 2, 4, 7)]


def test_after_an_interrupt_the_chunks_that_were_done_are_there(stack, tmp_path):
    bank, wanted = Bank(tmp_path), several(37, together=True)[0]
    with pytest.raises(KeyboardInterrupt):
        several(37, together=True, bank=bank, hooks=Heard("oracle 14-26/37", 9))
    assert {entry.seed for entry in bank.entries()} == set(range(13))
    stack.stacks.clear()
    found = several(37, together=True, bank=bank)[0]
    assert stack.stacks == [tuple(range(13, 26)), tuple(range(26, 37))]
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, wanted, strict=True))


KILLED = """
import os, signal, sys
from pathlib import Path
from torch import nn
from excise.data.rows import Rows
from excise.masks import Mask
from excise.oracles import Bank, retrain
from excise.train import Engine, Hooks, Task, TrainPlan
from tests.cases import CASES

class Killing(Hooks):
    def on_stage(self, name, num_steps):
        if name == "oracle 3/4":
            os.kill(os.getpid(), signal.SIGKILL)

def mlp():
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).double()

engine = Engine(Task(), seed=0, besides=Mask.empty(mlp()), hooks=Killing())
plan = TrainPlan(epochs=3, lr=0.1, batch_size=8, weight_decay=1e-3)
retrain(mlp, Rows.all_of(CASES["mlp"].data(30)), plan, range(4), engine, bank=Bank(Path(sys.argv[1])))
"""


def test_after_a_kill_another_process_trains_what_is_missing_to_the_same_bits(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "bank"], cwd=ROOT, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    heard, bank = Heard(), Bank(tmp_path / "bank")
    assert {entry.seed for entry in bank.entries()} == {0, 1}
    found = retrain(mlp, every_row(), PLAN, range(4), engine_for(hooks=heard), bank=bank)
    assert heard.stages == ["oracle 3/4", "oracle 4/4"]
    wanted = retrain(mlp, every_row(), PLAN, range(4), engine_for())
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, wanted, strict=True))


# the real thing


@pytest.mark.parametrize("make", [mlp, normalised])
def test_networks_trained_together_are_those_trained_alone_but_for_rounding(make, tmp_path):
    bank, heard = Bank(tmp_path), Heard()
    alone = retrain(make, every_row(), PLAN, range(6), engine_for())
    found = retrain(make, every_row(), PLAN, range(6), engine_for(hooks=heard), bank=bank, together=True)
    assert heard.stages == ["oracle 1-6/6"]
    for one, other in zip(alone, found, strict=True):
        assert one.seed == other.seed and one.trained_rows == other.trained_rows == 90
        for name, value in one.state.items():  # float64, 12 steps
            torch.testing.assert_close(other.state[name], value, rtol=1e-9, atol=1e-11)
    again = retrain(make, every_row(), PLAN, range(6), engine_for(hooks=heard), bank=bank, together=None)
    assert heard.stages == ["oracle 1-6/6"]
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, again, strict=True))


def test_a_network_that_draws_random_numbers_is_trained_alone():
    heard = Heard()
    found = retrain(with_dropout, every_row(), PLAN, range(4), engine_for(hooks=heard), together=None)
    assert heard.notes == ["oracle: trained one at a time, since it draws random numbers in training"]
    wanted = retrain(with_dropout, every_row(), PLAN, range(4), engine_for())
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, wanted, strict=True))
    with pytest.raises(errors.BadRequest, match="together: it draws random numbers in training; leave it False"):
        retrain(with_dropout, every_row(), PLAN, range(4), engine_for(), together=True)


# --- checkpoints ------------------------------------------------------------------------------------------------------


class Broken(BaseException):
    pass


class Breaks(Hooks):
    """Ends the process, as far as files can tell, at the n-th step it hears of."""

    def __init__(self, number):
        self.left, self.notes = number, []

    def on_step(self):
        self.left -= 1
        if self.left == 0:
            raise Broken

    def on_note(self, text):
        self.notes.append(text)


def in_training(bank):
    return sorted(path.name for path in bank.directory.glob(".training-*"))


def test_a_training_that_was_killed_goes_on_from_the_bank_to_the_same_bits(tmp_path):
    expected = retrain(with_dropout, every_row(), PLAN, [4, 5], engine_for())
    bank = Bank(tmp_path / "bank")
    steps = PLAN.epochs * 4
    for number in (3, steps + 6):  # the first network's third step; then, that one kept, the second one's sixth
        with pytest.raises(Broken):
            hooks = Breaks(number)
            retrain(with_dropout, every_row(), PLAN, [4, 5], lending(hooks=hooks), bank=bank)
        assert len(in_training(bank)) == 1
        (place,) = bank.directory.glob(".training-*")
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    ear, engine = Breaks(0), lending()
    engine = replace(engine, hooks=ear)
    found = retrain(with_dropout, every_row(), PLAN, [4, 5], engine, bank=bank)
    assert [same_bytes(one.state, other.state) for one, other in zip(found, expected, strict=True)] == [True, True]
    assert [one.trained_rows for one in found] == [one.trained_rows for one in expected]
    assert ear.notes == ["train: goes on from its checkpoint after 1 epochs and 1 steps"]
    assert in_training(bank) == [] and bank.foreign() == []


def lending(seconds=0.0, **options):
    return replace(engine_for(**options), checkpoints=Checkpoints(None, seconds))


def test_the_key_tells_whose_checkpoints_they_are(tmp_path):
    bank = Bank(tmp_path / "bank")
    with pytest.raises(Broken):
        retrain(mlp, every_row(), PLAN, [4], lending(hooks=Breaks(5)), bank=bank)
    ear = Breaks(0)
    found = retrain(mlp, every_row(), PLAN, [5], lending(hooks=ear), bank=bank)
    assert ear.notes == [] and same_bytes(found[0].state, retrain(mlp, every_row(), PLAN, [5], engine_for())[0].state)
    assert len(in_training(bank)) == 1  # the other one's, which it may yet go on from


def test_within_the_interval_a_training_leaves_nothing_behind(tmp_path):
    bank = Bank(tmp_path / "bank")
    with pytest.raises(Broken):
        retrain(mlp, every_row(), PLAN, [4], lending(1e6, hooks=Breaks(5)), bank=bank)
    assert in_training(bank) == []


def test_without_a_bank_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    retrain(mlp, every_row(), PLAN, [4], replace(engine_for(), checkpoints=Checkpoints(tmp_path / "own", 0)))
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_that_train_one_network_the_second_keeps_no_checkpoints(tmp_path):
    bank = Bank(tmp_path / "bank")
    with pytest.raises(Broken):
        retrain(mlp, every_row(), PLAN, [4], lending(hooks=Breaks(5)), bank=bank)
    (place,) = bank.directory.glob(".training-*")
    before = {path.name for path in place.iterdir()}
    with store.lock(place):
        found = retrain(mlp, every_row(), PLAN, [4], lending(), bank=bank)
        assert before < {path.name for path in place.iterdir()}  # and the lock
    assert same_bytes(found[0].state, retrain(mlp, every_row(), PLAN, [4], engine_for())[0].state)


def test_a_training_stops_when_the_run_around_it_is_stopped(tmp_path):
    bank, engine = Bank(tmp_path / "bank"), lending(1e6)

    class Stops(Breaks):
        def on_step(self):
            self.left -= 1
            if self.left == 0:
                assert engine.checkpoints.inside
                engine.checkpoints.stop(Broken("stopped"))

    with pytest.raises(Broken, match="stopped"):
        retrain(mlp, every_row(), PLAN, [4], replace(engine, hooks=Stops(5)), bank=bank)
    ear = Breaks(0)
    found = retrain(mlp, every_row(), PLAN, [4], lending(hooks=ear), bank=bank)
    assert ear.notes == ["train: goes on from its checkpoint after 1 epochs and 1 steps"]
    assert same_bytes(found[0].state, retrain(mlp, every_row(), PLAN, [4], engine_for())[0].state)


def test_the_time_before_the_kill_is_counted(tmp_path):
    bank = Bank(tmp_path / "bank")
    with pytest.raises(Broken):
        retrain(mlp, every_row(), PLAN, [4], lending(hooks=Breaks(5)), bank=bank)
    (place,) = bank.directory.glob(".training-*")
    spent = Generations(place).newest(1)[0].facts["position"]["seconds"]
    engine = lending()
    found = retrain(mlp, every_row(), PLAN, [4], engine, bank=bank)
    assert found[0].seconds > spent == engine.cost.seconds
