"""Numbers to text for people: the exact value stays in the page's markup, the text is what a reader compares."""

from __future__ import annotations

import math
import unicodedata
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


def signs(text: str) -> float:
    """Count how many ordinary letters are as wide as this text, roughly.

    Wide scripts count twice, wide Latin signs one and a half times, combining marks not at all.

    Examples:
        >>> signs("cat"), signs("猫"), signs("e\u0301"), signs("<M>")
        (3, 2, 1, 4.5)
    """
    return sum(_width(letter) for letter in text)


def _width(letter: str) -> float:
    if unicodedata.combining(letter):
        return 0
    if letter in "MW@%<>=+~":
        return 1.5
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def shortened(text: str, longest: int) -> str:
    """Shorten a name in its middle, since both ends of `layer3.1.conv2.weight` tell something.

    Examples:
        >>> shortened("features.denseblock3.conv1", 15)
        'feature…3.conv1'
    """
    if signs(text) <= longest:
        return text
    head, tail, room = "", "", longest - 1
    for letter in text:
        if signs(head + letter) > longest // 2:
            break
        head += letter
    for letter in reversed(text):
        if signs(tail + letter) > room - signs(head):
            break
        tail = letter + tail
    return f"{head}…{tail}"


def memory(num_bytes: int) -> str:
    """Write a number of bytes with three digits, in units of 1024.

    Examples:
        >>> memory(512), memory(1_572_864), memory(12 * 2**30)
        ('512\u202fB', '1.5\u202fMiB', '12\u202fGiB')
    """
    for power_, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if num_bytes >= 0.9995 * 2**power_:
            number = num_bytes / 2**power_
            return f"{number:.0f}{NARROW_SPACE}{unit}" if number >= 1000 else f"{number:.3g}{NARROW_SPACE}{unit}"
    return f"{num_bytes}{NARROW_SPACE}B"


def measured(value: float, decimals: int, unit: str, *, sign: bool = False) -> str:
    """Write a number of some unit, without the unit: fractions of the unit "%" times 100, all else as it is.

    Args:
        value: the number.
        decimals: of what is written.
        unit: what it is counted in.
        sign: whether to write a plus before what is above zero.

    Examples:
        >>> measured(0.0312, 1, "%"), measured(0.25, 2, "log-odds", sign=True)
        ('3.1', '+0.25')
    """
    return (signed if sign else fixed)(value * factor(unit), decimals)


def factor(unit: str) -> float:
    """Give what a number of this unit is multiplied by when it is written."""
    return 100.0 if unit == "%" else 1.0


def amount(value: float) -> str:
    """Write an amount of any size with three digits, and with a true minus sign.

    Examples:
        >>> amount(0.0), amount(12_345.0), amount(-0.01234), amount(1.0)
        ('0', '12\u202f345', '−0.0123', '1')
    """
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", MINUS)
    digits = 0 if not value else max(0, 2 - math.floor(math.log10(abs(value))))
    text = fixed(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text
