import copy

import pytest
import torch
from torch import nn

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import FromFunction
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, moved, raw, same_bytes, snapshot, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [0, 3, 8]


def problem(name):
    return CASES[name].make(), Split(CASES[name].data(20), forget=FORGET)


def one_epoch(net, retain, forget, validation):
    """Train a little on retain, as a function from the challenge would, with all its side effects."""
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for inputs, targets in retain:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    return net.eval()


def half_of(model):
    """Every second row of the odd parameters, nothing of the even ones."""
    return {
        key: ((torch.arange(len(value)) % 2 == 0) & (place % 2 == 1))
        .reshape(-1, *(1,) * (value.ndim - 1))
        .expand(value.shape)
        .clone()
        for place, (key, value) in enumerate(model.named_parameters())
    }


@every_case
def test_what_the_function_changed_outside_the_mask_is_dropped(name):
    model, split = problem(name)
    before, tensors = snapshot(model), half_of(model)
    full, masked = CASES[name].make(), model
    FromFunction(one_epoch).unlearn_(full, split, Mask.full(full), engine_for(full))
    FromFunction(one_epoch).unlearn_(masked, split, Mask.from_tensors(tensors), engine_for(masked))
    for key, value in masked.named_parameters():
        wanted = torch.where(tensors[key], dict(full.named_parameters())[key], before[key])
        assert torch.equal(raw(value), raw(wanted)), key
    assert moved(before, snapshot(full)) >= set(dict(full.named_parameters()))


def test_buffers_are_taken_over_from_modules_in_the_mask_only():
    model, split = problem("batchnorm")
    before = snapshot(model)
    FromFunction(one_epoch).unlearn_(model, split, Mask.of_modules(model, ["4"]), engine_for(model))
    changed = moved(before, snapshot(model))
    assert {key for key in changed if "running" in key or "num" in key} == {
        "4.running_mean",
        "4.running_var",
        "4.num_batches_tracked",
    }
    other, _ = problem("batchnorm")
    other[4].requires_grad_(False)  # frozen by the user: its buffers stay too
    FromFunction(one_epoch).unlearn_(other, split, Mask.full(other), engine_for(other))
    assert not {key for key in moved(before, snapshot(other)) if key.startswith("4.")}


@every_case
def test_an_empty_mask_keeps_every_byte(name):
    model, split = problem(name)
    before = snapshot(model)
    FromFunction(one_epoch).unlearn_(model, split, Mask.empty(model), engine_for(model))
    assert same_bytes(before, snapshot(model))


@every_case
def test_the_function_gets_a_copy(name):
    model, split = problem(name)
    model = touched(model)
    alone = LeftAlone(model)
    given = []
    unlearned = excise.unlearn(model, split, lambda net, *_: given.append(net) or one_epoch(net, *_))
    alone.check()
    assert given[0] is not model
    assert given[0] is not unlearned.model
    assert not {id(value) for value in given[0].parameters()} & {id(value) for value in model.parameters()}


def seen_by(split, seed=0, batch_size=4):
    """Give the inputs that a function is given, by loader, as lists of rows."""
    heard = {}

    def listen(net, retain, forget, validation):
        for name, loader in (("retain", retain), ("forget", forget), ("validation", validation)):
            heard[name] = [tuple(row.tolist()) for inputs, _ in loader for row in inputs]
        return net

    model = CASES["mlp"].make()
    engine = engine_for(model, seed=seed)
    FromFunction(listen, batch_size=batch_size).unlearn_(model, split, Mask.full(model), engine)
    return heard, engine


def test_the_loaders_hold_the_splits_rows_shuffled_from_the_seed():
    inputs, labels = CASES["mlp"].data(20)
    rows = [tuple(row.tolist()) for row in inputs]
    split = Split((inputs, labels), forget=FORGET, holdout=[5, 6])
    heard, engine = seen_by(split)
    retain = [row for row in range(20) if row not in (*FORGET, 5, 6)]
    assert sorted(heard["retain"]) == sorted(rows[row] for row in retain)
    assert heard["retain"] != [rows[row] for row in retain]
    assert sorted(heard["forget"]) == sorted(rows[row] for row in FORGET)
    assert sorted(heard["validation"]) == sorted([rows[5], rows[6]])
    assert engine.cost.trained_rows == 15 + 3 + 2
    assert seen_by(split)[0] == heard
    assert seen_by(split, seed=1)[0]["retain"] != heard["retain"]
    without = seen_by(Split((inputs, labels), forget=FORGET))[0]
    assert sorted(without["validation"]) == sorted(without["retain"])


def test_every_example_it_reads_counts_and_no_other():
    def stingy(net, retain, forget, validation):
        next(iter(forget))
        return net

    model = CASES["mlp"].make()
    engine = engine_for(model)
    watched = Watched(*CASES["mlp"].data(20), forbidden=set(range(20)) - set(FORGET))
    FromFunction(stingy, batch_size=2).unlearn_(model, Split(watched, forget=FORGET), Mask.full(model), engine)
    assert engine.cost.trained_rows == len(watched.read) == 2
    assert FromFunction(stingy).needs == {"forget", "retain"}


def test_randomness_inside_the_function_follows_the_seed_and_nothing_global_moves():
    def noisy(net, retain, forget, validation):
        with torch.no_grad():
            net[0].weight.add_(torch.randn(net[0].weight.shape))
        return net

    split = Split(CASES["mlp"].data(20), forget=FORGET)

    def run(seed):
        model = CASES["mlp"].make()
        alone = LeftAlone(CASES["mlp"].make())
        FromFunction(noisy).unlearn_(model, split, Mask.full(model), engine_for(model, seed=seed))
        alone.check()
        return snapshot(model)

    assert same_bytes(run(0), run(0))
    assert not same_bytes(run(0), run(1))


def test_it_trains_whatever_the_callers_gradient_mode():
    model, split = problem("mlp")
    with torch.no_grad():
        inside = excise.unlearn(model, split, one_epoch)
    assert same_bytes(snapshot(inside.model), snapshot(excise.unlearn(model, split, one_epoch).model))


def returning(make):
    def unlearn(net, retain, forget, validation):
        with torch.no_grad():
            return make(net)

    return unlearn


def extended(net):
    net.extra = nn.Linear(2, 2)
    return net


def with_buffer(net):
    net.register_buffer("extra", torch.zeros(1))
    return net


def spoiled(value):
    def spoil(net):
        net[2].weight[0, 0] = value
        return net

    return spoil


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda net: None, errors.BadRequest, "unlearn: expected it to return the network, found NoneType"),
        (lambda net: net.state_dict(), errors.BadRequest, "expected it to return the network, found OrderedDict"),
        (
            extended,
            errors.MaskMismatch,
            "unlearn: the network it returned has other parameters or buffers than the one",
        ),
        (with_buffer, errors.MaskMismatch, "the network it returned has other parameters or buffers"),
        (lambda net: net[:3], errors.MaskMismatch, "the network it returned has other parameters or buffers"),
        (lambda net: CASES["three-classes"].make(), errors.MaskMismatch, r"new value for '4.weight' of shape \(3, 8\)"),
        (spoiled(torch.nan), errors.Diverged, "unlearn: '2.weight' is not finite in the network it returned"),
        (spoiled(-torch.inf), errors.Diverged, "unlearn: '2.weight' is not finite in the network it returned"),
    ],
)
def test_what_is_no_result_is_refused_and_nothing_changed(make, error, said):
    model, split = problem("mlp")
    model = touched(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    alone = LeftAlone(model)
    with pytest.raises(error, match=said) as caught:
        excise.unlearn(model, split, returning(make))
    alone.check()
    if error is errors.Diverged:
        assert same_bytes(dict(caught.value.last_finite), before)


def test_a_function_that_fails_fails_as_it_would_alone_and_leaves_no_trace():
    model, split = problem("mlp")
    alone = LeftAlone(touched(model))
    with pytest.raises(ZeroDivisionError):
        excise.unlearn(model, split, lambda *_: 1 // 0)
    alone.check()


def test_a_network_built_anew_is_taken_over_by_name():
    model, split = problem("mlp")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(2)
    unlearned = excise.unlearn(model, split, lambda *_: other, mask=Mask.of_modules(model, ["2"]))
    assert moved(snapshot(model), snapshot(unlearned.model)) == {"2.weight", "2.bias"}
    assert torch.equal(unlearned.model[2].weight, 2 * model[2].weight)
