from dataclasses import dataclass, field

import pytest
import torch

import excise
from excise import errors
from excise.data import Split
from excise.localize import (
    Convolutions,
    Cut,
    Everything,
    Given,
    Head,
    LastLayers,
    Magnitude,
    Modules,
    Region,
    WeightGradient,
)
from excise.masks import Mask
from excise.methods import Ascend, Finetune, Method, Nothing, Reset, Retrain, Sequence, Widened, Within
from excise.train import TrainPlan
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [0, 3, 8]
PLAN = TrainPlan(epochs=1, lr=0.05, batch_size=5, weight_decay=0.1)
SOME = Cut(WeightGradient(), 0.4)


@dataclass(frozen=True, eq=False)
class Noted(Method):
    """Keeps the mask and the engine that it is given, and does nothing."""

    seen: list = field(default_factory=list)

    @property
    def needs(self):
        return frozenset()

    def unlearn_(self, model, split, mask, engine):
        self.seen.append((mask, engine))


class All(Region):
    """Everything, for which every row is read."""

    reads_retain = True

    def locate(self, model, split, engine):
        for rows in (split.forget, split.retain):
            rows.source.read(rows.ids)
        return Mask.full(model)


def problem(name):
    return CASES[name].make(), Split(CASES[name].data(20), forget=FORGET)


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_it_is_the_method_under_what_mask_and_region_share(name, kind):
    (ours, split), (theirs, _) = problem(name), problem(name)
    mask = Mask.from_tensors(spelled_out(ours, kind))
    shared = mask & SOME(theirs, split)
    assert 0 < shared.num_selected < mask.num_selected
    Within(Finetune(plan=PLAN), SOME).unlearn_(ours, split, mask, engine_for(ours))
    Finetune(plan=PLAN).unlearn_(theirs, split, shared, engine_for(theirs))
    assert same_bytes(snapshot(ours), snapshot(theirs))


@every_case
def test_everywhere_it_is_the_method(name):
    (ours, split), (theirs, _) = problem(name), problem(name)
    mask = Mask.from_tensors(spelled_out(ours, "mixed"))
    Within(Finetune(plan=PLAN), Everything()).unlearn_(ours, split, mask, engine_for(ours))
    Finetune(plan=PLAN).unlearn_(theirs, split, mask, engine_for(theirs))
    assert same_bytes(snapshot(ours), snapshot(theirs))


def test_the_region_is_found_on_the_network_as_it_is_then():
    model, split = problem("mlp")
    small = {"2.weight": torch.full((8, 10), 1e-9, dtype=torch.float64)}
    share = 80 / sum(value.numel() for value in model.parameters())
    probe, smallest = Noted(), Cut(Magnitude(), share, granularity="weight", lowest=True)
    sequence = Sequence(
        (Within(probe, smallest), Within(Reset(to=small), Modules(("2.weight",))), Within(probe, smallest))
    )
    sequence.unlearn_(model, split, Mask.full(model), engine_for(model))
    (before, _), (after, _) = probe.seen
    assert before == smallest(CASES["mlp"].make(), split)
    assert after == Mask.of_modules(model, ["2.weight"]) != before


@every_case
def test_a_mask_and_a_region_that_share_nothing_change_nothing(name):
    model, split = problem(name)
    before = snapshot(model)
    first = next(iter(dict(model.named_parameters())))
    rest = Mask.full(model) - Mask.of_modules(model, [first])
    Within(Finetune(plan=PLAN), Modules((first,))).unlearn_(model, split, rest, engine_for(model))
    assert same_bytes(snapshot(model), before)
    probe = Noted()
    Within(probe, Convolutions()).unlearn_(model, split, Mask.full(model), engine_for(model))
    assert (probe.seen[0][0].num_selected == 0) == (name not in ("separable", "batchnorm"))


def test_what_is_added_to_the_mask_is_cut_as_it_stands_outside_or_inside():
    model, split = problem("mlp")
    probe, engine = Noted(), engine_for(model, besides="4")
    mask, where = Mask.of_modules(model, ["0", "2"]), Modules(("2", "4.bias"))
    Widened(Within(probe, where)).unlearn_(model, split, mask, engine)
    Within(Widened(probe), where).unlearn_(model, split, mask, engine)
    assert [seen for seen, _ in probe.seen] == [
        Mask.of_modules(model, ["2", "4.bias"]),
        Mask.of_modules(model, ["2", "4"]),
    ]
    assert all(given is engine for _, given in probe.seen)


@pytest.mark.parametrize(
    ("method", "where", "needs"),
    [
        (Nothing(), Everything(), set()),
        (Nothing(), SOME, {"forget"}),
        (Finetune(plan=PLAN), Modules(("2",)), {"retain"}),
        (Finetune(plan=PLAN), SOME, {"forget", "retain"}),
        (Nothing(), All(), {"forget", "retain"}),
        (Retrain(plan=PLAN), Everything(), {"retain", "fresh"}),
        (Ascend(plan=PLAN), Everything(), {"forget"}),
    ],
)
def test_it_needs_what_method_and_region_read_and_reads_no_more(method, where, needs):
    method = Within(method, where)
    assert method.needs == needs
    retain = set(range(20)) - set(FORGET)
    forbidden = (retain if "retain" not in needs else set()) | (set(FORGET) if "forget" not in needs else set())
    watched = Watched(*CASES["mlp"].data(20), forbidden=forbidden)
    model = CASES["mlp"].make()
    engine = engine_for(model, fresh=CASES["mlp"].make)
    method.unlearn_(model, Split(watched, forget=FORGET), Mask.full(model), engine)
    assert set(watched.read) == set(range(20)) - forbidden


@pytest.mark.parametrize("rule", STATISTICS)
def test_statistics_are_the_methods(rule):
    assert Within(Finetune(plan=PLAN, buffers=rule), Everything()).statistics == rule
    assert not Within(Finetune(plan=PLAN), Everything()).widens
    assert Within(Widened(Finetune(plan=PLAN)), Everything()).widens


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split, method = Split(CASES[name].data(20), forget=FORGET), Within(Finetune(plan=PLAN), SOME)
    one, same = (excise.unlearn(model, split, method, mask=Mask.from_tensors(tensors)) for _ in range(2))
    before, after = snapshot(model), snapshot(one.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert not same_bytes(before, after)
    assert same_bytes(after, snapshot(same.model))
    empty = excise.unlearn(model, split, method, mask=Mask.empty(model))
    assert same_bytes(snapshot(empty.model), before)
    alone.check()


@pytest.mark.parametrize(
    ("method", "where", "message"),
    [
        (Finetune, Everything(), r"Within: expected a method such as Finetune\(plan=...\), found ABCMeta"),
        (Nothing(), WeightGradient(), r"Within: expected a region such as Convolutions\(\), found WeightGradient"),
    ],
)
def test_what_is_no_method_or_no_region_is_refused(method, where, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Within(method, where)


@dataclass(frozen=True, eq=False)
class Asked(Noted):
    """Keeps the mask that its check is given."""

    def require(self, model, split, mask, engine):
        self.seen.append(mask)


def test_the_check_is_asked_under_what_is_sure_already_and_makes_no_pass_for_more():
    model = CASES["mlp"].make()
    probe, split = Asked(), Split(Watched(*CASES["mlp"].data(20), forbidden=set(range(20)) - {0}), forget=FORGET)
    sure = (
        Modules(("2",)),
        Everything(),
        Convolutions(),
        Given(Mask.of_modules(model, ["2", "4"])),
        LastLayers(2),
        Head(),
    )
    mask = Mask.of_modules(model, ["0", "2"])
    for where in (*sure, SOME, Cut(Magnitude(), 0.4), All()):
        Within(probe, where).require(model, split, mask, engine_for(model))
    only, none = Mask.of_modules(model, ["2"]), Mask.empty(model)
    assert probe.seen == [only, mask, none, only, only, none, none, none, none]
