"""The whole visit: the healthy, the sick of several illnesses, and everything left as it was."""

import copy
import re
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import excise
from excise import errors
from excise.diagnosis import buffers
from excise.train.hooks import Hooks
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, as_module, touched

HEALTHY = ["mlp", "separable", "transformer", "three-classes"]


def split_of(name, num_rows=240, forget=(3, 8, 11)):
    """Give a split with a test set drawn with the training rows."""
    inputs, labels = CASES[name].data(num_rows + 60)
    test = (inputs[num_rows:].clone(), labels[num_rows:].clone())
    return excise.Split((inputs[:num_rows].clone(), labels[:num_rows].clone()), forget=list(forget), test=test)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_patient_gives_nothing(name):
    split = split_of(name)
    people, loader = [row // 2 for row in range(240)], DataLoader(split.train.as_dataset(), 32, shuffle=True)
    model = CASES[name].make()
    assert excise.doctor(model, excise.Split(split.train.source.tensors, forget=[2, 3]), groups=people) == []
    assert excise.doctor(model, split, loader=loader) == []


@pytest.mark.parametrize("name", CASES)
def test_everything_is_left_alone(name):
    model = touched(CASES[name].make())
    for module in buffers.tracked(model).values():
        module.num_batches_tracked.fill_(3)
    watch = LeftAlone(model)
    found = excise.doctor(model, split_of(name))
    watch.check()
    assert [one.severity for one in found if one.severity == "error"] == []
    assert found == excise.doctor(model, split_of(name))


def test_everything_is_left_alone_where_the_network_fails_half_way():
    model = touched(CASES["batchnorm"].make())
    ran = []

    def fail_late(module, given):
        ran.append(len(given[0]))
        if sum(ran) > 60:
            raise RuntimeError("a row it cannot take; so there")

    for module in buffers.tracked(model).values():
        module.num_batches_tracked.fill_(3)
    model[0].register_forward_pre_hook(fail_late)
    watch = LeftAlone(model)
    (found,) = excise.doctor(model, split_of("batchnorm"))
    watch.check()
    assert found.severity == "error" and "could not be run on some retain rows: a row it cannot take" in found.what


def test_findings_of_every_room_come_together_the_worst_first():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)).double()
    model[0].bias.requires_grad_(False)
    inputs, labels = CASES["mlp"].data(40)
    inputs[30] = inputs[2]
    loader = DataLoader(torch.utils.data.TensorDataset(inputs, labels), 16, drop_last=True)
    test = inputs[:3].clone()
    test[1] += torch.nan
    split = excise.Split((inputs, labels), forget=range(25), test=(test, labels[:3]))
    found = excise.doctor(model, split, groups=[0] * 40, loader=loader)
    assert [one.severity for one in found] == ["error", *["warning"] * 5, "note", "note"]
    words = ("not finite", "62 % of", "1 group with", "drop_last", "in retain", "in test", "frozen", "dropout")
    assert all(word in one.what for word, one in zip(words, found, strict=True)), [one.what for one in found]
    assert all(one.what and one.where and one.remedy for one in found)


class Odd(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, row):
        return {"x": CASES["mlp"].data(40)[0][row], "label": torch.tensor(float(row % 2))}


def logit(model, batch):
    return model(batch["x"]), batch["label"]


def binary(logits, targets):
    return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], targets, reduction="none")


def one_class():
    return nn.Linear(6, 1).double()


def test_a_head_of_one_class():
    inputs, labels = CASES["mlp"].data(40)
    zeros = excise.Split((inputs, labels * 0), forget=[1])
    found = excise.doctor(one_class(), zeros)
    assert [one.severity for one in found] == ["error", "warning"]  # and all labels are equal
    assert "the head gives one number a row" in found[0].what and "(1, 1)" in found[0].where
    (found,) = excise.doctor(one_class(), excise.Split(Odd(), forget=[1]), forward=logit, loss=binary)
    assert found.severity == "warning" and "need two classes" in found.what
    two = nn.Linear(6, 2).double()
    assert excise.doctor(two, excise.Split(Odd(), forget=[1]), forward=logit, loss=binary) == []


def broken(name):
    inputs, labels = CASES["mlp"].data(40)
    labels = labels.clone()
    labels[[5, 30]] = {"labels": 9}.get(name, 0)
    train = (
        (inputs[:, :5], labels)
        if name == "shape"
        else (inputs, labels.double())
        if name == "float"
        else (inputs, labels)
    )
    return excise.Split(train, forget=[5, 7])


@pytest.mark.parametrize(
    ("name", "words", "where"),
    [
        ("labels", "forget: 1 labels lie outside 0 to 3, .*position 0 of 2", "forget rows"),
        ("shape", "Sequential could not be run on forget rows: mat1 and mat2", "forget rows"),
        ("float", "expected one integer label a row, found torch.float", "forget rows"),
    ],
)
def test_rows_that_do_not_fit_are_findings_in_the_tasks_own_words(name, words, where):
    found = excise.doctor(CASES["mlp"].make(), broken(name))
    assert {one.where for one in found} == {where, "retain rows"} and {one.severity for one in found} == {"error"}
    (first,) = [one for one in found if one.where == where]
    assert re.search(words, first.what) and first.remedy
    with pytest.raises(errors.BadData):
        excise.unlearn(CASES["mlp"].make(), broken(name), excise.recipes.DEL(epochs=1))
    assert excise.doctor(CASES["mlp"].make(), broken("nothing")) == []


def test_other_networks_that_cannot_be_worked_on():
    split = split_of("mlp")
    detached = CASES["mlp"].make()
    for model, forward, words in (
        (CASES["mlp"].make().requires_grad_(False), excise_forward, "are frozen"),
        (as_module(lambda x: x.sum(), nn.Parameter(torch.ones(1))), excise_forward, "expected logits of shape"),
        (detached, lambda m, b: (m(b[0]).detach(), b[1]), "have no gradient"),
        (nan_network(), excise_forward, "logits that are not finite"),
    ):
        found = excise.doctor(model, split, forward=forward)
        assert found and words in found[0].what and found[0].severity == "error", words


def excise_forward(model, batch):
    return model(batch[0]), batch[1]


def nan_network():
    model = CASES["mlp"].make()
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    return model


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda logits, targets: nn.functional.cross_entropy(logits, targets), "expected one value for each of"),
        (
            lambda logits, targets: nn.functional.cross_entropy(logits, targets + 9, reduction="none"),
            "could not be com",
        ),
        (lambda logits, targets: logits[:, 0] * torch.inf, "the loss is not finite"),
    ],
)
def test_a_loss_that_cannot_be_used(loss, words):
    found = excise.doctor(CASES["mlp"].make(), split_of("mlp"), loss=loss)
    assert len(found) == 3 and all(words in one.what and one.severity == "error" for one in found)


class Unreadable(Watched):
    def __getitem__(self, row):
        if row == 33:
            raise OSError("the disk is gone")
        return super().__getitem__(row)


def test_a_row_that_cannot_be_read_does_not_hide_the_rest():
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.1)).double()
    found = excise.doctor(model, excise.Split(Unreadable(*CASES["mlp"].data(100)), forget=[1]))
    assert [one.severity for one in found][-1] == "note" and "the disk is gone" in found[0].what
    assert found[0].where == "the data" and "correct the data set" in found[0].remedy


def test_programming_errors_are_not_swallowed():
    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        excise.doctor(CASES["mlp"].make(), split_of("mlp"), forward=fail)


def test_memory_that_ran_out_is_no_illness():
    def fail(*_):
        raise RuntimeError("cannot allocate memory")

    with pytest.raises(RuntimeError, match="cannot allocate"):
        excise.doctor(CASES["mlp"].make(), split_of("mlp"), forward=fail)


def test_the_cost_is_what_is_said():
    inputs, labels = CASES["mlp"].data(1000)
    train, test = Watched(inputs[:900], labels[:900]), Watched(inputs[900:], labels[900:])
    model, run = CASES["mlp"].make(), []
    model[0].register_forward_pre_hook(lambda _, given: run.append(len(given[0])))
    excise.doctor(model, excise.Split(train, forget=range(20), test=test))
    again = Counter(train.read).total() - 900
    assert again <= 500 + 2 * 64 + 2 * 16 + 1 and Counter(test.read).total() - 100 <= 2 * 64 + 16
    assert sum(run) <= 3 * 17


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "network"}, r"model: expected a Module, found str; call doctor\(model, split"),
        ({"split": ([1], [2])}, "split: expected a Split, found tuple"),
        ({"loader": [1, 2]}, "loader: expected a DataLoader, found list"),
        ({"groups": [1, 2]}, "groups: expected one value for each of the 240 training rows"),
    ],
)
def test_a_callers_mistake_is_raised(change, message):
    given = {"model": CASES["mlp"].make(), "split": split_of("mlp"), **change}
    with pytest.raises(errors.BadRequest, match=message):
        excise.doctor(given.pop("model"), given.pop("split"), **given)


def test_groups_go_by_id_where_test_rows_are_rows_of_the_same_data():
    inputs, labels = CASES["mlp"].data(60)
    split = excise.Split((inputs, labels), forget=[3], test=range(50, 60))
    people = list(range(60))
    people[55] = 3  # a test row is no retain row
    assert excise.doctor(CASES["mlp"].make(), split, groups=people) == []
    people[7] = 3
    assert [one.severity for one in excise.doctor(CASES["mlp"].make(), split, groups=people)] == ["warning"]


def test_the_seed_draws_the_samples_and_a_copy_of_the_network_gives_the_same():
    model = CASES["batchnorm"].make()
    model[1].num_batches_tracked.fill_(1)
    split = split_of("batchnorm")
    assert excise.doctor(model, split, seed=1) == excise.doctor(copy.deepcopy(model), split, seed=1)
    assert excise.doctor(model, split, seed=1) != excise.doctor(model, split, seed=2)  # the spread over other batches


def test_the_stages_are_told():
    class Told(Hooks):
        def __init__(self):
            self.names = []

        def on_stage(self, name, num_steps):
            self.names.append(name)

    model, hooks = CASES["batchnorm"].make(), Told()
    model[1].num_batches_tracked.fill_(1)
    excise.doctor(model, split_of("batchnorm"), hooks=hooks)
    reading = ["reading forget rows", "reading retain rows", "reading test rows"]
    assert hooks.names == [*reading, "running forget rows", "running retain rows"]
