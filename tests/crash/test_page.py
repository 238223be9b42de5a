"""The page of the soak is what the soak has found, and says so where something was not as it should be."""

import json

from benchmarks import soak, soak_page


def test_the_page_is_what_was_found():
    found = json.loads(soak.TARGET.read_text())
    assert soak_page.PAGE.read_text(encoding="utf-8") == soak_page.render(found)


def test_rows_of_one_kind_are_added_up_and_the_worst_figure_is_kept():
    rows = [
        soak.row("killed", 5, ["a"], hit=4, late=0.5),
        soak.row("cut", 7, []),
        soak.row("killed", 2, [], hit=2, late=0.25),
    ]
    assert soak.merged(rows) == {
        "killed": {"trials": 7, "wrong": 1, "shown": ["a"], "hit": 6, "late": 0.5},
        "cut": {"trials": 7, "wrong": 0, "shown": []},
    }
    page = soak_page.render({"environment": {}, "seconds": 60, "asked": {"processes": 2}, "rows": soak.merged(rows)})
    assert "| killed | 7 | 1 | 6 met the command at work; ended within 0.50 s of the signal |" in page
    assert "| cut | 7 | 0 |  |" in page


def test_what_a_trial_raises_is_noted_and_the_next_one_is_made():
    wrong = []
    assert soak.tried(lambda: 3, wrong) == 3 and wrong == []
    assert soak.tried(lambda: 1 / 0, wrong) is None
    assert len(wrong) == 1 and "ZeroDivisionError" in wrong[0]


def test_every_trial_is_asked_for_once():
    names = [name for name, _ in soak.jobs(soak.asked([]))]
    assert len(names) == len(set(names))
    assert {f"failures of {name}" for name in soak.FAILED} | {"changes", "races", "repetitions", "edits"} <= set(names)
    assert sum(name.startswith("kills") for name in names) == 4
    assert not any("failures" in name for name, _ in soak.jobs(soak.asked(["--no-failures"])))
