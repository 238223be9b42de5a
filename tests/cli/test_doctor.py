"""`excise doctor`: findings for people, findings for programs, and the exit code."""

import json
import re

import numpy as np
import pytest

from tests.cli.project import UNLEARN, tree, typed

OWN = """
import torch
from torch import nn
from torch.utils.data import DataLoader
from mine import train

def network():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3), nn.Dropout(0.25))

def infinite():
    inputs, labels = train()
    inputs[20] = torch.inf
    return inputs, labels

def twice():
    inputs, labels = train()
    inputs[33] = inputs[20]
    return inputs, labels

def loader():
    return DataLoader(torch.utils.data.TensorDataset(*train()), 64, drop_last=True)

steady = DataLoader(torch.utils.data.TensorDataset(*train()), 64)

def fails():
    raise ValueError("out of luck")

unsuitable = 3
"""


@pytest.fixture
def doctor(project, excise):
    """Run `excise doctor` with the project's own options, some of them changed; it writes nothing."""
    (project / "own.py").write_text(OWN)
    options = {key: value for key, value in UNLEARN.items() if key != "--out"}

    def call(*words, **changes):
        before = tree(project)
        done = excise("doctor", *typed(options, **changes), *words)
        assert tree(project) == before
        return done

    return call


def test_nothing_to_mend(doctor):
    done = doctor()
    assert done.code == 0 and done.out == "Nothing to mend.\n"
    assert "reading retain rows" in done.err
    done = doctor("--json", "--quiet")
    assert done.code == 0 and done.json == [] and done.err == ""


def test_findings_are_a_table_and_a_count(doctor):
    done = doctor(model="own:network", data="own:twice")
    assert done.code == 0 and done.out.startswith("severity  finding")
    assert done.out.endswith("1 warning, 1 note.\n") and done.out.count("where   ") == 2
    assert max(map(len, done.out.splitlines())) <= 80
    assert doctor("--quiet", model="own:network") == (0, "", "")


def test_findings_for_programs(doctor):
    done = doctor("--json", model="own:network", data="own:twice")
    assert done.code == 0 and [one.keys() for one in done.json] == [{"what", "where", "remedy", "severity"}] * 2
    assert [one["severity"] for one in done.json] == ["warning", "note"]
    assert done.json[0]["where"] == "1 of 10 forget rows (position 1)" and done.json[1]["where"] == "3"
    assert "1 warning, 1 note." in done.err


def test_an_error_is_refused_by_a_check(doctor):
    done = doctor("--json", data="own:infinite")
    assert done.code == 3 and [one["severity"] for one in done.json] == ["error"]
    assert "1 error.\n" in doctor(data="own:infinite").out
    assert doctor("--quiet", data="own:infinite") == (3, "", "")


def test_copies_in_test_are_found_where_test_is_given(doctor):
    assert doctor("--json", test="mine:test").json == []
    (found,) = doctor("--json", test="mine:train").json
    assert "exactly, in test" in found["what"] and found["where"].startswith("10 of 10")


@pytest.mark.parametrize("kind", ["txt", "npy", "words.npy"])
def test_groups_are_read_from_a_file(project, doctor, kind):
    people = np.arange(200) // 20
    words = people.astype(str)
    if kind == "txt":
        (project / "people.txt").write_text("\n".join(words) + "\n")
    else:
        np.save(project / f"people.{kind}", people if kind == "npy" else words)
    (found,) = doctor("--json", groups=f"people.{kind}").json
    assert found["what"].startswith("10 groups with rows in forget and in retain: 190 rows")
    (project / "each.txt").write_text("\n".join(f"person {row}" for row in range(200)))
    assert doctor("--json", groups="each.txt").json == []


def test_the_loader_is_looked_at(doctor):
    (found,) = doctor("--json", loader="own:loader").json
    assert found["what"].startswith("drop_last leaves out 8 rows")
    assert doctor("--json", loader="own:steady").json == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": "nowhere.txt"}, "--groups: nowhere.txt cannot be read: .*found none.*one value a line"),
        ({"groups": "w.npy"}, "--groups: w.npy cannot be read: "),
        ({"groups": "ids.txt"}, "groups: expected one value for each of the 200 training rows, by id; found 10"),
        ({"loader": "own:fails"}, r"--loader: own:fails\(\) raised ValueError: out of luck; correct it there"),
        ({"loader": "own:unsuitable"}, "--loader: expected own:unsuitable to be a torch.utils.data.DataLoader .*int"),
        ({"loader": "own:nowhere"}, "--loader: own has no 'nowhere'"),
        ({"model": "mine:frozen"}, "are frozen"),
        ({"weights": "nowhere.safetensors"}, "nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused(project, doctor, changes, message):
    (project / "w.npy").write_bytes(b"x")
    done = doctor(**changes)
    assert done.code == 2 and done.out == ""
    assert re.search(message, done.err), done.err
    assert json.loads(doctor("--json", **changes).out)["exit_code"] == 2


def test_help_fits_80_columns(excise, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = excise("doctor", "--help")
    assert done.code == 0 and max(map(len, done.out.splitlines())) <= 80
    assert all(option in done.out for option in ("--groups", "--loader", "--json", "--quiet", "--debug", "--config"))


def test_a_config_gives_its_options(project, doctor):
    (project / "a.toml").write_text('loader = "own:loader"\nseed = 3\n')
    assert len(doctor("--json", "--config", "a.toml").json) == 1
