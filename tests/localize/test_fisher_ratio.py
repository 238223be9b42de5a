import pytest
import torch
from torch import nn
from torch.nn import functional

from excise import errors
from excise.data import Split
from excise.localize import FisherRatio
from excise.masks import Mask
from excise.methods import Dampen
from excise.train import Hooks
from tests.cases import CASES
from tests.naive.localization import per_example_gradients
from tests.probes import LeftAlone, Watched, engine_for, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [1, 4, 5, 11, 17]
IMPORTANCES = {
    "example": {},
    "batch-means": {"importance": "batch-means", "batch_size": 4, "forget_batch_size": 2},
}
every_importance = pytest.mark.parametrize("how", IMPORTANCES.values(), ids=IMPORTANCES)


def naive_ratio(name, num_rows=20, *, batch_size=1, forget_batch_size=1):
    """I_f / I_D, weight by weight: squares of each batch's mean gradient, averaged over batches; 0 / 0 is 0."""
    inputs, labels = CASES[name].data(num_rows)
    single = per_example_gradients(CASES[name].make(), inputs, labels, range(num_rows))
    found = {}
    for key, gradients in single.items():
        parts = gradients[FORGET].split(forget_batch_size), gradients.split(batch_size)
        forget, every = (sum(part.mean(0) ** 2 for part in side) / len(side) for side in parts)
        found[key] = torch.where(forget > 0, forget / every, 0.0)
    return found


KEYS = slice(8, 16)  # of an attention's input bias: no output depends on it, and its gradient is rounding noise


def told(name, key, value):
    """Leave out what is a quotient of rounding errors."""
    if name == "transformer" and key.endswith("in_proj_bias"):
        value = value.clone()
        value[KEYS] = 1.0
    return value


def assert_ratios(name, scores, wanted):
    assert scores.names == tuple(wanted)
    for key, value in wanted.items():  # 1e-6, since gradients that nearly cancel lose digits
        torch.testing.assert_close(told(name, key, scores[key]), told(name, key, value), rtol=1e-6, atol=0.0)


@every_importance
@every_case
def test_the_score_is_the_quotient_of_mean_squares(name, how):
    sizes = {key: how[key] for key in ("batch_size", "forget_batch_size") if key in how}
    scores = FisherRatio(**how)(CASES[name].make(), Split(CASES[name].data(20), forget=FORGET))
    assert_ratios(name, scores, naive_ratio(name, **sizes))


@pytest.mark.parametrize("selection", [1.0, 1.3, 2.0, 3.5])
@every_importance
@every_case
def test_above_a_threshold_it_is_what_dampen_changes(name, how, selection):
    model, split = CASES[name].make(), Split(CASES[name].data(20), forget=FORGET)
    mask = FisherRatio(**how)(model, split).above(selection)
    edited = Dampen(selection=selection, **how).edit(model, split, Mask.full(model), engine_for(model))
    for key, value in model.named_parameters():
        changed = edited[key] != value
        assert torch.equal(changed, mask.expand(key) & (value != 0)), key
    assert mask.num_selected < mask.num_parameters
    assert mask.num_selected > 0 or selection > 2


def test_no_example_ratio_is_above_rows_to_forget_rows_and_weights_of_forget_rows_alone_are_there():
    inputs, labels = CASES["mlp"].data(20)
    inputs[:, 0] = 0.0
    inputs[FORGET, 0] = 2.0
    scores = FisherRatio()(CASES["mlp"].make(), Split((inputs, labels), forget=FORGET))
    assert max(float(scores[key].max()) for key in scores.names) <= 20 / 5
    column = scores["0.weight"][:, 0]
    torch.testing.assert_close(column[column > 0], torch.full_like(column[column > 0], 4.0), rtol=1e-12, atol=0.0)
    assert bool((column > 0).any())


def test_a_weight_that_matters_to_no_row_scores_nothing():
    inputs, labels = CASES["mlp"].data(20)
    inputs[:, 2] = 0.0
    scores = FisherRatio()(CASES["mlp"].make(), Split((inputs, labels), forget=FORGET))
    assert not scores["0.weight"][:, 2].any()
    assert scores["0.weight"][:, 3].any()


def test_where_the_importance_to_all_rows_underflows_the_score_is_the_bound_and_dampen_chooses_the_weight_too():
    model = nn.Linear(2, 2, bias=False)  # float32; its smallest number is 1.4e-45
    with torch.no_grad():
        model.weight.fill_(1.0)  # equal logits: each slope at the logits is +-0.5
    inputs = torch.zeros(40, 2)
    inputs[:, 1] = 1.0
    inputs[3, 0] = 2.4e-22  # squared gradient 1.4e-44, a fortieth of which is no number
    split = Split((inputs, torch.arange(40) % 2), forget=[3])
    scores = FisherRatio()(model, split)
    assert scores["weight"][:, 0].tolist() == [40.0, 40.0]
    torch.testing.assert_close(scores["weight"][:, 1], torch.ones(2), rtol=1e-6, atol=0.0)  # float32
    edited = Dampen(selection=39.0).edit(model, split, Mask.full(model), engine_for(model))
    assert torch.equal(edited["weight"] != model.weight, scores.above(39.0).expand("weight"))
    assert scores.above(39.0).num_selected == 2


def test_batch_means_that_cancel_among_all_rows_score_the_largest_number():
    model = nn.Linear(1, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.zero_()
    rows = torch.ones(4, 1, dtype=torch.float64), torch.tensor([0, 1, 0, 1])  # gradients -+0.5, which cancel in pairs
    scores = FisherRatio(importance="batch-means", batch_size=2, forget_batch_size=1)(model, Split(rows, forget=[0]))
    assert scores["weight"].flatten().tolist() == [torch.finfo(torch.float64).max] * 2
    assert FisherRatio()(model, Split(rows, forget=[0]))["weight"].flatten().tolist() == [1.0, 1.0]


@every_case
def test_alike_rows_are_equally_important(name):
    inputs, labels = CASES[name].data(10)
    twice = (torch.cat([inputs, inputs]), torch.cat([labels, labels]))
    scores = FisherRatio()(CASES[name].make(), Split(twice, forget=range(10)))
    for key in scores.names:
        value = told(name, key, scores[key])
        torch.testing.assert_close(value[value > 0], torch.ones_like(value[value > 0]), rtol=1e-10, atol=0.0)


@every_importance
def test_forget_rows_are_read_twice_the_others_once_and_progress_is_told(how):
    heard = []

    class Ear(Hooks):
        def on_stage(self, name, num_steps):
            heard.append([name, num_steps])

        def on_step(self):
            heard[-1].append("step")

        def on_stage_end(self, name):
            heard[-1].append("end")

    watched = Watched(*CASES["mlp"].data(20))
    model = touched(CASES["mlp"].make())
    alone, engine = LeftAlone(model), engine_for(model, hooks=Ear())
    FisherRatio(**how).score(model, Split(watched, forget=FORGET), engine)
    alone.check()
    assert watched.read == [*FORGET, *range(20)]
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (25, 0)
    counts = (1, 1) if not how else (3, 5)
    assert heard == [["localize", count, *["step"] * count, "end"] for count in counts]


def test_a_gradient_that_is_no_number_is_refused_and_not_taken_for_a_weight_that_matters_to_nobody():
    def loss(logits, targets):
        return functional.cross_entropy(logits, targets, reduction="none") + (0 * logits).sqrt().sum(1)

    with pytest.raises(errors.BadRequest, match=r"^scores of '0\.weight' are negative or not finite"):
        FisherRatio()(CASES["mlp"].make(), Split(CASES["mlp"].data(20), forget=FORGET), loss=loss)


def test_gradients_held_at_once_change_nothing():
    model, split = CASES["mlp"].make(), Split(CASES["mlp"].data(20), forget=FORGET)
    one, other = FisherRatio()(model, split), FisherRatio(examples_at_once=3)(model, split)
    for key in one.names:
        torch.testing.assert_close(one[key], other[key], rtol=1e-10, atol=0.0)
    assert FisherRatio().reads_retain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance": "max"}, "importance: expected one of example, batch-means, found 'max'"),
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1, found 0"),
        ({"forget_batch_size": 0}, "forget_batch_size: expected an integer of at least 1, found 0"),
        ({"examples_at_once": 0}, "examples_at_once: expected an integer of at least 1, found 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        FisherRatio(**options)
