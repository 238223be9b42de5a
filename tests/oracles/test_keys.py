"""One change in anything that a network's weights depend on is another key; no change is the same one."""

import hashlib
import math
import sys

import msgspec
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from excise import params
from excise.data.rows import DatasetSource, Rows
from excise.masks import Mask
from excise.oracles import keys
from excise.train import Augment, Engine, Machine, Task, TrainPlan
from tests.cases import CASES
from tests.probes import LeftAlone, Watched

CASE = CASES["mlp"]
PLAN = TrainPlan(epochs=3, lr=0.1, batch_size=8)
MACHINE = Machine()


def mlp(activation=nn.ReLU):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(6, 10), activation(), nn.Linear(10, 4)).double()


def key(*, model=None, rows=None, plan=PLAN, seed=3, kind="oracle", together=False, machine=MACHINE):
    rows = rows if rows is not None else Rows.all_of(CASE.data(30))
    engine = Engine(Task(), seed=0, besides=Mask.empty(mlp()), machine=machine)
    printed = keys.fingerprints([rows])[0]
    told = keys.facts(model if model is not None else mlp(), rows, printed, plan, seed, engine, kind=kind)
    return keys.key(told, together=together)


def changed(value, **fields):
    return msgspec.structs.replace(value, **fields)


def another_weight():
    model = mlp()
    with torch.no_grad():
        model[2].weight[1, 1] = torch.nextafter(model[2].weight[1, 1], torch.tensor(9.0).double())
    return model


class Computed(nn.Module):
    """Equal weights and an equal printed form, whatever is done between the layers."""

    def __init__(self, between):
        super().__init__()
        self.one, self.two = mlp()[0], mlp()[2]
        self.between = between

    def forward(self, inputs):
        return self.two(self.between(self.one(inputs)))


class Straight(torch.autograd.Function):
    """ReLU forward, the identity backward."""

    @staticmethod
    def forward(_, hidden):
        return torch.relu(hidden)

    @staticmethod
    def backward(_, gradient):
        return gradient


def frozen():
    model = mlp()
    model[0].bias.requires_grad_(False)
    return model


def with_idle(value, *, persistent=True):
    model = mlp()
    model.register_buffer("idle", torch.full((2,), value), persistent=persistent)
    return model


def rows_of(change=None, ids=None):
    inputs, labels = CASE.data(31)
    if change is not None:
        change(inputs, labels)
    return Rows(Rows.all_of((inputs, labels)).source, torch.arange(30) if ids is None else torch.tensor(ids))


def one_pixel(inputs, _):
    inputs[11, 2] = torch.nextafter(inputs[11, 2], torch.tensor(math.inf, dtype=inputs.dtype))


def one_label(_, labels):
    labels[29] = (labels[29] + 1) % 4


def twin_rows(inputs, labels):
    inputs[30], labels[30] = inputs[29], labels[29]


class Transformed(Dataset):
    """Rows as they come out of a transform, which is no part of what is stored."""

    def __init__(self, transform):
        self.transform, (self.inputs, self.answers) = transform, CASE.data(30)

    def __len__(self):
        return 30

    def __getitem__(self, row):
        return self.transform(self.inputs[row]), int(self.answers[row])


def transformed(transform):
    return Rows.all_of(Transformed(transform))


MUTATIONS = {
    "one weight of fresh": ({}, {"model": another_weight}),
    "seed": ({}, {"seed": 4}),
    "activation": ({}, {"model": lambda: mlp(nn.Tanh)}),
    "activation in code": (
        {"model": lambda: Computed(torch.relu)},
        {"model": lambda: Computed(torch.tanh)},
    ),
    "gradient in code": ({"model": lambda: Computed(torch.relu)}, {"model": lambda: Computed(Straight.apply)}),
    "dropout in code": (
        {"model": lambda: Computed(torch.relu)},
        {"model": lambda: Computed(lambda hidden: functional.dropout(torch.relu(hidden), 0.5))},
    ),
    "architecture with equal weights": ({}, {"model": lambda: nn.Sequential(*mlp(), nn.Identity())}),
    "a frozen weight": ({}, {"model": frozen}),
    "a weight of no effect": ({"model": lambda: with_idle(0.0)}, {"model": lambda: with_idle(1.0)}),
    "dtype": ({}, {"model": lambda: mlp().float()}),
    "one pixel": ({"rows": rows_of}, {"rows": lambda: rows_of(one_pixel)}),
    "one label": ({"rows": rows_of}, {"rows": lambda: rows_of(one_label)}),
    "one row less": ({"rows": rows_of}, {"rows": lambda: rows_of(ids=range(29))}),
    "one row id": (
        {"rows": lambda: rows_of(twin_rows)},
        {"rows": lambda: rows_of(twin_rows, ids=[*range(29), 30])},
    ),
    "transform": (
        {"rows": lambda: transformed(lambda row: row)},
        {"rows": lambda: transformed(lambda row: row * 1.0001)},
    ),
    "lr": ({}, {"plan": changed(PLAN, lr=0.2)}),
    "epochs": ({}, {"plan": changed(PLAN, epochs=4)}),
    "batch size": ({}, {"plan": changed(PLAN, batch_size=9)}),
    "optimizer": ({}, {"plan": changed(PLAN, optimizer="adam")}),
    "together": ({}, {"together": True}),
    "kind": ({}, {"kind": "half"}),
}


def called(words):
    return {name: value() if name in ("model", "rows") else value for name, value in words.items()}


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_change_is_another_key(name):
    before, after = MUTATIONS[name]
    first, again, other = (key(**called(words)) for words in (before, before, {**before, **after}))
    assert first == again != other


def test_another_version_or_number_of_threads_is_another_key(monkeypatch):
    first = key()
    for target, name, value in (
        (sys.modules["excise.oracles.keys"], "__version__", "0.0.0"),
        (torch, "__version__", "0.0.0"),
        (torch, "get_num_threads", lambda: 64),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(target, name, value)
            assert key() != first
    assert key() == first


def test_the_device_is_among_the_facts(monkeypatch):
    first = key()
    monkeypatch.setattr(keys, "device_of", lambda model: torch.device("cpu", 1))
    assert key() != first


def test_a_key_is_the_hash_of_the_facts_spelled_out():
    told = {"b": "2", "a": "1"}
    wanted = hashlib.sha256(b'{"a":"1","b":"2","training":"alone"}').hexdigest()
    assert keys.key(told, together=False) == wanted


def test_nothing_is_changed_by_looking():
    model = CASES["batchnorm"].make()
    rows = Rows.all_of(CASES["batchnorm"].data(20))
    watch = LeftAlone(model)
    key(model=model, rows=rows)
    watch.check()


def test_a_network_with_batch_statistics_may_be_trained_on_a_single_row():
    rows = Rows.all_of(CASES["batchnorm"].data(20)).head(1)
    assert key(model=CASES["batchnorm"].make(), rows=rows) == key(model=CASES["batchnorm"].make(), rows=rows)


def test_a_sparse_gradient_and_one_that_is_nowhere_are_no_obstacle():
    tokens = Rows.all_of(CASES["tied"].data(20))

    class Bag(nn.Module):
        def __init__(self, cut):
            super().__init__()
            self.embed, self.head, self.cut = nn.Embedding(11, 6, sparse=True), nn.Linear(6, 11), cut

        def forward(self, inputs):
            logits = self.head(self.embed(inputs).mean(1))
            return logits.detach() if self.cut else logits

    def made(*, cut):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return Bag(cut)

    assert key(model=made(cut=False), rows=tokens) == key(model=made(cut=False), rows=tokens)
    assert key(model=made(cut=True), rows=tokens) != key(model=made(cut=False), rows=tokens)


# fingerprints


def test_a_fingerprint_is_of_ids_and_content_and_of_no_company():
    source = Rows.all_of(CASE.data(30)).source
    sets = [Rows(source, torch.tensor(ids)) for ids in ([1, 2, 3], [2, 5, 9, 20], [1, 2, 3], [2])]
    found = keys.fingerprints(sets)
    assert found == [keys.fingerprints([one])[0] for one in sets]
    assert found[0] == found[2] and len(set(found)) == 3
    inputs, labels = CASE.data(30)
    for one, printed in zip(sets, found, strict=True):
        rows = b""
        for row in one.ids.tolist():
            content = hashlib.sha256(b"torch.float64(6,)torch.int64()" + row.to_bytes(8, "little"))
            content.update(bytes(params.raw_bytes(inputs[row])) + bytes(params.raw_bytes(labels[row])))
            rows += content.digest()
        assert printed == hashlib.sha256(rows).hexdigest()


def test_a_fingerprint_of_more_rows_than_are_read_at_once_sees_each():
    inputs, labels = CASE.data(2500)
    first = keys.fingerprints([Rows.all_of((inputs, labels))])
    for row in (0, 1023, 1024, 2047, 2048, 2499):
        other = inputs.clone()
        other[row, 5] += 1
        assert keys.fingerprints([Rows.all_of((other, labels))]) != first
    swapped = inputs.clone()
    swapped[[3, 7]] = swapped[[7, 3]]
    assert keys.fingerprints([Rows.all_of((swapped, labels))]) != first
    assert keys.fingerprints([Rows.all_of((inputs.clone(), labels))]) == first


def test_a_fingerprint_of_a_dataset_is_that_of_its_rows_one_by_one():
    rows = Rows(transformed(lambda row: 2 * row).source, torch.tensor([2, 3, 11]))
    each = b"".join(bytes.fromhex(Rows(rows.source, row.reshape(1)).fingerprint()) for row in rows.ids)
    assert keys.fingerprints([rows]) == [hashlib.sha256(each).hexdigest()]


def test_sets_of_several_sources_keep_their_own():
    other = CASE.data(30)
    other[0][3] += 1
    one, two = Rows.all_of(CASE.data(30)), Rows.all_of(other)
    found = keys.fingerprints([one, two, one.head(3), two.head(3)])
    assert found[0] != found[1] and found[2] == found[3]


def test_each_row_is_read_once_however_many_sets_hold_it_and_no_other_is():
    data = Watched(*CASE.data(30), forbidden=[0, 29])
    source = Rows.all_of(data).source
    data.read.clear()
    keys.fingerprints([Rows(source, torch.arange(start, 29)) for start in range(1, 9)])
    assert data.read == list(range(1, 29))


def test_a_random_transform_gives_the_same_again_and_moves_no_random_state():
    rows = transformed(lambda row: row + torch.randn(6))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = keys.fingerprints([rows])
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert keys.fingerprints([rows]) == first


class Elsewhere(str):
    """The CPU, passed off as another kind of device."""

    type = "accelerator"


def test_where_sums_may_change_their_order_only_which_gradients_there_are_is_seen(monkeypatch):
    plain, straight = Computed(torch.relu), Computed(Straight.apply)
    cut = Computed(lambda hidden: torch.relu(hidden).detach())
    assert len({key(model=model) for model in (plain, straight, cut)}) == 3
    monkeypatch.setattr(keys, "device_of", lambda model: Elsewhere("cpu"))
    found = [key(model=model) for model in (plain, straight, cut)]
    assert found[0] == found[1] != found[2]


def test_the_machine_counts_where_it_changes_numbers_and_leaves_no_word_where_it_does_not():
    model, rows = mlp().float(), Rows.all_of(CASE.data(30))
    engine = Engine(Task(), seed=0, besides=Mask.empty(model))
    told = keys.facts(model, rows, "", PLAN, 3, engine, kind="oracle")
    assert set(told) == {
        *("excise", "torch", "weights", "trainable", "architecture", "computed", "rows", "plan", "seed", "threads"),
        *("device", "kind"),
    }  # as ever: banks of earlier versions are found
    assert "augment" not in told["plan"]
    plain = key(model=model)
    same = [
        Machine(workers=4),
        Machine(precision="float32"),
        Machine(layout="channels-last"),
        Machine(on_device="always"),
    ]
    assert {key(model=model, machine=machine) for machine in same} == {plain}  # no convolution here
    others = [Machine(precision="bfloat16"), Machine(compiled="always")]
    augmented = key(model=model, plan=changed(PLAN, augment=Augment()))
    assert len({plain, augmented, *(key(model=model, machine=machine) for machine in others)}) == 4


def test_rows_that_workers_read_have_keys_of_their_own():
    """What they draw is drawn otherwise; of a set that draws nothing the networks are the same, and trained twice."""
    rows = Rows.all_of(Watched(*CASE.data(30)))
    ahead = Rows(DatasetSource(rows.source.dataset, 2), rows.ids)
    more = Rows(DatasetSource(rows.source.dataset, 5), rows.ids)
    assert key(rows=ahead) == key(rows=more) != key(rows=rows)
