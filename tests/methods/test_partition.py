import itertools
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import excise
from excise import Hooks, errors, seeds
from excise.data import Split
from excise.masks import Mask
from excise.methods import Ascend, Contrast, Finetune, Method, Noise, Nothing, Partition, Reset, Retrain, Widened
from excise.train import TrainPlan
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [0, 3, 8, 11, 14, 15, 18]
RETAIN = [row for row in range(20) if row not in FORGET]
SCORES = torch.tensor([0.5, 0.1, 0.9, 0.1, 0.3, 0.9, 0.2])  # of FORGET, in that order
LOW_TO_HIGH = [3, 11, 18, 14, 0, 8, 15]  # ties by id
PLAN = TrainPlan(epochs=1, lr=0.05, batch_size=5, weight_decay=0.1)


@dataclass(frozen=True, eq=False)
class Noted(Method):
    """Writes down the rows, the engine and the network that it is given, and adds one to the first weight."""

    seen: list = field(default_factory=list)
    needs: Any = frozenset()

    def unlearn_(self, model, split, mask, engine):
        original = None if engine.original is None else snapshot(engine.original_model())
        self.seen.append((split, engine, snapshot(model), original))
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 1


def problem(name="mlp", data=None):
    model = CASES[name].make()
    return model, Split(data or CASES[name].data(20), forget=FORGET), Mask.full(model)


def parts_of(num_parts, *, split=None, **options):
    """Give the forget rows and the retain rows of each part, as a probe is given them."""
    model, own, mask = problem()
    probes = tuple(Noted() for _ in range(num_parts))
    engine = engine_for(model, original=CASES["mlp"].make())
    Partition(methods=probes, **options).unlearn_(model, split or own, mask, engine)
    splits = [probe.seen[0][0] for probe in probes]
    return [[rows.ids.tolist() for rows in (found.forget, found.retain, found.train)] for found in splits]


def test_parts_go_from_low_to_high_and_each_retains_what_is_not_yet_forgotten():
    found = parts_of(3, memorization=SCORES)  # 7 rows: parts end after 2, 4 and 7
    assert [part for part, _, _ in found] == [
        sorted(LOW_TO_HIGH[:2]),
        sorted(LOW_TO_HIGH[2:4]),
        sorted(LOW_TO_HIGH[4:]),
    ]
    assert found[0][1] == sorted([*RETAIN, *LOW_TO_HIGH[2:]])
    assert found[1][1] == sorted([*RETAIN, *LOW_TO_HIGH[4:]])
    assert found[2][1] == RETAIN
    assert all(sorted([*part, *retain]) == train for part, retain, train in found)


@given(st.data())
def test_parts_are_disjoint_and_together_the_forget_rows(data):
    num_rows = data.draw(st.integers(2, 14))
    forget = sorted(data.draw(st.sets(st.integers(0, num_rows - 1), min_size=1, max_size=num_rows - 1)))
    scores = data.draw(st.lists(st.integers(0, 3), min_size=len(forget), max_size=len(forget)))
    num_parts = data.draw(st.integers(1, len(forget)))
    split = Split((torch.zeros(num_rows, 6), torch.zeros(num_rows, dtype=torch.int64)), forget=forget)
    found = parts_of(num_parts, split=split, memorization=torch.tensor(scores))
    order = [row for _, row in sorted(zip(scores, forget, strict=True))]
    sizes = [len(part) for part, _, _ in found]
    assert max(sizes) - min(sizes) <= 1
    ends = list(itertools.accumulate(sizes))
    for (part, retain, train), end, size in zip(found, ends, sizes, strict=True):
        assert part == sorted(order[end - size : end])
        assert retain == sorted(set(range(num_rows)) - set(order[:end]))
        assert train == sorted(set(range(num_rows)) - set(order[: end - size]))
    assert ends[-1] == len(forget)


@pytest.mark.parametrize(
    "bounds", [("0.5",), ("1/7",), ("0.29", "0.57"), ("0.2", "0.4", "0.9"), ("0.3", "0.6"), ("0.142858", "0.999")]
)
def test_bounds_are_shares_of_the_forget_rows(bounds):
    exact = [Fraction(bound) for bound in bounds]
    found = parts_of(len(bounds) + 1, memorization=SCORES, bounds=tuple(float(bound) for bound in exact))
    edges = [0, *(math.floor(bound * 7) for bound in exact), 7]
    wanted = [sorted(LOW_TO_HIGH[a:b]) for a, b in itertools.pairwise(edges)]
    assert [part for part, _, _ in found] == wanted


def test_a_share_that_is_a_whole_number_of_rows_is_that_number():
    split = Split((torch.zeros(101, 6), torch.zeros(101, dtype=torch.int64)), forget=range(100))
    for count in range(1, 100):  # 0.29 * 100 is a little less than 29
        found = parts_of(2, split=split, memorization=torch.arange(100), bounds=(count / 100,))
        assert [len(part) for part, _, _ in found] == [count, 100 - count]


@every_case
def test_one_part_is_the_method_with_the_engine_reseeded(name):
    for method in (Contrast(plan=PLAN, alpha=0.7), Noise(sigma=0.1)):
        (ours, split, mask), (theirs, _, _) = problem(name), problem(name)
        engine = engine_for(ours, seed=4)
        Partition(methods=(method,)).unlearn_(ours, split, mask, engine)
        method.unlearn_(theirs, split, mask, engine_for(theirs, seed=seeds.derive(4, "partition", 0)))
        assert same_bytes(snapshot(ours), snapshot(theirs))
        other, _, _ = problem(name)
        method.unlearn_(other, split, mask, engine_for(other, seed=4))
        assert not same_bytes(snapshot(ours), snapshot(other))


@every_case
def test_it_is_the_methods_run_by_hand_one_request_after_another(name):
    """Rows of a data set of its own for each request, of which the ones forgotten before are no part."""
    ours, split, mask = problem(name)
    methods = (Ascend(plan=PLAN), Contrast(plan=PLAN, alpha=0.6), Finetune(plan=PLAN))
    engine = engine_for(ours, seed=2)
    Partition(methods=methods, memorization=SCORES).unlearn_(ours, split, mask, engine)
    (inputs, labels), theirs = CASES[name].data(20), CASES[name].make()
    gone, trained = [], 0
    for place, (method, ids) in enumerate(
        zip(methods, (LOW_TO_HIGH[:2], LOW_TO_HIGH[2:4], LOW_TO_HIGH[4:]), strict=True)
    ):
        left = [row for row in range(20) if row not in gone]
        request = Split((inputs[left], labels[left]), forget=[left.index(row) for row in ids])
        by_hand = engine_for(theirs, seed=seeds.derive(2, "partition", place))
        method.unlearn_(theirs, request, mask, by_hand)
        gone, trained = gone + ids, trained + by_hand.cost.trained_rows
    assert same_bytes(snapshot(ours), snapshot(theirs))
    assert [trace.stage for trace in engine.trace] == ["Ascend", "Contrast", "Finetune"]
    assert engine.cost.trained_rows == trained > 2 + 16 + 13


def test_each_part_has_a_seed_of_its_own_and_the_network_that_the_one_before_left():
    model, split, mask = problem()
    probes, original = tuple(Noted() for _ in range(3)), CASES["mlp"].make()
    engine = engine_for(model, seed=5, original=original)
    Partition(methods=probes, memorization=SCORES).unlearn_(model, split, mask, engine)
    seen = [probe.seen[0] for probe in probes]
    assert [own.seed for _, own, _, _ in seen] == [seeds.derive(5, "partition", place) for place in range(3)]
    assert all(own.cost is engine.cost and own.trace is engine.trace for _, own, _, _ in seen)
    assert seen[0][1].original is original
    assert all(same_bytes(given, before) for _, _, given, before in seen)
    firsts = [float(given["0.weight"][0, 0]) for _, _, given, _ in seen]
    assert [round(value - firsts[0], 9) for value in firsts] == [0, 1, 2]
    assert same_bytes(snapshot(original), snapshot(CASES["mlp"].make()))
    # by hand there is no original, and none is made
    probes = tuple(Noted() for _ in range(2))
    Partition(methods=probes, memorization=SCORES).unlearn_(model, split, mask, engine_for(model))
    assert [probe.seen[0][1].original for probe in probes] == [None, None]


@every_case
def test_nothing_for_a_part_leaves_the_weights_as_they_are(name):
    model, split, mask = problem(name)
    before = snapshot(model)
    Partition(methods=(Nothing(), Nothing()), memorization=SCORES).unlearn_(model, split, mask, engine_for(model))
    assert same_bytes(snapshot(model), before)
    probe = Noted()
    Partition(methods=(Nothing(), probe, Nothing()), memorization=SCORES).unlearn_(
        model, split, mask, engine_for(model)
    )
    assert same_bytes(probe.seen[0][2], before)


def test_the_order_of_the_parts_counts():
    found = []
    for scores in (SCORES, -SCORES):
        model, split, mask = problem()
        method = Partition(methods=(Ascend(plan=PLAN), Finetune(plan=PLAN)), memorization=scores)
        method.unlearn_(model, split, mask, engine_for(model))
        found.append(snapshot(model))
    assert not same_bytes(*found)


# --- without scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 128])
@every_case
def test_without_scores_the_order_is_that_of_confidence_in_the_network_before_the_run(name, batch_size):
    (inputs, labels), original = CASES[name].data(20), CASES[name].make()
    with torch.no_grad():
        odds = original.eval()(inputs[FORGET]).softmax(1)
    proxy = [1 - float(row[label]) for row, label in zip(odds, labels[FORGET].tolist(), strict=True)]
    wanted = [row for _, row in sorted(zip(proxy, FORGET, strict=True))]
    model, split, mask = problem(name)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()  # the network that is changed has no say
    probes, engine = tuple(Noted() for _ in FORGET), engine_for(model, original=original.train())
    Partition(methods=probes, batch_size=batch_size).unlearn_(model, split, mask, engine)
    assert [probe.seen[0][0].forget.ids.tolist() for probe in probes] == [[row] for row in wanted]
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (0, len(FORGET))
    assert original.training


def test_rows_in_which_confidence_rounds_to_one_go_by_id():
    model = torch.nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [0.0]]))
    # margins of 50, 60 and 1: the first two confidences are 1.0 in double precision
    data = (torch.tensor([[50.0], [60.0], [1.0], [0.0]], dtype=torch.float64), torch.zeros(4, dtype=torch.int64))
    probes, engine = tuple(Noted() for _ in range(3)), engine_for(model, original=model)
    Partition(methods=probes).unlearn_(model, Split(data, forget=[2, 1, 0]), Mask.full(model), engine)
    assert [probe.seen[0][0].forget.ids.tolist() for probe in probes] == [[0], [1], [2]]


class Progress(Hooks):
    def __init__(self):
        self.said = []

    def on_stage(self, name, num_steps):
        self.said.append((name, num_steps))

    def on_step(self):
        self.said.append("step")

    def on_stage_end(self, name):
        self.said.append(name)


def test_scoring_is_a_stage_and_one_part_or_scores_need_none():
    model, split, mask = problem()
    hooks = Progress()
    engine = engine_for(model, original=CASES["mlp"].make(), hooks=hooks)
    Partition(methods=(Nothing(), Nothing()), batch_size=3).unlearn_(model, split, mask, engine)
    assert hooks.said == [("Partition", 3), "step", "step", "step", "Partition"]
    for quiet in (Partition(methods=(Nothing(),)), Partition(methods=(Nothing(),) * 2, memorization=SCORES)):
        quiet.unlearn_(model, split, mask, engine)
    assert len(hooks.said) == 5 and engine.cost.forward_rows == 7


def test_without_scores_and_without_an_original_it_is_refused():
    model, split, mask = problem()
    before = snapshot(model)
    with pytest.raises(
        errors.BadRequest, match=r"^Partition: without scores .* excise\.unlearn, or give memorization="
    ):
        Partition(methods=(Noted(), Noted())).unlearn_(model, split, mask, engine_for(model))
    assert same_bytes(snapshot(model), before)


# --- what it reads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "scored", "needs"),
    [
        ((Nothing(), Nothing()), True, set()),
        ((Nothing(), Nothing()), False, {"forget"}),
        ((Nothing(),), False, set()),
        ((Finetune(plan=PLAN),), False, {"retain"}),
        ((Nothing(), Finetune(plan=PLAN)), True, {"retain"}),
        ((Finetune(plan=PLAN), Nothing()), True, {"retain", "forget"}),  # rows of the second part are retained at first
        ((Ascend(plan=PLAN), Nothing()), True, {"forget"}),
        ((Reset(), Nothing(), Retrain(plan=PLAN)), True, {"retain", "fresh"}),
    ],
)
def test_it_needs_what_it_reads_and_reads_no_more(methods, scored, needs):
    method = Partition(methods=methods, memorization=SCORES if scored else None)
    assert method.needs == needs
    forbidden = (set(RETAIN) if "retain" not in needs else set()) | (set(FORGET) if "forget" not in needs else set())
    watched = Watched(*CASES["mlp"].data(20), forbidden=forbidden)
    model, split, mask = problem(data=watched)
    engine = engine_for(model, original=CASES["mlp"].make(), fresh=CASES["mlp"].make)
    method.unlearn_(model, split, mask, engine)
    assert (set(watched.read) >= set(RETAIN)) == ("retain" in needs)
    assert bool(set(watched.read) & set(FORGET)) == ("forget" in needs)


def test_a_method_that_needs_holdout_rows_or_a_fresh_network_says_so():
    probe = Noted(needs=frozenset({"holdout", "fresh"}))
    assert Partition(methods=(probe, Nothing()), memorization=SCORES).needs == {"holdout", "fresh"}


@pytest.mark.parametrize("rules", list(itertools.product(STATISTICS, repeat=2)), ids=str)
def test_the_rule_for_buffers_is_the_most_permissive_methods(rules):
    method = Partition(methods=tuple(Finetune(plan=PLAN, buffers=rule) for rule in rules))
    assert method.statistics == next(rule for rule in ("adapt", "follow-mask", "hold") if rule in rules)


def test_it_widens_if_any_part_does():
    assert not Partition(methods=(Finetune(plan=PLAN), Nothing())).widens
    assert Partition(methods=(Nothing(), Widened(Finetune(plan=PLAN)))).widens


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(20), forget=FORGET)
    method = Partition(methods=(Nothing(), Finetune(plan=PLAN), Contrast(plan=PLAN, alpha=0.8)))
    mask = Mask.from_tensors(tensors)
    one, same, other = (excise.unlearn(model, split, method, mask=mask, seed=seed) for seed in (0, 0, 1))
    before, after = snapshot(model), snapshot(one.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert not same_bytes(before, after)
    assert same_bytes(after, snapshot(same.model))
    assert not same_bytes(after, snapshot(other.model))
    empty = excise.unlearn(model, split, method, mask=Mask.empty(model))
    assert same_bytes(snapshot(empty.model), before)
    alone.check()


@pytest.mark.parametrize(
    ("options", "num_parts", "message"),
    [
        ({"memorization": SCORES}, 8, "Partition: part 1 of 8 would hold none of 7 forget rows; give fewer methods"),
        ({}, 8, "Partition: part 1 of 8 would hold none of 7 forget rows; give fewer methods"),
        (
            {"bounds": (0.5, 0.51)},
            3,
            "Partition: part 2 of 3 would hold none of 7 forget rows; .* bounds further apart",
        ),
        ({"bounds": (0.1,)}, 2, "Partition: part 1 of 2 would hold none of 7 forget rows"),
        (
            {"memorization": torch.zeros(6)},
            2,
            "memorization: expected one score for each of 7 forget rows, found 6; give them in ascending order",
        ),
        ({"memorization": torch.zeros(8)}, 1, "memorization: expected one score for each of 7 forget rows, found 8"),
    ],
)
def test_parts_without_rows_and_scores_of_other_rows_are_refused_before_any_work(options, num_parts, message):
    model, split, mask = problem(data=Watched(*CASES["mlp"].data(20), forbidden=range(20)))
    before = snapshot(model)
    engine = engine_for(model, original=CASES["mlp"].make())
    with pytest.raises(errors.BadRequest, match=f"^{message}"):
        Partition(methods=(Noted(),) * num_parts, **options).unlearn_(model, split, mask, engine)
    assert same_bytes(snapshot(model), before)
    assert engine.cost.forward_rows == 0


TWO = (Nothing(), Nothing())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ()}, r"Partition: expected a tuple of at least one method, found \(\)"),
        ({"methods": [Nothing()]}, r"Partition: expected a tuple of at least one method, found \[Nothing\(\)\]"),
        ({"methods": (Nothing(), "x")}, "Partition: expected a tuple of methods, found 'x' in it"),
        ({"bounds": (1.5,)}, "bounds: expected a fraction between 0 and 1, found 1.5"),
        *(
            (
                {"bounds": bounds},
                "bounds: expected 1 ascending fractions between 0 and 1, both excluded, to part 2 methods",
            )
            for bounds in ((), (0.0,), (1.0,), (0.3, 0.6))
        ),
        (
            {"methods": (*TWO, Nothing()), "bounds": (0.6, 0.3)},
            "bounds: expected 2 ascending fractions .* to part 3 methods",
        ),
        ({"methods": (*TWO, Nothing()), "bounds": (0.3, 0.3)}, r".*, found \(0.3, 0.3\)$"),
        (
            {"memorization": [0.1, 0.2]},
            r"memorization: expected a tensor \[forget rows\] of finite numbers, found list",
        ),
        ({"memorization": torch.zeros(2, 2)}, r"memorization: .* found shape \(2, 2\)"),
        (
            {"memorization": torch.tensor([0.1, float("nan")])},
            r"memorization: .* of finite numbers, found shape \(2,\)",
        ),
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1, found 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}"):
        Partition(**{"methods": TWO, **options})
