import math

import pytest
import torch
from torch import nn

from excise import errors
from excise.data import Split
from excise.localize import Gradient, Mean, Top, WeightGradient
from excise.masks import Mask
from tests.cases import CASES
from tests.naive.localization import per_example_gradients
from tests.probes import LeftAlone, Watched, engine_for, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [1, 4, 5, 11, 17]


def by_hand(model, inputs, labels, ids, batch_size=None):
    """|theta * mean of the examples' gradients|, or the published |sum over batches of theta * g_B|."""
    own = dict(model.named_parameters())
    found = {}
    for key, gradients in per_example_gradients(model, inputs, labels, ids).items():
        parts = [gradients] if batch_size is None else gradients.split(batch_size)
        found[key] = sum(own[key].detach() * part.mean(0) for part in parts).abs()
    return found


@pytest.mark.parametrize(
    ("accumulate", "batch_size"), [("mean", 1), ("mean", 2), ("batch-means", 2), ("batch-means", 3)]
)
@pytest.mark.parametrize("rows", ["forget", "train"])
@every_case
def test_the_score_is_the_published_sum(name, rows, accumulate, batch_size):
    data = CASES[name].data(20)
    ids = FORGET if rows == "forget" else range(20)
    wanted = by_hand(CASES[name].make(), *data, ids, batch_size if accumulate == "batch-means" else None)
    localizer = WeightGradient(rows=rows, accumulate=accumulate, batch_size=batch_size)
    scores = localizer(CASES[name].make(), Split(data, forget=FORGET))
    assert scores.names == tuple(wanted)
    for key, value in wanted.items():
        # 1e-12 of the largest: sums of float64 in another order
        torch.testing.assert_close(scores[key], value, rtol=0.0, atol=1e-12 * max(float(value.max()), 1e-3))


def test_two_layers_by_hand():
    """x = 1 -> [relu(2x), relu(3x)] -> logits [1 2; 0 -1] h; one row of class 0, and one channel of each layer chosen."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [3.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
    rows = (torch.tensor([[1.0], [0.5]], dtype=torch.float64), torch.tensor([0, 1]))
    scores = WeightGradient()(model, Split(rows, forget=[0]))
    # logits 8 and -3; p = softmax; slope of the loss at the logits is (p0 - 1, p1) = (-q, q), q = 1 / (1 + e^11)
    q = 1 / (1 + math.exp(11))
    # (1e-10, since p0 - 1 loses digits at q = 2e-5)
    # second layer: slope_k * h_j * w_kj with h = (2, 3); first: (sum_k slope_k w_kj) * x * w_j, sums -q and -3q
    torch.testing.assert_close(
        scores["2.weight"], q * torch.tensor([[2.0, 6.0], [0.0, 3.0]], dtype=torch.float64), rtol=1e-10, atol=0.0
    )
    torch.testing.assert_close(
        scores["0.weight"], q * torch.tensor([[2.0], [9.0]], dtype=torch.float64), rtol=1e-10, atol=0.0
    )
    # rows by their mean: 9 (one weight), 4 (two), 2 (one), 1.5 (two); 3 of 6 weights pay for the first two
    mask = scores.select(budget_fraction=0.5, reduction=Mean())
    assert mask == Mask.from_tensors(
        {"0.weight": torch.tensor([[False], [True]]), "2.weight": torch.tensor([[True, True], [False, False]])}
    )
    # single weights: 9, 6, 3; rows by their highest: 9, 6, 3 (does not fit)
    assert scores.select(budget_fraction=0.5, granularity="weight") == Mask.from_tensors(
        {"0.weight": torch.tensor([[False], [True]]), "2.weight": torch.tensor([[False, True], [False, True]])}
    )
    assert scores.select(budget_fraction=4 / 6, reduction=Top(0.1)) == mask


def rescaled(model, factor):
    """Multiply one layer and divide the next: the same function through a ReLU."""
    with torch.no_grad():
        model[0].weight.mul_(factor)
        model[0].bias.mul_(factor)
        model[2].weight.div_(factor)
    return model


def test_the_score_survives_rescaling_of_consecutive_layers_and_the_plain_gradient_does_not():
    split = Split(CASES["mlp"].data(20), forget=FORGET)
    plain, other = CASES["mlp"].make(), rescaled(CASES["mlp"].make(), 1000.0)
    before, after = WeightGradient()(plain, split), WeightGradient()(other, split)
    for key in before.names:
        torch.testing.assert_close(after[key], before[key], rtol=1e-10, atol=1e-16)  # 1000 is no power of two
    for how in ({}, {"granularity": "weight"}):
        assert before.select(budget_fraction=0.4, **how) == after.select(budget_fraction=0.4, **how)
        slopes = [Gradient()(model, split).select(budget_fraction=0.4, **how) for model in (plain, other)]
        assert slopes[0] != slopes[1]


def test_a_zero_weight_scores_zero_and_a_dead_channel_comes_last():
    model = CASES["separable"].make()
    with torch.no_grad():
        model[3].weight[2] = 0.0
        model[0].weight[1, 0, 1, 1] = 0.0
    scores = WeightGradient()(model, Split(CASES["separable"].data(20), forget=FORGET))
    assert not scores["3.weight"][2].any()
    assert scores["0.weight"][1, 0, 1, 1] == 0
    assert scores["0.weight"][1].any()
    for how in ({"reduction": Top()}, {"reduction": Mean()}, {"partial": True}, {"granularity": "weight"}):
        for share in (0.3, 0.6, 0.9):
            mask = scores.select(budget_fraction=share, **how)
            alive = {key: (scores[key] > 0) for key in scores.names}
            assert not mask.expand("3.weight")[2].any() or all(mask.expand(k)[v].all() for k, v in alive.items())


def test_a_dead_channel_of_every_layer_is_picked_only_after_all_others():
    model = CASES["mlp"].make()
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight[1] = 0.0
            layer.bias[1] = 0.0
    scores = WeightGradient()(model, Split(CASES["mlp"].data(20), forget=FORGET))
    dead = 2 * 1 + 6 + 10 + 8 + 1
    share = (scores.num_weights - dead) / scores.num_weights
    mask = scores.select(budget_fraction=share, reduction=Mean())
    assert not any(mask.expand(f"{layer}.{kind}")[1].any() for layer in (0, 2, 4) for kind in ("weight", "bias"))


def test_frozen_parameters_get_no_score_and_nothing_is_changed():
    model = touched(CASES["batchnorm"].make())
    model[1].requires_grad_(False)
    alone = LeftAlone(model)
    scores = WeightGradient(batch_size=2)(model, Split(CASES["batchnorm"].data(20), forget=FORGET))
    alone.check()
    assert set(scores.names) == {key for key, _ in model.named_parameters()} - {"1.weight", "1.bias"}


def test_one_pass_over_the_forget_rows_and_no_other():
    watched = Watched(*CASES["mlp"].data(20), forbidden=set(range(20)) - set(FORGET))
    model = CASES["mlp"].make()
    engine = engine_for(model)
    WeightGradient(batch_size=2).score(model, Split(watched, forget=FORGET), engine)
    assert watched.read == FORGET
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (5, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "retain"}, "rows: expected forget or train, found 'retain'"),
        ({"accumulate": "max"}, "accumulate: expected mean or batch-means, found 'max'"),
        ({"batch_size": -1}, "batch_size: expected an integer of at least 1, found -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        WeightGradient(**options)
