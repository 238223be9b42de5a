import pytest
import torch
from torch import nn

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Finetune, Rewind
from excise.train import TrainPlan
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, raw, same_bytes, snapshot, spelled_out, touched
from tests.wrapping import WRAPPERS, alone

every_case = pytest.mark.parametrize("name", CASES)
PLAN = TrainPlan(epochs=1, lr=0.1, batch_size=5)


def problem(name):
    """Give a network, its state before some more training, and rows."""
    model, split = CASES[name].make(), Split(CASES[name].data(20), forget=[0, 3, 8])
    earlier = {key: value.detach().clone() for key, value in model.state_dict().items()}
    Finetune(plan=PLAN).unlearn_(model, split, Mask.full(model), engine_for(model))
    return model, earlier, split


@every_case
def test_everywhere_it_is_the_checkpoint(name):
    model, earlier, split = problem(name)
    assert not same_bytes(dict(model.state_dict()), earlier)
    Rewind(to=earlier).unlearn_(model, split, Mask.full(model), engine_for(model))
    assert same_bytes(dict(model.state_dict()), earlier)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert same_bytes(earlier, dict(CASES[name].make().state_dict()))  # no memory in common


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_inside_the_mask_it_is_the_checkpoint_and_outside_the_network(name, kind):
    model, earlier, split = problem(name)
    before, tensors = snapshot(model), spelled_out(model, kind)
    Rewind(to=earlier).unlearn_(model, split, Mask.from_tensors(tensors), engine_for(model))
    for key, value in model.named_parameters():
        blend = torch.where(tensors[key], earlier[key], before[key])
        assert torch.equal(raw(value), raw(blend)), key


def test_statistics_go_back_where_a_parameter_of_their_layer_is_in_the_mask():
    for names, back in ((["4", "8"], {"4"}), (["1.bias"], {"1"}), (["0", "3"], set()), ([], set())):
        model, earlier, split = problem("batchnorm")
        before = snapshot(model)
        mask = Mask.of_modules(model, names)
        Rewind(to=earlier).unlearn_(model, split, mask, engine_for(model))
        for key, buffer in model.named_buffers():
            assert not torch.equal(before[key], earlier[key])
            assert torch.equal(buffer, (earlier if key.partition(".")[0] in back else before)[key]), key


def test_statistics_of_a_layer_without_parameters_stay_only_under_an_empty_mask():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)).double()
    earlier = {key: value + 1 for key, value in model.state_dict().items()}
    split = Split((torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)), forget=[0])
    before = snapshot(model)
    Rewind(to=earlier).unlearn_(model, split, Mask.empty(model), engine_for(model))
    assert same_bytes(snapshot(model), before)
    Rewind(to=earlier).unlearn_(model, split, Mask.of_modules(model, ["0.bias"]), engine_for(model))
    assert torch.equal(model[1].running_mean, earlier["1.running_mean"])
    assert torch.equal(model[0].weight, before["0.weight"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_wrappers_prefix_is_left_out(prefix):
    model, earlier, split = problem("batchnorm")
    wrapped = {f"{prefix}{key}": value for key, value in earlier.items()}
    Rewind(to=wrapped).unlearn_(model, split, Mask.full(model), engine_for(model))
    assert same_bytes(dict(model.state_dict()), earlier)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapped_network_is_rewound_inside(kind, tmp_path):
    model, earlier, split = problem("batchnorm")
    with alone(tmp_path):
        wrapped = WRAPPERS[kind](model)
        Rewind(to=earlier).unlearn_(wrapped, split, Mask.full(wrapped), engine_for(model))
    assert same_bytes(dict(model.state_dict()), earlier)


def test_the_front_door_gives_the_checkpoint_and_reads_nothing_but_for_the_look_beforehand():
    model, earlier, _ = problem("batchnorm")
    watched = Watched(*CASES["batchnorm"].data(20), forbidden=set(range(20)) - {0, 3})
    unlearned = excise.unlearn(model, Split(watched, forget=[0, 3]), Rewind(to=earlier))
    assert same_bytes(dict(unlearned.model.state_dict()), earlier)
    assert Rewind(to=earlier).needs == frozenset()
    watched = Watched(*CASES["batchnorm"].data(20), forbidden=range(20))
    engine = engine_for(model)
    Rewind(to=earlier).unlearn_(model, Split(watched, forget=[0, 3]), Mask.full(model), engine)
    assert (watched.read, engine.cost.trained_rows, engine.cost.forward_rows) == ([], 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_mask_is_proved_and_the_users_own_and_the_checkpoint_left_alone(name, kind):
    model, earlier, split = problem(name)
    model = touched(model)
    watch, held = LeftAlone(model), {key: value.clone() for key, value in earlier.items()}
    unlearned = excise.unlearn(model, split, Rewind(to=earlier), mask=Mask.from_tensors(spelled_out(model, kind)))
    assert unlearned.frozen_digest == unlearned.frozen_digest_before
    assert not same_bytes(snapshot(model), snapshot(unlearned.model))
    empty = excise.unlearn(model, split, Rewind(to=earlier), mask=Mask.empty(model))
    assert same_bytes(snapshot(empty.model), snapshot(model))
    watch.check()
    assert same_bytes(earlier, held)


def without(state, *names):
    return {key: value for key, value in state.items() if key not in names}


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            lambda s: without(s, "8.weight", "4.running_var"),
            errors.MaskMismatch,
            r"rewind to do not fit Sequential \(2 differences\):\n  missing 4.running_var \(6,\)\n  missing 8.weight \(4, 6\)",
        ),
        (
            lambda s: {**s, "8.weight": torch.zeros(5, 6), "9.bias": torch.zeros(1)},
            errors.MaskMismatch,
            r"unexpected 9.bias \(1,\)\n  8.weight: expected \(4, 6\), found \(5, 6\)",
        ),
        (
            lambda s: {**s, "8.bias": torch.tensor([0.0, float("nan"), 0.0, 0.0])},
            errors.BadData,
            "the checkpoint to rewind to hold values that are not finite, first in '8.bias'",
        ),
        (
            lambda s: {**s, "4.running_var": torch.full((6,), float("inf"))},
            errors.BadData,
            "the checkpoint to rewind to hold values that are not finite, first in '4.running_var'",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_is_written(change, error, said):
    model, earlier, split = problem("batchnorm")
    watch = LeftAlone(model)
    with pytest.raises(error, match=said):
        Rewind(to=change(earlier)).unlearn_(model, split, Mask.full(model), engine_for(model))
    watch.check()


@pytest.mark.parametrize(
    ("to", "found"),
    [
        ("checkpoint.pt", "str"),
        ({}, "nothing in it"),
        ({"state_dict": {}, "epoch": 3}, "dict under 'state_dict'"),
    ],
)
def test_what_is_no_state_dict_is_refused(to, found):
    with pytest.raises(errors.BadRequest, match=rf"^to: expected a state dict, tensors by name, .*; found {found}$"):
        Rewind(to=to)
