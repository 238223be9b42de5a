import itertools

import pytest
import torch
from scipy.special import rel_entr
from torch import nn
from torch.nn import functional

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Distill, Finetune, Sequence
from excise.methods.distill import divergence
from excise.train import Task, TrainPlan, forward_pair
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, moved, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
PLAIN = ["mlp", "separable", "tied", "three-classes"]  # eval mode of torch's transformer rounds otherwise
FORGET = [0, 3, 8, 11, 14]
RETAIN = [row for row in range(20) if row not in FORGET]
PLAN = TrainPlan(epochs=3, lr=0.02, batch_size=5, shuffle=False, weight_decay=0.01, schedule="constant")
EXACT = TrainPlan(epochs=3, lr=0.1, batch_size=5, momentum=0.9, schedule="constant")


def other(name):
    """A network of the same architecture that is not the one of the case."""
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return CASES[name].build().double().eval()


def run(name, method, *, seed=0, original=None, **options):
    model = CASES[name].make()
    engine = engine_for(model, seed=seed, original=original or CASES[name].make(), **options)
    method.unlearn_(model, Split(CASES[name].data(20), forget=FORGET), Mask.full(model), engine)
    return snapshot(model)


# --- the divergence --------------------------------------------------------------------------------------------------------


def logits(seed, rows=200, classes=7):
    return 8 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_divergence_is_the_sum_of_p_log_p_over_q_and_its_gradient_q_minus_p(temperature):
    teacher, student = logits(0), logits(1).requires_grad_()
    p, q = (value.detach().div(temperature).softmax(1) for value in (teacher, student))
    found = divergence(student, teacher, temperature)
    wanted = torch.from_numpy(rel_entr(p.numpy(), q.numpy()).sum(1))
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-12, atol=1e-13)
    assert bool((found > 0).all())
    found.sum().backward()
    torch.testing.assert_close(student.grad, (q - p) / temperature, rtol=1e-12, atol=1e-14)  # q - p cancels


def test_of_equal_logits_it_and_its_gradient_are_zero_to_the_bit():
    for temperature in (0.3, 1.0, 2.0, 7.0):
        student = logits(2).requires_grad_()
        found = divergence(student, logits(2), temperature)
        found.mean().backward()
        assert not found.any()
        assert not student.grad.any()


def test_it_is_not_negative_however_close_the_two_are():
    teacher = logits(3)
    for exponent in range(1, 16):
        near = divergence(teacher + 10.0**-exponent * logits(4), teacher)
        assert float(near.min()) > -1e-14  # rounding of logits of size 50


def test_no_gradient_reaches_the_teacher():
    teacher, student = logits(0).requires_grad_(), logits(1).requires_grad_()
    divergence(student, teacher).sum().backward()
    assert teacher.grad is None


# --- the method ------------------------------------------------------------------------------------------------------------


def kl(student, teacher, temperature):
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    return (p * (p.log() - q.log())).sum() * temperature**2 / len(student)


def naive(name, *, teacher, max_epochs, alpha, gamma, temperature, first, forget_batches):
    """The paper's algorithm: for each epoch a max step on each forget batch, while there are any, then the min steps."""
    (inputs, labels), model = CASES[name].data(20), CASES[name].make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)

    def step(rows, objective):
        with torch.no_grad():
            wanted = teacher.eval()(inputs[rows])
        optimizer.zero_grad()
        objective(model(inputs[rows]), wanted, labels[rows]).backward()
        optimizer.step()

    def away():
        for rows in forget_batches:
            step(rows, lambda found, wanted, _: -kl(found, wanted, temperature))

    def near():
        for rows in (RETAIN[:5], RETAIN[5:10], RETAIN[10:]):
            step(
                rows,
                lambda found, wanted, targets: (
                    alpha * kl(found, wanted, temperature) + gamma * functional.cross_entropy(found, targets)
                ),
            )

    for epoch in range(1, 4):
        parts = [away, near] if epoch <= max_epochs else [near]
        for part in parts if first == "max" else reversed(parts):
            part()
    return snapshot(model)


@pytest.mark.parametrize(
    ("max_epochs", "alpha", "gamma", "temperature", "first"),
    [(2, 0.3, 0.8, 3.0, "max"), (1, 0.3, 0.8, 1.5, "min"), (3, 0.0, 1.0, 2.0, "max"), (2, 0.7, 0.0, 2.0, "min")],
)
@every_case
def test_it_is_the_papers_loop(name, max_epochs, alpha, gamma, temperature, first):
    options = {"max_epochs": max_epochs, "alpha": alpha, "gamma": gamma, "temperature": temperature, "first": first}
    for given, original in ((None, other(name)), (other(name), None)):
        method = Distill(plan=PLAN, forget_batch_size=3, buffers="adapt", teacher=given, **options)
        ours = run(name, method, original=original)
        wanted = naive(name, teacher=other(name), forget_batches=[[0, 3, 8], [11, 14]], **options)
        for key, value in wanted.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-11)  # the naive sum of logs rounds more


def test_what_is_not_given_is_as_in_the_small_scale_code_with_batches_of_the_plans():
    method = Distill(plan=PLAN, max_epochs=2)
    assert (method.alpha, method.gamma, method.temperature, method.first) == (0.5, 1.0, 2.0, "max")
    wanted = naive(
        "mlp",
        teacher=CASES["mlp"].make(),
        max_epochs=2,
        alpha=0.5,
        gamma=1.0,
        temperature=2.0,
        first="max",
        forget_batches=[FORGET],
    )
    for key, value in run("mlp", method).items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@every_case
def test_without_max_passes_and_divergence_it_is_finetuning_bit_for_bit(name, optimizer):
    plan = TrainPlan(epochs=2, lr=0.02, batch_size=5, weight_decay=0.01, optimizer=optimizer)
    method = Distill(plan=plan, max_epochs=0, alpha=0.0, gamma=1.0)
    model, split = CASES[name].make(), Split(CASES[name].data(20), forget=FORGET)
    method.unlearn_(model, split, Mask.full(model), engine_for(model, seed=7))  # and asks for no teacher
    assert method.needs == {"retain"}
    assert same_bytes(snapshot(model), run(name, Finetune(plan=plan), seed=7))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", PLAIN)
def test_while_student_and_teacher_agree_no_gradient_is_there_at_all(name, optimizer):
    """With the divergence alone, at the start both parts have their stationary point."""
    plan = TrainPlan(epochs=3, lr=0.1, batch_size=5, optimizer=optimizer)
    start = snapshot(CASES[name].make())
    assert same_bytes(run(name, Distill(plan=plan, max_epochs=3, alpha=1.0, gamma=0.0)), start)
    once = TrainPlan(epochs=1, lr=0.1, batch_size=5)  # the max pass before any min pass is lost
    assert same_bytes(
        run(name, Distill(plan=once, max_epochs=1)), run(name, Distill(plan=once, max_epochs=0, alpha=0.5))
    )
    assert not same_bytes(run(name, Distill(plan=once, max_epochs=1)), start)


@pytest.mark.parametrize(
    ("name", "plan", "options"),
    [
        ("batchnorm", EXACT, {"alpha": 1.0, "gamma": 0.0}),
        ("mlp", TrainPlan(epochs=3, lr=0.1, batch_size=5, weight_decay=0.1), {"alpha": 1.0, "gamma": 0.0}),
    ],
)
def test_batch_statistics_and_decay_break_the_tie(name, plan, options):
    start = snapshot(CASES[name].make())
    assert moved(start, run(name, Distill(plan=plan, max_epochs=3, **options)))


def test_a_min_pass_first_and_a_method_before_break_the_tie():
    once = TrainPlan(epochs=1, lr=0.1, batch_size=5)
    without = run("mlp", Distill(plan=once, max_epochs=0))
    assert same_bytes(run("mlp", Distill(plan=once, max_epochs=1)), without)
    assert not same_bytes(run("mlp", Distill(plan=once, max_epochs=1, first="min")), without)
    before = Finetune(plan=once)
    assert not same_bytes(
        run("mlp", Sequence((before, Distill(plan=once, max_epochs=1)))),
        run("mlp", Sequence((before, Distill(plan=once, max_epochs=0)))),
    )


@every_case
def test_max_passes_drive_the_forget_rows_from_the_teacher(name):
    inputs, labels = CASES[name].data(20)
    plan = TrainPlan(epochs=6, lr=0.02, batch_size=5)

    def distance(method):
        model = CASES[name].make()
        method.unlearn_(
            model,
            Split((inputs, labels), forget=FORGET),
            Mask.full(model),
            engine_for(model, original=CASES[name].make()),
        )
        with torch.no_grad():
            return float(kl(model.eval()(inputs[FORGET]), CASES[name].make().eval()(inputs[FORGET]), 1.0))

    options = {"plan": plan, "buffers": "hold"}
    assert distance(Distill(max_epochs=6, **options)) > distance(Distill(max_epochs=0, **options))


# --- the teacher -----------------------------------------------------------------------------------------------------------


class Seen:
    """A task that writes down where the parameters of every network it runs lie, and their modes."""

    def __init__(self):
        self.task, self.places, self.modes = Task(self.forward), set(), {}

    def forward(self, model, content):
        place = tuple(value.data_ptr() for value in model.parameters())
        self.places.add(place)
        self.modes.setdefault(place, set()).update(module.training for module in model.modules())
        if not any(value.requires_grad for value in model.parameters()):
            assert not torch.is_grad_enabled()
        return forward_pair(model, content)


@pytest.mark.parametrize("given", [False, True])
@every_case
def test_the_teacher_lies_in_the_memory_of_the_original_and_is_not_written_to(name, given):
    seen, original = Seen(), touched(other(name))
    alone, model = LeftAlone(original), CASES[name].make()
    engine = engine_for(model, original=None if given else original, task=seen.task)
    method = Distill(plan=PLAN, max_epochs=2, teacher=original if given else None)
    method.unlearn_(model, Split(CASES[name].data(20), forget=FORGET), Mask.full(model), engine)
    alone.check()
    mine, its = (tuple(value.data_ptr() for value in network.parameters()) for network in (model, original))
    assert seen.places == {mine, its}
    assert seen.modes[its] == {False}


def test_a_teacher_that_is_the_original_changes_nothing():
    for name in ("mlp", "batchnorm"):
        teacher = CASES[name].make()
        assert same_bytes(
            run(name, Distill(plan=PLAN, max_epochs=2, teacher=teacher)), run(name, Distill(plan=PLAN, max_epochs=2))
        )
        assert teacher.training


class Loud(excise.Hooks):
    def on_stage(self, name, num_steps):
        raise AssertionError(name)


def test_a_teacher_of_other_classes_is_refused_before_any_work():
    watched = Watched(*CASES["mlp"].data(20), forbidden=FORGET)
    model = touched(CASES["mlp"].make())
    alone = LeftAlone(model)
    method = Distill(plan=PLAN, max_epochs=2, teacher=CASES["three-classes"].make())
    with pytest.raises(
        errors.BadRequest,
        match=r"^teacher: expected logits of shape \(8, 4\), as the network's, found \(8, 3\); "
        r"give a network of the same classes$",
    ):
        method.unlearn_(model, Split(watched, forget=FORGET), Mask.full(model), engine_for(model, hooks=Loud()))
    alone.check()


def test_without_original_and_teacher_it_is_refused():
    model = CASES["mlp"].make()
    split = Split(CASES["mlp"].data(20), forget=FORGET)
    for options in ({"max_epochs": 1, "alpha": 0.0}, {"max_epochs": 0, "alpha": 0.1}):
        with pytest.raises(errors.BadRequest, match=r"learns from the network as it was; .* or give it a teacher$"):
            Distill(plan=PLAN, **options).unlearn_(model, split, Mask.full(model), engine_for(model))


# --- what every method owes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_epochs", [0, 2])
def test_it_reads_forget_in_max_epochs_and_retain_in_all(max_epochs):
    watched = Watched(*CASES["mlp"].data(24), forbidden=[*range(20, 24), *(() if max_epochs else FORGET)])
    model = CASES["mlp"].make()
    engine = engine_for(model, original=CASES["mlp"].make())
    method = Distill(plan=PLAN, max_epochs=max_epochs)
    method.unlearn_(model, Split(watched, forget=FORGET, test=range(20, 24)), Mask.full(model), engine)
    assert method.needs == ({"forget", "retain"} if max_epochs else {"retain"})
    assert [watched.read.count(row) for row in FORGET] == [max_epochs] * 5
    assert [watched.read.count(row) for row in RETAIN] == [3] * 15
    assert engine.cost.trained_rows == engine.cost.forward_rows == max_epochs * 5 + 3 * 15
    assert [trace.num_steps for trace in engine.trace] == [3 + (epoch < max_epochs) for epoch in range(3)]


def test_the_teacher_is_asked_only_where_it_has_a_say():
    model, split = CASES["mlp"].make(), Split(CASES["mlp"].data(20), forget=FORGET)
    engine = engine_for(model, original=CASES["mlp"].make())
    Distill(plan=PLAN, max_epochs=2, alpha=0.0).unlearn_(model, split, Mask.full(model), engine)
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (2 * 5 + 3 * 15, 2 * 5)


@pytest.mark.parametrize("rule", [None, *STATISTICS])
def test_the_rule_for_buffers_is_the_one_given(rule):
    method = Distill(plan=PLAN, max_epochs=1, **({} if rule is None else {"buffers": rule}))
    assert method.statistics == (rule or "follow-mask")
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    mask = Mask.of_modules(model, ["4", "8"])
    engine = engine_for(model, original=CASES["batchnorm"].make())
    method.unlearn_(model, Split(CASES["batchnorm"].data(20), forget=FORGET), mask, engine)
    changed = {key.partition(".")[0] for key, value in model.named_buffers() if not torch.equal(value, before[key])}
    assert changed == {"adapt": {"1", "4"}, "follow-mask": {"4"}, "hold": set()}[method.statistics]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["transformer", "tied", "batchnorm"])
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(20), forget=FORGET)
    plan = TrainPlan(epochs=2, lr=0.02, batch_size=5, weight_decay=0.01)
    for max_epochs, teacher in itertools.product((0, 2), (None, other(name))):
        method = Distill(plan=plan, max_epochs=max_epochs, teacher=teacher)
        mask = Mask.from_tensors(tensors)
        unlearned, again, different = (excise.unlearn(model, split, method, mask=mask, seed=seed) for seed in (0, 0, 1))
        before, after = snapshot(model), snapshot(unlearned.model)
        assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
        assert moved(before, after)
        assert same_bytes(after, snapshot(again.model))
        assert not same_bytes(after, snapshot(different.model))
        kept = excise.unlearn(model, split, method, mask=Mask.empty(model))
        assert same_bytes(snapshot(kept.model), before)
    alone.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 4}, "max_epochs: expected an integer from 0 to 3, the plan's epochs; found 4"),
        ({"max_epochs": -1}, "max_epochs: expected an integer from 0 to 3, the plan's epochs; found -1"),
        ({"max_epochs": True}, "max_epochs: expected an integer from 0 to 3, the plan's epochs; found True"),
        ({"alpha": -0.1}, "alpha: expected a finite number of at least 0, found -0.1"),
        ({"gamma": float("nan")}, "gamma: expected a finite number of at least 0, found nan"),
        ({"temperature": 0.0}, "temperature: expected a finite number above 0, found 0.0"),
        ({"temperature": float("inf")}, "temperature: expected a finite number of at least 0, found inf"),
        ({"first": "mean"}, "first: expected max or min, found 'mean'"),
        ({"forget_batch_size": 0}, "forget_batch_size: expected an integer of at least 1, found 0"),
        ({"buffers": "train"}, "buffers: expected one of follow-mask, adapt, hold, found 'train'"),
        (
            {"teacher": "original"},
            "teacher: expected a network, found str; leave it out to learn from the network as it was",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Distill(plan=PLAN, **{"max_epochs": 1, **options})


def test_a_loss_that_is_reduced_is_refused():
    task = Task(loss=functional.cross_entropy)
    with pytest.raises(errors.BadRequest, match=r"^loss: expected one value for each of 5 examples"):
        run("mlp", Distill(plan=PLAN, max_epochs=0), task=task)


def test_it_says_what_it_is_without_spelling_out_the_teacher():
    assert "Linear" not in repr(Distill(plan=PLAN, max_epochs=1, teacher=nn.Linear(2, 2)))
