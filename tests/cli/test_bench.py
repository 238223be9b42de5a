"""`excise bench`: a table for people, numbers for programs, nothing on disk."""

import re

import pytest

from tests.cli.project import UNLEARN, tree, typed

OPTIONS = {key: value for key, value in UNLEARN.items() if key != "--out"}


@pytest.fixture
def bench(project, excise):
    def call(*words, **changes):
        before = tree(project)
        done = excise("bench", *typed(OPTIONS, **changes), "--set", "epochs=1", *words)
        assert tree(project) == before
        return done

    return call


def test_what_a_request_costs_is_said(bench):
    done = bench(plan="plan.toml")
    assert done.code == 0
    assert re.search(
        r"DEL on all 200 rows: [\d.]+ s and [\d.]+ s once, for starting; 1\.\d\d passes .*; a retraining: ",
        done.out,
    )
    assert "a line through" not in done.out  # so few rows are run whole


def test_numbers_for_programs(bench):
    found = bench("--json").json
    assert found["recipe"] == "DEL" and found["num_rows"] == 200
    assert found["retraining"] is None and found["share"] is None and not found["extrapolated"]
    assert found["unlearning"]["seconds"] == found["runs"][0]["seconds"] > 0


def test_a_plan_of_ones_own_code_is_refused(bench, project):
    (project / "own.py").write_text("def train(model, dataset, seed):\n    return model\n")
    done = bench(plan="own:train")
    assert done.code == 2 and "--plan: own:train is code of your own, which cannot be cut short" in done.err


def test_it_is_timed_on_the_machine_that_is_asked_for(bench):
    assert bench("--precision", "bfloat16", "--layout", "channels-last").code == 0
    done = bench("--workers", "-1")
    assert done.code == 2 and "workers" in done.err
