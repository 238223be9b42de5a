"""Nearest neighbours against brute force, and the rule for what is near against what happens by chance."""

import pytest
import torch

from excise.data.sets import load
from excise.diagnosis.neighbours import MAX_NUMBERS, NEAR_FRACTION, Neighbours, drawn, features


def search(forget, retain, num_references=100):
    """Run a search over retain rows with ids 0, 1, ..., in uneven chunks."""
    references = drawn(torch.arange(len(retain)), num_references, 0, "reference")
    found = Neighbours(list(range(len(forget))), forget, references, retain[references])
    for ids in torch.arange(len(retain)).split(37):
        found.meet("retain", retain[ids], ids)
    return found


def test_distances_are_those_of_brute_force():
    draws = torch.Generator().manual_seed(0)
    forget, retain = torch.randn(30, 5, generator=draws) + 100, torch.randn(200, 5, generator=draws) + 100
    forget[3] = retain[77]
    found = search(forget, retain)
    wanted = torch.stack([(one.double() - retain.double()).norm(dim=1).min() for one in forget])
    torch.testing.assert_close(found.best["retain"].double(), wanted, rtol=1e-4, atol=1e-4)  # float32 beside float64
    assert found.best["retain"][3] == 0  # not merely small, though far from the origin
    among = torch.cdist(retain.double(), retain.double()).fill_diagonal_(torch.inf).min(1).values[found.references]
    torch.testing.assert_close(found.around.double(), among, rtol=1e-4, atol=1e-4)
    assert found.threshold == pytest.approx(NEAR_FRACTION * float(found.around.median()))
    assert found.near("retain") == [3] and found.near("test") == [] and found.usual_fraction == 0
    assert found.num_met == {"retain": 200}


def test_the_rule_on_digits():
    digits = load("digits")
    inputs, unseen = features(digits.train[0]), features(digits.test[0])
    found = search(unseen, inputs, 500)
    assert found.near("retain") == [] and found.usual_fraction == 0  # no digit has one by nature
    draws = torch.Generator().manual_seed(0)
    for noise, number in ((0.005, 200), (0.01, 200), (0.02, 0), (0.1, 0)):  # of the range from 0 to 1
        copies = inputs[:200] + noise * torch.randn(200, 64, generator=draws)
        assert len(search(copies, inputs, 500).near("retain")) == number, noise
    assert len(search((inputs[:200] * 255).round() / 255, inputs, 500).near("retain")) == 200


@pytest.mark.parametrize(("dimensions", "most"), [(4, 2), (8, 0)])
def test_chance_makes_hardly_a_near_copy(dimensions, most):
    rows = torch.randn(3000, dimensions, generator=torch.Generator().manual_seed(1))
    assert len(search(rows[:1000], rows[1000:], 500).near("retain")) <= most


def test_long_rows_are_sketched_and_keep_their_distances():
    draws = torch.Generator().manual_seed(2)
    images = torch.rand(40, 3, 32, 32, generator=draws)
    found = features(images)
    assert found.shape == (40, MAX_NUMBERS) and torch.equal(found, features(images))
    ratio = torch.pdist(found) / torch.pdist(images.flatten(1))
    assert ratio.mean().item() == pytest.approx(1, abs=0.01) and ratio.std().item() == pytest.approx(0.022, abs=0.005)
    assert torch.equal(features(images[3:4])[0], found[3])


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(3, 5, dtype=torch.int64),
        torch.zeros(3, 5, dtype=torch.bool),
        torch.zeros(3, 3),
        ("a", "b"),
        {"a": 1},
    ],
)
def test_tokens_short_rows_and_texts_have_no_distances(inputs):
    assert features(inputs) is None


def test_bytes_have():
    assert torch.equal(features(torch.full((1, 2, 2), 255, dtype=torch.uint8)), torch.full((1, 4), 255.0))


def test_too_few_rows_to_know_what_is_near():
    rows = torch.randn(19, 5, generator=torch.Generator().manual_seed(3))
    assert search(rows[:1] + 1e-6, rows).threshold == 0
    assert search(rows[:1] + 1e-6, rows).near("retain") == []


def test_rows_that_stand_there_twice_do_not_make_the_rule():
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(4))
    doubled = torch.cat([rows, rows[:30], rows[:30] * 1])
    found = search(rows[:1], doubled, 120)
    assert found.threshold > 0.01


def test_a_sample_is_drawn_once_and_in_order():
    ids = torch.arange(5, 105)
    assert torch.equal(drawn(ids, 100, 0, "a"), ids)
    some = drawn(ids, 10, 0, "a")
    assert (
        len(set(some.tolist())) == 10
        and some.tolist() == sorted(some.tolist())
        and set(some.tolist()) <= set(ids.tolist())
    )
    assert torch.equal(some, drawn(ids, 10, 0, "a")) and not torch.equal(some, drawn(ids, 10, 1, "a"))
