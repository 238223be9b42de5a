import math
from fractions import Fraction

import pytest
import torch
from torch import nn

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Prune
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
every_kind = pytest.mark.parametrize("kind", KINDS)
SHARES = ("0", "1/7", "0.3", "0.9", "1")


def pruned(model, tensors, method):
    split = Split((torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)), forget=[1])
    method.unlearn_(model, split, Mask.from_tensors(tensors), engine_for(model))
    return snapshot(model)


def by_sorting(model, tensors, share, *, scope="network", biases=False):
    """Sort the weights in the mask by size, then by place, and set the first ones to zero."""
    after = snapshot(model)
    places = [
        (abs(weight), order, name, index)
        for order, (name, value) in enumerate(model.named_parameters())
        if biases or value.ndim > 1
        for index, (weight, chosen) in enumerate(
            zip(value.flatten().tolist(), tensors[name].flatten().tolist(), strict=True)
        )
        if chosen
    ]
    groups = [places] if scope == "network" else [[p for p in places if p[2] == n] for n in {p[2] for p in places}]
    for group in groups:
        budget = share * len(group)
        count = math.floor(budget) if scope == "network" else round(budget)
        for _, _, name, index in sorted(group)[:count]:
            after[name].view(-1)[index] = 0.0
    return after


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("scope", ["network", "layer"])
@every_kind
@every_case
def test_it_is_what_a_full_sort_says(name, kind, scope, biases):
    for share in map(Fraction, SHARES):
        model = CASES[name].make()
        with torch.no_grad():
            for value in model.parameters():
                value.mul_(4).round_().div_(4)  # many ties, and both zeros
        tensors = spelled_out(model, kind)
        wanted = by_sorting(model, tensors, share, scope=scope, biases=biases)
        ours = pruned(model, tensors, Prune(fraction=float(share), scope=scope, biases=biases))
        assert all(torch.equal(ours[key], wanted[key]) for key in tensors), share


def test_layers_compete_for_one_share_or_have_one_each():
    def make():
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False)).double()
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[-1.0, 2.0], [3.0, -4.0]]))
            model[0].bias.fill_(0.5)
            model[1].weight.copy_(torch.tensor([[5.0, -6.0], [7.0, 8.0]]))
        return model

    def run(**options):
        model = make()
        Prune(**options).unlearn_(model, split, Mask.full(model), engine_for(model))
        return [value.flatten().tolist() for value in model.parameters()]

    split = Split((torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)), forget=[0])
    assert run(fraction=0.5) == [[0, 0, 0, 0], [0.5, 0.5], [5, -6, 7, 8]]
    assert run(fraction=0.5, scope="layer") == [[0, 0, 3, -4], [0.5, 0.5], [0, 0, 7, 8]]
    assert run(fraction=0.3, biases=True) == [[0, 2, 3, -4], [0, 0], [5, -6, 7, 8]]
    # a quarter and less of four weights: floor(0.24 * 8) = 1 of all; round(0.24 * 4) = 1 of each
    assert run(fraction=0.24) == [[0, 2, 3, -4], [0.5, 0.5], [5, -6, 7, 8]]
    assert run(fraction=0.24, scope="layer") == [[0, 2, 3, -4], [0.5, 0.5], [0, -6, 7, 8]]


@pytest.mark.parametrize("scope", ["network", "layer"])
@every_case
def test_twice_is_once(name, scope):
    model = CASES[name].make()
    tensors, method = spelled_out(model, "weights"), Prune(fraction=0.4, scope=scope)
    once = pruned(model, tensors, method)
    assert same_bytes(pruned(model, tensors, method), once)
    assert sum(int((value == 0).sum()) for value in once.values()) > 0


@every_kind
@every_case
def test_what_is_outside_the_mask_neither_counts_nor_moves(name, kind):
    model, other = CASES[name].make(), CASES[name].make()
    tensors = spelled_out(model, kind)
    with torch.no_grad():
        for key, value in other.named_parameters():
            value[~tensors[key]] = 1e-9  # smaller than all
    before = snapshot(other)
    one, two = (pruned(net, tensors, Prune(fraction=0.5, biases=True)) for net in (model, other))
    for key, chosen in tensors.items():
        assert torch.equal(raw(two[key][~chosen]), raw(before[key][~chosen]))
        assert torch.equal(one[key][chosen], two[key][chosen])


def test_parameters_the_user_froze_neither_count_nor_move():
    model, before = CASES["mlp"].make(), snapshot(CASES["mlp"].make())
    model[2].requires_grad_(False)
    everything = {key: torch.ones_like(value, dtype=torch.bool) for key, value in model.named_parameters()}
    after = pruned(model, everything, Prune(fraction=0.25))
    assert torch.equal(after["2.weight"], before["2.weight"])
    assert sum(int((after[key] == 0).sum()) for key in ("0.weight", "4.weight")) == (60 + 32) // 4


def test_it_reads_nothing():
    watched = Watched(*CASES["mlp"].data(12), forbidden=range(12))
    model = CASES["mlp"].make()
    engine, method = engine_for(model), Prune(fraction=0.5)
    method.unlearn_(model, Split(watched, forget=[1]), Mask.full(model), engine)
    assert method.needs == frozenset()
    assert (watched.read, engine.cost.trained_rows, engine.cost.forward_rows) == ([], 0, 0)


@every_kind
@every_case
def test_the_mask_is_obeyed_bit_for_bit_and_the_users_own_left_alone(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split, method = Split(CASES[name].data(20), forget=[0, 3]), Prune(fraction=0.5)
    unlearned = excise.unlearn(model, split, method, mask=Mask.from_tensors(tensors))
    before, after = snapshot(model), snapshot(unlearned.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert same_bytes(dict(model.named_buffers()), dict(unlearned.model.named_buffers()))
    assert not same_bytes(before, after)
    empty = excise.unlearn(model, split, method, mask=Mask.empty(model))
    assert same_bytes(snapshot(empty.model), before)
    alone.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 1.5}, "fraction: expected a fraction between 0 and 1, found 1.5"),
        ({"fraction": 0.5, "scope": "channel"}, "scope: expected one of network, layer, found 'channel'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Prune(**options)
