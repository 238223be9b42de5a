from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Iterative, Method, OneShot
from excise.methods.base import answers, require_forget_batch_size, require_method
from excise.train import TrainPlan
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, raw, same_bytes, snapshot, touched

FORGET = [1, 4, 5]


@dataclass(frozen=True, kw_only=True)
class Both(Iterative):
    """A user's own: descend on retain, ascend on forget, with a weight."""

    plan: TrainPlan
    weight: float = 0.5
    streams: ClassVar = ("retain", "forget")

    def objective(self, step):
        return step.mean_loss("retain") - self.weight * step.mean_loss("forget")

    def batch_sizes(self):
        return {"forget": 2}


@dataclass(frozen=True, kw_only=True)
class Sized(Both):
    """Says the same by the field."""

    forget_batch_size: int | None = None
    batch_sizes = Iterative.batch_sizes


@dataclass(frozen=True)
class Doubled(OneShot):
    """Twice every weight of the named parameters."""

    names: tuple[str, ...]

    @property
    def needs(self):
        return frozenset()

    def edit(self, model, split, mask, engine):
        own = dict(model.named_parameters())
        return {name: 2 * own[name].detach() for name in self.names}


def problem():
    return CASES["mlp"].make(), Split(CASES["mlp"].data(12), forget=FORGET)


def test_an_iterative_method_is_its_objective_run_by_the_loop():
    model, split = problem()
    inputs, labels = CASES["mlp"].data(12)
    other = CASES["mlp"].make()
    plan = TrainPlan(epochs=2, lr=0.1, batch_size=20, shuffle=False, schedule="constant")
    Both(plan=plan).unlearn_(model, split, Mask.full(model), engine_for(model))
    retain = [row for row in range(12) if row not in FORGET]
    made = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):  # one step an epoch: nine retain rows, the first two forget rows
        made.zero_grad()
        loss = torch.nn.functional.cross_entropy
        (loss(other(inputs[retain]), labels[retain]) - 0.5 * loss(other(inputs[[1, 4]]), labels[[1, 4]])).backward()
        made.step()
    for key, value in snapshot(other).items():
        torch.testing.assert_close(snapshot(model)[key], value, rtol=1e-12, atol=1e-12)


def test_an_iterative_method_needs_the_rows_it_streams_and_runs_under_its_own_name():
    method = Both(plan=TrainPlan(epochs=2, lr=0.1))
    assert method.needs == {"retain", "forget"}
    assert method.statistics == "follow-mask"
    assert not method.widens
    model, split = problem()
    engine = engine_for(model)
    method.unlearn_(model, split, Mask.full(model), engine)
    assert [(trace.stage, trace.epoch) for trace in engine.trace] == [("Both", 0), ("Both", 1)]
    assert engine.cost.trained_rows == 2 * (9 + 2)


def test_a_one_shot_edit_is_written_inside_the_mask_only():
    model, split = problem()
    before = snapshot(model)
    rows = torch.arange(10) % 3 == 0
    mask = Mask.from_tensors(
        {
            key: rows.reshape(-1, *(1,) * (value.ndim - 1)).expand(value.shape).clone()
            if key.startswith("0.")
            else torch.ones(value.shape, dtype=torch.bool)
            for key, value in model.named_parameters()
        }
    )
    Doubled(("0.weight", "2.bias")).unlearn_(model, split, mask, engine_for(model))
    for key, value in snapshot(model).items():
        wanted = before[key].clone()
        if key == "0.weight":
            wanted[rows] *= 2
        if key == "2.bias":
            wanted *= 2
        assert torch.equal(raw(value), raw(wanted)), key


def test_an_edit_reads_the_network_and_does_not_change_it():
    model, split = problem()
    before = snapshot(model)
    found = Doubled(("0.weight",)).edit(model, split, Mask.full(model), engine_for(model))
    assert same_bytes(before, snapshot(model))
    assert torch.equal(found["0.weight"], 2 * before["0.weight"])


def test_what_a_method_does_not_need_it_does_not_touch():
    watched = Watched(*CASES["mlp"].data(12), forbidden=range(12))
    model = CASES["mlp"].make()
    Doubled(("0.weight",)).unlearn_(model, Split(watched, forget=FORGET), Mask.full(model), engine_for(model))
    assert watched.read == []


@pytest.mark.parametrize("base", [Method, Iterative, OneShot])
def test_the_bases_are_abstract(base):
    with pytest.raises(TypeError, match="abstract"):
        base()


def test_a_batch_size_of_the_forget_rows_own_is_that_stream_s():
    plan, found = TrainPlan(epochs=2, lr=0.1, batch_size=4), []
    for method in (Both(plan=plan), Sized(plan=plan, forget_batch_size=2), Sized(plan=plan)):
        model, split = problem()
        method.unlearn_(model, split, Mask.full(model), engine_for(model))
        found.append(snapshot(model))
    assert same_bytes(found[0], found[1]) and not same_bytes(found[0], found[2])
    assert Sized(plan=plan).batch_sizes() == {}


def test_a_batch_size_below_one_is_refused():
    require_forget_batch_size(None)
    require_forget_batch_size(1)
    with pytest.raises(errors.BadRequest, match=r"^forget_batch_size: expected an integer of at least 1, found 0$"):
        require_forget_batch_size(0)


@dataclass(frozen=True)
class Shy(Doubled):
    """Refuses to touch a bias."""

    def require(self, model, split, mask, engine):
        if any(name.endswith("bias") for name in self.names):
            raise errors.BadRequest("no bias")


def test_a_stroke_asks_before_it_writes():
    model, split = problem()
    before = snapshot(model)
    with pytest.raises(errors.BadRequest, match=r"^no bias$"):
        Shy(("0.weight", "2.bias")).unlearn_(model, split, Mask.full(model), engine_for(model))
    assert same_bytes(snapshot(model), before)
    Doubled(("nope",)).require(model, split, Mask.full(model), engine_for(model))  # by default nothing is refused


def test_a_method_of_steps_refuses_what_is_no_plan():
    model, split = problem()
    for run in (Both(plan=3).require, Both(plan=3).unlearn_):
        with pytest.raises(errors.BadRequest, match="TrainPlan"):
            run(model, split, Mask.full(model), engine_for(model))


def test_the_first_answers_are_those_of_eight_rows_at_most_and_nothing_else_moves():
    model = touched(CASES["batchnorm"].make())
    inputs, labels = CASES["batchnorm"].data(20)
    split = Split(Watched(inputs, labels, forbidden=set(range(20)) - set(range(2, 10))), forget=[0, 1])
    alone, engine = LeftAlone(model), engine_for(model)
    logits, targets = answers(model, split.retain, engine)
    alone.check()
    twin = CASES["batchnorm"].make().eval()
    assert torch.equal(logits, twin(inputs[2:10]).detach()) and torch.equal(targets, labels[2:10])
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (0, 0)


def test_what_is_no_method_is_refused():
    require_method("It", Doubled(()))
    with pytest.raises(errors.BadRequest, match=r"^It: expected a method such as Finetune\(plan=...\), found type$"):
        require_method("It", int)
