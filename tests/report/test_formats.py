"""Numbers as text: what a reader sees."""

import pytest

from excise.report import formats


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.0, 1, "0.0"),
        (-0.04, 1, "0.0"),
        (-0.05, 2, "−0.05"),
        (12345.678, 1, "12\u202f345.7"),
        (-1e6, 0, "−1\u202f000\u202f000"),
    ],
)
def test_fixed(value, decimals, text):
    assert formats.fixed(value, decimals) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0"), (0.06, "+0.1"), (-0.06, "−0.1"), (-0.04, "0.0"), (0.0, "0.0")]
)
def test_a_difference_has_a_sign_unless_it_rounds_to_nothing(value, text):
    assert formats.signed(value, 1) == text


def test_one_row_more_is_another_text():
    for num_rows in (10, 128, 1000, 1001, 10_000):
        texts = [formats.percent(count / num_rows, num_rows) for count in range(num_rows + 1)]
        assert len(set(texts)) == num_rows + 1


@pytest.mark.parametrize(
    ("spans", "decimals"),
    [((0.069, 0.078), 3), ((1.3, 0.7), 2), ((9.0, 23.0), 1), ((400.0,), 0), ((1e-12,), 6), ((), 2)],
)
def test_spans_show_two_digits(spans, decimals):
    assert formats.span_decimals(*spans) == decimals


@pytest.mark.parametrize(
    ("p", "text"), [(1.0, "1.00"), (0.1, "0.10"), (0.0499, "0.050"), (0.001, "0.001"), (0.0, "< 0.001")]
)
def test_probability(p, text):
    assert formats.probability(p) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (11_173_962, "11.2M"),
        (7_000_000_000, "7G"),
    ],
)
def test_quantity_has_at_most_three_digits(count, text):
    assert formats.quantity(count) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1e-4, "0.0001"), (1e-5, "10⁻⁵"), (5e-6, "5·10⁻⁶"), (10_000.0, "10000"), (1e5, "10⁵")]
)
def test_power(value, text):
    assert formats.power(value) == text


def test_time_decimals_of_nothing():
    assert formats.time_decimals([]) == 2


@pytest.mark.parametrize("length", [5, 6, 16])
def test_a_shortened_name_keeps_both_ends_and_its_length(length):
    name = "abcdefghijklmnopqrstuvwxyz"
    short = formats.shortened(name, length)
    assert len(short) == length
    head, tail = short.split("…")
    assert name.startswith(head)
    assert name.endswith(tail)
    assert formats.shortened(name[:length], length) == name[:length]


@pytest.mark.parametrize("length", [4, 9, 10, 17])
def test_a_shortened_name_is_never_wider_than_asked_whatever_its_script(length):
    for name in ("猫の写真がとても長い", "aé" * 30, "a猫" * 9, "חתול" * 9, "e\u0301" * 40, "<M>" * 9):
        assert formats.signs(formats.shortened(name, length)) <= length
        assert formats.signs(formats.shortened(name, length)) >= length - 2


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0\u202fB"),
        (1000, "1000\u202fB"),
        (1024, "1\u202fKiB"),
        (1020 * 2**10, "1020\u202fKiB"),
        (2**20 - 1, "1\u202fMiB"),
        (3 * 2**40, "3\u202fTiB"),
    ],
)
def test_memory(num_bytes, text):
    assert formats.memory(num_bytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12.345, "12.3"), (0.1, "0.1"), (999_999.0, "999\u202f999"), (1e6, "1.00e+06"), (-2e-5, "−2.00e−05")],
)
def test_amount(value, text):
    assert formats.amount(value) == text


def test_only_per_cent_is_written_times_a_hundred():
    assert formats.measured(0.125, 1, "%") == "12.5"
    assert formats.measured(0.125, 3, "AUC") == "0.125"
    assert formats.measured(0.125, 1, "%", sign=True) == "+12.5"
