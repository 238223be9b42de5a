import pytest
import torch

from excise.masks import Mask
from excise.testing.problems import FORGET, PROBLEMS, booleans, mask_of
from tests.probes import raw, same_bytes, snapshot

every_problem = pytest.mark.parametrize("name", PROBLEMS)


@every_problem
def test_a_problem_is_the_same_each_time_and_draws_nothing_from_the_world(name):
    before = torch.get_rng_state()
    one, other = (PROBLEMS[name]().make() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same_bytes(snapshot(one), snapshot(other))
    assert {value.dtype for value in one.parameters()} == {torch.float64}
    assert [torch.equal(a, b) for a, b in zip(PROBLEMS[name]().arrays(), PROBLEMS[name]().arrays(), strict=True)] == [
        True,
        True,
    ]


@every_problem
def test_rows_fit_the_network_and_the_sets_differ(name):
    problem = PROBLEMS[name]()
    split = problem.split()
    assert (len(split.train), len(split.test), len(split.holdout)) == (32, 12, 16)
    assert split.forget.ids.tolist() == sorted(FORGET)
    inputs, labels = problem.arrays()
    assert problem.make()(inputs).shape == (32, problem.num_classes)
    assert int(labels.min()) == 0 and int(labels.max()) == problem.num_classes - 1
    assert not torch.equal(problem.arrays(12, 22)[0], inputs[:12])


@every_problem
def test_an_untrained_network_is_another_one(name):
    problem = PROBLEMS[name]()
    trained, fresh = snapshot(problem.make()), snapshot(problem.untrained())
    assert trained.keys() == fresh.keys()
    assert any(not torch.equal(raw(trained[key]), raw(fresh[key])) for key in trained)


@every_problem
def test_masks_are_of_their_kind(name):
    model = PROBLEMS[name]().make()
    for kind in ("rows", "weights", "modules", "mixed"):
        mask = mask_of(model, kind)
        assert 0 < mask.num_selected < mask.num_parameters
        assert mask == Mask.from_tensors(booleans(model, kind)) == mask_of(model, kind)
    for key, value in booleans(model, "rows").items():
        flat = value.reshape(len(value), -1)
        assert bool((flat.all(1) == flat.any(1)).all()), key
    assert all(bool(value.all() == value.any()) for value in booleans(model, "modules").values())
    assert any(mask_of(model, "weights").entry(key).numel() > value.shape[0] for key, value in model.named_parameters())


def test_two_names_are_one_parameter_in_the_tied_problem():
    model = PROBLEMS["tied"]().make()
    assert model.head.weight is model.embed.weight
