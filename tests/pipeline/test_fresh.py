"""Laws of an untrained network: nothing of the trained one is left, or it is an error that names what is."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from excise import errors
from excise.networks import resnet18, vit_small
from excise.pipeline.fresh import fresh_builder, reinitialised
from tests.cases import CASES
from tests.probes import LeftAlone, same_bytes, snapshot, touched

MODULES_WITH_RESET = ["mlp", "separable", "tied", "three-classes", "batchnorm"]


def trained(name):
    """Give a case's network with every value moved, statistics too."""
    model = CASES[name].make()
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.copy_(77 + torch.arange(value.numel(), dtype=value.dtype).reshape(value.shape))
            else:
                value.fill_(1000)
    return model


@pytest.mark.parametrize("name", MODULES_WITH_RESET)
def test_nothing_keeps_its_trained_value(name):
    model = trained(name)
    found = reinitialised(model)
    for key, value in (*found.named_parameters(), *found.named_buffers()):
        was = model.get_parameter(key) if key in dict(model.named_parameters()) else model.get_buffer(key)
        assert value.isfinite().all(), key
        assert not (value == was).any(), key
        assert value.abs().max() < 10, key
    fresh = dict(CASES[name].make().named_buffers())
    assert set(fresh) == {key for key, _ in found.named_buffers()}
    for key, value in found.named_buffers():
        assert torch.equal(value, fresh[key]), key


def test_tied_weights_stay_tied_and_start_as_the_embedding_does():
    found = reinitialised(trained("tied"))
    assert found.head.weight is found.embed.weight
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.cat([reinitialised(trained("tied")).embed.weight.flatten() for _ in range(20)])
    assert draws.std().item() == pytest.approx(1.0, abs=0.1)  # 1,320 standard normals; a linear layer's would have 0.24


@pytest.mark.parametrize("make", [lambda: nn.MultiheadAttention(8, 2), lambda: nn.TransformerEncoderLayer(8, 2, 12)])
def test_inner_modules_are_drawn_before_outer_ones_as_when_built(make):
    model = make()
    constant = [name for name, value in model.named_parameters() if bool((value == value.flatten()[0]).all())]
    assert any("out_proj.bias" in name for name in constant)
    found = dict(reinitialised(model).named_parameters())
    for name in constant:
        assert torch.equal(found[name], model.get_parameter(name)), name


@pytest.mark.parametrize(
    "make",
    [
        lambda: resnet18(width=4),
        lambda: vit_small(image_size=16, patch_size=4, width=16, depth=1, heads=2, mlp_width=16),
    ],
)
def test_the_librarys_own_networks_start_from_one_distribution_built_or_reset(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, other = make(), reinitialised(make())
    for (name, built), reset in zip(one.named_parameters(), other.parameters(), strict=True):
        constant = bool((built == built.flatten()[0]).all())
        assert constant == bool((reset == reset.flatten()[0]).all()), name
        if constant:
            assert torch.equal(built, reset), name
        elif built.numel() > 500:
            assert reset.std().item() == pytest.approx(built.std().item(), rel=0.2), name


def test_a_parameter_that_no_module_resets_is_named():
    with pytest.raises(
        errors.UnsupportedModel, match=r"no module re-initialises position, which would keep.*pass fresh="
    ):
        reinitialised(CASES["transformer"].make())


def test_many_such_parameters_are_counted():
    model = nn.ParameterList([nn.Parameter(torch.ones(2)) for _ in range(8)])
    with pytest.raises(errors.UnsupportedModel, match="re-initialises 0, 1, 2, 3, 4 and 3 more"):
        reinitialised(model)


class HalfReset(nn.Linear):
    def reset_parameters(self):
        nn.init.zeros_(self.bias)


def test_a_module_that_resets_only_a_part_is_found_out():
    with pytest.raises(errors.UnsupportedModel, match=r"re-initialises 0.weight, which would"):
        reinitialised(nn.Sequential(HalfReset(3, 2)))


@pytest.mark.parametrize("error", [ValueError, TypeError, RuntimeError, AttributeError])
def test_a_reset_that_fails_is_named_with_its_reason(error):
    class Failing(nn.Linear):
        built = False

        def reset_parameters(self):
            if self.built:
                raise error("out of luck")
            super().reset_parameters()
            self.built = True

    with pytest.raises(errors.UnsupportedModel, match=r"Failing.reset_parameters failed \(out of luck\); pass fresh="):
        reinitialised(Failing(2, 2))


def test_a_buffer_that_no_module_resets_keeps_its_value():
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("constant", torch.full((3,), -torch.inf))
    assert torch.equal(reinitialised(model).constant, model.constant)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", MODULES_WITH_RESET)
def test_a_builder_gives_the_same_network_each_time_and_another_for_another_seed(name, own):
    case = CASES[name]
    fresh = (lambda: case.build().double()) if own else None
    model = touched(trained(name))
    watch = LeftAlone(model)
    build, again, other = (fresh_builder(model, fresh, seed) for seed in (1, 1, 2))
    one = snapshot(build())
    assert same_bytes(one, snapshot(build()))
    assert same_bytes(one, snapshot(again()))
    assert not same_bytes(one, snapshot(other()))
    assert build() is not build()
    watch.check()


def test_a_builder_lends_every_global_generator():
    def fresh():
        made = nn.Linear(2, 1)
        with torch.no_grad():
            made.bias.fill_(random.random() + np.random.random())  # noqa: NPY002 - what a user may do
        return made

    build = fresh_builder(nn.Linear(2, 1), fresh, 5)
    assert torch.equal(build().bias, build().bias)


def test_the_users_callable_takes_the_trained_networks_precision():
    model = CASES["mlp"].make().float()
    made = fresh_builder(model, CASES["mlp"].make, 0)()
    assert {value.dtype for value in made.parameters()} == {torch.float32}
    assert all(
        bool((value == wanted.float()).all())
        for value, wanted in zip(made.parameters(), CASES["mlp"].make().parameters(), strict=True)
    )


def test_a_callable_that_gives_no_network_is_refused():
    with pytest.raises(errors.BadRequest, match="fresh: expected a callable that builds the network, it gave dict"):
        fresh_builder(nn.Linear(2, 1), dict, 0)()


def test_a_callable_that_gives_the_trained_network_is_refused():
    model = nn.Linear(2, 1)
    for given in (model, nn.Sequential(model)):
        with pytest.raises(errors.BadRequest, match="fresh: expected an untrained network, it gave the trained one"):
            fresh_builder(model, lambda given=given: given, 0)()


@pytest.mark.parametrize(
    ("made", "where"),
    [
        (lambda: nn.Linear(2, 3), r"'bias' is \(3,\) there and \(1,\) in the trained one \(2 differ\)"),
        (lambda: nn.Linear(2, 1, bias=False), r"'bias' is None there and \(1,\)"),
        (lambda: nn.Sequential(nn.Linear(2, 1)), r"'0.bias' is \(1,\) there and None .* \(4 differ\)"),
    ],
)
def test_another_architecture_is_refused_with_the_first_difference(made, where):
    with pytest.raises(errors.MaskMismatch, match=f"fresh: built another architecture.*{where}"):
        fresh_builder(nn.Linear(2, 1), made, 0)()
