"""Networks and rows that real users have and that broke an earlier version. Each either works or is refused in words."""

import contextlib
import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import excise
from excise import errors
from excise.data.rows import Rows
from excise.params import clone_model, model_digest
from excise.pipeline.fresh import fresh_builder
from excise.store import commitment
from tests.probes import same_bytes, snapshot

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


ONE_ROW = {
    "NegGradPlus": excise.recipes.NegGradPlus(epochs=1),
    "SCRUB": excise.recipes.SCRUB(epochs=2, max_epochs=1),
    "SalUn": excise.recipes.SalUn(epochs=1),
    "RandomLabel": excise.recipes.RandomLabel(epochs=1, order="mixed", batch_size=1),
    "DEL": excise.recipes.DEL(epochs=1, batch_size=1),
}


@pytest.mark.parametrize("name", ONE_ROW)
def test_one_row_can_be_forgotten_by_a_network_with_batch_normalisation(name):
    """The usual request. One row has no statistics of its own: it is normalised by the running ones and moves none."""
    model = built(lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)))
    found = excise.unlearn(model, split(forget=[0]), ONE_ROW[name], recompute=False)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), found.model.parameters(), strict=True))


# --- what only the copy may feel -------------------------------------------------------------------------------------------


class Keeping(nn.Module):
    """Keeps its last activation, counts its calls, and rescales its table in every lookup."""

    def __init__(self):
        super().__init__()
        self.table, self.middle, self.head = nn.Embedding(20, 8, max_norm=1.0), nn.Linear(8, 8), nn.Linear(8, 3)
        self.last, self.calls = None, 0

    def forward(self, inputs):
        self.calls += 1
        self.last = torch.relu(self.middle(self.table(inputs).mean(1)))
        return self.head(self.last)


def kept():
    model = built(Keeping)
    model.table.weight.data.mul_(3)
    tokens = torch.randint(20, (30, 4), generator=torch.Generator().manual_seed(0))
    return model, excise.Split((tokens, torch.arange(30) % 3), forget=[0, 7, 11])


def refused(model, rows, recipe):
    """Outside its mask the table rescales itself, and so there is no result."""
    with pytest.raises(errors.Refused, match="moved something outside its mask"):
        excise.unlearn(model, rows, recipe)


LOOKS = {
    "doctor": lambda model, rows: excise.doctor(model, rows),
    "weight x gradient": lambda model, rows: excise.localize.WeightGradient()(model, rows),
    "Fisher ratio": lambda model, rows: excise.localize.FisherRatio()(model, rows),
    "head": lambda model, rows: excise.localize.Head()(model, rows),
    "unlearn": lambda model, rows: excise.unlearn(model, rows, excise.recipes.Finetune(epochs=1)),
    "unlearn in vain": lambda model, rows: refused(model, rows, excise.recipes.DEL(epochs=1)),
    "unlearn by SSD": lambda model, rows: excise.unlearn(model, rows, excise.recipes.SSD(selection=1.0)),
    "unlearn by SCRUB": lambda model, rows: excise.unlearn(model, rows, excise.recipes.SCRUB(epochs=1, max_epochs=1)),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_what_a_forward_pass_writes_it_writes_to_a_copy(look):
    model, rows = kept()
    before = snapshot(model)
    found = look(model, rows)
    assert same_bytes(snapshot(model), before)
    assert (model.calls, model.last) == (0, None)
    copy.deepcopy(model)
    if isinstance(found, excise.Unlearned):
        copy.deepcopy(found.model)


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_hooks_on_the_users_parameters_do_not_fire(look):
    """Such as an optimizer that steps in the backward pass, as torch's own tutorial has it."""
    model, rows = kept()
    fired = []
    for value in model.parameters():
        value.register_hook(lambda gradient: fired.append(gradient))
        value.register_post_accumulate_grad_hook(lambda parameter: fired.append(parameter))
    look(model, rows)
    assert fired == []


def test_a_module_that_cannot_be_copied_is_refused_before_any_work():
    model = built(lambda: nn.Sequential(nn.Linear(8, 3)))
    model.lock = threading.Lock()
    with pytest.raises(errors.UnsupportedModel, match=r"Sequential cannot be copied .*excise works on a copy"):
        excise.unlearn(model, split(), excise.recipes.Finetune())


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"scale": 2}

    def set_extra_state(self, state):
        pass


def test_state_that_is_no_tensor_is_refused_before_any_work():
    with pytest.raises(errors.UnsupportedModel, match="'_extra_state' of Extra is no tensor"):
        excise.unlearn(Extra(8, 3), split(), excise.recipes.Finetune())


def test_a_parametrized_layer_outside_the_mask_keeps_its_weight():
    model = built(lambda: nn.Sequential(spectral_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 3))).eval()
    found = excise.unlearn(
        model, split(), excise.recipes.Finetune(epochs=3, lr=0.01), mask=excise.Mask.of_modules(model, ["2"])
    )
    assert torch.equal(found.model[0].weight, model[0].weight)


def test_a_patch_of_weights_in_channels_last():
    model = built(lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.Flatten(), nn.Linear(16, 3)))
    model = model.to(memory_format=torch.channels_last)
    draws = torch.Generator().manual_seed(1)
    rows = excise.Split((torch.randn(20, 2, 2, 2, generator=draws), torch.arange(20) % 3), forget=[0, 7])
    found = excise.unlearn(model, rows, excise.recipes.Finetune(epochs=1, lr=0.1))
    assert same_bytes(snapshot(found.patch.apply(model)), snapshot(found.model))
    assert same_bytes(snapshot(found.patch.revert(found.model)), snapshot(model))


def test_an_untrained_network_takes_the_precision_of_every_tensor():
    def make():
        return nn.Sequential(nn.Linear(8, 8).bfloat16(), Wide(), nn.Linear(8, 3))

    fresh = fresh_builder(make(), make, 0)()
    assert [value.dtype for value in fresh.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2


class Wide(nn.Module):
    def forward(self, inputs):
        return inputs.float()


def test_the_key_of_commitments_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = commitment(torch.tensor([3, 17]))
    assert commitment(torch.tensor([3, 17])) == first != commitment(torch.tensor([3, 18]))
    assert [path.name for path in (tmp_path / "excise").iterdir()] == ["key"]
    assert (tmp_path / "excise" / "key").stat().st_mode & 0o777 == 0o600
