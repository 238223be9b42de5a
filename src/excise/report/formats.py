"""Numbers to text for people: the exact value stays in the page's markup, the text is what a reader compares."""

from __future__ import annotations

import math
from collections.abc import Iterable

NARROW_SPACE = "\u202f"
MINUS = "\u2212"
ABSENT = "\u2013"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fixed(value: float, decimals: int) -> str:
    """Write a number with this many decimals, a true minus sign, and narrow spaces between thousands.

    Examples:
        >>> fixed(-1234.5, 1) == MINUS + "1" + NARROW_SPACE + "234.5"
        True
        >>> fixed(-0.01, 1)
        '0.0'
    """
    text = f"{abs(value):,.{decimals}f}".replace(",", NARROW_SPACE)
    return f"{MINUS}{text}" if value < 0 and any(digit in "123456789" for digit in text) else text


def signed(value: float, decimals: int) -> str:
    """Write a difference: as `fixed`, with a plus sign before what is above zero.

    Examples:
        >>> signed(0.42, 1), signed(0.0, 1)
        ('+0.4', '0.0')
    """
    text = fixed(value, decimals)
    return f"+{text}" if value > 0 and any(digit in "123456789" for digit in text) else text


def percent(fraction: float, num_rows: int) -> str:
    """Write a fraction of `num_rows` rows in per cent, with the decimals that so many rows can carry.

    Examples:
        >>> percent(0.5, 128), percent(0.99971, 50_000)
        ('50.0', '99.97')
    """
    return fixed(100 * fraction, row_decimals(num_rows))


def row_decimals(num_rows: int) -> int:
    """Give the decimals of a percentage of this many rows: two where a row is less than a tenth of a per cent.

    Examples:
        >>> row_decimals(128), row_decimals(10_000)
        (1, 2)
    """
    return 1 if num_rows <= 1000 else 2


def span_decimals(*spans: float) -> int:
    """Give the decimals, at most six, with which the narrowest of these spans that is not zero shows two digits.

    Examples:
        >>> span_decimals(0.08, 0.2), span_decimals(31.0, 0.0), span_decimals(0.0)
        (3, 0, 2)
    """
    narrowest = min((abs(span) for span in spans if span), default=0.1)
    return min(6, max(0, 1 - math.floor(math.log10(narrowest))))


def time_decimals(seconds: Iterable[float]) -> int:
    """Give the decimals that suit a column of seconds: two below ten seconds, one below a thousand, else none.

    Examples:
        >>> time_decimals([0.4, 3.2]), time_decimals([0.4, 320.0]), time_decimals([86_400.0])
        (2, 1, 0)
    """
    longest = max(seconds, default=0.0)
    return 2 if longest < 10 else 1 if longest < 1000 else 0


def probability(p: float) -> str:
    """Write a p-value with two digits, and what is below one in a thousand as just that.

    Examples:
        >>> probability(0.034), probability(0.41), probability(1e-9)
        ('0.034', '0.41', '< 0.001')
    """
    if p < 0.001:
        return "< 0.001"
    return fixed(p, 3 if p < 0.1 else 2)


def quantity(count: int) -> str:
    """Write a number of parameters in at most four characters.

    Examples:
        >>> quantity(432), quantity(36_864), quantity(2_359_296)
        ('432', '36.9k', '2.36M')
    """
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * factor:
            return f"{count / factor:.3g}{letter}"
    return str(count)


def power(value: float) -> str:
    """Write a tick of a log axis, far from one as a power of ten.

    Examples:
        >>> power(0.001), power(20.0), power(1e-6), power(2e-7)
        ('0.001', '20', '10⁻⁶', '2·10⁻⁷')
    """
    exponent = math.floor(math.log10(value) + 1e-9)
    if -5 < exponent < 5:
        return f"{value:.10g}"
    factor = f"{value / 10.0**exponent:.3g}"
    digits = str(exponent).translate(_SUPERSCRIPT)
    return f"10{digits}" if factor == "1" else f"{factor}·10{digits}"


def shortened(text: str, longest: int) -> str:
    """Shorten a name in its middle, since both ends of `layer3.1.conv2.weight` tell something.

    Examples:
        >>> shortened("features.denseblock3.conv1", 15)
        'feature…3.conv1'
    """
    if len(text) <= longest:
        return text
    head = longest // 2
    return f"{text[:head]}…{text[len(text) - (longest - head - 1) :]}"
