import pytest
import torch

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Reset
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, raw, same_bytes, snapshot

every_case = pytest.mark.parametrize("name", CASES)


def half_of(model):
    """Every second row of every parameter, as full-size booleans."""
    return {
        key: (torch.arange(len(value)) % 2 == 0).reshape(-1, *(1,) * (value.ndim - 1)).expand(value.shape).clone()
        for key, value in model.named_parameters()
    }


def builder(name):
    return lambda: CASES[name].build().double()


def fixed(name, seed=9):
    """Give a builder of one and the same untrained network."""

    def build():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return builder(name)()

    return build


@every_case
def test_it_is_the_published_blend_of_old_and_fresh_values(name):
    model, fresh, split = CASES[name].make(), fixed(name)(), Split(CASES[name].data(12), forget=[1])
    before, tensors = snapshot(model), half_of(model)
    for method, engine in (
        (Reset(), engine_for(model, fresh=fixed(name))),
        (Reset(to=dict(fresh.named_parameters())), engine_for(model)),
    ):
        work = CASES[name].make()
        method.unlearn_(work, split, Mask.from_tensors(tensors), engine)
        for key, value in work.named_parameters():
            blend = before[key] * ~tensors[key] + dict(fresh.named_parameters())[key].detach() * tensors[key]
            assert torch.equal(value, blend), key
            assert torch.equal(raw(value[~tensors[key]]), raw(before[key][~tensors[key]]))
        assert same_bytes(dict(work.named_buffers()), dict(model.named_buffers()))


@every_case
def test_everywhere_it_gives_the_fresh_network_but_for_buffers(name):
    model = CASES[name].make()
    for buffer in model.buffers():
        buffer.add_(1)
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    Reset().unlearn_(
        model, Split(CASES[name].data(12), forget=[1]), Mask.full(model), engine_for(model, fresh=fixed(name))
    )
    fresh = fixed(name)()
    assert same_bytes(dict(model.named_parameters()), dict(fresh.named_parameters()))
    assert same_bytes(dict(model.named_buffers()), buffers)


@every_case
def test_the_same_seed_resets_to_the_same_values_and_another_to_others(name):
    model, split = CASES[name].make(), Split(CASES[name].data(12), forget=[1])
    one, same, other = (
        excise.unlearn(model, split, Reset(), fresh=builder(name), seed=seed).model for seed in (0, 0, 1)
    )
    assert same_bytes(snapshot(one), snapshot(same))
    assert not same_bytes(snapshot(one), snapshot(other))
    assert not same_bytes(snapshot(one), snapshot(model))


def test_given_values_may_name_the_masks_parameters_alone_and_are_left_alone():
    model, split = CASES["mlp"].make(), Split(CASES["mlp"].data(12), forget=[1])
    before, given = snapshot(model), {"2.weight": torch.full((8, 10), 0.5, dtype=torch.float64)}
    Reset(to=given).unlearn_(model, split, Mask.of_modules(model, ["2.weight"]), engine_for(model))
    with torch.no_grad():
        model[2].weight.add_(1)
    assert torch.equal(given["2.weight"], torch.full((8, 10), 0.5, dtype=torch.float64))
    assert {key for key, value in snapshot(model).items() if not torch.equal(raw(value), raw(before[key]))} == {
        "2.weight"
    }


def test_the_fresh_network_is_not_the_one_that_is_changed():
    made = fixed("mlp")()
    alone, model = LeftAlone(made), CASES["mlp"].make()
    engine = engine_for(model, fresh=lambda: made)
    Reset().unlearn_(model, Split(CASES["mlp"].data(12), forget=[1]), Mask.full(model), engine)
    with torch.no_grad():
        model[0].weight.add_(1)
    alone.check()


def test_what_it_needs():
    assert Reset().needs == {"fresh"}
    assert Reset(to={}).needs == frozenset()
    watched = Watched(*CASES["mlp"].data(12), forbidden=range(12))
    model = CASES["mlp"].make()
    engine = engine_for(model, fresh=fixed("mlp"))
    Reset().unlearn_(model, Split(watched, forget=[1]), Mask.full(model), engine)
    assert (watched.read, engine.cost.trained_rows, engine.cost.forward_rows) == ([], 0, 0)


@pytest.mark.parametrize(
    ("method", "error", "said"),
    [
        (Reset(), errors.BadRequest, "this method needs an untrained network; pass fresh="),
        (Reset(to={"0.weight": torch.zeros(2, 2)}), errors.MaskMismatch, r"new value for '0.weight' of shape \(2, 2\)"),
        (Reset(to={"running_mean": torch.zeros(2)}), errors.MaskMismatch, "the network has no such parameter"),
        (
            Reset(to={"0.bias": torch.tensor([0.0, float("nan")]).repeat(5)}),
            errors.BadData,
            "^to: the values for '0.bias' are not all finite; give untrained values$",
        ),
        (
            Reset(to={name: torch.zeros(shape) for name, shape in (("0.weight", (10, 6)), ("2.bias", (8,)))}),
            errors.BadRequest,
            r"^to: expected a value for every parameter in the mask, found none for 0.bias, 2.weight, 4.weight, 4.bias; add",
        ),
    ],
)
def test_values_that_are_missing_or_do_not_fit_are_refused(method, error, said):
    model = CASES["mlp"].make()
    alone = LeftAlone(model)
    with pytest.raises(error, match=said):
        method.unlearn_(model, Split(CASES["mlp"].data(12), forget=[1]), Mask.full(model), engine_for(model))
    alone.check()


def test_of_many_parameters_without_a_value_ten_are_named():
    model = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(6)))
    with pytest.raises(errors.BadRequest, match=r"found none for 0.weight, .*, 4.bias and 2 more; add them"):
        Reset(to={}).require(model, Split(CASES["mlp"].data(12), forget=[1]), Mask.full(model), engine_for(model))


def test_a_frozen_parameter_needs_no_value():
    model = CASES["mlp"].make()
    for value in (model[0].weight, model[0].bias):
        value.requires_grad_(False)
    given = {name: value.detach() + 1 for name, value in model.named_parameters() if value.requires_grad}
    unlearned = excise.unlearn(model, Split(CASES["mlp"].data(12), forget=[1]), Reset(to=given))
    for name, value in unlearned.model.named_parameters():
        assert torch.equal(value, given.get(name, dict(model.named_parameters())[name]))


@pytest.mark.parametrize(("to", "found"), [("values.pt", "str"), ({"0.bias": 3}, "int under '0.bias'")])
def test_what_is_no_tensors_by_name_is_refused(to, found):
    with pytest.raises(errors.BadRequest, match=rf"^to: expected tensors by parameter name, .*; found {found}$"):
        Reset(to=to)
