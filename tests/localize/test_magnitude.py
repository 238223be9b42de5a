import pytest
import torch

from excise.data import Split
from excise.localize import Magnitude
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, touched


@pytest.mark.parametrize("name", CASES)
def test_the_score_is_the_size_of_the_weight_and_a_copy_of_it(name):
    model = touched(CASES[name].make())
    alone = LeftAlone(model)
    scores = Magnitude()(model, Split(CASES[name].data(12), forget=[1]))
    alone.check()
    own = dict(model.named_parameters())
    assert scores.names == tuple(own)
    for key, value in own.items():
        assert scores[key].flatten().tolist() == [abs(weight) for weight in value.detach().flatten().tolist()]
        scores[key].zero_()
    alone.check()


def test_no_row_is_read_and_no_cost_counted():
    watched = Watched(*CASES["mlp"].data(12), forbidden=range(12))
    model = CASES["mlp"].make()
    engine = engine_for(model)
    Magnitude().score(model, Split(watched, forget=[1]), engine)
    assert (watched.read, engine.cost.trained_rows, engine.cost.forward_rows) == ([], 0, 0)


def test_the_smallest_weights_are_chosen_last():
    model = CASES["mlp"].make()
    scores = Magnitude()(model, Split(CASES["mlp"].data(12), forget=[1]))
    mask = scores.select(budget_fraction=0.5, granularity="weight")
    sizes = {key: value.detach().abs() for key, value in model.named_parameters()}
    chosen = torch.cat([sizes[key][mask.expand(key)] for key in mask.names])
    left = torch.cat([sizes[key][~mask.expand(key)] for key in mask.names])
    assert len(chosen) == scores.num_weights // 2
    assert chosen.min() > left.max()


def test_frozen_parameters_get_no_score():
    model = CASES["mlp"].make()
    model[0].requires_grad_(False)
    scores = Magnitude()(model, Split(CASES["mlp"].data(12), forget=[1]))
    assert scores.names == ("2.weight", "2.bias", "4.weight", "4.bias")
    assert scores.select(budget_fraction=1.0).count("0.weight") == 0
