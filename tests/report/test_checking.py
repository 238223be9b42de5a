"""The check of a page: what is refused, and by which name."""

import math
import re
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from excise.errors import BadRequest
from excise.report import (
    Band,
    BinBand,
    Curve,
    CurveBand,
    Distribution,
    Histogram,
    MeasureRow,
    Page,
    Roc,
    Row,
    Timing,
    render,
)
from excise.report.checking import checked
from excise.report.exhibits import MOST_POINTS


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


def test_a_checked_page_is_equal_and_checking_again_changes_nothing(page, full):
    for each in (page, full):
        assert checked(each) == each
        assert checked(checked(each)) == checked(each)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_any_number_that_is_not_finite_is_refused_by_name(page, number):
    paths = leaves(page)
    assert len(paths) > 100
    for path in paths:
        with pytest.raises(BadRequest) as error:
            checked(put(page, path, number))
        assert str(error.value).startswith(f"{spelled(path)} should be a finite number; found {number}.")


def test_no_number_of_a_whole_audit_is_passed_by(full):
    """One number of each field: indices make no difference."""
    fields = {tuple(key for key in path if isinstance(key, str)): path for path in leaves(full)}
    assert len(fields) > 50
    for path in fields.values():
        with pytest.raises(BadRequest) as error:
            checked(put(full, path, math.nan))
        assert str(error.value).startswith(f"{spelled(path)} should be a finite number; found nan.")


@pytest.mark.parametrize("field", ["p", "least_detectable"])
def test_a_measure_that_decides_says_how_strongly_and_one_that_informs_may_be_silent(page, field):
    message = rf"measures\[0\]\.{field} should be a number, since 'a' decides the verdict; found none\. Give it"
    with pytest.raises(BadRequest, match=message):
        checked(put(page, ("measures", 0, field), None))
    informs = put(put(page, ("measures", 0, "decides"), False), ("measures", 0, field), None)
    assert getattr(checked(informs).measures[0], field) is None


def test_a_measure_that_decides_rests_on_networks(page):
    nobody = put(page, ("measures", 0, "num_models"), 0)
    with pytest.raises(BadRequest, match=r"measures\[0\]\.num_models should be 1 or more, since 'a' decides"):
        checked(nobody)
    checked(put(nobody, ("measures", 0, "decides"), False))


@pytest.mark.parametrize(("points", "fits"), [(1, False), (2, True), (MOST_POINTS, True), (MOST_POINTS + 1, False)])
def test_a_curve_has_neither_too_few_nor_too_many_points(points, fits):
    rates = [index / points for index in range(points)]
    roc = Roc(
        name="a",
        title="A",
        num_members=1,
        num_non_members=1,
        curves=[Curve(name="own", false_positive=rates, true_positive=rates, auc=0.5)],
        band=CurveBand(false_positive=[0, 1], low=[0, 1], high=[0, 1]),
    )
    page = Page(title="One", rocs=[roc])
    if fits:
        assert checked(page).rocs[0].curves[0].true_positive == rates
    else:
        with pytest.raises(BadRequest, match=rf"false_positive should hold 2 to {MOST_POINTS} points; found {points}"):
            checked(page)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("measures", 9, "rejected"),
            True,
            r"measures\[9\]\.rejected should be false, since 'measure_09' decides noth",
        ),
        (("verdict", "controls", 0, "outcome"), "maybe", r"Invalid enum value 'maybe'.*controls"),
        (("verdict", "controls", 0, "expected"), "not run", r"Invalid enum value 'not run'.*expected"),
        (("rocs", 0, "curves"), [], r"rocs\[0\]\.curves should hold at least one curve; found none"),
        (("rocs", 0, "curves", 1, "true_positive"), [0.5], r"curves\[1\]\.true_positive should have .*, 61; found 1"),
        (
            ("rocs", 0, "curves", 1, "true_positive", 3),
            1.0,
            r"\[1\]\.true_positive should be in ascending order; found 1\.0",
        ),
        (
            ("rocs", 0, "curves", 1, "false_positive", 3),
            1.0,
            r"curves\[1\]\.false_positive should be in ascending order",
        ),
        (("rocs", 0, "curves", 0, "auc_low"), None, r"auc_low and \.auc_high belong together"),
        (
            ("rocs", 0, "curves", 0, "auc_low"),
            1.0,
            r"auc_low and \.auc_high should be in ascending order; found 1\.0, 0\.9",
        ),
        (
            ("rocs", 1, "curves", 0, "at_one_permille"),
            0.1,
            r"at_one_permille needs 1000 non-members; found 128\. Leave",
        ),
        (("rocs", 1, "num_non_members"), 99, r"curves\[0\]\.at_one_percent needs 100 non-members; found 99"),
        (("rocs", 0, "band", "low", 20), 0.9, r"band\.low\[20\] and \.high\[20\] should be in ascending order"),
        (("rocs", 0, "band", "high"), [1.0], r"band\.high should have one number per point"),
        (("rocs", 0, "band", "auc", "low"), 0.9, r"band\.auc should be in ascending order"),
        (
            ("distributions", 0, "edges", 0),
            -1.0,
            r"distributions\[0\]\.edges should be two or more positive .* for a log axis",
        ),
        (("distributions", 1, "edges", 0), 99.0, r"\[1\]\.edges should be two or more numbers .* for a linear axis"),
        (("distributions", 1, "edges"), [], r"\[1\]\.edges should be two or more numbers .*; found \[\]"),
        (("distributions", 1, "axis"), "square", r"Invalid enum value 'square'"),
        (
            ("distributions", 1, "histograms", 0, "counts"),
            [1],
            r"histograms\[0\]\.counts should have one .*, 24; found 1",
        ),
        (("distributions", 0, "oracles", "mean"), [1], r"oracles\.mean should have one count per bin, 24; found 1"),
        (("distributions", 0, "oracles", "low", 4), 99, r"oracles, bin 4, should be in ascending order; found 99"),
        (
            ("classes", 1, "classes", 2, "oracles", "low"),
            0.999,
            r"classes\[1\]\.classes\[2\]\.oracles should be in ascend",
        ),
        (("classes", 1, "classes", 2, "unlearned"), 1.2, r"Expected `float` <= 1.0"),
        (("strata", "strata", 1, "oracles", "low"), 99.0, r"strata\.strata\[1\]\.oracles should be in ascending order"),
        (("strata", "strata", 1, "told_apart_oracles", "low"), 1.0, r"told_apart_oracles should be in ascending order"),
        (("strata", "lines", 2, "oracles", "high"), 0.0, r"strata\.lines\[2\]\.oracles should be in ascending order"),
        (("costs", "num_rows"), {"train": 3}, r"costs\.num_rows should have the keys .* found 'train'"),
        (
            ("costs", "rows", 0, "accuracy"),
            {"forget": 0.5},
            r"costs\.rows\[0\]\.accuracy should hold .*; retain is miss",
        ),
        (("costs", "steps", 0, "peak_bytes"), -1, r"Expected `int` >= 0"),
    ],
)
def test_what_does_not_fit_in_a_whole_audit_is_refused_by_name(full, path, value, message):
    with pytest.raises(BadRequest, match=message):
        checked(put(full, path, value))


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
        ("\u061cabc", "\ufffdabc"),
        ("Zoë, 数, ‑, emoji-free", "Zoë, 数, ‑, emoji-free"),
    ],
)
def test_characters_that_act_on_a_screen_are_replaced_and_others_kept(text, shown):
    page = checked(Page(title=text, facts={text: text}))
    assert page.title == shown
    assert page.facts == {shown: shown}


@pytest.mark.parametrize("number", [1.1e30, -1e300, 10**400])
def test_a_number_too_large_to_be_drawn_is_refused_by_name(page, number):
    where = ("sections", 0, "num_test") if isinstance(number, int) else ("measures", 1, "value")
    with pytest.raises(BadRequest, match=r"should lie within ±1e\+30, to be drawn; found -?1.*Mend it"):
        checked(put(page, where, number))


FLOATS = st.floats(-1e30, 1e30)
BROKEN = re.compile(r"[\"> HVML](-?nan|-?inf)[%\"< HV]")


@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(FLOATS, min_size=6, max_size=6), unit=st.sampled_from(["%", "nats"]))
def test_whatever_numbers_a_measure_has_its_drawing_is_finite(numbers, unit):
    value, null_mean, *ends = numbers
    (low, high), (null_low, null_high) = sorted(ends[:2]), sorted(ends[2:])
    spread = {"low": low, "high": high, "null_low": null_low, "null_high": null_high}
    measure = MeasureRow(
        name="a", title="A", value=value, null_mean=null_mean, num_models=1, decides=False, unit=unit, **spread
    )
    assert not BROKEN.search(render(Page(title="One", measures=[measure])))


@settings(max_examples=60, deadline=None)
@given(
    edges=st.lists(FLOATS, min_size=2, max_size=6), count=st.floats(0, 1e30), axis=st.sampled_from(["log", "linear"])
)
def test_whatever_bins_a_distribution_has_it_is_refused_or_its_drawing_is_finite(edges, count, axis):
    edges = sorted(set(map(abs, edges) if axis == "log" else edges))
    bins = [count] * (len(edges) - 1)
    spread = Distribution(
        name="a",
        title="A",
        unit="loss",
        axis=axis,
        edges=edges,
        histograms=[Histogram(name="unlearned", counts=bins)],
        oracles=BinBand(low=[0.0] * len(bins), mean=bins, high=bins),
    )
    try:
        html = render(Page(title="One", distributions=[spread]))
    except BadRequest as error:
        assert "edges should be two or more" in str(error)
    else:
        assert not BROKEN.search(html)
