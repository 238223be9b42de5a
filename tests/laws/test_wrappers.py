"""Laws of wrapped networks: inside torch's own wrappers a network forgets as it does without, and is handed back in them."""

import pytest
import torch
from torch import nn

import excise
from excise import params, recipes
from excise.data import Split
from excise.masks import Mask
from excise.methods import Finetune, Reset
from excise.patch import Patch
from excise.train import TrainPlan
from tests.cases import CASES
from tests.probes import LeftAlone, moved, raw, touched
from tests.wrapping import WRAPPERS, alone

CASE = CASES["batchnorm"]
PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=8, weight_decay=0.1)
HOW = {
    "finetune": Finetune(plan=PLAN),
    "reset": Reset(),
    "DEL": recipes.DEL(epochs=2, lr=0.05, batch_size=8),
}
WRAPS = {"plain": lambda model: model, **WRAPPERS}

every_wrapper = pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
every_how = pytest.mark.parametrize("how", HOW.values(), ids=HOW)


@pytest.fixture(scope="module", autouse=True)
def _processes(tmp_path_factory):
    with alone(tmp_path_factory.mktemp("group")):
        yield


def counted(cost):
    """What a cost counts: all but the clock's and the memory's part."""
    parts = {name: (one.trained_rows, one.forward_rows) for name, one in cost.parts.items()}
    return vars(cost) | {"seconds": 0, "peak_bytes": 0, "parts": parts}


def split():
    return Split(CASE.data(24), forget=[0, 3, 8, 11, 14])


def fresh():
    return CASE.build().double()


def mask_of(model):
    return Mask.of_modules(model, ["1", "3", "8.bias"])


@every_wrapper
@every_how
@pytest.mark.parametrize("where", ["localized", "given", "given-wrapped"])
def test_a_wrapped_network_forgets_to_the_bit_as_the_plain_one(how, where, wrap):
    plain, wrapped = CASE.make(), wrap(CASE.make())
    masks = {"localized": (None, None), "given": (mask_of(plain),) * 2, "given-wrapped": (None, mask_of(wrapped))}
    wanted = excise.unlearn(plain, split(), how, mask=masks[where][0] or masks[where][1], fresh=fresh, seed=0)
    found = excise.unlearn(wrapped, split(), how, mask=masks[where][1], fresh=fresh, seed=0)
    assert found.mask == wanted.mask and found.mask.digest == wanted.mask.digest
    assert not moved(params.state_of(wanted.model), params.state_of(found.model))
    assert moved(params.state_of(plain), params.state_of(found.model))
    assert (found.frozen_digest_before, found.frozen_digest) == (wanted.frozen_digest_before, wanted.frozen_digest)
    assert found.patch.base_digest == wanted.patch.base_digest
    assert params.digest(found.patch.after) == params.digest(wanted.patch.after)
    assert counted(found.cost) == counted(wanted.cost)


@every_wrapper
@every_how
def test_what_comes_back_is_wrapped_as_what_came_in_and_loads_back(how, wrap):
    wrapped = wrap(CASE.make())
    found = excise.unlearn(wrapped, split(), how, fresh=fresh, seed=0)
    assert type(found.model) is type(wrapped)
    assert list(found.model.state_dict()) == list(wrapped.state_dict())
    inputs = CASE.data(24)[0]
    wanted = found.model.eval()(inputs)
    assert not torch.equal(wrapped.eval()(inputs), wanted)
    wrapped.load_state_dict(found.model.state_dict())
    assert torch.equal(raw(wrapped(inputs)), raw(wanted))


def trained_on(model):
    """Take one step of training with the rows, as users do."""
    inputs, labels = CASE.data(24)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    return params.state_of(model)


@every_wrapper
@every_how
def test_what_comes_back_can_be_trained_on(how, wrap):
    wrapped = wrap(CASE.make())
    found = excise.unlearn(wrapped, split(), how, fresh=fresh, seed=0).model
    wanted = excise.unlearn(CASE.make(), split(), how, fresh=fresh, seed=0).model
    watch, before = LeftAlone(wrapped), params.state_of(found)
    after = trained_on(found)
    watch.check()
    assert moved(before, after) and not moved(after, trained_on(wanted))


@every_wrapper
@every_how
def test_the_users_network_and_its_wrapper_are_left_alone(how, wrap):
    wrapped = wrap(touched(CASE.make()))
    watch, inner = LeftAlone(wrapped), params.unwrapped(wrapped)
    found = excise.unlearn(wrapped, split(), how, fresh=fresh, seed=0)
    watch.check()
    assert params.unwrapped(wrapped) is inner
    ours = {value.data_ptr() for value in inner.state_dict().values()}
    assert not ours & {value.data_ptr() for value in found.model.state_dict().values()}


@every_wrapper
def test_a_patch_goes_from_the_wrapped_network_to_the_plain_one(wrap, tmp_path):
    wrapped = wrap(CASE.make())
    found = excise.unlearn(wrapped, split(), HOW["DEL"], fresh=fresh, seed=0)
    found.patch.save(tmp_path / "patch.safetensors")
    patch = Patch.load(tmp_path / "patch.safetensors")
    for model in (CASE.make(), wrapped):
        applied = patch.apply(model)
        assert type(applied) is type(model)
        assert params.model_digest(applied) == params.model_digest(found.model)
    assert params.model_digest(found.patch.revert(found.model)) == params.model_digest(CASE.make())


@every_wrapper
def test_an_untrained_network_may_be_wrapped_or_made_from_a_wrapped_one(wrap):
    plain = excise.unlearn(CASE.make(), split(), HOW["DEL"], fresh=fresh, seed=0)
    other = excise.unlearn(CASE.make(), split(), HOW["DEL"], fresh=lambda: wrap(fresh()), seed=0)
    assert not moved(params.state_of(plain.model), params.state_of(other.model))
    plain = excise.unlearn(CASE.make(), split(), HOW["DEL"], seed=0)
    other = excise.unlearn(wrap(CASE.make()), split(), HOW["DEL"], seed=0)
    assert not moved(params.state_of(plain.model), params.state_of(other.model))
