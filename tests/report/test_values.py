"""Values of the page: what is refused, and by which name."""

import math
from fractions import Fraction

import msgspec
import pytest

from excise.errors import BadRequest
from excise.report import Band, Histogram, MeasureRow, Page, Row, Section, Timing
from excise.report.values import checked


def leaves(value, path=()):
    """Paths to all numbers that are fractional by type or by value, through structs, lists and mappings."""
    if isinstance(value, msgspec.Struct):
        items = [(name, getattr(value, name)) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return [path] if isinstance(value, float) else []
    return [leaf for key, item in items for leaf in leaves(item, (*path, key))]


def put(value, path, number):
    """The value with one number replaced."""
    if not path:
        return number
    head, *rest = path
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **{head: put(getattr(value, head), rest, number)})
    if isinstance(value, dict):
        return {**value, head: put(value[head], rest, number)}
    return [put(item, rest, number) if index == head else item for index, item in enumerate(value)]


def spelled(path):
    """The path as a message spells it."""
    return "page" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def test_a_checked_page_is_equal_and_checking_again_changes_nothing(page):
    assert checked(page) == page
    assert checked(checked(page)) == checked(page)


def test_a_page_survives_json(page):
    assert msgspec.json.decode(msgspec.json.encode(page), type=Page) == page


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_any_number_that_is_not_finite_is_refused_by_name(page, number):
    paths = leaves(page)
    assert len(paths) > 100
    for path in paths:
        with pytest.raises(BadRequest) as error:
            checked(put(page, path, number))
        assert str(error.value).startswith(f"{spelled(path)} should be a finite number; found {number}.")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sections", 0, "rows", 0, "accuracy", "test"), 1.01, r"Expected `float` <= 1.0 .*accuracy"),
        (("sections", 0, "rows", 0, "seconds"), -1.0, r"Expected `float` >= 0.0 .*seconds"),
        (("sections", 0, "layers", 0, "fraction"), -0.1, r"Expected `float` >= 0.0 .*fraction"),
        (("sections", 0, "layers", 0, "num_parameters"), 1.5, r"Expected `int`.*num_parameters"),
        (("sections", 0, "title"), 3, r"Expected `str`.*title"),
        (("sections", 0, "num_forget"), -1, r"Expected `int` >= 0.*num_forget"),
        (("verdict", "word"), "MAYBE", r"Invalid enum value 'MAYBE'.*verdict.word"),
        (("measures", 0, "p"), 1.2, r"Expected `float` <= 1.0 .*\.p"),
        (
            ("measures", 0, "low"),
            0.9,
            r"page\.measures\[0\]\.low and \.high should be in ascending order; found 0\.9, 0\.55",
        ),
        (
            ("measures", 0, "null_low"),
            0.9,
            r"page\.measures\[0\]\.null_low and \.null_high should be in ascending order",
        ),
        (("sections", 1, "bands", "test", "mean"), 0.99, r"sections\[1\]\.bands\.test should be in ascending order"),
        (("sections", 1, "attack_band", "high"), 0.1, r"sections\[1\]\.attack_band should be in ascending order"),
        (
            ("sections", 0, "histogram_edges", 0),
            0.0,
            r"sections\[0\]\.histogram_edges should be two or more positive numbers",
        ),
        (("sections", 0, "histogram_edges", 1), 5.0, r"sections\[0\]\.histogram_edges .* strictly ascending"),
        (("sections", 0, "histogram_edges"), [1.0], r"sections\[0\]\.histogram_edges should be two or more"),
        (
            ("sections", 0, "histograms", 2, "counts"),
            [1],
            r"histograms\[2\]\.counts should have one count per bin, 4; found 1",
        ),
        (("sections", 0, "rows", 1, "gap"), {"train": 0.1}, r"rows\[1\]\.gap should have the keys .* found 'train'"),
        (("sections", 0, "bands"), {"x": Band(low=0, mean=0, high=0)}, r"bands should have the keys .* found 'x'"),
        (
            ("sections", 0, "rows", 2, "accuracy"),
            {"forget": 0.1},
            r"rows\[2\]\.accuracy should hold .*; retain is missing",
        ),
        (("facts",), {"seed": 0}, r"Expected `str`.*facts"),
        (("facts",), {"seed": object()}, r"plain numbers and text only"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(page, path, value, message):
    with pytest.raises(BadRequest, match=message):
        checked(put(page, path, value))


def test_numbers_of_other_libraries_become_plain():
    page = checked(Page(title="One", timings=[Timing(what="a", seconds=Fraction(3, 2))]))
    assert type(page.timings[0].seconds) is float
    assert page.timings[0].seconds == 1.5


def test_whole_numbers_and_tuples_are_welcome(section):
    counts = Histogram(name="original", counts=(1, 2, 3, 4))
    row = Row(recipe="One", accuracy={"forget": 1, "retain": 1, "test": 1}, seconds=3)
    page = Page(title="One", sections=(msgspec.structs.replace(section, histograms=(counts,), rows=(row,)),))
    assert checked(page).sections[0].histograms[0].counts == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("two\r\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x00\x9b\x7f", "\ufffd\ufffd\ufffd"),
        ("\u202eabc\u2069", "\ufffdabc\ufffd"),
        ("\ud800", "\ufffd"),
        ("Zoë, 数, ‑, emoji-free", "Zoë, 数, ‑, emoji-free"),
    ],
)
def test_characters_that_act_on_a_screen_are_replaced_and_others_kept(text, shown):
    page = checked(Page(title=text, facts={text: text}))
    assert page.title == shown
    assert page.facts == {shown: shown}


def test_values_are_frozen_built_by_keyword_and_know_their_fields():
    with pytest.raises(AttributeError):
        Timing(what="a", seconds=1.0).seconds = 2.0
    with pytest.raises(TypeError):
        Band(0.0, 0.5, 1.0)
    with pytest.raises(msgspec.ValidationError, match="unknown field `extra`"):
        msgspec.json.decode(b'{"title": "a", "extra": 1}', type=Page)


def test_what_may_be_absent_is_absent_by_default():
    page = Page(title="a")
    assert not (
        page.lead or page.verdict or page.measures or page.sections or page.timings or page.facts or page.limits
    )
    section = Section(name="a", title="a", num_forget=1, num_retain=1, num_test=1, num_oracles=0)
    assert not (section.bands or section.rows or section.histograms or section.layers or section.attack_band)
    shared = {"null_mean": 0, "null_low": 0, "null_high": 0, "num_models": 1}
    measure = MeasureRow(name="a", title="a", value=0, low=0, high=0, **shared)
    assert measure.p is None
    assert measure.least_detectable is None
