import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise import params, seeds
from tests.cases import CASES

words = st.one_of(st.integers(0, 50), st.text("abcdefgh-", min_size=1, max_size=6))
purposes = st.tuples(st.integers(-5, 50), st.lists(words, max_size=3).map(tuple))


def states():
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - the legacy generator is what is tested


def equal(one, other):
    return (
        torch.equal(one[0], other[0])
        and all(np.array_equal(a, b) for a, b in zip(one[1], other[1], strict=True))
        and one[2] == other[2]
    )


def draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]  # noqa: NPY002


@given(purposes, purposes)
def test_different_purposes_have_different_seeds(one, other):
    seed_one, seed_other = seeds.derive(one[0], *one[1]), seeds.derive(other[0], *other[1])
    spelled = [(str(seed), *map(str, words)) for seed, words in (one, other)]
    assert (seed_one == seed_other) == (spelled[0] == spelled[1])
    assert 0 <= seed_one < 2**63


def test_a_seed_is_the_first_63_bits_of_a_hash_of_the_words():
    whole = int(hashlib.sha256(b"7\x1foracle\x1f3").hexdigest(), 16)
    assert seeds.derive(7, "oracle", 3) == whole >> (256 - 63)


def test_the_border_between_words_counts():
    assert (
        len({seeds.derive(1, "ab", "c"), seeds.derive(1, "a", "bc"), seeds.derive(1, "abc"), seeds.derive(11, "bc")})
        == 4
    )


def test_seeds_of_neighbouring_runs_look_unrelated():
    bits = np.array([[seeds.derive(seed, "loop") >> bit & 1 for bit in range(63)] for seed in range(400)])
    # 63 means of 400 fair coins: a deviation of 5 standard errors has a chance of 4e-5 in all
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(400)
    flips = (bits[1:] != bits[:-1]).mean()
    assert abs(flips - 0.5) < 5 * 0.5 / np.sqrt(399 * 63)


def test_a_generator_is_the_seeded_one_and_moves_nothing_global():
    before = states()
    twin = torch.Generator().manual_seed(seeds.derive(3, "x"))
    assert torch.equal(torch.rand(5, generator=seeds.generator(3, "x")), torch.rand(5, generator=twin))
    assert not torch.equal(
        torch.rand(5, generator=seeds.generator(3, "x")), torch.rand(5, generator=seeds.generator(3, "y"))
    )
    assert equal(states(), before)


def test_the_same_seed_gives_the_same_numbers_whatever_was_drawn_before():
    with seeds.isolated(4, "a"):
        first = draws()
    draws()
    with seeds.isolated(4, "a"):
        assert draws() == first
    with seeds.isolated(4, "b"):
        other = draws()
    with seeds.isolated(5, "a"):
        another = draws()
    for stream in range(3):
        assert len({tuple(numbers[stream]) for numbers in (first, other, another)}) == 3


def test_the_global_generators_go_on_as_if_nothing_had_happened():
    before = states()
    with seeds.isolated(0):
        draws()
        with seeds.isolated(1, "inner"):
            draws()
        inner = states()
        with seeds.isolated(2):
            torch.manual_seed(9)
            np.random.seed(9)  # noqa: NPY002
            random.seed(9)
        assert equal(states(), inner)
    assert equal(states(), before)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_global_generators_are_restored_after_a_failure(kind):
    before = states()
    with pytest.raises(kind, match="inside"), seeds.isolated(0, "x"):
        draws()
        raise kind("inside")
    assert equal(states(), before)


def test_it_can_decorate_a_function_that_draws():
    before = states()
    drawn = [seeds.isolated(8)(draws)() for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert equal(states(), before)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_table_of_networks_moves_nothing_global_and_repeats(case):
    before = states()
    digests = {params.model_digest(case.make()) for _ in range(2)}
    data = {params.digest(dict(zip("xy", case.data(9), strict=True))) for _ in range(2)}
    assert len(digests) == len(data) == 1
    assert equal(states(), before)


@pytest.mark.parametrize("used", [0, 1, 7])
def test_generators_put_back_draw_what_they_would_have_drawn(used):
    def draw():
        of_numpy = [np.random.random(), np.random.standard_normal()]  # noqa: NPY002
        return [*torch.rand(3).tolist(), torch.randn(1).item(), *of_numpy, random.random(), random.gauss(0, 1)]

    with seeds.isolated(3, "states"):
        for _ in range(used):
            draw()
        kept = {name: value.clone() for name, value in seeds.states().items()}
        wanted = [draw() for _ in range(3)]
        assert [draw() for _ in range(3)] != wanted
        seeds.restore_(kept)
        assert [draw() for _ in range(3)] == wanted
        assert all(value.device.type == "cpu" for value in kept.values())


def test_each_accelerator_has_its_state(monkeypatch):
    given, put = {}, []

    class Module:
        def get_rng_state(self, number=None):
            return torch.tensor([number or 0], dtype=torch.uint8)

        def set_rng_state(self, state, number=None):
            put.append((number, state.item()))

    monkeypatch.setattr(torch, "get_device_module", Module)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for count, expected in ((1, [(None, 0)]), (2, [(0, 0), (1, 1)])):
        put.clear()
        monkeypatch.setattr(torch.accelerator, "device_count", lambda count=count: count)
        given = seeds.states()
        seeds.restore_(given)
        assert put == expected
