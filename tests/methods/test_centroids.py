import pytest
import torch
from torch.nn import functional

from excise import errors, params
from excise.data import Split
from excise.methods.centroids import (
    Centroids,
    centroids_of,
    cosine_distances,
    directions,
    nearest_wrong_of,
    require_others,
)
from excise.train import Task, forward_pair
from tests.cases import CASES
from tests.probes import LeftAlone, engine_for, touched


def draws(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_distances_are_those_of_torch(dtype):
    vectors, others = draws(7, 5, dtype=dtype), draws(4, 5, seed=1, dtype=dtype)
    expected = 1 - functional.cosine_similarity(vectors[:, None], others[None], dim=2)
    torch.testing.assert_close(cosine_distances(vectors, others), expected)


def test_scale_changes_nothing_to_the_bit_for_powers_of_two():
    vectors, others = draws(7, 5), draws(4, 5, seed=1)
    whole = cosine_distances(vectors, others)
    assert torch.equal(cosine_distances(vectors * 2.0**20, others * 2.0**-9), whole)
    torch.testing.assert_close(cosine_distances(vectors * 3.7, others / 11), whole, rtol=1e-14, atol=1e-14)


def test_a_zero_vector_is_at_distance_one_of_all_and_has_no_slope():
    vectors = draws(3, 5)
    vectors[1] = 0
    vectors.requires_grad_()
    found = cosine_distances(vectors, torch.cat([draws(2, 5, seed=1), torch.zeros(1, 5, dtype=torch.float64)]))
    assert torch.equal(found[1], torch.ones(3, dtype=torch.float64))
    assert torch.equal(found[:, 2].detach(), torch.ones(3, dtype=torch.float64))
    found.sum().backward()
    assert torch.equal(vectors.grad[1], torch.zeros(5, dtype=torch.float64))
    assert bool(vectors.grad[[0, 2]].ne(0).all())


def test_the_gradient_of_a_direction_is_the_closed_form():
    """d/dv of u . v / |v| is (u - (u . n) n) / |v| with n = v / |v|."""
    vector, goal = draws(1, 5).requires_grad_(), draws(1, 5, seed=1)
    (directions(vector) * goal).sum().backward()
    length = vector.detach().norm()
    normal = vector.detach() / length
    torch.testing.assert_close(vector.grad, (goal - (goal * normal).sum() * normal) / length)


UNIT = Centroids(torch.eye(3, dtype=torch.float64), torch.tensor([2, 2, 2]))
NEAR_FIRST = torch.tensor([[0.9, 0.4, 0.1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("own", "removed", "expected"), [(0, (), 1), (1, (), 0), (2, (), 0), (0, (1,), 2), (1, (0,), 2)]
)
def test_it_is_the_nearest_of_another_class_that_is_not_removed(own, removed, expected):
    assert UNIT.nearest_wrong(NEAR_FIRST, torch.tensor([own]), removed).tolist() == [expected]


def test_a_class_without_rows_is_never_chosen():
    """Its zeros would be at distance 1, nearer than a class on the other side."""
    means = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.1]], dtype=torch.float64)
    counts = torch.tensor([3, 0, 3])
    assert Centroids(means, counts).nearest_wrong(means[:1], torch.tensor([0])).tolist() == [2]
    assert Centroids(means, counts).nearest_wrong(means[:1], torch.tensor([1])).tolist() == [0]


def test_it_is_what_brute_force_finds():
    means, vectors, classes = draws(6, 4), draws(40, 4, seed=1), torch.arange(40) % 6
    found = Centroids(means, torch.ones(6, dtype=torch.int64)).nearest_wrong(vectors, classes, (3,))
    for row, (vector, own) in enumerate(zip(vectors, classes.tolist(), strict=True)):
        allowed = [name for name in range(6) if name not in (own, 3)]
        near = {name: float(functional.cosine_similarity(vector, means[name], dim=0)) for name in allowed}
        assert found[row] == max(near, key=near.get)


def test_permuting_the_names_of_classes_permutes_the_choice():
    means, vectors, classes = draws(6, 4), draws(40, 4, seed=1), torch.arange(40) % 6
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    moved = torch.empty_like(means)
    moved[order] = means
    ones = torch.ones(6, dtype=torch.int64)
    before, after = Centroids(means, ones), Centroids(moved, ones)
    assert torch.equal(after.nearest_wrong(vectors, order[classes]), order[before.nearest_wrong(vectors, classes)])


def test_a_row_for_which_no_class_is_left_is_refused():
    message = (
        r"^Attract: expected retain rows of another class, .*; found none for the forget rows of class 0, 1, 2; "
        r"retain rows of a second class, or name fewer as removed$"
    )
    with pytest.raises(errors.BadRequest, match=message):
        require_others(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2]), (0, 2))
    with pytest.raises(errors.BadRequest, match="of class 1;"):
        UNIT.nearest_wrong(NEAR_FIRST, torch.tensor([1]), (0, 2))
    require_others(torch.tensor([0, 1]), torch.tensor([0, 1]), ())


@pytest.mark.parametrize("size", [3, 50])
def test_centroids_are_the_means_of_all_rows_in_eval_mode_and_nothing_is_touched(size):
    case = CASES["batchnorm"]
    model, (inputs, labels) = touched(case.make()), case.data(30)
    labels = labels.where(labels != 2, 0)
    split = Split((inputs, labels), forget=[1, 4, 11, 29])
    alone, engine = LeftAlone(model), engine_for(model)
    shown = params.shadow_of(model)
    found = centroids_of(shown, split.retain, engine, head="8", batch_size=size)
    chosen = nearest_wrong_of(shown, split.forget, found, engine, head="8", batch_size=size)
    alone.check()
    assert engine.cost.forward_rows == 30
    naive = case.make().eval()[:8]
    with torch.no_grad():
        whole = naive(inputs)
    retain = torch.ones(30, dtype=torch.bool)
    retain[[1, 4, 11, 29]] = False
    for name in (0, 1, 3):
        torch.testing.assert_close(found.means[name], whole[retain & (labels == name)].mean(0), rtol=1e-12, atol=1e-12)
        assert found.counts[name] == int((retain & (labels == name)).sum())
    assert found.counts[2] == 0 and not found.means[2].any()
    assert torch.equal(chosen, found.nearest_wrong(whole[[1, 4, 11, 29]], labels[[1, 4, 11, 29]]))


def test_permuting_the_labels_names_permutes_the_centroids_to_the_bit():
    case, order = CASES["mlp"], torch.tensor([2, 0, 3, 1])
    model, (inputs, labels) = case.make(), case.data(30)
    one, other = (
        centroids_of(model, Split((inputs, names), forget=[1, 4]).retain, engine_for(model), head="4", batch_size=7)
        for names in (labels, order[labels])
    )
    assert torch.equal(other.means[order], one.means) and torch.equal(other.counts[order], one.counts)


@pytest.mark.parametrize("ask", [centroids_of, None])
def test_targets_that_are_no_classes_are_refused(ask):
    model = CASES["mlp"].make()
    split = Split(CASES["mlp"].data(20), forget=[0, 1])
    task = Task(lambda network, content: (forward_pair(network, content)[0], content[1].double()))
    engine = engine_for(model, task=task)
    with pytest.raises(errors.BadData, match=r"^Attract: expected one integer class a row, .*use another method"):
        if ask is None:
            nearest_wrong_of(model, split.forget, UNIT, engine, head="4", batch_size=8)
        else:
            centroids_of(model, split.retain, engine, head="4", batch_size=8)
