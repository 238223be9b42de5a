"""The lines of `shared/front-door.md` as a user types them, on a network of each kind."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

import excise
from excise import recipes
from tests.cases import CASES
from tests.planted import hurried
from tests.probes import moved, snapshot

NUM_TRAIN, NUM_TEST = 240, 40
PLAN = excise.TrainPlan(epochs=2, lr=0.05, batch_size=64)
SETS = {1: [17], 7: [2, 3, 5, 90, 111, 150, 239], 200: list(range(20, 220))}


@pytest.fixture(autouse=True)
def short(request):
    """Hurry what only informs, except in one test, where it takes as long as with a user."""
    with nullcontext() if request.node.name == "test_five_lines[mlp-7]" else hurried():
        yield


def data_of(case):
    inputs, labels = case.data(NUM_TRAIN + NUM_TEST)
    return (inputs[:NUM_TRAIN].clone(), labels[:NUM_TRAIN]), (inputs[NUM_TRAIN:].clone(), labels[NUM_TRAIN:])


@pytest.mark.parametrize(
    ("name", "num_forget"), [*((name, 7) for name in CASES), ("mlp", 1), ("mlp", 200), ("batchnorm", 1)]
)
def test_five_lines(name, num_forget, tmp_path):
    case = CASES[name]
    model, row_ids = case.make(), SETS[num_forget]
    (train_set, test_set), make_model, train_plan = data_of(case), lambda: case.build().double(), PLAN
    before = snapshot(model)

    split = excise.Split(train_set, forget=row_ids, test=test_set)
    unlearned = excise.unlearn(model, split, excise.recipes.DEL(epochs=1), fresh=make_model, seed=0)
    audit = excise.audit(unlearned, split, fresh=make_model, plan=train_plan, oracles=4)
    audit.save(tmp_path / "report.html")

    assert not moved(before, snapshot(model))
    after = snapshot(unlearned.model)
    assert unlearned.frozen_digest == unlearned.frozen_digest_before
    for key in moved(before, after):
        if key in unlearned.mask.names:
            outside = ~unlearned.mask.expand(key)
            assert torch.equal(before[key][outside], after[key][outside]), key
    assert moved(before, after)
    assert audit.verdict in {"PASS", "FAIL", "INCONCLUSIVE", "INVALID"}
    deciding = [one for one in audit.measures if one.decides]
    assert [one.name for one in deciding] == list(audit.plan.deciding) and len(deciding) == 5
    assert {one.name for one in audit.measures} <= {*audit.plan.deciding, *audit.plan.informing}
    assert {one.num_models for one in audit.measures} == {4}
    html = (tmp_path / "report.html").read_text()
    assert f"Did the network forget {num_forget} row" in html
    assert audit.verdict in html
    assert json.loads(audit.save(tmp_path / "audit.json").read_text())["num_rows"]["forget"] == num_forget
    files = unlearned.save(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(files)


class Words(Dataset):
    """Examples as dictionaries, the label among the rest."""

    def __init__(self, inputs, labels):
        self.inputs, self.answers = inputs, labels

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        return {"tokens": self.inputs[row], "wanted": self.answers[row], "weight": 1.0 + row % 2}


def forward(model, batch):
    return model(batch["tokens"]), batch["wanted"]


def smoothed(logits, targets):
    return functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)


def test_examples_of_another_shape_and_another_loss(tmp_path):
    case = CASES["tied"]
    train, test = data_of(case)
    options = {"fresh": lambda: case.build().double(), "forward": forward, "loss": smoothed}
    split = excise.Split(Words(*train), forget=SETS[7], test=Words(*test))
    found = excise.unlearn(case.make(), split, recipes.DEL(epochs=1), **options)
    assert found.model.head.weight is found.model.embed.weight
    audit = excise.audit(found, split, plan=PLAN, oracles=4, **options)
    audit.save(tmp_path / "report.html")
    # the same rows as pairs and the plain loss: another network
    pairs = excise.Split(train, forget=SETS[7], test=test)
    plain = excise.unlearn(case.make(), pairs, recipes.DEL(epochs=1), fresh=options["fresh"])
    assert moved(snapshot(found.model), snapshot(plain.model))
    named = excise.unlearn(case.make(), split, recipes.DEL(epochs=1), fresh=options["fresh"], forward=forward)
    # only the shape of the examples differs: the same to the bit
    assert not moved(snapshot(named.model), snapshot(plain.model))


def test_a_plain_function_is_a_method_and_a_plain_training_a_plan(tmp_path):
    case = CASES["batchnorm"]
    train, test = data_of(case)
    split = excise.Split(train, forget=SETS[7], test=test)

    def teach(net, loader, epochs):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        net.train()
        for _ in range(epochs):
            for inputs, labels in loader:
                optimizer.zero_grad()
                functional.cross_entropy(net(inputs), labels).backward()
                optimizer.step()
        return net

    def my_method(net, retain, forget, validation):
        assert len(forget.dataset) == 7
        assert len(retain.dataset) == 233
        return teach(net, retain, 1)

    def train_function(model, dataset, seed):
        order = torch.Generator().manual_seed(seed)
        return teach(model, torch.utils.data.DataLoader(dataset, 64, shuffle=True, generator=order), 1)

    model = case.make()
    unlearned = excise.unlearn(model, split, my_method, seed=0)
    assert unlearned.recipe == "my_method"
    assert unlearned.cost.trained_rows == 233
    audit = excise.audit(unlearned, split, fresh=lambda: case.build().double(), plan=train_function, oracles=4)
    assert audit.verdict in {"PASS", "FAIL", "INCONCLUSIVE", "INVALID"}
    audit.save(tmp_path / "report.html")
    head = excise.unlearn(model, split, my_method, mask=excise.Mask.of_modules(model, ["8"]), seed=0)
    statistics = {
        f"{place}.{name}" for place in (1, 4) for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert moved(snapshot(model), snapshot(head.model)) == {"8.weight", "8.bias"} | statistics
    held = excise.unlearn(model, split, my_method, mask=excise.Mask.of_modules(model, ["8"]), seed=0, recompute=False)
    assert moved(snapshot(model), snapshot(held.model)) == {"8.weight", "8.bias"}


@pytest.mark.parametrize(
    ("forget", "wanted"),
    [
        ([5, 3], [3, 5]),
        (np.array([3, 5]), [3, 5]),
        (torch.arange(20) % 4 == 1, [1, 5, 9, 13, 17]),
        (excise.data.of_class(2), [2, 6, 10, 14, 18]),
        (excise.data.of_group(["ann", "bob"] * 10, ["bob"]), list(range(1, 20, 2))),
        (excise.data.mislabelled([0] + [row % 4 for row in range(1, 19)] + [0]), [19]),
    ],
    ids=["ids", "array", "mask", "class", "group", "mislabelled"],
)
@pytest.mark.parametrize("kind", ["tensors", "arrays", "dataset"])
def test_rows_are_named_in_any_way_and_data_come_in_any_form(forget, wanted, kind):
    inputs, labels = CASES["mlp"].data(20)
    given = {
        "tensors": (inputs, labels),
        "arrays": (inputs.numpy(), labels.numpy()),
        "dataset": torch.utils.data.TensorDataset(inputs, labels),
    }[kind]
    split = excise.Split(given, forget=forget)
    assert split.forget.ids.tolist() == wanted
    found = excise.unlearn(CASES["mlp"].make(), split, recipes.DEL(epochs=1), seed=4)
    same = excise.Split((inputs, labels), forget=wanted)
    twin = excise.unlearn(CASES["mlp"].make(), same, recipes.DEL(epochs=1), seed=4)
    assert not moved(snapshot(found.model), snapshot(twin.model))


def test_rules_that_draw():
    inputs, labels = CASES["mlp"].data(100)
    tenth = excise.Split((inputs, labels), forget=excise.data.random_fraction(0.1, seed=0)).forget
    assert len(tenth) == 10
    two = excise.Split((inputs, labels), forget=excise.data.within_classes([2, 3], fraction=0.1, seed=0)).forget
    assert len(two) == 10
    assert set(two.labels().tolist()) <= {2, 3}


def test_the_two_halves_apart(tmp_path):
    case = CASES["separable"]
    train, test = data_of(case)
    model, split = case.make(), excise.Split(train, forget=SETS[7], test=test)
    scores = excise.localize.WeightGradient()(model, split)
    mask = scores.select(budget_fraction=0.3, granularity="channel")
    other = excise.localize.Magnitude()(model, split).select(budget_fraction=0.1, granularity="weight")
    for one in (mask & other, mask | other, ~mask):
        assert 0 <= one.fraction <= 1
        assert set(one.per_module()) == {"0", "2", "3", "7"}
    assert (mask & ~mask).fraction == 0
    assert (mask | ~mask).fraction == 1
    mask.save(tmp_path / "mask.safetensors")
    assert excise.Mask.load(tmp_path / "mask.safetensors").digest == mask.digest
    method = excise.methods.Ascend(plan=excise.TrainPlan(epochs=1, lr=1e-3))
    found = excise.unlearn(model, split, method, mask=mask)
    for name, value in found.model.named_parameters():
        outside = ~mask.expand(name)
        assert torch.equal(value[outside], model.get_parameter(name)[outside]), name
    assert moved(snapshot(model), snapshot(found.model))


def test_a_patch_is_applied_inspected_and_reverted():
    case = CASES["mlp"]
    train, test = data_of(case)
    model = case.make()
    found = excise.unlearn(model, excise.Split(train, forget=[1], test=test), recipes.DEL(epochs=1))
    assert not moved(snapshot(found.patch.apply(model)), snapshot(found.model))
    assert not moved(snapshot(found.patch.revert(found.model)), snapshot(model))
    assert sum(found.patch.num_changed.values()) <= found.mask.num_selected


def test_a_users_own_network_without_a_wrapper_class():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.scale, self.out = nn.Linear(6, 8), nn.Parameter(torch.ones(())), nn.Linear(8, 4)

        def forward(self, inputs):
            return self.out(torch.relu(self.body(inputs))) * self.scale

    train, test = data_of(CASES["mlp"])
    with torch.random.fork_rng():
        model = Mine()
    split = excise.Split(train, forget=SETS[7], test=test)
    with pytest.raises(excise.ExciseError, match="no module re-initialises scale"):
        excise.unlearn(model, split, recipes.DEL(epochs=1))
    found = excise.unlearn(model, split, recipes.DEL(epochs=1), fresh=Mine)
    assert {value.dtype for value in found.model.parameters()} == {torch.float32}
    assert excise.audit(found, split, fresh=Mine, plan=PLAN, oracles=2).verdict == "INCONCLUSIVE"
