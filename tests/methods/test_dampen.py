import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import excise
from excise import errors
from excise.curvature import num_chunks
from excise.data import Split
from excise.masks import Mask
from excise.methods import Dampen
from excise.train import Hooks, Task
from tests.cases import CASES
from tests.naive.localization import per_example_gradients
from tests.probes import (
    KINDS,
    LeftAlone,
    Watched,
    as_module,
    engine_for,
    moved,
    raw,
    same_bytes,
    snapshot,
    spelled_out,
    touched,
)

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [0, 3, 8, 11, 14]


def run(name, method, *, forget=FORGET, model=None, data=None, **options):
    model = model or CASES[name].make()
    split = Split(data or CASES[name].data(20), forget=forget)
    method.unlearn_(model, split, Mask.full(model), engine_for(model, **options))
    return snapshot(model)


def naive(name, selection, dampening, forget_size=1, size=1):
    """One weight after another, as in the paper: cut where the forget rows' importance stands out."""
    model = CASES[name].make()
    inputs, labels = CASES[name].data(20)

    def importances(ids, batch):
        single = per_example_gradients(CASES[name].make(), inputs, labels, ids)
        return {
            key: torch.stack([part.mean(0) ** 2 for part in value.split(batch)]).mean(0).reshape(-1).tolist()
            for key, value in single.items()
        }

    forget, every = importances(FORGET, forget_size), importances(range(20), size)
    after = {}
    for key, value in model.named_parameters():
        numbers = value.detach().reshape(-1).tolist()
        for place, (f, d) in enumerate(zip(forget[key], every[key], strict=True)):
            if f > selection * d:
                numbers[place] *= min(1.0, dampening * d / f)
        after[key] = torch.tensor(numbers, dtype=torch.float64).reshape(value.shape)
    return after


@pytest.mark.parametrize(("selection", "dampening"), [(1.0, 1.0), (1.5, 0.3), (0.2, 5.0), (0.0, 1.0)])
@every_case
def test_it_is_the_papers_rule_weight_by_weight(name, selection, dampening):
    ours = run(name, Dampen(selection=selection, dampening=dampening))
    for key, value in naive(name, selection, dampening).items():
        # 1e-9: an importance that is zero but for rounding (the bias before a normalisation) has a ratio of rounding noise
        torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-9)


@every_case
def test_by_batch_means_it_is_the_published_codes(name):
    method = Dampen(selection=0.8, importance="batch-means", batch_size=4, forget_batch_size=2)
    ours = run(name, method)
    for key, value in naive(name, 0.8, 1.0, forget_size=2, size=4).items():
        torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-9)


def test_three_weights_by_hand():
    """The loss of a row is w . x, so a gradient is the row itself: rows (1, 2, 1) and (3, 0, 1) to forget, (1, 4, 1) twice."""
    weight = nn.Parameter(torch.tensor([8.0, 8.0, -8.0], dtype=torch.float64))
    model = as_module(lambda inputs: inputs * weight, weight)
    rows = torch.tensor([[1.0, 2, 1], [3, 0, 1], [1, 4, 1], [1, 4, 1]], dtype=torch.float64)
    task = Task(loss=lambda logits, targets: logits.sum(1))
    split = Split((rows, torch.zeros(4, dtype=torch.int64)), forget=[0, 1])
    # I_f = (1 + 9)/2, (4 + 0)/2, 1 = 5, 2, 1 and I_D = 12/4, 36/4, 1 = 3, 9, 1: only the first stands out
    for selection, dampening, wanted in [
        (1.0, 1.0, [8 * 3 / 5, 8.0, -8.0]),
        (1.0, 0.5, [8 * 0.5 * 3 / 5, 8.0, -8.0]),
        (1.0, 2.0, [8.0, 8.0, -8.0]),  # min(1, 6/5)
        (1.7, 1.0, [8.0, 8.0, -8.0]),  # 5/3 is less than 1.7
        (0.0, 0.5, [8 * 0.5 * 3 / 5, 8.0, -4.0]),  # everything is chosen; 0.5 * 9/2 is more than 1
        (0.0, 0.0, [0.0, 0.0, 0.0]),
    ]:
        with torch.no_grad():
            weight.copy_(torch.tensor([8.0, 8.0, -8.0]))
        Dampen(selection=selection, dampening=dampening).unlearn_(
            model, split, Mask.full(model), engine_for(model, task=task)
        )
        torch.testing.assert_close(weight.detach(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("importance", ["example", "batch-means"])
@every_case
def test_no_weight_grows_and_none_changes_its_sign(name, importance):
    before = snapshot(CASES[name].make())
    for selection, dampening in ((0.0, 1.0), (1.0, 1.0), (1.0, 3.0), (2.0, 0.1)):
        method = Dampen(selection=selection, dampening=dampening, importance=importance, batch_size=4)
        after = run(name, method)
        for key, value in CASES[name].make().named_parameters():
            ratio = after[key] / value.detach()
            assert bool(((ratio >= 0) & (ratio <= 1) | (value == 0)).all()), key
        for key, _ in CASES[name].make().named_buffers():
            assert torch.equal(after[key], before[key])


@pytest.mark.parametrize("importance", ["example", "batch-means"])
@every_case
def test_rows_that_are_like_all_others_cost_nothing(name, importance):
    """Every row stands twice in the data, once in forget: the two importances are equal."""
    inputs, labels = CASES[name].data(12)
    data, before = (torch.cat([inputs, inputs]), torch.cat([labels, labels])), snapshot(CASES[name].make())
    for selection in (1 + 1e-6, 1.5, 1.9):  # 1e-6: sums in another order; where both are zero, rounding noise decides
        after = run(name, Dampen(selection=selection, importance=importance, batch_size=4), forget=range(12), data=data)
        for key, value in before.items():
            quiet = value.double().abs() < 1e-12
            torch.testing.assert_close(after[key][~quiet], value[~quiet], rtol=1e-9, atol=1e-12)


@every_case
def test_an_infinite_selection_chooses_nothing(name):
    model = CASES[name].make()
    for importance in ("example", "batch-means"):
        assert same_bytes(run(name, Dampen(selection=math.inf, importance=importance)), snapshot(model))


def test_the_lower_the_dampening_constant_the_smaller_the_weights():
    model = CASES["mlp"].make()
    found = [run("mlp", Dampen(selection=1.0, dampening=value)) for value in (0.0, 0.1, 0.5, 1.0, 3.0, 1e9)]
    for one, other in itertools.pairwise(found):
        assert all(bool((one[key].abs() <= other[key].abs()).all()) for key in one)
    assert same_bytes(found[-1], snapshot(model))
    assert not same_bytes(found[0], found[1])


def test_the_higher_the_selection_the_fewer_weights_change():
    before = snapshot(CASES["mlp"].make())
    chosen = [
        {key: run("mlp", Dampen(selection=value, dampening=0.0))[key] != before[key] for key in before}
        for value in (0.0, 0.5, 1.0, 2.0, 3.9)
    ]
    for more, fewer in itertools.pairwise(chosen):
        assert all(bool((more[key] | ~fewer[key]).all()) for key in before)
    counts = [sum(int(value.sum()) for value in choice.values()) for choice in chosen]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 3


@every_case
def test_by_example_the_batch_size_does_not_matter(name):
    one = run(name, Dampen(selection=1.0))
    for options in ({"batch_size": 1}, {"examples_at_once": 1}, {"examples_at_once": 3}):
        for key, value in run(name, Dampen(selection=1.0, **options)).items():
            torch.testing.assert_close(value, one[key], rtol=1e-9, atol=1e-9)


def test_by_batch_means_few_rows_look_more_important_than_they_are():
    """Why it is not the default: a forget batch of 5 against batches of 20 chooses weights that 5 against 5 does not."""
    before = snapshot(CASES["mlp"].make())

    def changed(**sizes):
        after = run("mlp", Dampen(selection=2.0, importance="batch-means", **sizes))
        return sum(int((after[key] != before[key]).sum()) for key in before)

    assert changed(batch_size=20) > 1.5 * changed(batch_size=5)


def test_weights_that_matter_to_no_row_are_left_alone():
    model = CASES["mlp"].make()
    model.unused = nn.Linear(2, 2, dtype=torch.float64)
    before = snapshot(model)
    model[0].weight.requires_grad_(False)
    task = Task(forward=lambda net, content: (net[:5](content[0]), content[1]))
    after = run("mlp", Dampen(selection=0.0, dampening=0.0), model=model, task=task)
    kept = {key for key in before if torch.equal(after[key], before[key])}
    assert kept == {"0.weight", "unused.weight", "unused.bias"}


def test_every_training_row_is_read_once_and_forget_rows_once_more():
    watched = Watched(*CASES["mlp"].data(26), forbidden=range(20, 26))
    steps = []

    class Ear(Hooks):
        def on_stage(self, name, num_steps):
            steps.append([name, num_steps, 0])

        def on_step(self):
            steps[-1][2] += 1

    split = Split(watched, forget=FORGET, test=range(20, 23), holdout=range(23, 26))
    for method, wanted in (
        (Dampen(selection=1.0), [1, 1]),
        (Dampen(selection=1.0, examples_at_once=2), [3, 10]),
        (Dampen(importance="batch-means", batch_size=7, forget_batch_size=2), [3, 3]),
    ):
        watched.read.clear()
        steps.clear()
        model = CASES["mlp"].make()
        engine = engine_for(model, hooks=Ear())
        method.unlearn_(model, split, Mask.full(model), engine)
        assert method.needs == {"forget", "retain"}
        assert watched.read == [*FORGET, *range(20)]
        assert (engine.cost.trained_rows, engine.cost.forward_rows) == (25, 0)
        assert steps == [["Dampen", count, count] for count in wanted]
    assert num_chunks(model, split.train) == 1


@pytest.mark.parametrize("importance", ["example", "batch-means"])
@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind, importance):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(20), forget=FORGET)
    method = Dampen(selection=0.5, dampening=0.3, importance=importance, batch_size=5)
    unlearned = excise.unlearn(model, split, method, mask=Mask.from_tensors(tensors))
    before, after = snapshot(model), snapshot(unlearned.model)
    whole = snapshot(excise.unlearn(model, split, method).model)
    for key, chosen in tensors.items():
        assert torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen]))
        assert torch.equal(after[key][chosen], whole[key][chosen])
    assert moved(before, after)
    assert unlearned.frozen_digest == unlearned.frozen_digest_before
    alone.check()


def test_a_loss_that_is_not_finite_stops_it_and_nothing_is_changed():
    model = touched(CASES["mlp"].make())
    alone = LeftAlone(model)
    split = Split(CASES["mlp"].data(20), forget=FORGET)
    with pytest.raises(errors.Diverged, match="the loss of a row is not finite; nothing was changed"):
        excise.unlearn(
            model,
            split,
            Dampen(selection=1.0),
            loss=lambda logits, targets: functional.cross_entropy(logits, targets, reduction="none") / 0,
        )
    alone.check()


def test_a_selection_that_no_weight_can_meet_is_refused_before_any_pass():
    """I_D holds I_f: with 5 of 20 rows, I_f is at most 4 times I_D."""
    watched = Watched(*CASES["mlp"].data(20), forbidden=range(20))
    model = CASES["mlp"].make()
    split = Split(watched, forget=FORGET)
    for selection in (4, 10.0):
        with pytest.raises(
            errors.BadRequest,
            match=rf"^selection: with 5 of 20 rows to forget no weight is more than 4 times .*, so {selection:g} would "
            r"change nothing; give less than 4$",
        ):
            Dampen(selection=selection).unlearn_(model, split, Mask.full(model), engine_for(model))
    before = snapshot(CASES["mlp"].make())
    inputs, labels = CASES["mlp"].data(20)
    inputs[[row for row in range(20) if row not in FORGET]] = 0.0  # no slope of the first layer: there the bound is met
    found = run("mlp", Dampen(selection=3.99), data=(inputs, labels))
    assert "0.weight" in moved(before, found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"selection": found}, f"selection: expected a number of at least 0, found {found!r}")
            for found in (-1.0, math.nan, True, "10")
        ),
        ({"dampening": -0.5}, "dampening: expected a finite number of at least 0, found -0.5"),
        ({"dampening": math.inf}, "dampening: expected a finite number of at least 0, found inf"),
        ({"importance": "mean"}, "importance: expected one of example, batch-means, found 'mean'"),
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1, found 0"),
        ({"forget_batch_size": 0}, "forget_batch_size: expected an integer of at least 1, found 0"),
        ({"examples_at_once": 0}, "examples_at_once: expected an integer of at least 1, found 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Dampen(**options)


def test_the_recipe_is_this_method_on_the_whole_network():
    recipe = excise.recipes.SSD(selection=1.0, dampening=0.5)
    assert recipe.method == Dampen(selection=1.0, dampening=0.5)
    assert excise.recipes.SSD().method == Dampen()
    unlearned = excise.unlearn(CASES["mlp"].make(), Split(CASES["mlp"].data(20), forget=FORGET), recipe)
    assert unlearned.mask.fraction == 1.0
    assert unlearned.recipe == "SSD"
