"""What is observed is what each network says, network by network; parts of a split; refusals."""

import numpy as np
import pytest
import torch
from torch import nn

from excise import errors
from excise.attribution import observe
from excise.attribution.observed import parts_of
from excise.attribution.origin import row_digests
from excise.data import Rows, Split
from excise.masks import Mask
from excise.measure import margins
from excise.oracles import Halves, Trained
from excise.params import state_of
from excise.train import Engine, Task


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def engine(task=None):
    return Engine(task or Task(), 0, Mask.empty(mlp()))


def trained(num_models=3):
    networks = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(num_models):
            networks.append(mlp())
            networks[-1](torch.randn(9, 3))  # moves the running statistics
    return networks


def halves(networks, num_rows=8):
    keep = np.zeros((len(networks), num_rows), dtype=bool)
    keep[:, ::2] = True
    states = [Trained(7, state_of(one), 1.5, 10) for one in networks]
    return Halves(np.arange(num_rows), keep, states)


def split():
    draws = torch.Generator().manual_seed(1)
    data = torch.randn(8, 3, generator=draws), torch.arange(8) % 2
    return Split(data, forget=[0], test=(torch.randn(5, 3, generator=draws), torch.arange(5) % 2))


def test_every_network_is_asked_of_every_row_in_eval_mode():
    networks, own = trained(), engine()
    parts = parts_of(split())
    found = observe(mlp, halves(networks), parts, own)
    for name, rows in parts.items():
        inputs, labels = rows.source.read(rows.ids)
        answers = found.answers[name]
        assert torch.equal(answers.ids, rows.ids) and torch.equal(answers.content, row_digests(rows))
        for place, network in enumerate(networks):
            with torch.no_grad():
                wanted = network.eval()(inputs)
            assert torch.equal(answers.logits[:, place], wanted)
            sure = margins(wanted.double().numpy(), labels.numpy())
            np.testing.assert_allclose(answers.margins[:, place].numpy(), sure, rtol=1e-6)
    assert (found.num_models, found.seconds, found.trained_rows, found.forward_rows) == (3, 4.5, 30, 39)
    assert own.cost.forward_rows == 39


def test_the_first_networks_are_as_if_there_were_no_others():
    networks, parts = trained(4), parts_of(split())
    few = observe(mlp, halves(networks), parts, engine()).first(2)
    wanted = observe(mlp, halves(networks[:2]), parts, engine())
    assert torch.equal(few.keep, wanted.keep) and few.seconds == wanted.seconds
    assert (few.trained_rows, few.forward_rows) == (wanted.trained_rows, wanted.forward_rows)
    for name in parts:
        assert torch.equal(few.answers[name].logits, wanted.answers[name].logits)
        assert torch.equal(few.answers[name].margins, wanted.answers[name].margins)
    with pytest.raises(errors.BadRequest, match="num_models: expected at most the 2 there are, found 3"):
        few.first(3)


def test_targets_that_are_no_classes_have_no_margins():
    def forward(model, batch):
        return model(batch[0]), batch[0]

    task = Task(forward, lambda logits, targets: (logits[:, 0] - targets[:, 0]) ** 2)
    rows = {"train": split().train}
    assert observe(mlp, halves(trained()), rows, engine(task)).answers["train"].margins is None


def test_what_cannot_be_a_datamodels_output_is_refused():
    rows = {"train": split().train}
    broken = trained(2)
    with torch.no_grad():
        broken[1][2].weight.fill_(3e38)  # a loss that overflowed
    with pytest.raises(
        errors.Diverged, match="network 2 on a half of the rows gives logits that are not finite on 'train'"
    ):
        observe(mlp, halves(broken), rows, engine())

    def forward(model, batch):
        return model(batch[0])[:, None], batch[1]

    task = Task(forward, lambda logits, targets: logits[:, 0, 0] * targets)
    with pytest.raises(errors.UnsupportedModel, match=r"datamodel: expected logits .rows, classes., found .8, 1, 2."):
        observe(mlp, halves(trained()), rows, engine(task))


def test_parts_are_those_of_a_split_or_as_they_are_named():
    whole = split()
    assert list(parts_of(whole)) == ["train", "test"] and parts_of(whole)["train"] is whole.train
    assert list(parts_of(whole.train)) == ["train"]
    named = {"train": whole.train, "shop": whole.test, "none": Rows(whole.train.source, whole.train.ids[:0])}
    assert list(parts_of(named)) == ["train", "shop"]
    for wrong in ({"test": whole.test}, 3, None):
        with pytest.raises(
            errors.BadRequest, match="rows: expected a Split, Rows, or Rows by name with 'train' among them"
        ):
            parts_of(wrong)
