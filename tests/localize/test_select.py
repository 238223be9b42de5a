import math
import struct
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from excise import errors
from excise.localize.select import budget_in_weights, kth_largest, rank_channels, select_channels, select_weights
from tests.naive.localization import greedy_channels

TINY = {32: 2.0**-149, 64: 2.0**-1074}  # the smallest positive numbers there are


def nonnegative(width):
    """Nonnegative floats of a width, ties and edges likely."""
    edges = [0.0, -0.0, TINY[width], 3 * TINY[width], 1.0, 2.0, math.nextafter(1.0, 2.0), 3.0e38]
    known = [value for value in edges if width == 64 or struct.unpack("f", struct.pack("f", value))[0] == value]
    return st.one_of(st.sampled_from(known), st.floats(min_value=0, allow_nan=False, allow_infinity=False, width=width))


def parts(width, *, max_size=12):
    dtype = torch.float32 if width == 32 else torch.float64
    one = st.lists(nonnegative(width), max_size=max_size).map(lambda values: torch.tensor(values, dtype=dtype))
    return st.lists(one, min_size=1, max_size=4).filter(lambda tensors: sum(map(len, tensors)) > 0)


@given(st.one_of(parts(32), parts(64)), st.data())
@example([torch.tensor([-0.0, 0.0, 1.0])], None)
@example([torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([-0.0, 1.0], dtype=torch.float64)], None)
def test_the_kth_largest_is_the_kth_of_the_sorted(tensors, data):
    values = sorted((value for tensor in tensors for value in tensor.tolist()), reverse=True)
    ks = range(1, len(values) + 1) if data is None else [data.draw(st.integers(1, len(values)))]
    for k in ks:
        assert kth_largest(tensors, k) == values[k - 1]


def test_the_kth_largest_of_many_mixed_magnitudes():
    draws = torch.Generator().manual_seed(0)
    for dtype, span in ((torch.float32, 40), (torch.float64, 600)):
        tensors = [(torch.randn(3000, generator=draws, dtype=torch.float64) * span).exp2().to(dtype) for _ in range(3)]
        values = torch.cat(tensors).sort(descending=True).values
        for k in (1, 2, 1000, 4500, 8999, 9000):
            assert kth_largest(tensors, k) == float(values[k - 1])


def test_the_kth_largest_of_half_precision_and_of_mixed_precisions():
    tensors = [torch.tensor([0.5, 3.0], dtype=torch.bfloat16), torch.tensor([1e-300, 2.0], dtype=torch.float64)]
    assert [kth_largest(tensors, k) for k in (1, 2, 3, 4)] == [3.0, 2.0, 0.5, 1e-300]


@pytest.mark.parametrize("k", [0, 4, -1])
def test_a_rank_beyond_the_elements_is_refused(k):
    with pytest.raises(errors.BadRequest, match=f"^k: expected 1 to 3, found {k}$"):
        kth_largest([torch.ones(2), torch.ones(1)], k)


@pytest.mark.parametrize("lowest", [False, True])
@given(st.one_of(parts(32), parts(64)), st.data())
def test_weights_are_the_prefix_of_a_stable_sort(lowest, tensors, data):
    scores = {f"p{place}": tensor for place, tensor in enumerate(tensors)}
    flat = [(value, place) for place, value in enumerate(v for tensor in tensors for v in tensor.tolist())]
    budget = data.draw(st.integers(0, len(flat)))
    wanted = {place for _, place in sorted(flat, key=lambda pair: (pair[0] * (1 if lowest else -1), pair[1]))[:budget]}
    chosen = torch.cat(list(select_weights(scores, budget, lowest=lowest).values()))
    assert set(chosen.nonzero().flatten().tolist()) == wanted
    assert int(chosen.sum()) == budget


def test_weights_of_any_layout_in_memory_are_chosen_alike():
    draws = torch.Generator().manual_seed(0)
    plain = torch.randint(3, (4, 3, 2, 2), generator=draws).double()  # full of ties
    for budget in range(49):
        first = select_weights({"w": plain}, budget)["w"]
        for other in (plain.to(memory_format=torch.channels_last), plain.transpose(0, 3).contiguous().transpose(0, 3)):
            assert not other.is_contiguous()
            assert torch.equal(select_weights({"w": other}, budget)["w"], first)


@st.composite
def channel_problems(draw):
    names = [f"p{place}" for place in range(draw(st.integers(1, 4)))]
    sizes = {name: draw(st.integers(1, 9)) for name in names}
    score = st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(min_value=0, max_value=10))
    channels = {name: draw(st.lists(score, min_size=1, max_size=6)) for name in names}
    total = sum(sizes[name] * len(channels[name]) for name in names)
    return channels, sizes, draw(st.integers(0, total + 3))


@pytest.mark.parametrize("lowest", [False, True])
@given(channel_problems())
def test_channels_are_the_greedy_prefix(lowest, problem):
    channels, sizes, budget = problem
    listed = [(name, row) for name in channels for row in range(len(channels[name]))]
    sign = -1 if lowest else 1
    taken, missed = greedy_channels([(sign * channels[name][row], sizes[name]) for name, row in listed], budget)
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in channels.items()}
    rows, cut = select_channels(rank_channels(tensors, lowest=lowest), sizes, budget)
    assert {(name, row) for name in rows for row in rows[name].nonzero().flatten().tolist()} == {
        listed[i] for i in taken
    }
    assert cut == (None if missed is None else (*listed[missed[0]], missed[1]))
    spent = sum(sizes[name] * int(rows[name].sum()) for name in rows)
    assert spent <= budget
    if cut is not None:
        assert 0 < cut.num_weights == budget - spent < sizes[cut.name]


@pytest.mark.parametrize("lowest", [False, True])
@given(channel_problems(), st.integers(0, 60))
def test_a_larger_budget_gives_a_superset(lowest, problem, more):
    channels, sizes, budget = problem
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in channels.items()}
    small, _ = select_channels(rank_channels(tensors, lowest=lowest), sizes, budget)
    large, _ = select_channels(rank_channels(tensors, lowest=lowest), sizes, budget + more)
    assert all(not bool((small[name] & ~large[name]).any()) for name in small)


def test_a_channel_that_does_not_fit_ends_the_choice_though_a_smaller_one_would():
    channels = {"big": torch.tensor([3.0, 2.0]), "small": torch.tensor([1.0])}
    rows, cut = select_channels(rank_channels(channels), {"big": 4, "small": 1}, 6)
    assert rows["big"].tolist() == [True, False]
    assert rows["small"].tolist() == [False]
    assert cut == ("big", 1, 2)


@given(st.integers(1, 10**8), st.integers(0, 1000))
@example(30, 100)
@example(10, 700)
@example(11_173_962, 300)
def test_a_budget_in_thousandths_is_the_exact_floor(num_weights, thousandths):
    exact = math.floor(Fraction(thousandths, 1000) * num_weights)
    assert budget_in_weights(thousandths / 1000, num_weights) == exact


@pytest.mark.parametrize(
    ("fraction", "num_weights", "budget"),
    [
        (0.1, 30, 3),
        (0.29, 100, 29),
        (0.7, 10, 7),
        (1 / 3, 3, 1),
        (0.3, 11_173_962, 3_352_188),
        (0.999, 10, 9),
        (0.0, 9, 0),
    ],
)
def test_budgets_that_rounding_would_spoil(fraction, num_weights, budget):
    assert budget_in_weights(fraction, num_weights) == budget
