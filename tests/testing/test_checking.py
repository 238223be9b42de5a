import inspect
import unittest

import pytest

from excise import errors
from excise.localize import Magnitude
from excise.methods import Nothing
from excise.testing import CheckFailed, check_localizer, check_method, checking, localizer_checks, method_checks
from excise.testing.checking import LOCALIZER_CHECKS, METHOD_CHECKS
from tests.testing.stand_ins import METHODS, Leaks, Mute

# these the front door keeps for every method, so that a bad one fails them by giving no result
BY_THE_FRONT_DOOR = {
    "missing_holdout_is_refused_before_any_work",
    "patch_applies",
    "patch_lists_what_moved",
    "patch_reverts",
    "result_has_the_same_parameters_and_buffers",
    "result_is_finite",
    "state_loads_into_the_class",
}
ELSEWHERE = {"default_dtype_is_left_alone", "keeps_outside_its_own_place"}


def test_there_are_as_many_checks_as_promised_each_with_one_sentence():
    assert len(METHOD_CHECKS) >= 40 and len(LOCALIZER_CHECKS) >= 15
    for name, check in {**METHOD_CHECKS, **LOCALIZER_CHECKS}.items():
        assert check.__name__ == name and inspect.getdoc(check).endswith("."), name
    for module in (*{inspect.getmodule(check) for check in (*METHOD_CHECKS.values(), *LOCALIZER_CHECKS.values())},):
        public = {n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
        assert {n for n in public if n[0] != "_"} == {check.__name__ for check in module.CHECKS}


def test_every_check_is_failed_by_a_stand_in():
    failed = set().union(*METHODS.values())
    assert set(METHOD_CHECKS) - failed == BY_THE_FRONT_DOOR | ELSEWHERE


def test_a_report_has_an_entry_for_each_check():
    report = check_method(Nothing, exclude=["nothing_is_printed"])
    assert [check.name for check in report] == [name for name in METHOD_CHECKS if name != "nothing_is_printed"]
    assert {check.outcome for check in report} == {"passed", "skipped"}
    assert [check.name for check in check_localizer(Magnitude)] == list(LOCALIZER_CHECKS)


def test_failures_are_told_by_name_with_what_is_owed():
    with pytest.raises(
        CheckFailed, match=r"^Leaks: 2 of 2 checks failed\n  keeps_outside_a_mask_of_rows: Outside a mask"
    ):
        check_method(Leaks, exclude=set(METHOD_CHECKS) - {"keeps_outside_a_mask_of_rows", "keeps_outside_a_mixed_mask"})
    with pytest.raises(errors.BadRequest, match="exclude: expected names of checks, found 'no'"):
        check_method(Nothing, exclude={"no"})
    with pytest.raises(errors.BadRequest, match="exclude: expected names of checks, found 'no'"):
        check_localizer(Magnitude, exclude={"no"})


def test_checks_come_one_by_one_for_pytest():
    checks = dict(method_checks(Leaks))
    assert list(checks) == list(METHOD_CHECKS)
    assert checks["repr_says_what_it_is"]() is None
    with pytest.raises(unittest.SkipTest, match=r"^the method needs no holdout rows$"):
        checks["missing_holdout_is_refused_before_any_work"]()
    with pytest.raises(CheckFailed, match=r"1 of 1 checks failed\n  keeps_outside_a_mixed_mask"):
        checks["keeps_outside_a_mixed_mask"]()
    places = dict(localizer_checks(Mute))
    assert list(places) == list(LOCALIZER_CHECKS)
    with pytest.raises(unittest.SkipTest, match=r"^a region gives no scores$"):
        places["scores_are_finite_and_not_negative"]()
    with pytest.raises(CheckFailed, match="text_says_what_it_is"):
        places["text_says_what_it_is"]()


def test_the_table_names_every_check():
    lines = checking.table().splitlines()
    assert [line.split("`")[1] for line in lines if line.startswith("| `")] == [*METHOD_CHECKS, *LOCALIZER_CHECKS]
