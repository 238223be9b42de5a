import pytest
import torch
from torch.nn import functional

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Finetune, Sparsify
from excise.train import TrainPlan
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.naive.training import cosine
from tests.probes import KINDS, LeftAlone, Watched, engine_for, moved, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [0, 3, 8, 11, 14]
RETAIN = [row for row in range(20) if row not in FORGET]
PLAN = TrainPlan(epochs=4, lr=0.02, batch_size=5, shuffle=False, weight_decay=0.01)


def run(name, method, *, model=None, mask=None, **options):
    model = model or CASES[name].make()
    engine = engine_for(model, **options)
    method.unlearn_(model, Split(CASES[name].data(20), forget=FORGET), mask or Mask.full(model), engine)
    return snapshot(model), engine


def naive(name, kappa, no_l1_epochs):
    """Loop as in the published code: the norm of all parameters, its weight falling by the same amount every epoch."""
    (inputs, labels), model = CASES[name].data(20), CASES[name].make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    losses = []
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = cosine(0.02, epoch, 4)
        current = kappa * (1 - epoch / (4 - no_l1_epochs)) if epoch < 4 - no_l1_epochs else 0
        total = 0.0
        for batch in (RETAIN[0:5], RETAIN[5:10], RETAIN[10:15]):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs[batch]), labels[batch])
            loss = loss + current * sum(torch.linalg.vector_norm(value, 1) for value in model.parameters())
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        losses.append(total / 3)
    return snapshot(model), losses


@pytest.mark.parametrize("no_l1_epochs", [0, 1, 3])
@every_case
def test_it_is_the_published_loop(name, no_l1_epochs):
    ours, engine = run(name, Sparsify(plan=PLAN, kappa=0.01, no_l1_epochs=no_l1_epochs, buffers="adapt"))
    theirs, losses = naive(name, 0.01, no_l1_epochs)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-12, atol=1e-12)  # the norm is summed in another order
    assert [trace.loss for trace in engine.trace] == pytest.approx(losses, rel=1e-12)


def test_one_step_is_the_closed_form():
    inputs, labels = CASES["mlp"].data(20)
    model = torch.nn.Linear(6, 4, dtype=torch.float64)
    with torch.no_grad():
        model.weight[0, :3] = 0.0  # a weight of 0 is not pushed
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    split = Split((inputs, labels), forget=FORGET)
    Sparsify(plan=TrainPlan(epochs=1, lr=0.3), kappa=0.05).unlearn_(model, split, Mask.full(model), engine_for(model))
    odds = (inputs[RETAIN] @ weight.T + bias).exp()
    error = odds / odds.sum(1, keepdim=True) - torch.eye(4, dtype=torch.float64)[labels[RETAIN]]
    slope = error.T @ inputs[RETAIN] / 15
    torch.testing.assert_close(model.weight.detach(), weight - 0.3 * (slope + 0.05 * weight.sign()))
    torch.testing.assert_close(model.bias.detach(), bias - 0.3 * (error.mean(0) + 0.05 * bias.sign()))


@pytest.mark.parametrize(
    ("epochs", "without", "wanted"),
    [(4, 0, [1, 0.75, 0.5, 0.25]), (4, 2, [1, 0.5, 0, 0]), (4, 3, [1, 0, 0, 0]), (2, 2, [0, 0]), (1, 0, [1])],
)
def test_the_penalty_falls_by_the_same_amount_every_epoch(epochs, without, wanted):
    method = Sparsify(plan=TrainPlan(epochs=epochs, lr=0.1), kappa=0.3, no_l1_epochs=without)
    found = [method.kappa_at(epoch) for epoch in range(epochs)]
    assert found == pytest.approx([0.3 * share for share in wanted], abs=1e-16)


@every_case
def test_without_a_penalty_it_is_finetuning(name):
    plan = TrainPlan(epochs=2, lr=0.02, batch_size=5, weight_decay=0.01)
    theirs, other = run(name, Finetune(plan=plan), seed=7)
    for method in (Sparsify(plan=plan, kappa=0.0), Sparsify(plan=plan, kappa=0.3, no_l1_epochs=2)):
        ours, one = run(name, method, seed=7)
        assert same_bytes(ours, theirs)
        assert [trace.loss for trace in one.trace] == [trace.loss for trace in other.trace]


@every_case
def test_what_is_frozen_adds_a_constant_and_no_more(name):
    plan = TrainPlan(epochs=1, lr=0.02, batch_size=20, shuffle=False)
    start = snapshot(CASES[name].make())
    tensors = spelled_out(CASES[name].make(), "mixed")
    norm = sum(float(start[key].abs().sum()) for key, _ in CASES[name].make().named_parameters())
    full, _ = run(name, Sparsify(plan=plan, kappa=0.01, buffers="adapt"))
    mask = Mask.from_tensors(tensors)
    part, engine = run(name, Sparsify(plan=plan, kappa=0.01, buffers="adapt"), mask=mask)
    _, plain = run(name, Finetune(plan=plan, buffers="adapt"), mask=mask)
    assert engine.trace[0].loss - plain.trace[0].loss == pytest.approx(0.01 * norm, rel=1e-9)
    for key, chosen in tensors.items():
        torch.testing.assert_close(part[key], torch.where(chosen, full[key], start[key]), rtol=1e-13, atol=1e-13)


def test_the_heavier_the_penalty_the_smaller_the_weights():
    sizes = []
    for kappa in (0.0, 0.01, 0.1):
        after, _ = run("mlp", Sparsify(plan=TrainPlan(epochs=5, lr=0.05, batch_size=5), kappa=kappa))
        sizes.append(sum(float(value.abs().sum()) for value in after.values()))
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_tied_weight_counts_once():
    plan = TrainPlan(epochs=1, lr=0.0, batch_size=20, shuffle=False)
    model = CASES["tied"].make()
    norm = sum(float(value.detach().abs().sum()) for value in model.parameters())
    losses = [run("tied", Sparsify(plan=plan, kappa=kappa))[1].trace[0].loss for kappa in (0.0, 0.5)]
    assert losses[1] - losses[0] == pytest.approx(0.5 * norm, rel=1e-12)


def test_forget_rows_are_never_read_and_retain_rows_once_an_epoch():
    watched = Watched(*CASES["mlp"].data(20), forbidden=FORGET)
    model = CASES["mlp"].make()
    method, engine = Sparsify(plan=PLAN, kappa=0.01), engine_for(model)
    method.unlearn_(model, Split(watched, forget=FORGET), Mask.full(model), engine)
    assert method.needs == {"retain"}
    assert sorted(watched.read) == sorted(RETAIN * 4)
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (60, 0)


@pytest.mark.parametrize("rule", [None, *STATISTICS])
def test_the_rule_for_buffers_is_the_one_given(rule):
    method = Sparsify(plan=PLAN, kappa=0.01, **({} if rule is None else {"buffers": rule}))
    assert method.statistics == (rule or "follow-mask")
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    run("batchnorm", method, model=model, mask=Mask.of_modules(model, ["4", "8"]))
    changed = {key.partition(".")[0] for key, value in model.named_buffers() if not torch.equal(value, before[key])}
    assert changed == {"adapt": {"1", "4"}, "follow-mask": {"4"}, "hold": set()}[method.statistics]


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(20), forget=FORGET)
    unlearned = excise.unlearn(model, split, Sparsify(plan=PLAN, kappa=0.01), mask=Mask.from_tensors(tensors))
    before, after = snapshot(model), snapshot(unlearned.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert moved(before, after)
    assert unlearned.frozen_digest == unlearned.frozen_digest_before
    with pytest.raises(errors.Diverged, match=r"^Sparsify: "):
        excise.unlearn(model, split, Sparsify(plan=TrainPlan(epochs=40, lr=1e30, weight_decay=0.1), kappa=1.0))
    alone.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kappa": -1e-4}, "kappa: expected a finite number of at least 0, found -0.0001"),
        ({"kappa": torch.inf}, "kappa: expected a finite number of at least 0, found inf"),
        ({"kappa": 0.1, "buffers": "train"}, "buffers: expected one of follow-mask, adapt, hold, found 'train'"),
        *(
            (
                {"kappa": 0.1, "no_l1_epochs": found},
                f"no_l1_epochs: expected an integer from 0 to 4, the plan's epochs; found {found!r}",
            )
            for found in (-1, 5, 1.0, True)
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Sparsify(plan=PLAN, **options)


def test_the_recipe_is_this_method_on_the_whole_network():
    recipe = excise.recipes.L1Sparse(kappa=0.01, no_l1_epochs=1, epochs=3, lr=0.03, batch_size=4, weight_decay=0.1)
    plan = TrainPlan(epochs=3, lr=0.03, batch_size=4, momentum=0.9, weight_decay=0.1)
    assert recipe.method == Sparsify(plan=plan, kappa=0.01, no_l1_epochs=1)
    unlearned = excise.unlearn(CASES["mlp"].make(), Split(CASES["mlp"].data(20), forget=FORGET), recipe)
    assert unlearned.mask.fraction == 1.0
    assert unlearned.recipe == "L1Sparse"
