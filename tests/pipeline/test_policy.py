"""The verdict, put to populations whose truth is known: evidence drawn from one distribution, and shifted copies of it."""

import dataclasses
import math

import numpy as np
import pytest

import excise
from excise.measure import against_oracles, spreads_to_see
from excise.pipeline import policy
from excise.pipeline.evidence import Evidence
from excise.pipeline.policy import Arms, judge, measures_of, rejects, verdict
from excise.pipeline.power import TRACES, oracles_needed, trace_seen

NUM = {"forget": 120, "retain": 1000, "test": 500}
NAMES = [
    "forget_accuracy",
    "retain_accuracy",
    "test_accuracy",
    "forget_margin",
    "forget_margin_distance",
    "confidence_attack",
]


def split_of(forget=NUM["forget"]):
    rows = np.zeros((forget + NUM["retain"], 1)), np.zeros(forget + NUM["retain"], dtype=np.int64)
    test = np.zeros((NUM["test"], 1)), np.zeros(NUM["test"], dtype=np.int64)
    return excise.Split(rows, forget=range(forget), test=test)


SPLIT = split_of()


class Population:
    """Networks trained without the rows: each row has its hardness, each network its mood, each margin its noise."""

    def __init__(self, seed, num_forget=NUM["forget"]):
        self.draw = np.random.default_rng(seed)
        self.hardness = self.draw.normal(0, 3, num_forget)

    def one(self, shift=0.0, noise=1.0, finite=True, attack=None, retain=0.98):
        margins = self.hardness + shift + 0.3 * self.draw.normal() + noise * self.draw.normal(size=len(self.hardness))
        accuracy = {
            "forget": float((margins > 0).mean()),
            "retain": self.draw.binomial(NUM["retain"], retain) / NUM["retain"],
            "test": self.draw.binomial(NUM["test"], 0.9) / NUM["test"],
        }
        drawn = self.draw.binomial(len(margins), 0.4) / len(margins)
        return Evidence(accuracy, drawn if attack is None else attack, margins, np.logaddexp(0, -margins), finite)

    def many(self, count=8, **options):
        return [self.one(**options) for _ in range(count)]

    def original(self):
        """It learnt the rows by heart."""
        return self.one(shift=8.0, retain=0.99)


def altered(measure, **changes):
    return type(measure)(**{**{name: getattr(measure, name) for name in measure.__struct_fields__}, **changes})


# ---------------------------------------------------------------- the rates


def test_one_more_oracle_passes_at_about_the_nominal_rate():
    worlds = [Population(seed) for seed in range(300)]
    failed = [judge(world.one(), world.many(), SPLIT)[0] for world in worlds].count("FAIL")
    # 15 expected; 25 or more come about once in 100 at 5%
    assert 0 < failed <= 24


def test_so_it_does_with_four_oracles_many_rows_and_both_controls():
    split = split_of(2000)
    worlds = [Population(seed, 2000) for seed in range(100)]
    found = [verdict(world.one(), world.original(), world.many(4), split) for world in worlds]
    words = [one.verdict for one in found]
    # 5 failures by chance expected; of four oracles three must fail (0.05% of draws) for a control that is unlucky
    assert 0 < words.count("FAIL") <= 10
    assert words.count("INVALID") <= 1
    assert set(words) <= {"PASS", "FAIL", "INVALID"}
    assert words.count("PASS") >= 89
    assert all(one.trace_seen <= policy.EFFECT for one in found if one.verdict == "PASS")


@pytest.mark.parametrize("num_oracles", [3, 4, 8])
def test_the_distance_of_one_more_oracle_is_as_likely_above_as_below_those_held_out(num_oracles):
    """Held against n oracles where those are held against n - 1, it would always lie below: p < 0.05 in 8 of 10 here."""
    draw, values = np.random.default_rng(0), []
    for _ in range(200):
        table = draw.normal(size=(num_oracles + 1, 4000))
        oracles = [Evidence(dict.fromkeys(NUM, 0.5), 0.5, row, row, finite=True) for row in table[1:]]
        own = Evidence(dict.fromkeys(NUM, 0.5), 0.5, table[0], table[0], finite=True)
        values.append({one.name: one for one in measures_of(own, oracles, SPLIT)}["forget_margin_distance"])
    above = sum(one.value > 0 for one in values)
    assert 65 < above < 135  # 100 +- 5 standard deviations of a fair coin
    assert sum(one.p < 0.05 for one in values) <= 24  # 10 expected, + 4.5 standard deviations


def test_the_original_fails():
    found = [judge(world.original(), world.many(), SPLIT)[0] for world in map(Population, range(40))]
    assert found == ["FAIL"] * 40


@pytest.mark.parametrize("shift", [6.0, -6.0])
def test_a_network_shifted_either_way_fails_by_its_margins(shift):
    world = Population(0)
    found = verdict(world.one(shift=shift), world.original(), world.many(), SPLIT)
    assert found.verdict == "FAIL"
    assert found.controls == {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"}
    assert any(reason.startswith(f"forget_margin: {'+' if shift > 0 else '-'}") for reason in found.reasons)


def test_rows_exchanged_for_one_another_fail_though_every_mean_is_right():
    world = Population(1)
    own = world.one()
    exchanged = dataclasses.replace(own, margins=own.margins[::-1].copy())
    oracles = world.many()
    assert judge(own, oracles, SPLIT)[0] == "PASS"
    rejected = rejects(measures_of(exchanged, oracles, SPLIT))
    assert [one.name for one in rejected] == ["forget_margin_distance"]


@pytest.mark.parametrize("part", ["forget", "retain", "test"])
@pytest.mark.parametrize("change", [-0.2, 0.2])
def test_an_accuracy_out_of_line_fails_alone(part, change):
    world = Population(2)
    oracles = [
        dataclasses.replace(one, accuracy={**one.accuracy, part: 0.5 + 0.01 * (i % 3)})
        for i, one in enumerate(world.many())
    ]
    own = world.one()
    own = dataclasses.replace(own, accuracy={**own.accuracy, part: 0.51})
    assert judge(own, oracles, SPLIT)[0] == "PASS"
    moved = dataclasses.replace(own, accuracy={**own.accuracy, part: 0.51 + change})
    rejected = rejects(measures_of(moved, oracles, SPLIT))
    assert [one.name for one in rejected] == [f"{part}_accuracy"]


# ---------------------------------------------------------------- what decides


@pytest.mark.parametrize("attack", [0.0, 1.0])
def test_the_confidence_attack_never_decides(attack):
    world = Population(3)
    own, oracles, original = world.one(attack=attack), world.many(), world.original()
    found = verdict(own, original, oracles, SPLIT)
    assert {one.name: one.p for one in found.measures}["confidence_attack"] < 1e-3
    assert found.verdict == "PASS"
    assert {one.name for one in found.measures if one.decides} == set(policy.SINGLE)
    assert set(policy.SINGLE) == set(NAMES) - {"confidence_attack"}


def test_a_population_attack_cannot_make_a_failure_pass():
    """The half-mislabelled digits: below 0.5 for doing nothing, and for retraining too."""
    world = Population(4)
    oracles = world.many(attack=0.77)
    own = world.one(shift=8.0, attack=0.77)
    assert verdict(own, world.original(), oracles, SPLIT).verdict == "FAIL"


def test_logits_that_are_not_finite_fail():
    world = Population(5)
    broken = world.one(finite=False, attack=math.nan)
    found = verdict(broken, world.original(), world.many(), SPLIT)
    assert (found.verdict, found.measures) == ("FAIL", [])
    assert found.reasons[0] == "the network gives logits that are not finite"
    assert found.controls == {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"}


# ---------------------------------------------------------------- controls


def test_rows_that_left_no_trace_give_no_verdict_and_say_why():
    """The original passes for a network that never saw them: no number of passes would mean anything."""
    for seed in range(20):
        world = Population(seed)
        found = verdict(world.one(), world.one(), world.many(), SPLIT)
        if found.verdict == "FAIL" or found.controls["nothing"] == "FAIL":
            continue  # by chance, one in twenty each
        assert found.verdict == "INCONCLUSIVE"
        assert found.trace_seen is None or found.trace_seen > policy.EFFECT
        assert "the rows left a trace of" in found.reasons[0]
        assert "a pass promises to see 50%" in found.reasons[0]
        assert "they left no trace that 8 retrained networks show" in " ".join(found.reasons)
        assert [one.name for one in found.measures] == NAMES


def test_passing_the_original_though_its_trace_could_be_seen_is_invalid(monkeypatch):
    """By the rule's own arithmetic this cannot come about with one network; the rule is there all the same."""
    monkeypatch.setattr(policy, "trace_seen", lambda nothing: 0.3)
    world = Population(6)
    found = verdict(world.one(), world.one(), world.many(), SPLIT)
    assert found.controls == {"nothing": "PASS", "retrained": "PASS", "plan": "PASS"}
    assert found.verdict == "INVALID"
    assert "control 'nothing': the original network passes too" in found.reasons[0]


def test_oracles_that_stand_out_each_in_its_own_way_make_the_audit_invalid():
    world = Population(7)
    oracles = world.many()
    oracles[1] = world.one(shift=9.0)
    oracles[4] = dataclasses.replace(oracles[4], accuracy={**oracles[4].accuracy, "retain": 0.7})
    oracles[6] = dataclasses.replace(oracles[6], accuracy={**oracles[6].accuracy, "test": 0.5})
    found = verdict(world.one(), world.one(shift=60.0), oracles, SPLIT)
    assert found.verdict == "INVALID"
    assert found.controls == {"nothing": "FAIL", "retrained": "FAIL", "plan": "PASS"}
    assert "control 'retrained': 3 of 8 oracles, each held against the others, fail" in found.reasons[0]


def test_two_that_stand_out_are_chance():
    world = Population(7)
    oracles = world.many()
    oracles[1] = world.one(shift=9.0)
    oracles[4] = dataclasses.replace(oracles[4], accuracy={**oracles[4].accuracy, "retain": 0.7})
    assert verdict(world.one(), world.one(shift=60.0), oracles, SPLIT).controls["retrained"] == "PASS"


@pytest.mark.parametrize(("num_oracles", "fewest"), [(4, 3), (8, 3), (16, 4), (64, 9)])
def test_a_sound_yardstick_is_called_broken_once_in_a_hundred_times(num_oracles, fewest, monkeypatch):
    """Failures are rare by themselves: the fewest that come about with less than 1% is summed here by hand."""
    chances = [math.comb(num_oracles, k) * 0.05**k * 0.95 ** (num_oracles - k) for k in range(num_oracles + 1)]
    assert sum(chances[fewest:]) < policy.CONTROL_ALPHA <= sum(chances[fewest - 1 :])
    world = Population(25)
    own, original, oracles = world.one(), world.original(), world.many(num_oracles)
    measures = measures_of(original, oracles, SPLIT)
    for failing, wanted in ((fewest - 1, "PASS"), (fewest, "FAIL")):
        bad = {id(one) for one in oracles[:failing]}
        monkeypatch.setattr(policy, "judge", lambda one, *_, bad=bad: ("FAIL" if id(one) in bad else "PASS", measures))
        assert verdict(own, original, oracles, SPLIT).controls["retrained"] == wanted


def test_oracles_of_two_kinds_hide_one_another_and_show_as_a_wide_null():
    """A limit, stated: held against a mixture of both kinds neither stands out; the audit only sees less."""
    world = Population(7)
    even, mixed = world.many(), [*world.many(5), *world.many(3, shift=4.0)]
    controls = verdict(world.one(), world.one(shift=60.0), mixed, SPLIT).controls
    assert controls == {"nothing": "FAIL", "retrained": "PASS", "plan": "PASS"}
    least = [{one.name: one.least_detectable for one in measures_of(even[0], each, SPLIT)} for each in (even, mixed)]
    assert least[1]["forget_margin"] > 3 * least[0]["forget_margin"]


def test_a_failure_stands_though_doing_nothing_passes():
    """What was seen stays seen, whether or not the rows left a trace in the original."""
    world = Population(8)
    found = verdict(world.one(shift=20.0), world.one(), world.many(), SPLIT)
    assert (found.verdict, found.controls["nothing"]) == ("FAIL", "PASS")
    said = "the original itself passes for a network that never saw the rows"
    assert sum(reason.startswith(said) for reason in found.reasons) == 1
    seen = verdict(world.one(shift=20.0), world.original(), world.many(), SPLIT)
    assert seen.verdict == "FAIL" and not any(reason.startswith(said) for reason in seen.reasons)


def test_a_broken_yardstick_overrules_a_failure_and_keeps_what_was_found():
    world = Population(8)
    weak = [
        dataclasses.replace(one, accuracy={**one.accuracy, "retain": 0.7 + 0.002 * i})
        for i, one in enumerate(world.many())
    ]
    found = verdict(world.one(shift=20.0), world.original(), weak, SPLIT)
    assert (found.verdict, found.controls["plan"]) == ("INVALID", "FAIL")
    assert found.reasons[0].startswith("control 'plan'")
    aside = [one for one in found.reasons if one.startswith("set aside, as the yardstick is broken: ")]
    assert any("forget_margin: +" in one for one in aside)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_four_oracles_decide_nothing(count):
    world = Population(9)
    found = verdict(world.one(shift=30.0), world.original(), world.many(count), SPLIT)
    assert found.verdict == "INCONCLUSIVE"
    assert f"{count} oracles are too few to know their spread; give at least 4" in found.reasons[0]
    assert found.controls == {"nothing": "not run", "retrained": "not run", "plan": "not run"}
    # a distance needs a spread among the others: three oracles
    wanted = {1: [], 2: [name for name in NAMES if name != "forget_margin_distance"], 3: NAMES}
    assert [one.name for one in found.measures] == wanted[count]


def test_too_few_oracles_and_a_broken_network_are_inconclusive_without_measures():
    world = Population(10)
    broken = world.one(finite=False, attack=math.nan)
    found = verdict(broken, world.original(), world.many(3), SPLIT)
    assert (found.verdict, found.measures) == ("INCONCLUSIVE", [])


def test_four_oracles_decide():
    world = Population(11)
    assert verdict(world.one(shift=30.0), world.original(), world.many(4), SPLIT).verdict == "FAIL"


# ---------------------------------------------------------------- the numbers


def test_every_measure_is_the_comparison_it_says():
    world = Population(12)
    own, oracles = world.one(), world.many()
    found = measures_of(own, oracles, SPLIT)
    assert [one.name for one in found] == NAMES
    assert all(one.num_models == 8 and one.sentence.endswith(".") for one in found)
    named = {one.name: one for one in found}
    numbers = {f"{part}_accuracy": (lambda e, part=part: e.accuracy[part], 1 / size) for part, size in NUM.items()}
    numbers["forget_margin"] = (lambda e: sum(e.margins.tolist()) / len(e.margins), 0.0)
    numbers["confidence_attack"] = (lambda e: e.attack, 1 / NUM["forget"])
    for name, (take, resolution) in numbers.items():
        among = 1 if name == "confidence_attack" else 5
        wanted = against_oracles(name, take(own), [take(e) for e in oracles], resolution=resolution, among=among)
        for field in ("value", "low", "high", "null_low", "null_high", "p", "least_detectable"):
            assert getattr(named[name], field) == pytest.approx(getattr(wanted, field), rel=1e-9, abs=1e-12), (
                name,
                field,
            )


def test_the_distance_is_held_against_one_oracle_less_each_time():
    world = Population(13)
    own, oracles = world.one(shift=2.0), world.many(4)

    def away(one, others):
        table = np.array([other.margins for other in others])
        squares = [(value - column.mean()) ** 2 for value, column in zip(one.margins, table.T, strict=True)]
        spread = [((column - column.mean()) ** 2).sum() / (len(column) - 1) for column in table.T]
        return math.sqrt(np.mean(squares)) / math.sqrt(np.mean(spread))

    left_out = [oracles[:i] + oracles[i + 1 :] for i in range(4)]
    value = np.mean([away(own, rest) for rest in left_out])
    null = [away(one, rest) for one, rest in zip(oracles, left_out, strict=True)]
    found = {one.name: one for one in measures_of(own, oracles, SPLIT)}["forget_margin_distance"]
    assert found.value == pytest.approx(value - np.mean(null))
    assert found.p == pytest.approx(against_oracles("x", value, null, resolution=0.0).p)


def test_a_failure_says_which_measure_and_a_pass_what_it_could_have_seen():
    world = Population(14)
    oracles, original = world.many(), world.original()
    own = world.one(shift=30.0)
    failed = verdict(own, original, oracles, SPLIT)
    margin = {one.name: one for one in failed.measures}["forget_margin"]
    assert f"forget_margin: {margin.value:+.3g}, where an oracle's own lies within" in " ".join(failed.reasons)
    passed = verdict(world.one(), original, oracles, SPLIT)
    assert passed.verdict == "PASS"
    assert passed.reasons[0].startswith("no deciding measure tells")
    for name in policy.SINGLE:
        least = {one.name: one.least_detectable for one in passed.measures}[name]
        assert f"{name} {least:.2g}" in passed.reasons[1]
    assert "confidence_attack" not in passed.reasons[1]
    assert f"it would have noticed if {passed.trace_seen:.0%} or more of the trace" in passed.reasons[2]


def harmed(world, own, *parts):
    """The same network with rows of some parts got wrong."""
    return dataclasses.replace(own, accuracy={**own.accuracy, **dict.fromkeys(parts, 0.3)})


def test_what_speaks_of_the_forget_rows_is_said_before_damage_elsewhere_however_likely():
    """Retain and test accuracy are 50 spreads away, the forget rows' mean only some: theirs comes first all the same."""
    world = Population(14)
    oracles, original = world.many(), world.original()
    found = verdict(harmed(world, world.one(shift=4.0), "retain", "test"), original, oracles, SPLIT)
    p = {one.name: one.p for one in found.measures}
    assert p["retain_accuracy"] < p["forget_margin"]
    told = [name for reason in found.reasons if (name := reason.partition(":")[0]) in policy.SINGLE]
    assert set(told[-2:]) == set(policy.ELSEWHERE) and "forget_margin" in told[:-2]
    assert policy.DAMAGE not in found.reasons


@pytest.mark.parametrize("parts", [["retain"], ["test"], ["retain", "test"]])
def test_damage_to_other_rows_alone_is_called_so_first(parts):
    world = Population(14)
    oracles, original, own = world.many(), world.original(), world.one()
    assert verdict(own, original, oracles, SPLIT).verdict == "PASS"
    found = verdict(harmed(world, own, *parts), original, oracles, SPLIT)
    assert (found.verdict, found.reasons[0]) == ("FAIL", policy.DAMAGE)
    assert {reason.partition(":")[0] for reason in found.reasons[1 : 1 + len(parts)]} == {
        f"{p}_accuracy" for p in parts
    }
    assert "(p < 0.001)" in found.reasons[1]
    broken = verdict(harmed(world, own, *parts), original, oracles, SPLIT, arms=Arms(broken=1))
    assert policy.DAMAGE not in broken.reasons


def test_small_p_values_are_not_spelt_out():
    world = Population(14)
    oracles, original = world.many(), world.original()
    for shift in np.linspace(0.5, 3, 26):
        found = verdict(world.one(shift=shift), original, oracles, SPLIT)
        for one in rejects(found.measures) if found.verdict == "FAIL" else ():
            reason = next(reason for reason in found.reasons if reason.startswith(f"{one.name}: "))
            assert reason.endswith("(p < 0.001)" if one.p < 0.001 else f"(p = {one.p:.2g})")


def test_the_order_of_oracles_does_not_matter():
    world = Population(15)
    own, oracles, original = world.one(shift=1.0), world.many(), world.original()
    one, other = (verdict(own, original, each, SPLIT) for each in (oracles, oracles[::-1]))
    assert one.verdict == other.verdict
    for first, second in zip(one.measures, other.measures, strict=True):
        assert first.p == pytest.approx(second.p)


def test_what_a_pass_says_it_would_have_noticed_is_noticed_in_four_of_five():
    """A lone shift of the printed size, by the verdict's own rule."""
    noticed = total = 0
    for seed in range(300):
        world = Population(seed)
        own, oracles = world.one(), world.many()
        least = {one.name: one.least_detectable for one in measures_of(own, oracles, SPLIT)}["test_accuracy"]
        moved = dataclasses.replace(own, accuracy={**own.accuracy, "test": own.accuracy["test"] + least})
        noticed += "test_accuracy" in [one.name for one in rejects(measures_of(moved, oracles, SPLIT))]
        total += 1
    assert noticed / total == pytest.approx(0.8, abs=0.09)  # 4 standard deviations of 300 draws


@pytest.mark.parametrize(("retain", "expected"), [(1.0, "INVALID"), (0.95, "FAIL")])
def test_oracles_that_do_not_keep_the_retain_rows_as_the_original_does_are_no_yardstick(retain, expected):
    """A plan that trains too little makes oracles that a spoilt network resembles: the original's accuracy gives it away."""
    world = Population(11)
    weak = [
        dataclasses.replace(one, accuracy={**one.accuracy, "retain": 0.94 + 0.002 * i})
        for i, one in enumerate(world.many())
    ]
    original = dataclasses.replace(world.original(), accuracy={**world.original().accuracy, "retain": retain})
    spoilt = dataclasses.replace(world.one(shift=6.0), accuracy={**world.one().accuracy, "retain": 0.945})
    found = verdict(spoilt, original, weak, SPLIT)
    assert found.verdict == expected
    assert found.controls["plan"] == ("FAIL" if expected == "INVALID" else "PASS")
    if expected == "INVALID":
        assert "control 'plan': the original gets 100.0% of the retain rows right" in found.reasons[0]


# ---------------------------------------------------------------- the trace that a pass promises to have seen


def test_the_trace_seen_is_the_smallest_share_that_a_mean_shows():
    """Twin for the mean: the gap that is just seen, divided by the original's own."""
    world = Population(16)
    oracles, original = world.many(), world.original()
    mean = [one for one in measures_of(original, oracles, SPLIT) if one.name == "forget_margin"]
    gap = original.margins.mean() - np.mean([one.margins.mean() for one in oracles])
    assert trace_seen(mean) == pytest.approx(mean[0].least_detectable / gap)
    assert trace_seen([]) is None
    assert trace_seen([altered(mean[0], value=0.0)]) is None
    assert trace_seen([altered(mean[0], value=-gap)]) == pytest.approx(trace_seen(mean))


def test_a_distance_adds_in_squares_to_the_oracles_own():
    """By hand: with n oracles one lies r = sqrt(1 + 1/(n - 1)) away; a share s of a trace t, sqrt(r^2 + s^2 t^2)."""
    world = Population(17)
    oracles = world.many()
    distance = next(one for one in measures_of(world.original(), oracles, SPLIT) if one.name == TRACES[1])
    own, trace = math.sqrt(1 + 1 / 7), 6.0
    value, least = math.sqrt(own**2 + trace**2) - own, math.sqrt(own**2 + (0.4 * trace) ** 2) - own
    assert trace_seen([altered(distance, value=value, least_detectable=least)]) == pytest.approx(0.4)
    assert trace_seen([altered(distance, value=-0.1)]) is None


@pytest.mark.parametrize("kind", ["the same on every row", "of either sign", "small and of either sign"])
def test_the_share_that_a_pass_promises_is_seen(kind):
    """Each row its own trace; what is left of it is the printed share. The ratio of distances alone is seen in 3 of 100."""
    seen = []
    for seed in range(60):
        world, draw = Population(seed), np.random.default_rng(seed + 1000)
        traces = {
            "the same on every row": np.full(120, 3.0),
            "of either sign": draw.normal(0, 4, 120),
            "small and of either sign": draw.normal(0, 1.5, 120),
        }[kind]
        oracles = world.many()

        def left(share, world=world, traces=traces):
            one = world.one()
            return dataclasses.replace(one, margins=one.margins + share * traces)

        share = trace_seen(judge(left(1.0), oracles, SPLIT)[1])
        seen.append(judge(left(share), oracles, SPLIT)[0] == "FAIL")
    # 0.8 is promised; the normal approximation gives between 0.64 and 0.89 here, +- 0.06 for 60 draws
    assert np.mean(seen) > 0.5


def test_a_smaller_effect_is_harder_to_promise():
    world = Population(18)
    own, original, oracles = world.one(), world.original(), world.many()
    share = verdict(own, original, oracles, SPLIT).trace_seen
    assert verdict(own, original, oracles, SPLIT, effect=share * 1.001).verdict == "PASS"
    refused = verdict(own, original, oracles, SPLIT, effect=share * 0.999)
    assert refused.verdict == "INCONCLUSIVE"
    assert f"a pass promises to see {share * 0.999:.0%}" in refused.reasons[0]


def test_more_oracles_are_advised_where_they_would_help_and_not_where_none_do():
    world = Population(19)
    margin = next(one for one in measures_of(world.original(), world.many(), SPLIT) if one.name == "forget_margin")
    spread = margin.least_detectable / spreads_to_see(8, 5)
    for count in (12, 32):
        just = spread * spreads_to_see(count, 5) * 1.001
        assert oracles_needed(altered(margin, value=2 * just), 0.5, among=5) == count
    assert oracles_needed(altered(margin, value=spread), 0.5, among=5) is None


def test_more_measures_that_decide_need_more_oracles():
    world = Population(19)
    margin = next(one for one in measures_of(world.original(), world.many(), SPLIT) if one.name == "forget_margin")
    among = len(policy.SINGLE) + len(policy.POPULATION)
    spread = margin.least_detectable / spreads_to_see(8, among)
    for count in (12, 32):
        just = altered(margin, value=2 * spread * spreads_to_see(count, among) * 1.001)
        assert oracles_needed(just, 0.5, among=among) == count
        fewer = altered(just, least_detectable=spread * spreads_to_see(8, 1))
        assert oracles_needed(fewer, 0.5, among=1) <= count
        assert count == 12 or oracles_needed(fewer, 0.5, among=1) < count


# ---------------------------------------------------------------- populations (tier T2)


def of_a_population(world, p):
    one = measures_of(world.one(), world.many(), SPLIT)[0]
    return [altered(one, name=name, p=p, value=0.6, decides=True) for name in policy.POPULATION]


def test_a_recipe_told_from_retraining_over_many_networks_fails_the_network():
    world = Population(20)
    own, original, oracles = world.one(), world.original(), world.many()
    assert verdict(own, original, oracles, SPLIT, arms=Arms(unlearned=of_a_population(world, 0.5))).verdict == "PASS"
    found = verdict(own, original, oracles, SPLIT, arms=Arms(unlearned=of_a_population(world, 0.002)))
    assert found.verdict == "FAIL"
    assert {reason.partition(":")[0] for reason in found.reasons} >= set(policy.POPULATION)
    assert {one.name for one in found.measures if one.decides} == {*policy.SINGLE, *policy.POPULATION}


def test_a_recipe_that_breaks_a_network_fails():
    world = Population(21)
    found = verdict(world.one(), world.original(), world.many(), SPLIT, arms=Arms(broken=1))
    assert found.verdict == "FAIL"
    assert "the recipe broke 1 of the networks it was put to" in found.reasons[0]


def test_held_out_oracles_told_from_the_others_spoil_the_yardstick():
    world = Population(22)
    arms = Arms(retrained=of_a_population(world, 0.004))
    found = verdict(world.one(), world.original(), world.many(), SPLIT, arms=arms)
    assert (found.verdict, found.controls["retrained"]) == ("INVALID", "FAIL")
    assert "ulira tells held-out oracles from the others (p = 0.004)" in found.reasons[0]
    unlucky = Arms(retrained=of_a_population(world, 0.03))
    assert verdict(world.one(), world.original(), world.many(), SPLIT, arms=unlucky).controls["retrained"] == "PASS"


def test_the_originals_together_can_fail_where_one_alone_passes():
    world = Population(23)
    faint = Arms(nothing=of_a_population(world, 0.001))
    one = world.one()
    assert verdict(world.one(), one, world.many(), SPLIT, arms=faint).controls["nothing"] == "FAIL"


def test_only_the_measures_of_the_policy_are_put_to_holms_rule():
    """A measure that decides by a rule of its own takes nothing from the level of the others."""
    world = Population(24)
    measures = [altered(one, p=0.5) for one in measures_of(world.one(), world.many(), SPLIT)]
    margin = next(one for one in measures if one.name == "forget_margin")
    others = [one for one in measures if one is not margin]
    planted = altered(margin, name="canaries", p=1e-9)
    for p, rejected in ((0.0099, ["forget_margin"]), (0.0101, [])):
        found = rejects([planted, altered(margin, p=p), *others])
        assert [one.name for one in found] == rejected


def test_informing_measures_neither_make_nor_unmake_a_verdict():
    world = Population(24)
    for shift in (0.0, 8.0):
        own, original, oracles = world.one(shift=shift), world.original(), world.many()
        plain = verdict(own, original, oracles, SPLIT)
        measures = [altered(one, p=1e-12) if not one.decides else one for one in plain.measures]
        assert [one.name for one in rejects(measures)] == [one.name for one in rejects(plain.measures)]
        assert "confidence_attack" not in [one.name for one in rejects(measures)]
