"""Networks and rows that real users have and that broke an earlier version. Each either works or is refused in words."""

import contextlib
import copy

import pytest
import torch
from torch import nn

import excise
from excise import errors
from excise.data.rows import Rows
from excise.params import clone_model, model_digest
from excise.store import commitment

DRAW = torch.Generator().manual_seed(0)
INPUTS = torch.randn(60, 8, generator=DRAW)
LABELS = torch.randint(0, 3, (60,), generator=DRAW)


def built(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def split(labels=LABELS, forget=range(6)):
    return excise.Split((INPUTS, labels), forget=forget)


class Kept(nn.Module):
    """Keeps an activation as an attribute."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        self.hidden = torch.relu(self.a(inputs))
        return self.b(self.hidden)


class Counted(nn.Module):
    """Writes to a buffer at each forward pass, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs):
        self.calls += 1
        return self.a(inputs)


class Quantised(nn.Module):
    """Its first parameter is frozen and of integers."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((8,), 2, dtype=torch.int8), requires_grad=False)
        self.a = nn.Linear(8, 3)
        self.seen = set()

    def forward(self, inputs):
        self.seen.add(inputs.dtype)
        return self.a(inputs * self.scale)


def shared_module():
    twice = nn.Linear(8, 8)
    return nn.Sequential(twice, nn.ReLU(), twice, nn.Linear(8, 3))


def test_a_network_that_keeps_an_activation_is_localized_copied_and_patched():
    model = built(Kept)
    done = excise.unlearn(model, split(), excise.recipes.DEL(epochs=1), seed=0)
    assert model_digest(done.patch.revert(done.model)) == model_digest(model)
    assert model_digest(done.patch.apply(model)) == model_digest(done.model)
    model(INPUTS)
    assert torch.equal(clone_model(model).hidden, model.hidden)


@pytest.mark.parametrize("recipe", [excise.recipes.Finetune(epochs=2), excise.recipes.DEL(epochs=1)])
def test_a_buffer_that_is_written_in_every_forward_pass_stays_in_the_users_network(recipe):
    model = built(Counted)
    with contextlib.suppress(errors.Refused):  # DEL's mask may leave the module out, and then its buffer may not move
        excise.unlearn(model, split(), recipe, seed=0)
    assert int(model.calls) == 0


def test_inputs_take_the_precision_of_the_first_floating_parameter():
    model = built(Quantised)
    done = excise.unlearn(model, split(), excise.recipes.Finetune(epochs=1), seed=0)
    assert done.model.seen == {torch.float32}
    assert torch.equal(done.model.scale, model.scale)


@pytest.mark.parametrize("recipe", [excise.recipes.SSD(selection=2.0), excise.recipes.DEL(epochs=1)])
def test_a_module_that_stands_twice_in_a_network(recipe):
    done = excise.unlearn(built(shared_module), split(), recipe, seed=0)
    copy.deepcopy(done.model)
    assert done.model[0] is done.model[2]
    assert all(type(value) is nn.Parameter for value in done.model.parameters())


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int16, torch.uint16])
def test_labels_of_any_integer_type_give_the_same_bytes(kind):
    found = {
        model_digest(excise.unlearn(built(lambda: nn.Linear(8, 3)), split(labels), excise.recipes.DEL(epochs=1)).model)
        for labels in (LABELS, LABELS.to(kind))
    }
    assert len(found) == 1
    assert Rows.all_of((INPUTS, LABELS.to(kind))).labels().dtype == torch.int64


def test_a_parameter_without_weights_is_no_obstacle():
    model = built(lambda: nn.Linear(8, 3))
    model.nothing = nn.Parameter(torch.zeros(0, 4))
    done = excise.unlearn(model, split(), excise.recipes.DEL(epochs=1, head=""), fresh=lambda: copy.deepcopy(model))
    assert done.frozen_digest == done.frozen_digest_before


def test_a_scripted_network_is_refused():
    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.script(nn.Linear(8, 3))
    with pytest.raises(
        errors.UnsupportedModel, match="a scripted module, whose weights cannot be trained under a mask"
    ):
        excise.unlearn(scripted, split(), excise.recipes.Finetune())


def test_batch_normalisation_of_one_row_is_refused_in_words():
    model = built(lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    with pytest.raises(errors.BadRequest, match="batch normalisation cannot train on a batch of one row"):
        excise.unlearn(model, split(forget=[0]), excise.recipes.NegGradPlus(epochs=1))


def test_the_key_of_commitments_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = commitment(torch.tensor([3, 17]))
    assert commitment(torch.tensor([3, 17])) == first != commitment(torch.tensor([3, 18]))
    assert [path.name for path in (tmp_path / "excise").iterdir()] == ["key"]
    assert (tmp_path / "excise" / "key").stat().st_mode & 0o777 == 0o600
