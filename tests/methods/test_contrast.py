import itertools

import pytest
import torch
from torch.nn import functional

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Ascend, Contrast, Finetune
from excise.train import TrainPlan
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, moved, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [0, 3, 8, 11, 14]
RETAIN = [row for row in range(20) if row not in FORGET]
PLAN = TrainPlan(epochs=2, lr=0.02, batch_size=5, shuffle=False, weight_decay=0.01, schedule="constant")


def run(name, method, **options):
    model = CASES[name].make()
    method.unlearn_(model, Split(CASES[name].data(20), forget=FORGET), Mask.full(model), engine_for(model, **options))
    return snapshot(model)


def naive(name, alpha, forget_batches, *, epochs=2, lr=0.02, decay=0.01):
    """Loop as in the paper's benchmark: a retain batch, the next forget batch, one weighted difference."""
    (inputs, labels), model = CASES[name].data(20), CASES[name].make()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    for _ in range(epochs):
        cycle = itertools.cycle(forget_batches)
        for retain in (RETAIN[0:5], RETAIN[5:10], RETAIN[10:15]):
            forget = next(cycle)
            optimizer.zero_grad()
            kept = functional.cross_entropy(model(inputs[retain]), labels[retain])
            gone = functional.cross_entropy(model(inputs[forget]), labels[forget])
            (alpha * kept - (1 - alpha) * gone).backward()
            optimizer.step()
    return snapshot(model)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.95])
@every_case
def test_it_is_the_papers_loop(name, alpha):
    ours = run(name, Contrast(plan=PLAN, alpha=alpha, buffers="adapt", forget_batch_size=3))
    for key, value in naive(name, alpha, [[0, 3, 8], [11, 14]]).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-12, atol=1e-12)  # mean of losses, summed otherwise


def test_without_a_size_of_their_own_forget_rows_come_in_batches_of_the_plans():
    ours = run("mlp", Contrast(plan=PLAN, alpha=0.6))
    for key, value in naive("mlp", 0.6, [FORGET]).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-12, atol=1e-12)


def test_one_step_on_a_linear_softmax_is_the_closed_form():
    inputs, labels = CASES["mlp"].data(20)
    model = torch.nn.Linear(6, 4, dtype=torch.float64)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    method = Contrast(plan=TrainPlan(epochs=1, lr=0.3), alpha=0.7)
    method.unlearn_(model, Split((inputs, labels), forget=FORGET), Mask.full(model), engine_for(model))

    def slope(rows):
        odds = (inputs[rows] @ weight.T + bias).exp()
        error = odds / odds.sum(1, keepdim=True) - torch.eye(4, dtype=torch.float64)[labels[rows]]
        return error.T @ inputs[rows] / len(rows)

    wanted = weight - 0.3 * (0.7 * slope(RETAIN) - 0.3 * slope(FORGET))
    torch.testing.assert_close(model.weight.detach(), wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@every_case
def test_with_all_weight_on_retain_the_parameters_are_those_of_finetuning(name, optimizer):
    plan = TrainPlan(epochs=2, lr=0.02, batch_size=5, weight_decay=0.01, optimizer=optimizer)
    ours, theirs = run(name, Contrast(plan=plan, alpha=1.0), seed=7), run(name, Finetune(plan=plan), seed=7)
    for key, _ in CASES[name].make().named_parameters():
        assert torch.equal(ours[key], theirs[key]), key
    assert same_bytes(ours, theirs) == (name != "batchnorm")  # forget rows pass through the statistics, too


@every_case
def test_with_all_weight_on_forget_it_is_ascent_paced_by_retain(name):
    plan = TrainPlan(epochs=2, lr=0.02, batch_size=5, weight_decay=0.01)
    ours = run(name, Contrast(plan=plan, alpha=0.0, forget_batch_size=3, buffers="adapt"), seed=7)
    theirs = run(name, Ascend(plan=plan, pace="retain", forget_batch_size=3, buffers="adapt"), seed=7)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


@every_case
def test_the_gradient_is_linear_in_alpha(name):
    plan = TrainPlan(epochs=1, lr=1.0, momentum=0.0, shuffle=False)
    start = snapshot(CASES[name].make())
    steps = {alpha: run(name, Contrast(plan=plan, alpha=alpha, buffers="hold")) for alpha in (0.0, 0.25, 0.8, 1.0)}
    for alpha in (0.25, 0.8):
        for key, value in start.items():
            if not value.is_floating_point():
                continue
            one, none = steps[1.0][key] - value, steps[0.0][key] - value
            wanted = alpha * one + (1 - alpha) * none
            torch.testing.assert_close(steps[alpha][key] - value, wanted, rtol=1e-10, atol=1e-12)


@every_case
def test_forget_rows_lose_while_retain_rows_keep(name):
    inputs, labels = CASES[name].data(20)
    model = CASES[name].make()

    def losses():
        with torch.no_grad():
            logits = model.eval()(inputs)
            model.train()
        every = functional.cross_entropy(logits, labels, reduction="none")
        return float(every[FORGET].mean() - every[RETAIN].mean())

    before = losses()
    plan = TrainPlan(epochs=5, lr=0.01, momentum=0.0)
    method = Contrast(plan=plan, alpha=0.5, buffers="hold")
    method.unlearn_(model, Split((inputs, labels), forget=FORGET), Mask.full(model), engine_for(model))
    assert losses() > before


def test_it_reads_retain_once_an_epoch_and_a_forget_batch_a_step():
    watched = Watched(*CASES["mlp"].data(24), forbidden=range(20, 24))
    model = CASES["mlp"].make()
    method, engine = Contrast(plan=PLAN, alpha=0.9, forget_batch_size=3), engine_for(model)
    split = Split(watched, forget=FORGET, test=range(20, 24))
    method.unlearn_(model, split, Mask.full(model), engine)
    assert method.needs == {"forget", "retain"}
    # 15 retain rows: three steps an epoch; forget rows in rounds of 3 and 2
    assert [watched.read.count(row) for row in RETAIN] == [2] * 15
    assert [watched.read.count(row) for row in FORGET] == [4, 4, 4, 2, 2]
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (2 * (15 + 3 + 2 + 3), 0)
    assert [trace.num_steps for trace in engine.trace] == [3, 3]
    assert {trace.stage for trace in engine.trace} == {"Contrast"}


@pytest.mark.parametrize("rule", [None, *STATISTICS])
def test_the_rule_for_buffers_is_the_one_given(rule):
    method = Contrast(plan=PLAN, alpha=0.9, **({} if rule is None else {"buffers": rule}))
    assert method.statistics == (rule or "follow-mask")
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    mask = Mask.of_modules(model, ["4", "8"])
    method.unlearn_(model, Split(CASES["batchnorm"].data(20), forget=FORGET), mask, engine_for(model))
    changed = {key.partition(".")[0] for key, value in model.named_buffers() if not torch.equal(value, before[key])}
    assert changed == {"adapt": {"1", "4"}, "follow-mask": {"4"}, "hold": set()}[method.statistics]


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(20), forget=FORGET)
    method = Contrast(plan=PLAN, alpha=0.6, forget_batch_size=2)
    unlearned = excise.unlearn(model, split, method, mask=Mask.from_tensors(tensors))
    before, after = snapshot(model), snapshot(unlearned.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert moved(before, after)
    assert unlearned.frozen_digest == unlearned.frozen_digest_before
    with pytest.raises(errors.Diverged, match=r"^Contrast: "):
        excise.unlearn(model, split, Contrast(plan=TrainPlan(epochs=40, lr=1e30, weight_decay=0.1), alpha=0.5))
    alone.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.1}, "alpha: expected a fraction between 0 and 1, found -0.1"),
        ({"alpha": 1.5}, "alpha: expected a fraction between 0 and 1, found 1.5"),
        ({"alpha": 0.5, "forget_batch_size": 0}, "forget_batch_size: expected an integer of at least 1, found 0"),
        ({"alpha": 0.5, "buffers": "train"}, "buffers: expected one of follow-mask, adapt, hold, found 'train'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Contrast(plan=PLAN, **options)


def test_the_recipe_is_this_method_on_the_whole_network():
    recipe = excise.recipes.NegGradPlus(alpha=0.9, epochs=2, lr=0.03, batch_size=4, momentum=0.5)
    plan = TrainPlan(epochs=2, lr=0.03, batch_size=4, momentum=0.5, schedule="constant")
    assert recipe.method == Contrast(plan=plan, alpha=0.9)
    assert excise.recipes.NegGradPlus().method.alpha == 0.95
    model = CASES["mlp"].make()
    unlearned = excise.unlearn(model, Split(CASES["mlp"].data(20), forget=FORGET), recipe)
    assert unlearned.mask.fraction == 1.0
    assert unlearned.recipe == "NegGradPlus"
