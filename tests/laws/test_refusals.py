"""What a part of a composition could not do is refused before any part takes a step."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import excise
from excise import errors
from excise.data import Split
from excise.localize import LastLayers, Modules
from excise.masks import Mask
from excise.methods import (
    Attract,
    BelowAccuracy,
    ClosestEpoch,
    Dampen,
    Distill,
    Finetune,
    Match,
    Nothing,
    Partition,
    Project,
    Relabel,
    Reset,
    Rewind,
    Sequence,
    Soften,
    TwoTeachers,
    Until,
    Widened,
    Within,
)
from excise.recipes import RUM
from excise.train import Hooks, TrainPlan
from tests.cases import CASES
from tests.probes import LeftAlone, same_bytes, snapshot
from tests.recipes.prepared import Halved

FORGET = [0, 3, 9]
PLAN = TrainPlan(epochs=1, lr=0.05, batch_size=5)
TUNE = Finetune(plan=PLAN)


class Stages(Hooks):
    """Keeps which stages began, and counts steps."""

    def __init__(self):
        self.stages, self.steps = [], 0

    def on_stage(self, name, num_steps):
        self.stages.append(name)

    def on_step(self):
        self.steps += 1


def state():
    return {name: value.detach().clone() for name, value in CASES["mlp"].make().state_dict().items()}


def ill(name, value):
    return {**state(), name: value}


def parted(*methods, **options):
    return Partition(methods=methods, **options)


REFUSED = {
    "rewind, a name": (Rewind(to=ill("9.bias", torch.zeros(1))), errors.MaskMismatch, "unexpected 9.bias"),
    "rewind, nan": (
        Rewind(to=ill("2.bias", torch.full((8,), torch.nan))),
        errors.BadData,
        "not finite, first in '2.bias'",
    ),
    "reset, a name": (
        Reset(to=ill("9.bias", torch.zeros(1))),
        errors.MaskMismatch,
        "the network has no such parameter",
    ),
    "reset, a shape": (
        Reset(to=ill("2.bias", torch.zeros(3))),
        errors.MaskMismatch,
        r"'2.bias' of shape \(3,\): .* \(8,\)",
    ),
    "reset, nan": (
        Reset(to=ill("2.bias", torch.full((8,), torch.nan))),
        errors.BadData,
        "for '2.bias' are not all finite",
    ),
    "reset, too few": (
        Reset(to={"2.bias": torch.zeros(8)}),
        errors.BadRequest,
        "found none for 0.weight, 0.bias, 2.weight",
    ),
    "partition, scores": (
        parted(TUNE, TUNE, memorization=torch.zeros(4)),
        errors.BadRequest,
        "memorization: expected one score for each of 3 forget rows, found 4",
    ),
    "partition, parts": (parted(*[TUNE] * 4), errors.BadRequest, "part 1 of 4 would hold none of 3 forget rows"),
    "partition, the one part": (parted(Dampen(selection=99.0)), errors.BadRequest, "selection: with 3 of 20 rows"),
    "partition, a known part": (
        parted(
            Nothing(), Nothing(), Dampen(selection=19.0), memorization=torch.arange(3.0)
        ),  # two rows are gone by then
        errors.BadRequest,
        "selection: with 1 of 18 rows",
    ),
    "partition, a part to be found": (
        parted(TUNE, Rewind(to={"x": torch.zeros(1)})),
        errors.MaskMismatch,
        "unexpected x",
    ),
    "two teachers": (
        TwoTeachers(plan=PLAN, retain_fraction=0.01),
        errors.BadRequest,
        "retain_fraction: 0.01 of 17 retain rows is less than one row",
    ),
    "match": (
        Match(plan=PLAN, targets=Halved(), forget_multiplier=0.3),
        errors.BadRequest,
        "forget_multiplier: 0.3 of 3 forget rows is less than one row",
    ),
    "dampen": (Dampen(selection=99.0), errors.BadRequest, "selection: with 3 of 20 rows to forget"),
    "soften in soften": (
        Soften(method=Widened(Soften(method=TUNE))),
        errors.BadRequest,
        "gradients are softened already",
    ),
    "soften among": (Soften(method=TUNE, among=Modules(("nope",))), errors.MaskMismatch, "named 'nope'"),
    "distill": (
        Distill(plan=PLAN, max_epochs=1, teacher=CASES["three-classes"].make()),
        errors.BadRequest,
        r"teacher: expected logits of shape \(8, 4\), as the network's, found \(8, 3\)",
    ),
    "project": (Project(plan=PLAN, frozen=("nope",)), errors.BadRequest, "no linear or .* layer is named 'nope'"),
    "closest epoch": (ClosestEpoch(TUNE), errors.BadRequest, "holdout rows of every class .*, found none of 3"),
    "attract": (Attract(plan=PLAN, removed=(9,)), errors.BadRequest, "removed: expected classes .*to 3, found 9"),
    "attract, a head": (Attract(plan=PLAN, head="nope"), errors.UnsupportedModel, "named 'nope'"),
    "until": (Until(Attract(plan=PLAN, head="nope"), BelowAccuracy()), errors.UnsupportedModel, "named 'nope'"),
    "within modules": (Within(TUNE, Modules(("nope",))), errors.MaskMismatch, "named 'nope'"),
    "within last layers": (Within(TUNE, LastLayers(9)), errors.BadRequest, "k: expected at most 3"),
}
AROUND = {
    "itself": lambda method: method,
    "in a sequence": lambda method: Sequence((Nothing(), method)),
    "widened": Widened,
    "within": lambda method: Within(method, Modules(("0", "2", "4"))),
    "softened": lambda method: Soften(method=Sequence((TUNE, method))),
    "in a part": lambda method: parted(method),
}


def refused(model, split, method, error, message, **options):
    alone, seen = LeftAlone(model), Stages()
    with pytest.raises(error, match=message):
        excise.unlearn(model, split, Sequence((TUNE, method)), hooks=seen, **options)
    assert (seen.stages, seen.steps) == ([], 0)
    alone.check()


@pytest.mark.parametrize(
    ("what", "around"),
    [(what, around) for what in REFUSED for around in AROUND if (what, around) != ("soften among", "softened")],
)
def test_what_a_part_cannot_do_is_refused_before_any_step(what, around):
    method, error, message = REFUSED[what]
    inputs, labels = CASES["mlp"].data(23)
    split = Split((inputs[:20], labels[:20]), forget=FORGET, holdout=(inputs[20:], torch.tensor([0, 1, 2])))
    refused(CASES["mlp"].make(), split, AROUND[around](method), error, message)


@pytest.mark.parametrize("around", AROUND)
def test_what_they_can_do_is_done_after_the_others(around):
    """The same kinds with sound options pass all checks: a law that refuses everything would be none."""
    sound = Sequence(
        (
            Rewind(to=state()),
            Reset(to=state()),
            parted(TUNE, TUNE, memorization=torch.arange(3.0)),
            TwoTeachers(plan=PLAN),
            Match(plan=PLAN, targets=Halved(), retain_multiplier=1),
            Dampen(selection=2.0),
            Distill(plan=PLAN, max_epochs=1),
            ClosestEpoch(TUNE),
            Until(Attract(plan=PLAN), BelowAccuracy()),
            Within(TUNE, LastLayers(2)),
        )
    )
    inputs, labels = CASES["mlp"].data(24)
    split = Split((inputs[:20], labels[:20]), forget=FORGET, holdout=(inputs[20:], labels[20:]))
    seen = Stages()
    excise.unlearn(CASES["mlp"].make(), split, Sequence((TUNE, AROUND[around](sound))), hooks=seen)
    assert seen.stages[0] == "Finetune" and {"TwoTeachers", "Distill"} < set(seen.stages)


def binary():
    """Give a network of one logit, float targets, and the loss that goes with them."""
    inputs, labels = CASES["mlp"].data(20)
    rows = list(zip(inputs, (labels % 2).double(), strict=True))

    def forward(model, batch):
        return model(batch[0]), batch[1].double()

    def loss(logits, targets):
        return functional.binary_cross_entropy_with_logits(logits[:, 0], targets, reduction="none")

    return nn.Sequential(nn.Linear(6, 1)).double(), Split(rows, forget=FORGET), {"forward": forward, "loss": loss}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Distill(plan=PLAN, max_epochs=1), "Distill: expected logits of two classes or more, found 1"),
        (Distill(plan=PLAN, max_epochs=0, alpha=0.1), "Distill: expected logits of two classes or more, found 1"),
        (TwoTeachers(plan=PLAN), "TwoTeachers: expected logits of two classes or more, found 1"),
        (TwoTeachers(plan=PLAN, retain_fraction=0.0), "TwoTeachers: expected logits of two classes or more, found 1"),
        (Match(plan=PLAN, targets=Halved(), loss="ce"), "Match: expected logits of two classes or more, found 1"),
        (Relabel(plan=PLAN), "Relabel: expected a network of two classes or more"),
        (RUM(budget_fraction=0.5).method, "Relabel: expected a network of two classes or more"),
    ],
)
def test_a_network_of_one_logit_is_refused_by_what_takes_a_softmax(method, message):
    model, split, options = binary()
    refused(model, split, method, errors.BadRequest, message, **options)


@pytest.mark.parametrize("method", [Relabel(plan=PLAN), RUM().method])
def test_targets_that_are_no_classes_are_refused_by_what_draws_classes(method):
    _, split, options = binary()
    refused(CASES["mlp"].make(), split, method, errors.BadData, "Relabel: expected one integer class a row", **options)


def test_a_distillation_without_a_divergence_takes_one_logit():
    model, split, options = binary()
    method = Distill(plan=PLAN, max_epochs=0, alpha=0.0)
    one, other = (snapshot(excise.unlearn(model, split, how, **options).model) for how in (method, TUNE))
    assert same_bytes(one, other) and not same_bytes(one, snapshot(model))


@pytest.mark.parametrize(
    "method", [Distill(plan=PLAN, max_epochs=1), TwoTeachers(plan=PLAN), Match(plan=PLAN, targets=Halved(), loss="ce")]
)
def test_run_by_hand_a_single_class_is_refused_at_the_first_step(method):
    model, split, options = binary()
    engine = excise.train.Engine(
        excise.train.Task(**options), 0, Mask.empty(model), fresh=lambda: binary()[0], original=binary()[0]
    )
    before = snapshot(model)
    with pytest.raises(errors.BadRequest, match=f"^{type(method).__name__}: expected logits of two classes or more"):
        method.unlearn_(model, split, Mask.full(model), engine)
    assert same_bytes(before, snapshot(model))
