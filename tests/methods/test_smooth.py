"""Smooth, against closed forms of linear networks, a naive twin, and what it must never read."""

import dataclasses
import inspect

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import excise
from excise import errors, recipes, seeds
from excise.data import Rows, Split
from excise.masks import Mask
from excise.methods import Ascend, Sequence, Smooth, Widened
from excise.methods.smooth import slopes
from excise.train import Hooks, Pass, Step, Task, TrainPlan, fit_
from tests.cases import CASES
from tests.probes import Watched, engine_for, moved, same_bytes, snapshot

FORGET = [0, 3, 8, 11, 14]
PLAN = TrainPlan(epochs=1, lr=0.01, momentum=0.0, schedule="constant", batch_size=8, shuffle=False)
SLOW = TrainPlan(epochs=1, lr=1e-6, momentum=0.0, schedule="constant", batch_size=4, shuffle=False)


def linear(width, classes, *, bias=False, seed=1):
    model = nn.Linear(width, classes, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return model


def rows(num_rows, *shape, seed=2):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn((num_rows, *shape), generator=draws, dtype=torch.float64), torch.zeros(
        num_rows, dtype=torch.int64
    )


def objective(model, data, method, *, seed=0, task=None):
    """Give the value and the gradients of the first step, by name; the network keeps its weights."""
    found = {}

    def watch(step):
        loss = method.objective(step)
        wanted = {name: value for name, value in model.named_parameters() if value.requires_grad}
        slope = torch.autograd.grad(loss, [*wanted.values()], retain_graph=True, allow_unused=True)
        found.update(loss=loss.detach(), gradients=dict(zip(wanted, slope, strict=True)))
        return loss * 0

    every = Rows.all_of(data)
    plan = TrainPlan(epochs=1, lr=0.0, batch_size=len(every), shuffle=False)
    engine = engine_for(model, seed=seed, task=task)
    only = Pass(watch, ("forget",))
    fit_(model, lambda _: (only,), {"forget": every}, plan, Mask.full(model), engine, stage="Test", statistics="hold")
    return found["loss"], found["gradients"]


def run(model, data, method, *, seed=0, forget=FORGET, mask=None):
    engine = engine_for(model, seed=seed)
    method.unlearn_(model, Split(data, forget=forget), Mask.full(model) if mask is None else mask, engine)
    return engine


def test_inputs_of_one_number_a_row_are_slopes_too():
    wide = slopes(torch.tensor([[0, 3.0]]), torch.tensor([[4.0, 0]]), torch.tensor([[1.0]]), torch.tensor([[3.0]]))
    bare = slopes(torch.tensor([[0, 3.0]]), torch.tensor([[4.0, 0]]), torch.tensor([1.0]), torch.tensor([3.0]))
    assert bare.tolist() == wide.tolist() == [2.5]


# -- closed forms --------------------------------------------------------------------------------------------------------


def test_a_constant_network_has_no_slope_and_no_gradient():
    model = linear(6, 4, bias=True)
    with torch.no_grad():
        model.weight.zero_()
    for detached in (True, False):
        loss, gradients = objective(model, rows(5, 6), Smooth(plan=PLAN, sigma=0.3, detach_noisy=detached))
        assert loss == 0
        assert all(bool((value == 0).all()) for value in gradients.values() if value is not None)


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 7.0), ("mean", 1.0)])
def test_the_identity_has_a_slope_of_one(reduction, expected):
    model = linear(5, 5)
    with torch.no_grad():
        model.weight.copy_(torch.eye(5))
    loss, _ = objective(model, rows(7, 5), Smooth(plan=PLAN, sigma=0.3, clamp=False, reduction=reduction))
    torch.testing.assert_close(float(loss), expected, rtol=1e-12, atol=0)


class Scaled(nn.Module):
    def __init__(self, inner, factor, bias=0.0):
        super().__init__()
        self.inner, self.factor, self.bias = inner, factor, bias

    def forward(self, inputs):
        return self.factor * self.inner(inputs) + self.bias


def test_a_factor_scales_the_slope_and_a_constant_does_not_change_it():
    case = CASES["separable"]
    data, method = case.data(6), Smooth(plan=PLAN, sigma=0.4, num_draws=3)
    plain, _ = objective(case.make(), data, method)
    scaled, _ = objective(Scaled(case.make(), -3.0), data, method)
    shifted, _ = objective(Scaled(case.make(), 1.0, 5.0), data, method)
    torch.testing.assert_close(scaled, 3 * plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(shifted, plain, rtol=1e-12, atol=0)


def test_of_a_linear_network_it_is_a_mean_stretch_that_neither_place_nor_size_of_the_noise_changes():
    model, method = linear(6, 4), Smooth(plan=PLAN, sigma=0.3, num_draws=400, clamp=False, reduction="mean")
    loss, _ = objective(model, rows(8, 6), method)
    noise = rows(200_000, 6, seed=9)[0]
    expected = ((noise @ model.weight.detach().T).norm(dim=1) / noise.norm(dim=1)).mean()
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)  # 3,200 draws
    singular = torch.linalg.svdvals(model.weight.detach())
    assert singular[-1] < loss < singular[0]
    elsewhere, _ = objective(model, (rows(8, 6, seed=5)[0] + 7, rows(8, 6)[1]), method)
    wider, _ = objective(model, rows(8, 6), dataclasses.replace(method, sigma=3.0))
    torch.testing.assert_close(elsewhere, loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(wider, loss, rtol=1e-10, atol=0)


def test_its_true_gradient_obeys_eulers_rule_and_the_detached_one_is_nothing_on_average():
    model, data = linear(6, 4), rows(8, 6)
    options = {"plan": PLAN, "sigma": 0.3, "num_draws": 800, "clamp": False, "reduction": "mean"}
    loss, true = objective(model, data, Smooth(**options, detach_noisy=False))
    same, detached = objective(model, data, Smooth(**options))
    torch.testing.assert_close((true["weight"] * model.weight.detach()).sum(), loss, rtol=1e-11, atol=0)
    torch.testing.assert_close(same, loss, rtol=1e-12, atol=0)
    # 6,400 draws of |x| / |x - x'| at most, in every direction: 8 / 80 in length if the mean is 0
    assert detached["weight"].norm() < 0.12 < 0.3 < true["weight"].norm()


def test_under_little_noise_it_is_the_length_of_the_derivative_along_it():
    model, (inputs, labels) = CASES["mlp"].make(), CASES["mlp"].data(4)
    loss, _ = objective(model, (inputs, labels), Smooth(plan=PLAN, sigma=1e-6, num_draws=3, clamp=False))
    total = 0.0
    for place in range(4):
        draws = seeds.generator(0, "noise", 0, place)
        for _ in range(3):
            along = torch.randn(6, generator=draws, dtype=torch.float64)
            _, slope = torch.autograd.functional.jvp(model, inputs[place], along)
            total += float((slope.norm() / along.norm()).detach()) / 3
    torch.testing.assert_close(float(loss), total, rtol=1e-6, atol=0)  # second order in the noise


# -- the naive twin, and what the noise is -------------------------------------------------------------------------------


def naive_(model, inputs, *, plan, sigma, draws, clamp, accumulate, batch_size):
    """The published loop, from its description: dropout off."""
    model.eval()
    total = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for places in torch.arange(len(inputs)).split(batch_size):
        x = inputs[places]
        generators = [seeds.generator(0, "noise", 0, FORGET[place]) for place in places]
        clean, loss = model(x), 0.0
        for _ in range(draws):
            noisy = x + sigma * torch.stack([torch.randn(x.shape[1:], generator=g, dtype=x.dtype) for g in generators])
            noisy = noisy.clamp(x.min(), x.max()) if clamp else noisy
            with torch.no_grad():
                other = model(noisy)
            for row in range(len(x)):
                loss = loss + (clean[row] - other[row]).norm() / (x[row] - noisy[row]).norm() / draws
        for (name, value), slope in zip(
            model.named_parameters(), torch.autograd.grad(loss, [*model.parameters()]), strict=True
        ):
            total[name] = slope if not accumulate else total[name] + slope
            value.data -= plan.lr * total[name]


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
def test_it_is_the_naive_loop_and_momentum_of_one_the_published_sum_of_gradients(clamp, accumulate):
    inputs, labels = CASES["separable"].data(20)
    ours, theirs = CASES["separable"].make(), CASES["separable"].make()
    recipe = recipes.JiT(
        sigma=0.6, lr=0.02, num_draws=3, batch_size=2, clamp=clamp, detach_noisy=True, accumulate=accumulate
    )
    run(ours, (inputs, labels), recipe.method)
    naive_(
        theirs,
        inputs[FORGET],
        plan=recipe.method.plan,
        sigma=0.6,
        draws=3,
        clamp=clamp,
        accumulate=accumulate,
        batch_size=2,
    )
    for name, value in snapshot(theirs).items():
        torch.testing.assert_close(snapshot(ours)[name], value, rtol=1e-10, atol=1e-12)
    assert moved(snapshot(ours), snapshot(CASES["separable"].make()))


def test_accumulating_the_second_of_two_equal_batches_steps_twice_as_far():
    inputs, labels = rows(2, 6)
    data = (torch.cat([inputs, inputs]), torch.cat([labels, labels]))
    seen = []

    class Seen(Hooks):
        def on_step(self):
            seen.append(model.weight.detach().clone())

    model = linear(6, 4)
    start = model.weight.detach().clone()
    plan = TrainPlan(epochs=1, lr=1e-7, momentum=1.0, schedule="constant", batch_size=2, shuffle=False)
    # sigma so large that all is clamped to two corners on average: the noise of the two batches differs, so many draws
    method = Smooth(plan=plan, sigma=0.3, num_draws=4000, detach_noisy=False, clamp=False)
    engine = engine_for(model, hooks=Seen())
    fit_(
        model,
        lambda _: (Pass(method.objective, ("forget",)),),
        {"forget": Rows.all_of(data)},
        plan,
        Mask.full(model),
        engine,
        stage="Test",
    )
    first, second = seen[0] - start, seen[1] - seen[0]
    assert (second - 2 * first).norm() < 0.05 * first.norm()


def test_noise_is_a_rows_own_and_batches_count_every_row_once():
    """To first order a pass goes as far whatever the batches; by the mean it goes further in smaller ones."""
    data, found = CASES["mlp"].data(20), {}
    for reduction in ("sum", "mean"):
        for size in (1, 2, 5):
            model = CASES["mlp"].make()
            start = snapshot(model)
            plan = TrainPlan(epochs=1, lr=1e-7, momentum=0.0, schedule="constant", batch_size=size, shuffle=False)
            run(model, data, Smooth(plan=plan, sigma=0.5, num_draws=2, clamp=False, reduction=reduction))
            found[reduction, size] = torch.cat([(v - start[k]).flatten() for k, v in snapshot(model).items()])
    whole = found["sum", 5]
    assert all((found["sum", size] - whole).norm() < 1e-4 * whole.norm() for size in (1, 2))
    assert (found["mean", 1] - whole).norm() < 1e-4 * whole.norm()
    assert (found["mean", 5] * 5 - whole).norm() < 1e-4 * whole.norm()


@pytest.mark.parametrize("detached", [True, False])
def test_however_many_noisy_rows_are_run_at_once_it_is_the_same(detached):
    data, found = CASES["batchnorm"].data(9), []
    for at_once in (1, 20, 10_000):
        method = Smooth(plan=PLAN, sigma=0.5, num_draws=5, detach_noisy=detached, rows_at_once=at_once)
        found.append(objective(CASES["batchnorm"].make(), data, method))
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradients, found[0][1], rtol=1e-9, atol=1e-12)


def test_noisy_rows_are_run_in_whole_draws_within_the_range_of_the_batch():
    seen = []
    model, (inputs, labels) = CASES["mlp"].make(), CASES["mlp"].data(6)
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    objective(model, (inputs, labels), Smooth(plan=PLAN, sigma=2.0, num_draws=5, rows_at_once=13))
    clean, *noisy = seen
    assert torch.equal(clean, inputs) and [len(one) for one in noisy] == [12, 12, 6]
    for one in noisy:
        assert float(one.min()) == float(inputs.min()) and float(one.max()) == float(inputs.max())
    seen.clear()
    objective(model, (inputs, labels), Smooth(plan=PLAN, sigma=2.0, num_draws=5, clamp=False))
    assert float(seen[1].max()) > float(inputs.max())


def test_a_draw_that_does_not_move_a_row_counts_nothing():
    model, data = CASES["mlp"].make(), CASES["mlp"].data(6)
    for options in ({"sigma": 0.0}, {"sigma": 1.0, "eps": 1e9}):
        for detached in (True, False):
            loss, gradients = objective(model, data, Smooth(plan=PLAN, detach_noisy=detached, **options))
            assert loss == 0
            assert all(bool((value == 0).all()) for value in gradients.values())
    flat = (torch.full((6, 6), 2.0, dtype=torch.float64), data[1])  # clamped to where they are
    assert objective(model, flat, Smooth(plan=PLAN, sigma=1.0))[0] == 0
    one, other = torch.ones(2, 3), torch.tensor([[1.0, 1, 1], [1, 1, 3]])
    assert slopes(one, 4 * one, one, other, 1e-12).tolist() == [0.0, float(torch.tensor(27.0).sqrt() / 2)]


# -- modes and statistics ------------------------------------------------------------------------------------------------


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, inputs):
        return self.body(inputs)


def dropping():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Dropping().double()


def test_in_eval_mode_equal_inputs_have_equal_outputs_and_in_train_mode_dropout_parts_them():
    data = CASES["mlp"].data(20)
    # a displacement of 1e-9 in an input moves an output by about as much: what is left is dropout, divided by it
    still = objective(dropping(), data, Smooth(plan=PLAN, sigma=1e-9))[0]
    noisy = objective(dropping(), data, Smooth(plan=PLAN, sigma=1e-9, mode="train"))[0]
    assert still < 1e3 < 1e6 < noisy


@pytest.mark.parametrize(
    ("options", "still"),
    [
        ({}, True),
        ({"buffers": "adapt"}, True),
        ({"mode": "train"}, True),
        ({"mode": "train", "buffers": "adapt"}, False),
    ],
)
def test_statistics_stand_still_unless_train_mode_and_buffers_say_otherwise(options, still):
    model = dropping()
    before = {name: value.clone() for name, value in model.named_buffers()}
    run(model, CASES["mlp"].data(20), Smooth(plan=PLAN, sigma=0.5, num_draws=2, **options))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers()) == still
    assert all(module.training for module in model.modules())  # modes are restored


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_it_repeats_to_the_bit_and_the_seed_matters(mode):
    data, method = CASES["mlp"].data(20), Smooth(plan=PLAN, sigma=0.5, num_draws=2, mode=mode)
    found = [dropping() for _ in range(3)]
    for model, seed in zip(found, (1, 1, 2), strict=True):
        run(model, data, method, seed=seed)
    assert same_bytes(*map(snapshot, found[:2])) and not same_bytes(*map(snapshot, found[1:]))


def test_it_may_run_again_in_the_backward_pass():
    """A network that recomputes activations on the way back must do it in the mode of the forward pass."""

    class Recomputing(Dropping):
        def forward(self, inputs):
            return torch.utils.checkpoint.checkpoint(self.body, inputs, use_reentrant=False)

    plain, again = dropping(), Recomputing().double()
    again.load_state_dict(plain.state_dict())
    for model in (plain, again):
        run(model, CASES["mlp"].data(20), Smooth(plan=PLAN, sigma=0.5, num_draws=2))
    for name, value in snapshot(plain).items():
        torch.testing.assert_close(snapshot(again)[name], value, rtol=1e-12, atol=1e-14)


# -- what it reads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["mlp", "batchnorm"])
def test_no_other_row_is_touched_from_request_to_result(case):
    watched = Watched(*CASES[case].data(20), forbidden=set(range(20)) - set(FORGET))
    found = excise.unlearn(CASES[case].make(), Split(watched, forget=FORGET), recipes.JiT(num_draws=2, lr=0.01))
    assert set(watched.read) == set(FORGET)
    assert moved(snapshot(CASES[case].make()), snapshot(found.model)) and not found.recomputed


@pytest.mark.parametrize("labels", [torch.arange(20).flip(0) % 4, torch.full((20,), -7), torch.full((20,), 999)])
def test_labels_do_not_matter(labels):
    inputs, own = CASES["mlp"].data(20)
    recipe = recipes.JiT(num_draws=2, lr=0.01)
    one, other = (
        excise.unlearn(CASES["mlp"].make(), Split((inputs, given), forget=FORGET), recipe) for given in (own, labels)
    )
    assert same_bytes(snapshot(one.model), snapshot(other.model))


def test_labels_matter_again_where_another_method_or_a_place_reads_them():
    smooth, ascend = Smooth(plan=PLAN, sigma=0.5), Ascend(plan=PLAN)
    assert not Sequence((smooth, smooth)).reads_labels and Sequence((smooth, ascend)).reads_labels
    assert not Widened(smooth).reads_labels and Widened(ascend).reads_labels
    data = (CASES["mlp"].data(20)[0], torch.full((20,), 999))
    cut = excise.localize.Cut(excise.localize.Gradient(), 0.5)
    for recipe in (recipes.JiT().at(cut), ascend):
        with pytest.raises(errors.BadData, match="5 labels lie outside 0 to 3"):
            excise.unlearn(CASES["mlp"].make(), Split(data, forget=FORGET), recipe)


def test_cost_counts_every_noisy_row():
    for detached, counted in ((True, (10, 60)), (False, (70, 0))):
        plan = TrainPlan(epochs=2, lr=0.01, batch_size=3)
        engine = run(
            CASES["mlp"].make(),
            CASES["mlp"].data(20),
            Smooth(plan=plan, sigma=0.5, num_draws=6, detach_noisy=detached),
        )
        assert (engine.cost.trained_rows, engine.cost.forward_rows) == counted


class Pairs(Dataset):
    """Examples of other forms than two tensors."""

    def __init__(self, form):
        self.form = form

    def __len__(self):
        return 8

    def __getitem__(self, row):
        inputs = CASES["mlp"].data(8)[0][row]
        return {"dict": {"x": inputs, "y": 0}, "triple": (inputs, inputs, 0), "nested": ((inputs, inputs), 0)}[
            self.form
        ]


FORWARDS = {
    "dict": lambda model, batch: (model(batch["x"]), batch["y"]),
    "triple": lambda model, batch: (model(batch[0]), batch[2]),
    "nested": lambda model, batch: (model(batch[0][0]), batch[1]),
}


@pytest.mark.parametrize("form", FORWARDS)
def test_examples_that_are_no_pair_with_numbers_first_are_refused_before_any_work(form):
    hooks = []

    class Ear(Hooks):
        def on_stage(self, name, num_steps):
            hooks.append(name)

    with pytest.raises(
        errors.UnsupportedModel, match=r"expected batches of two, the first of them the inputs as a tensor"
    ):
        excise.unlearn(
            CASES["mlp"].make(),
            Split(Pairs(form), forget=[1, 2]),
            recipes.JiT(),
            forward=FORWARDS[form],
            hooks=Ear(),
        )
    assert hooks == []


def test_tokens_are_refused_before_any_work():
    with pytest.raises(
        errors.UnsupportedModel, match=r"found a tensor of torch.int64 for inputs.*embeddings instead of tokens"
    ):
        excise.unlearn(CASES["tied"].make(), Split(CASES["tied"].data(20), forget=FORGET), recipes.JiT())


def test_a_forward_of_ones_own_has_the_first_half_of_its_pair_moved_and_the_rest_kept():
    inputs, labels = CASES["mlp"].data(20)
    offsets = labels[:, None].double()

    class Offset(Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, row):
            return inputs[row], {"offset": offsets[row], "label": labels[row]}

    def forward(model, batch):
        return model(batch[0] + batch[1]["offset"]), batch[1]["label"]

    ours = objective(CASES["mlp"].make(), Offset(), Smooth(plan=PLAN, sigma=0.5, clamp=False), task=Task(forward))
    theirs = objective(CASES["mlp"].make(), (inputs + offsets, labels), Smooth(plan=PLAN, sigma=0.5, clamp=False))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


# -- masks, precision, kept activations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("detached", [True, False])
def test_a_mask_of_channels_takes_the_same_steps_as_the_whole_where_it_lets(detached, monkeypatch):
    """The first step's gradient inside a mask is that of the whole network, however many forward passes it has."""
    for name in ("LEAST_LEFT_OUT_LINEAR", "LEAST_LEFT_OUT_CONVOLUTION"):
        monkeypatch.setattr(excise.train.chosen_rows, name, 1)
    data, case = CASES["separable"].data(20), CASES["separable"]
    whole, part, start = case.make(), case.make(), snapshot(case.make())
    mask = excise.localize.Cut(excise.localize.Gradient(), 0.4)(part, Split(data, forget=FORGET))
    method = Smooth(plan=PLAN, sigma=0.5, num_draws=3, detach_noisy=detached)
    run(whole, data, method)
    run(part, data, method, mask=mask)
    for name, value in part.named_parameters():
        inside = mask.expand(name)
        torch.testing.assert_close(value[inside], whole.get_parameter(name)[inside], rtol=1e-9, atol=1e-12)
        assert torch.equal(value[~inside], start[name][~inside])


def test_nothing_is_kept_for_it_and_a_masked_run_is_the_same_without_keeping():
    data, model = CASES["batchnorm"].data(20), CASES["batchnorm"].make()
    mask = Mask.of_modules(model, ["8"])
    plan = TrainPlan(epochs=3, lr=0.01, batch_size=4)
    found = [
        excise.unlearn(
            model, Split(data, forget=FORGET), Smooth(plan=plan, sigma=0.5, num_draws=2), mask=mask, keep=keep
        )
        for keep in (None, excise.train.Kept(least_products=0))
    ]
    assert same_bytes(*(snapshot(one.model) for one in found))
    assert {one.cost.forward_rows for one in found} == {3 * 5 * 2}


def test_float_rows_take_the_networks_precision_and_half_ones_work():
    model = CASES["mlp"].make().float()
    inputs, labels = CASES["mlp"].data(20)
    for kind in (torch.float64, torch.float16):
        seen = []
        handle = model.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))  # noqa: B023
        assert objective(model, (inputs.to(kind), labels), Smooth(plan=PLAN, sigma=0.5, num_draws=2))[0] > 0
        handle.remove()
        assert set(seen) == {torch.float32}


# -- options and recipe --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -1.0}, "sigma: expected a finite number of at least 0, found -1.0"),
        ({"eps": float("nan")}, "eps: expected a finite number of at least 0, found nan"),
        ({"num_draws": 0}, "num_draws: expected an integer of at least 1, found 0"),
        ({"rows_at_once": 0}, "rows_at_once: expected an integer of at least 1, found 0"),
        ({"reduction": "max"}, "reduction: expected sum or mean, found 'max'"),
        ({"mode": "test"}, "mode: expected eval or train, found 'test'"),
        ({"buffers": "train"}, "buffers: expected one of follow-mask, adapt, hold, found 'train'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Smooth(**{"plan": PLAN, "sigma": 0.5, **options})


def test_it_asks_for_forget_rows_alone():
    assert Smooth(plan=PLAN, sigma=0.5).needs == {"forget"}
    assert Step.outputs_on.__doc__ and "kept" in inspect.getdoc(Step.outputs_on)
