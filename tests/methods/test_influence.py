import pytest
import torch
from torch import nn
from torch.nn import functional

import excise
from excise import errors
from excise.curvature import num_chunks
from excise.data import Split
from excise.masks import Mask
from excise.methods import Influence
from excise.train import Hooks, Task
from tests.cases import CASES
from tests.naive.localization import per_example_gradients
from tests.probes import KINDS, LeftAlone, Watched, engine_for, moved, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
every_mode = pytest.mark.parametrize("mode", ["exact", "reference"])
FORGET = [0, 3, 8, 11, 14]
RETAIN = [row for row in range(20) if row not in FORGET]


def run(name, method, *, data=None, model=None, **options):
    model = model or CASES[name].make()
    split = Split(data or CASES[name].data(20), forget=FORGET)
    method.unlearn_(model, split, Mask.full(model), engine_for(model, **options))
    return snapshot(model)


def as_vector(tensors, model):
    return torch.cat([tensors[key].reshape(-1) for key, _ in model.named_parameters()])


def gradients(name, ids):
    """Give each example's gradient, `[examples, params]`."""
    single = per_example_gradients(CASES[name].make(), *CASES[name].data(20), ids)
    return torch.cat([value.reshape(len(ids), -1) for value in single.values()], 1)


def pull_of(forget, retain):
    """v as the paper writes it: (1/N) sum over forget - n_f / (N n_r) sum over retain."""
    total = len(forget) + len(retain)
    return forget.sum(0) / total - len(forget) / (total * len(retain)) * retain.sum(0)


def step_of(name, method, **options):
    model = CASES[name].make()
    return as_vector(run(name, method, **options), model) - as_vector(snapshot(model), model)


# --- exact ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("damping", "alpha"), [(1.0, 1.0), (0.1, 2.5), (0.01, 0.3)])
@every_case
def test_exact_is_the_dense_solve(name, damping, alpha):
    forget, retain = gradients(name, FORGET), gradients(name, RETAIN)
    matrix = retain.T @ retain / len(retain) + damping * torch.eye(retain.shape[1], dtype=torch.float64)
    wanted = alpha * torch.linalg.solve(matrix, pull_of(forget, retain))
    found = step_of(name, Influence(alpha=alpha, damping=damping, tolerance=1e-12))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8 * float(wanted.abs().max()))


def test_on_logistic_regression_without_damping_it_is_the_inverse_of_the_fisher():
    """Everything by hand: the odds, the gradients, the matrix, its inverse. 60 rows, 2 classes, 3 weights each."""
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 3, generator=draws, dtype=torch.float64)
    labels = (inputs[:, 0] + torch.randn(60, generator=draws, dtype=torch.float64) > 0).long()
    # the second class alone has weights, or the matrix would be singular
    weight = nn.Parameter(torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64))
    model = nn.Module()
    model.weight = weight
    model.forward = lambda batch: torch.stack([torch.zeros(len(batch), dtype=batch.dtype), batch @ model.weight], 1)
    start, forget = weight.detach().clone(), list(range(12))
    chance = 1 / (1 + (-inputs @ start).exp())
    slopes = (chance - labels)[:, None] * inputs
    fisher = slopes[12:].T @ slopes[12:] / 48
    wanted = start + 0.7 * torch.linalg.inv(fisher) @ (slopes[:12].sum(0) / 60 - 12 / (60 * 48) * slopes[12:].sum(0))
    method = Influence(alpha=0.7, damping=0.0, tolerance=1e-13, num_rows=None)
    method.unlearn_(model, Split((inputs, labels), forget=forget), Mask.full(model), engine_for(model))
    torch.testing.assert_close(weight.detach(), wanted, rtol=1e-10, atol=1e-10)


def test_on_a_quadratic_one_step_is_newtons_and_lands_on_the_refit():
    """Least squares whose residuals are all 1 or -1, so that F is the Hessian, and that balance, so that training is done."""
    draws = torch.Generator().manual_seed(1)
    half = torch.randn(10, 3, generator=draws, dtype=torch.float64)
    inputs, signs = torch.cat([half, half]), torch.cat([torch.ones(10), -torch.ones(10)]).double()
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    values = inputs @ model.weight.detach()[0] - signs  # residual = prediction - value = sign
    task = Task(loss=lambda logits, targets: 0.5 * (logits[:, 0] - targets).square())
    split = Split((inputs, values), forget=[0, 1, 2, 15])
    method = Influence(alpha=1.0, damping=0.0, tolerance=1e-13)
    method.unlearn_(model, split, Mask.full(model), engine_for(model, task=task))
    kept = split.retain.ids
    refit = torch.linalg.lstsq(inputs[kept], values[kept, None]).solution[:, 0]
    torch.testing.assert_close(model.weight.detach()[0], refit, rtol=1e-10, atol=1e-10)


def test_forget_rows_lose_and_retain_rows_do_not():
    inputs, labels = CASES["mlp"].data(20)
    labels = labels.clone()
    labels[FORGET] = (labels[FORGET] + 1) % 4
    model = CASES["mlp"].make()

    def losses():
        with torch.no_grad():
            every = functional.cross_entropy(model(inputs), labels, reduction="none")
        return float(every[FORGET].mean()), float(every[RETAIN].mean())

    before = losses()
    run("mlp", Influence(alpha=0.1), data=(inputs, labels), model=model)
    after = losses()
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_heavy_damping_is_a_plain_step_and_the_curvature_then_does_not_matter():
    wanted = pull_of(gradients("mlp", FORGET), gradients("mlp", RETAIN))
    found = step_of("mlp", Influence(alpha=1e9, damping=1e9, tolerance=1e-12))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_the_rows_of_the_curvature_are_drawn_from_the_seed():
    every = run("mlp", Influence(alpha=1.0, damping=0.1, num_rows=None))
    assert same_bytes(every, run("mlp", Influence(alpha=1.0, damping=0.1, num_rows=15)))
    assert same_bytes(every, run("mlp", Influence(alpha=1.0, damping=0.1), seed=3))
    some = [run("mlp", Influence(alpha=1.0, damping=0.1, num_rows=6), seed=seed) for seed in (0, 0, 1)]
    assert same_bytes(some[0], some[1])
    assert not same_bytes(some[0], some[2])
    assert not same_bytes(some[0], every)


def test_a_solve_that_does_not_converge_gives_no_result():
    model = touched(CASES["mlp"].make())
    alone = LeftAlone(model)
    split = Split(CASES["mlp"].data(20), forget=FORGET)
    with pytest.raises(
        errors.Refused, match="the solve stopped after 2 iterations at a relative residual of"
    ) as caught:
        excise.unlearn(model, split, Influence(alpha=1.0, damping=1e-6, max_iterations=2))
    assert caught.value.exit_code == 3
    alone.check()


# --- reference ------------------------------------------------------------------------------------------------------------


def published(name, alpha, total):
    """The published codes' update, parameter list by parameter list."""
    inputs, labels = CASES[name].data(20)
    model = CASES[name].make().eval()

    def slope(ids):
        loss = functional.cross_entropy(model(inputs[ids]), labels[ids])
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, list(model.parameters()))])

    forget = slope(FORGET) * len(FORGET) / 20
    retain = slope(RETAIN) * len(RETAIN) * len(FORGET) / (20 * len(RETAIN))
    k, o = (forget - retain).clone(), None
    for place, row in enumerate(RETAIN):
        g = slope([row])
        if o is None:
            o = g.clone()
        else:
            t = torch.dot(o, g)
            k -= (torch.dot(k, g) / (total + t)) * o
            o -= (t / (total + t)) * o
        if place > total:
            break
    return alpha * k


@pytest.mark.parametrize("total", [3, 9, 1000])
@every_case
def test_reference_is_the_published_update(name, total):
    wanted = published(name, 10.0, total)
    for at_once in (None, 1, 4):
        found = step_of(name, Influence(alpha=10.0, mode="reference", num_rows=total, examples_at_once=at_once))
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


@every_case
def test_reference_moves_the_plain_step_along_one_rows_gradient_only(name):
    forget, retain = gradients(name, FORGET), gradients(name, RETAIN)
    moved_by = step_of(name, Influence(alpha=1.0, mode="reference", num_rows=20)) - pull_of(forget, retain)
    cosine = float(moved_by @ retain[0] / (moved_by.norm() * retain[0].norm()))
    assert abs(cosine) == pytest.approx(1.0, abs=1e-9)


def test_reference_takes_the_first_rows_and_the_published_two_more():
    watched, heard = Watched(*CASES["mlp"].data(20)), []

    class Ear(Hooks):
        def on_stage(self, name, num_steps):
            heard.append([name, num_steps, 0])

        def on_step(self):
            heard[-1][2] += 1

    model = CASES["mlp"].make()
    engine, split = engine_for(model, hooks=Ear()), Split(watched, forget=FORGET)
    Influence(alpha=1.0, mode="reference", num_rows=4, batch_size=6, examples_at_once=2).unlearn_(
        model, split, Mask.full(model), engine
    )
    assert watched.read == [*FORGET, *RETAIN, *RETAIN[:6]]
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (26, 0)
    assert heard == [["Influence: gradients", 4, 4], ["Influence: recursion", 3, 3]]
    every = run("mlp", Influence(alpha=1.0, mode="reference", num_rows=None))
    assert same_bytes(every, run("mlp", Influence(alpha=1.0, mode="reference", num_rows=15)))


# --- both -----------------------------------------------------------------------------------------------------------------


@every_mode
@every_case
def test_a_step_of_length_zero_is_the_identity_and_the_step_is_linear_in_alpha(name, mode):
    assert same_bytes(run(name, Influence(alpha=0.0, mode=mode)), snapshot(CASES[name].make()))
    one, three = (step_of(name, Influence(alpha=alpha, mode=mode)) for alpha in (1.0, 3.0))
    torch.testing.assert_close(three, 3 * one, rtol=1e-9, atol=1e-12)


@every_mode
@every_case
def test_the_batch_sizes_do_not_matter(name, mode):
    one = step_of(name, Influence(alpha=1.0, mode=mode, tolerance=1e-10))
    for options in ({"batch_size": 1}, {"batch_size": 4}, {"examples_at_once": 1}, {"examples_at_once": 4}):
        other = step_of(name, Influence(alpha=1.0, mode=mode, tolerance=1e-10, **options))
        torch.testing.assert_close(other, one, rtol=1e-7, atol=1e-9 * float(one.abs().max()))


def test_exact_reads_the_drawn_rows_once_an_iteration():
    watched, heard = Watched(*CASES["mlp"].data(26), forbidden=range(20, 26)), []

    class Ear(Hooks):
        def on_stage(self, name, num_steps):
            heard.append((name, num_steps))

        def on_step(self):
            heard.append("step")

        def on_stage_end(self, name):
            heard.append(name)

    model = CASES["mlp"].make()
    split = Split(watched, forget=FORGET, test=range(20, 26))
    method, engine = Influence(alpha=1.0, num_rows=6, max_iterations=9, damping=0.5), engine_for(model, hooks=Ear())
    method.unlearn_(model, split, Mask.full(model), engine)
    assert method.needs == {"forget", "retain"}
    assert watched.read[:20] == [*FORGET, *RETAIN]
    drawn, rest = watched.read[20:26], watched.read[20:]
    assert set(drawn) < set(RETAIN)
    assert drawn == sorted(set(drawn))
    iterations = len(rest) // 6
    assert rest == drawn * iterations
    assert 1 < iterations <= 9
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (20 + 6 * iterations, 0)
    assert num_chunks(model, split.retain.head(6)) == 1
    assert heard == [
        ("Influence: gradients", 2),
        *["step"] * 2,
        "Influence: gradients",
        ("Influence: solve", 9),
        *["step"] * iterations,
        "Influence: solve",
    ]


@every_mode
def test_parameters_the_user_froze_have_no_part_in_it(mode):
    model = CASES["mlp"].make()
    model[2].weight.requires_grad_(False)
    before = snapshot(model)
    after = run("mlp", Influence(alpha=1.0, mode=mode, tolerance=1e-12), model=model)
    assert moved(before, after) == set(before) - {"2.weight"}
    other = CASES["mlp"].make()
    other[2].weight.requires_grad_(False)
    forget, retain = (
        torch.cat(
            [
                value.reshape(len(ids), -1)
                for value in per_example_gradients(other, *CASES["mlp"].data(20), ids).values()
            ],
            1,
        )
        for ids in (FORGET, RETAIN)
    )
    if mode == "exact":
        matrix = retain.T @ retain / 15 + torch.eye(retain.shape[1], dtype=torch.float64)
        wanted = torch.linalg.solve(matrix, pull_of(forget, retain))
        found = torch.cat([(after[key] - before[key]).reshape(-1) for key in before if key != "2.weight"])
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@every_mode
@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind, mode):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(20), forget=FORGET)
    method = Influence(alpha=1.0, mode=mode)
    unlearned = excise.unlearn(model, split, method, mask=Mask.from_tensors(tensors))
    before, after = snapshot(model), snapshot(unlearned.model)
    whole = snapshot(excise.unlearn(model, split, method).model)
    for key, chosen in tensors.items():
        assert torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen]))
        assert torch.equal(after[key][chosen], whole[key][chosen])
    assert moved(before, after)
    assert unlearned.frozen_digest == unlearned.frozen_digest_before
    alone.check()


@every_mode
def test_a_loss_that_is_not_finite_stops_it_and_nothing_is_changed(mode):
    model = touched(CASES["mlp"].make())
    alone = LeftAlone(model)
    with pytest.raises(errors.Diverged, match="the loss of a row is not finite; nothing was changed"):
        excise.unlearn(
            model,
            Split(CASES["mlp"].data(20), forget=FORGET),
            Influence(alpha=1.0, mode=mode),
            loss=lambda logits, targets: functional.cross_entropy(logits, targets, reduction="none") / 0,
        )
    alone.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "newton"}, "mode: expected one of exact, reference, found 'newton'"),
        ({"alpha": -1.0}, "alpha: expected a finite number of at least 0, found -1.0"),
        ({"damping": -1e-3}, "damping: expected a finite number of at least 0, found -0.001"),
        ({"tolerance": torch.nan}, "tolerance: expected a finite number of at least 0, found nan"),
        *(
            ({name: 0}, f"{name}: expected an integer of at least 1, found 0")
            for name in ("num_rows", "max_iterations", "batch_size", "examples_at_once")
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Influence(**{"alpha": 1.0} | options)


def test_the_recipe_is_this_method_on_the_whole_network():
    recipe = excise.recipes.IU(alpha=2.0, mode="reference", num_rows=7)
    assert recipe.method == Influence(alpha=2.0, mode="reference", num_rows=7)
    assert excise.recipes.IU().method == Influence(alpha=1.0)
    unlearned = excise.unlearn(CASES["mlp"].make(), Split(CASES["mlp"].data(20), forget=FORGET), excise.recipes.IU())
    assert unlearned.mask.fraction == 1.0
    assert unlearned.recipe == "IU"
