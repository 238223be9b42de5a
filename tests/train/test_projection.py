"""Updates confined to a subspace of each row, against a naive projector of every single row."""

from itertools import product

import pytest
import torch
from torch import nn

from excise import errors
from excise.masks import Mask
from excise.train import Directions
from excise.train.masked import enforced
from excise.train.projection import projection_digest

PLANS = {
    "sgd": lambda leaves: torch.optim.SGD(leaves, lr=0.1, weight_decay=0.1),
    "momentum": lambda leaves: torch.optim.SGD(leaves, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda leaves: torch.optim.Adam(leaves, lr=0.01, weight_decay=0.1),
    "adamw": lambda leaves: torch.optim.AdamW(leaves, lr=0.01, weight_decay=0.1, foreach=False),
}


def vectors(groups, width, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(groups, width, width, generator=draws, dtype=torch.float64)).Q


def network(groups=1):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(4, 6, 2, groups=groups), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)).double()


def numbers(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(seed=1):
    return numbers(8, 4, 3, 3, seed=seed)


def masks(model):
    """Give the first weight whole, by rows, and by single weights, one row with none free and one with all."""
    rows = torch.tensor([True, False, True, True, False, True]).reshape(6, 1, 1, 1)
    single = torch.rand(model[0].weight.shape, generator=torch.Generator().manual_seed(2)) < 0.6
    single[1], single[2] = False, True
    shape = model[0].weight.shape
    return {"whole": torch.ones(shape, dtype=torch.bool), "rows": rows.expand(shape), "weights": single}


def train(model, mask, projection, make, *, steps=12, slow=None, clip=0.5):
    with enforced(model, mask, "hold", slow, projection=projection) as free:
        optimizer = make(free.leaves)
        for step in range(steps):
            loss = model(inputs(step)).square().sum() + model(inputs(step)).logsumexp(1).sum()
            free.backward(loss)
            free.step(optimizer, clip)
            optimizer.zero_grad()
    return model


def naive_projector(directions, free):
    """Give the orthogonal projector on the vectors of the free coordinates that are orthogonal to all directions."""
    width = len(free)
    constraints = torch.cat([directions.T, torch.eye(width, dtype=torch.float64)[~free]])
    return torch.eye(width, dtype=torch.float64) - torch.linalg.pinv(constraints, rtol=1e-10) @ constraints


@pytest.mark.parametrize(
    ("name", "kind", "groups", "rank"), list(product(PLANS, ["whole", "rows", "weights"], [1, 2], [2, 6]))
)
def test_no_step_of_any_optimizer_leads_out_of_the_subspace(name, kind, groups, rank):
    model = network(groups)
    width = model[0].weight[0].numel()
    basis = vectors(groups, width)
    before, chosen = model[0].weight.detach().clone(), masks(model)[kind]
    mask = Mask.from_tensors({key: chosen if key == "0.weight" else torch.ones_like(value, dtype=torch.bool)
                              for key, value in model.named_parameters()})  # fmt: skip
    slow = (Mask.where(model, lambda key: key == "0.weight"), 0.5)
    ranks = [rank, rank + 1][:groups]
    train(model, mask, {"0.weight": Directions.first(basis, ranks)}, PLANS[name], slow=slow)
    delta = (model[0].weight.detach() - before).reshape(groups, -1, width)
    taken = [basis[group][:, :one] for group, one in enumerate(ranks)]
    for part, directions, free in zip(delta, taken, chosen.reshape(groups, -1, width), strict=True):
        assert (part @ directions).norm() < 1e-12
        for row, own in zip(part, free, strict=True):
            assert torch.equal(row[~own], torch.zeros_like(row[~own]))
            room = naive_projector(directions, own).trace()
            assert (row.norm() > 1e-4) == (room > 0.5)


@pytest.mark.parametrize(("kind", "groups", "rank"), list(product(["whole", "rows", "weights"], [1, 2], [1, 3, 7])))
def test_one_step_is_the_naive_projection_of_the_plain_step(kind, groups, rank):
    plain, confined = network(groups), network(groups)
    width, start = plain[0].weight[0].numel(), plain[0].weight.detach().clone()
    basis, chosen = vectors(groups, width), masks(plain)[kind]
    mask = Mask.from_tensors({key: chosen if key == "0.weight" else torch.zeros_like(value, dtype=torch.bool)
                              for key, value in plain.named_parameters()})  # fmt: skip
    train(plain, mask, None, PLANS["sgd"], steps=1, clip=None)
    train(confined, mask, {"0.weight": Directions.first(basis, [rank] * groups)}, PLANS["sgd"], steps=1, clip=None)
    wanted, found = ((model[0].weight.detach() - start).reshape(groups, -1, width) for model in (plain, confined))
    for group, rows in enumerate(chosen.reshape(groups, -1, width)):
        for row, free in enumerate(rows):
            projected = naive_projector(basis[group][:, :rank], free) @ wanted[group, row]
            assert torch.allclose(found[group, row], projected, rtol=0, atol=1e-13)


def test_nothing_taken_is_the_plain_training_to_the_bit_and_everything_taken_is_none():
    plain, none, all_of_it = network(), network(), network()
    start = plain[0].weight.detach().clone()
    train(plain, Mask.full(plain), None, PLANS["momentum"])
    some = Directions.first(vectors(1, 16), [0])
    train(none, Mask.full(none), {"0.weight": some}, PLANS["momentum"])
    assert some.nothing and not some.everything
    assert all(torch.equal(one, other) for one, other in zip(none.parameters(), plain.parameters(), strict=True))
    full = Directions.first(vectors(1, 16), [16])
    train(all_of_it, Mask.full(all_of_it), {"0.weight": full}, PLANS["momentum"])
    assert full.everything and torch.equal(all_of_it[0].weight, start)


@pytest.mark.parametrize("rank", range(6))
def test_the_smaller_of_the_two_bases_is_held_and_says_the_same(rank):
    every = vectors(2, 5)
    found = Directions.first(every, [rank, 2])
    assert found.basis.shape[2] == min(max(rank, 2), 5 - min(rank, 2)) or not found.taken
    for group, number in enumerate([rank, 2]):
        inside = every[group][:, :number]
        projector, own = inside @ inside.T, found.basis[group] @ found.basis[group].T
        own = own if found.taken else torch.eye(5, dtype=torch.float64) - own
        spanned = found.spanning()[group]
        for one in (own, spanned @ spanned.T):
            assert torch.allclose(one, projector, atol=1e-14)
            assert torch.allclose(one @ one, one, atol=1e-14) and abs(one.trace() - number) < 1e-12


def test_low_precision_does_not_drift():
    """The update is held to the subspace from where the training began: rounding does not add up from step to step."""
    model, basis = network().float(), vectors(1, 16)
    before = model[0].weight.detach().double().reshape(6, 16)

    def after(steps):
        with enforced(model, Mask.full(model), "hold", projection={"0.weight": Directions.first(basis, [5])}) as free:
            optimizer = torch.optim.SGD(free.leaves, lr=1e-3)
            for step in range(steps):
                free.backward((model(inputs(step).float()) * numbers(8, 3, seed=step).float()).sum())
                free.step(optimizer, None)
                optimizer.zero_grad()
        return float(((model[0].weight.detach().double().reshape(6, 16) - before) @ basis[0][:, :5]).norm())

    assert after(400) < 1e-7  # one rounding of weights of size 0.25 in 96 places; 20 times that if roundings added up


def test_directions_of_another_network_are_refused():
    model = network(2)
    for wrong in (Directions.first(vectors(2, 16), [1, 1]), Directions.first(vectors(4, 8), [1] * 4)):
        with (
            pytest.raises(
                errors.BadRequest, match=r"projection of '0.weight': expected . groups of rows of \d+ weights"
            ),
            enforced(model, Mask.full(model), "hold", projection={"0.weight": wrong}),
        ):
            pass


def test_single_weights_that_would_take_too_much_memory_are_refused(monkeypatch):
    monkeypatch.setattr("excise.train.projection.MAX_BYTES", 1000)
    model = network()
    mask = Mask.from_tensors({key: torch.rand(value.shape) < 0.5 for key, value in model.named_parameters()})
    with (
        pytest.raises(
            errors.BadRequest, match=r"'0.weight': a mask of single weights needs a basis for each of 6 rows"
        ),
        enforced(model, mask, "hold", projection={"0.weight": Directions.first(vectors(1, 16), [8])}),
    ):
        pass


def test_the_digest_tells_directions_apart():
    every = vectors(1, 4)
    found = {projection_digest({"a": Directions.first(every, [rank])}) for rank in range(5)}
    assert len(found) == 5 and projection_digest({"b": Directions.first(every, [2])}) not in found
