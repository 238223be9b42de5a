import pytest
import torch

from excise import errors
from excise.testing import Check, CheckFailed
from excise.testing.verdicts import Once, by_name, chosen, require, run_all, run_one, sentence, skip_unless


def fine(subject):
    """All is
    well."""


def bad(subject):
    """Nothing is well."""
    require(subject > 3, "more than 3", subject)


def apart(subject):
    """It does not apply."""
    skip_unless(False, "because")


def breaks(subject):
    """It raises."""
    raise KeyError("x")


CHECKS = by_name((fine, bad), (apart, breaks))


def test_each_outcome_is_told():
    assert [run_one(check, 1) for check in CHECKS.values()] == [
        Check("fine", "passed"),
        Check("bad", "failed", "expected more than 3; found 1"),
        Check("apart", "skipped", "because"),
        Check("breaks", "failed", "expected a run without error; found KeyError: 'x'"),
    ]
    assert run_one(bad, 4) == Check("bad", "passed")


def test_all_failures_are_in_one_error_with_what_is_owed():
    with pytest.raises(CheckFailed) as caught:
        run_all(CHECKS, 1, "It")
    assert str(caught.value) == (
        "It: 2 of 4 checks failed\n"
        "  bad: Nothing is well.\n    expected more than 3; found 1\n"
        "  breaks: It raises.\n    expected a run without error; found KeyError: 'x'"
    )
    assert caught.value.failed == ["bad", "breaks"] and len(caught.value.report) == 4
    assert isinstance(caught.value, AssertionError)
    assert sentence(fine) == "All is well."


def test_checks_are_left_out_by_name():
    assert list(chosen(CHECKS, {"bad", "breaks"})) == ["fine", "apart"] == list(chosen(CHECKS, ("bad", "breaks")))
    assert list(chosen(CHECKS, "bad")) == ["fine", "apart", "breaks"]
    with pytest.raises(
        errors.BadRequest, match="exclude: expected names of checks, found 'worse'; there are fine, bad,"
    ):
        chosen(CHECKS, {"worse"})


def test_what_a_check_changes_for_the_process_is_put_back():
    def unsettles(_):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(threads + 1)
        torch.rand(1)

    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert run_one(unsettles, 0).outcome == "passed"
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_what_several_checks_judge_is_run_once_and_anew_after_an_error():
    once, runs = Once(), []

    def look():
        runs.append(len(runs))
        if len(runs) == 1:
            raise KeyError("x")
        return runs[-1]

    with pytest.raises(KeyError):
        once("a run", look)
    assert [once("a run", look), once("a run", look), once("another", look)] == [1, 1, 2]
    assert Once()("a run", look) == 3
