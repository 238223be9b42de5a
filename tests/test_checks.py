import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise import checks, errors


def twin(given_ids, num_rows):
    """Sorted unique ids, or what is wrong, decided one element at a time and in the order of the documented refusals."""
    if any(value < 0 for value in given_ids):
        return "ids that are negative", [i for i, value in enumerate(given_ids) if value < 0]
    if any(value >= num_rows for value in given_ids):
        return "ids that are out of range", [i for i, value in enumerate(given_ids) if value >= num_rows]
    again = [i for i, value in enumerate(given_ids) if value in given_ids[:i]]
    if again:
        return "ids that were given before", again
    return sorted(given_ids)


ids_and_rows = st.integers(1, 30).flatmap(
    lambda num_rows: st.tuples(st.lists(st.integers(-2, num_rows + 1), max_size=12), st.just(num_rows))
)


@given(ids_and_rows, st.sampled_from([list, tuple, np.array, torch.tensor]))
def test_ids_are_those_of_a_naive_reading(pair, kind):
    values, num_rows = pair
    wanted = twin(values, num_rows)
    if isinstance(wanted, list):
        found = checks.as_ids("forget", kind(values), num_rows)
        assert found.dtype == torch.int64 and found.tolist() == wanted
        return
    what, places = wanted
    with pytest.raises(errors.BadSplit) as caught:
        checks.as_ids("forget", kind(values), num_rows)
    message = str(caught.value)
    assert message.startswith(f"forget: found {len(places)} {what} (at position")
    shown = re.search(r"at positions? ([\d, ]+) of (\d+)", message)
    assert [int(place) for place in shown[1].split(", ")] == places[:5]
    assert int(shown[2]) == len(values)


@given(st.lists(st.integers(0, 40), unique=True, max_size=12))
def test_every_way_to_write_the_same_ids_gives_the_same_tensor(values):
    wanted = sorted(values)
    ways = [
        values,
        set(values),
        frozenset(values),
        [np.int64(value) for value in values],
        np.array(values, dtype=np.uint8),
        np.array(values, dtype=np.int32)[::-1],
        torch.tensor(values, dtype=torch.int16),
        torch.tensor(values, dtype=torch.int64).repeat_interleave(2)[::2],
    ]
    for way in ways:
        assert checks.as_ids("forget", way, 41).tolist() == wanted, type(way)
    assert checks.as_ids("forget", range(2, 9, 3), 41).tolist() == [2, 5, 8]


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_mask_is_the_places_where_it_is_true(flags):
    wanted = [place for place, flag in enumerate(flags) if flag]
    for way in (flags, tuple(flags), np.array(flags), torch.tensor(flags), [np.bool_(flag) for flag in flags]):
        assert checks.as_ids("forget", way, len(flags)).tolist() == wanted
    for num_rows in (len(flags) + 1, len(flags) - 1):
        with pytest.raises(errors.BadSplit, match=rf"one value for each of the {num_rows} rows, found {len(flags)};"):
            checks.as_ids("forget", flags, num_rows)


def test_the_input_is_neither_kept_nor_changed():
    mine = torch.tensor([3, 1])
    found = checks.as_ids("forget", mine, 5)
    found[0] = 4
    assert mine.tolist() == [3, 1]
    array = np.array([1, 3])  # already sorted
    checks.as_ids("forget", array, 5)[0] = 0
    assert array.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("12", "found str"),
        (b"12", "found bytes"),
        (7, "found int"),
        (None, "found NoneType"),
        ({1: 2}, "found dict"),
        pytest.param((i for i in range(3)), "found generator", id="generator"),
        ([True, 1], "integers and booleans mixed"),
        ([1.0, 2.0], "values of type float64; convert them to integers first"),
        (np.array([1.5]), "values of type float64"),
        (torch.tensor([1.0]), "values of type float32"),
        (torch.tensor([1.0], dtype=torch.bfloat16), "values of type bfloat16"),
        (["a", "b"], "values of type <U1"),
        ([1, None], "values of type object"),
        ([1, "a"], "values of type <U"),
        pytest.param({1, "a"}, "values of type <U", id="mixed set"),
        ([2**70], "values of type object"),
        ([[1, 2]], r"in one dimension; found shape \(1, 2\)"),
        ([[1], [2, 3]], "rows of different lengths"),
        (np.zeros((2, 2), dtype=bool), r"in one dimension; found shape \(2, 2\)"),
        (np.int64(3), "found int64"),
        (torch.tensor(3), r"in one dimension; found shape \(\)"),
    ],
    ids=repr,
)
def test_what_is_neither_ids_nor_a_mask_is_refused(bad, message):
    with pytest.raises(errors.BadSplit, match=rf"^rows: expected row ids .*{message}"):
        checks.as_ids("rows", bad, 10)


def test_an_id_beyond_any_machine_integer_is_out_of_range():
    with pytest.raises(errors.BadSplit, match="1 ids that are out of range"):
        checks.as_ids("forget", [2**63], 10)
    with pytest.raises(errors.BadSplit, match=r"out of range.*rows 0 to 999"):
        checks.as_ids("forget", [2**40], 1000)


def test_narrow_integers_do_not_wrap_around():
    assert checks.as_ids("forget", np.array([255, 3], dtype=np.uint8), 1000).tolist() == [3, 255]
    with pytest.raises(errors.BadSplit, match="negative"):
        checks.as_ids("forget", np.array([-1], dtype=np.int8), 1000)


def test_positions_are_counted_and_content_is_not_shown():
    with pytest.raises(errors.BadSplit) as caught:
        checks.as_ids("forget", [9123] * 7 + [4], 10_000)
    assert "found 6 ids that were given before (at positions 1, 2, 3, 4, 5 of 8)" in str(caught.value)
    assert "9123" not in str(caught.value)


@given(st.one_of(st.floats(), st.integers(-3, 3), st.booleans(), st.text(max_size=2), st.none()))
def test_numbers_are_checked_as_their_sentences_say(value):
    number = isinstance(value, int | float) and not isinstance(value, bool)
    rules = [
        (checks.require_fraction, {}, number and 0 <= value <= 1, "a fraction between 0 and 1"),
        (checks.require_finite, {}, number and math.isfinite(value) and value >= 0, "a finite number of at least 0"),
        (checks.require_finite, {"at_least": 1.5}, number and math.isfinite(value) and value >= 1.5, "at least 1.5"),
        (checks.require_positive_int, {}, number and isinstance(value, int) and value >= 1, "an integer of at least 1"),
    ]
    for rule, options, fine, words in rules:
        if fine:
            assert rule("lr", value, **options) == value
        else:
            with pytest.raises(
                errors.BadRequest, match=rf"^lr: expected {'.*' if 'at least 1.5' in words else ''}{words}"
            ):
                rule("lr", value, **options)


def test_a_checked_fraction_is_a_float():
    assert Counter(type(checks.require_fraction("x", value)) for value in (0, 1, 0.5)) == {float: 3}
    assert type(checks.require_finite("x", 3)) is float
