import pytest
import torch

import excise
from excise import errors
from excise.data import Split
from excise.data.batches import Batch
from excise.masks import Mask
from excise.methods import TwoTeachers
from excise.train import Step, TrainPlan
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, moved, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
PLAIN = ["mlp", "separable", "tied", "three-classes"]  # eval mode of torch's transformer rounds otherwise
FORGET = [0, 3, 8, 11, 14]
RETAIN = [row for row in range(20) if row not in FORGET]
PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=4, weight_decay=0.01, schedule="constant")


def untrained(name):
    """The network of the case, drawn anew; always the same bytes."""
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return CASES[name].build().double()


def run(name, method, *, seed=0, data=None, **options):
    model = CASES[name].make()
    split = Split(CASES[name].data(20) if data is None else data, forget=FORGET, **options)
    engine = engine_for(model, seed=seed, fresh=lambda: untrained(name), original=CASES[name].make())
    method.unlearn_(model, split, Mask.full(model), engine)
    return snapshot(model), engine


def naive(name, batches, temperature, divide_by=1):
    """For each batch: the answers of the untrained network or of the original, as a row is forgotten or not."""
    (inputs, _), model = CASES[name].data(20), CASES[name].make()
    bad, good = untrained(name).eval(), CASES[name].make().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    for rows in batches:
        with torch.no_grad():
            answers = [(bad if row in FORGET else good)(inputs[[row]])[0] for row in rows]
        wanted = torch.stack(answers).div(temperature).softmax(1)
        optimizer.zero_grad()
        found = (model(inputs[rows]) / temperature).softmax(1)
        ((wanted * (wanted / found).log()).sum() / len(rows) / divide_by).backward()
        optimizer.step()
    return snapshot(model)


@pytest.mark.parametrize(
    ("fraction", "temperature", "reduction"), [(0.5, 1.0, "batchmean"), (1.0, 2.5, "mean"), (0.0, 1.0, "batchmean")]
)
@every_case
def test_it_is_the_papers_loop_over_the_mixed_rows(name, fraction, temperature, reduction):
    watched = Watched(*CASES[name].data(20))
    options = {"retain_fraction": fraction, "temperature": temperature, "reduction": reduction}
    ours, engine = run(name, TwoTeachers(plan=PLAN, buffers="adapt", **options), data=watched)
    each = len(FORGET) + int(fraction * 15)
    assert len(watched.read) == 2 * each
    epochs = [watched.read[:each], watched.read[each:]]
    assert sorted(epochs[0]) == sorted(epochs[1]) != epochs[0]
    assert epochs[0] != epochs[1]
    batches = [epoch[start : start + 4] for epoch in epochs for start in range(0, each, 4)]
    if name == "batchnorm" and each % 4 == 1:  # the last row joins the batch before
        assert fraction == 0.0
        batches = [epochs[0], epochs[1]]
    classes = CASES[name].num_classes if reduction == "mean" else 1
    for key, value in naive(name, batches, temperature, classes).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-11)  # the naive log of a quotient rounds more
    assert engine.cost.trained_rows == 2 * each


@pytest.mark.parametrize(("fraction", "num_rows"), [(0.3, 4), (0.29, 29), (1.0, 100), (0.01, 1), (0.999, 99)])
def test_a_share_of_retain_rows_is_rounded_down_and_drawn_from_the_seed(fraction, num_rows):
    length = 15 if fraction == 0.3 else 100
    split = Split(CASES["mlp"].data(length + 5), forget=FORGET)
    method, model = TwoTeachers(plan=PLAN, retain_fraction=fraction), CASES["mlp"].make()
    drawn = []
    for seed in (0, 0, 1):
        found = method.rows(split, engine_for(model, seed=seed))
        assert set(found) == {"mixed"}
        ids = found["mixed"].ids.tolist()
        assert ids == sorted(set(ids))
        assert set(FORGET) <= set(ids) <= {*FORGET, *split.retain.ids.tolist()}
        assert len(ids) == 5 + num_rows
        drawn.append(ids)
    assert drawn[0] == drawn[1]
    assert (drawn[0] == drawn[2]) == (fraction == 1.0)


def test_every_retain_row_is_as_likely():
    split, model = Split(CASES["mlp"].data(15), forget=FORGET), CASES["mlp"].make()
    method, counts = TwoTeachers(plan=PLAN, retain_fraction=0.3), dict.fromkeys(split.retain.ids.tolist(), 0)
    for seed in range(1000):
        for row in set(method.rows(split, engine_for(model, seed=seed))["mixed"].ids.tolist()) - set(FORGET):
            counts[row] += 1
    assert sum(counts.values()) == 3000
    assert all(abs(count - 300) < 5 * (1000 * 0.3 * 0.7) ** 0.5 for count in counts.values())


def step_on(name, rows, method, *, model=None):
    """Give the objective on a batch of the given rows, its number of classes, and the network after its backward."""
    inputs, labels = CASES[name].data(20)
    model = model or CASES[name].make()
    engine = engine_for(model, fresh=lambda: untrained(name), original=CASES[name].make())
    (part,) = method.passes(model, Split((inputs, labels), forget=FORGET), engine)(0)
    assert part.streams == ("mixed",)
    batch = Batch(torch.tensor(rows), (inputs[rows], labels[rows]))
    loss = part.objective(Step(model, 0, 0, engine, {"mixed": batch}))
    loss.backward()
    return float(loss.detach()), model, engine


@pytest.mark.parametrize("name", PLAIN)
def test_a_student_that_is_the_original_has_nothing_to_learn_on_retain_rows(name):
    method = TwoTeachers(plan=PLAN)
    loss, model, engine = step_on(name, [1, 2, 4], method)
    assert loss == 0
    assert all(not value.grad.any() for value in model.parameters())
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (3, 3)
    loss, model, engine = step_on(name, [1, 2, 3], method)
    assert loss > 0
    assert any(bool(value.grad.any()) for value in model.parameters())
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (3, 6)


@pytest.mark.parametrize("name", PLAIN)
def test_a_student_that_is_the_untrained_one_has_nothing_to_learn_on_forget_rows(name):
    loss, model, engine = step_on(name, [0, 3, 8], TwoTeachers(plan=PLAN), model=untrained(name))
    assert loss == 0
    assert all(not value.grad.any() for value in model.parameters())
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (3, 3)


@every_case
def test_the_published_reduction_is_smaller_by_the_number_of_classes(name):
    ours, model, _ = step_on(name, [0, 1, 2, 3], TwoTeachers(plan=PLAN))
    theirs, other, _ = step_on(name, [0, 1, 2, 3], TwoTeachers(plan=PLAN, reduction="mean"))
    classes = CASES[name].num_classes
    assert ours / classes == theirs
    assert theirs > 0
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, classes * two.grad, rtol=1e-12, atol=1e-15)


@every_case
def test_it_draws_nearer_to_both_teachers(name):
    (inputs, _), model = CASES[name].data(20), CASES[name].make()
    plan = TrainPlan(epochs=60, lr=0.02, batch_size=10, optimizer="adam")
    method = TwoTeachers(plan=plan, retain_fraction=1.0, buffers="hold")
    engine = engine_for(model, fresh=lambda: untrained(name), original=CASES[name].make())
    split = Split(CASES[name].data(20), forget=FORGET)
    method.unlearn_(model, split, Mask.full(model), engine)
    networks = (model, untrained(name), CASES[name].make())
    answers = [network.eval()(inputs[FORGET]).softmax(1).detach() for network in networks]
    assert float((answers[0] - answers[1]).abs().sum()) < 0.7 * float((answers[2] - answers[1]).abs().sum())
    assert engine.trace[-1].loss < 0.7 * engine.trace[0].loss


@every_case
def test_the_teachers_never_move(name):
    made, original = [], touched(CASES[name].make())

    def build():
        made.append(touched(untrained(name)))
        made.append(LeftAlone(made[0]))
        return made[0]

    alone, model = LeftAlone(original), CASES[name].make()
    engine = engine_for(model, fresh=build, original=original)
    method = TwoTeachers(plan=PLAN)
    method.unlearn_(model, Split(CASES[name].data(20), forget=FORGET), Mask.full(model), engine)
    alone.check()
    made[1].check()
    assert len(made) == 2  # built once
    assert moved(snapshot(original), snapshot(model))


def test_by_default_three_tenths_of_retain_take_part_at_temperature_one():
    method = TwoTeachers(plan=PLAN)
    assert (method.retain_fraction, method.temperature, method.reduction) == (0.3, 1.0, "batchmean")


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_what_it_does_not_need_is_never_read(fraction):
    method = TwoTeachers(plan=PLAN, retain_fraction=fraction)
    forbidden = [*range(20, 24), *(() if fraction else RETAIN)]
    watched = Watched(*CASES["mlp"].data(24), forbidden=forbidden)
    run("mlp", method, data=watched, test=range(20, 24))
    assert method.needs == {"forget", "fresh"} | ({"retain"} if fraction else set())
    assert [watched.read.count(row) for row in FORGET] == [2] * 5


@pytest.mark.parametrize("rule", [None, *STATISTICS])
def test_the_rule_for_buffers_is_the_one_given(rule):
    method = TwoTeachers(plan=PLAN, **({} if rule is None else {"buffers": rule}))
    assert method.statistics == (rule or "follow-mask")
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    engine = engine_for(model, fresh=lambda: untrained("batchnorm"), original=CASES["batchnorm"].make())
    mask = Mask.of_modules(model, ["4", "8"])
    method.unlearn_(model, Split(CASES["batchnorm"].data(20), forget=FORGET), mask, engine)
    changed = {key.partition(".")[0] for key, value in model.named_buffers() if not torch.equal(value, before[key])}
    assert changed == {"adapt": {"1", "4"}, "follow-mask": {"4"}, "hold": set()}[method.statistics]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["transformer", "tied", "batchnorm"])
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(20), forget=FORGET)
    for fraction in (0.0, 0.4):
        method, mask = TwoTeachers(plan=PLAN, retain_fraction=fraction), Mask.from_tensors(tensors)
        unlearned, again, other = (
            excise.unlearn(model, split, method, mask=mask, seed=seed, fresh=lambda: untrained(name))
            for seed in (0, 0, 1)
        )
        before, after = snapshot(model), snapshot(unlearned.model)
        assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
        assert moved(before, after)
        assert same_bytes(after, snapshot(again.model))
        assert not same_bytes(after, snapshot(other.model))
        kept = excise.unlearn(model, split, method, mask=Mask.empty(model), fresh=lambda: untrained(name))
        assert same_bytes(snapshot(kept.model), before)
    alone.check()


def test_a_share_of_less_than_a_row_is_refused():
    with pytest.raises(
        errors.BadRequest,
        match=r"^retain_fraction: 0.05 of 15 retain rows is less than one row; raise it, or give 0 to use none$",
    ):
        run("mlp", TwoTeachers(plan=PLAN, retain_fraction=0.05))


def test_without_an_untrained_network_or_an_original_it_is_refused():
    model, split = CASES["mlp"].make(), Split(CASES["mlp"].data(20), forget=FORGET)
    with pytest.raises(errors.BadRequest, match=r"^this method needs an untrained network; pass fresh="):
        TwoTeachers(plan=PLAN).unlearn_(model, split, Mask.full(model), engine_for(model, original=model))
    with pytest.raises(errors.BadRequest, match=r"^this method learns from the network as it was"):
        engine = engine_for(model, fresh=lambda: untrained("mlp"))
        TwoTeachers(plan=PLAN).unlearn_(model, split, Mask.full(model), engine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retain_fraction": 1.5}, "retain_fraction: expected a fraction between 0 and 1, found 1.5"),
        ({"temperature": 0}, "temperature: expected a finite number above 0, found 0"),
        ({"temperature": -1.0}, "temperature: expected a finite number of at least 0, found -1.0"),
        ({"reduction": "sum"}, "reduction: expected batchmean or mean, found 'sum'"),
        ({"buffers": "train"}, "buffers: expected one of follow-mask, adapt, hold, found 'train'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        TwoTeachers(plan=PLAN, **options)
