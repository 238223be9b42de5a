"""The benchmarks for an accelerator run end to end where there is none, at tiny sizes, and write nothing."""

import pytest
import torch

from benchmarks import gpu


def test_every_part_runs_and_says_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "TARGET", tmp_path / "gpu.json")
    found = gpu.main(["--pretend"])
    names = {"end_to_end", "step_channel", "step_last_block", "localization", "oracles", "busy", "precision", "memory"}
    assert set(found["rows"]) == names
    for name, row in found["rows"].items():
        assert {"ratio", "lowest", "highest", "goal", "what"} <= set(row), name
        assert row["ratio"] >= 0 and row["lowest"] <= row["ratio"] <= row["highest"], name
    assert 0 < found["rows"]["busy"]["ratio"] <= 1
    assert capsys.readouterr().out.count("pretended") == len(names)
    assert not (tmp_path / "gpu.json").exists()
    lines = gpu.section(found)
    assert len([line for line in lines if line.startswith("| ")]) == 1 + len(names)
    assert gpu.section(gpu.recorded()) == []


def test_a_figure_is_held_against_its_goal_the_right_way_round():
    row = {"ratio": 4.0, "goal": 5.0, "lowest": 3.0, "highest": 6.0, "what": "speed"}
    assert gpu.reached(row) and not gpu.reached({**row, "at_least": True})
    table = gpu.section({"environment": {"torch": "9"}, "rows": {"speed": {**row, "at_least": True}}})
    assert table[-1] == "| speed | 4 | 3 to 6 | at least 5 (missed) |"
    assert "Measured with torch 9." in "\n".join(table)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [([], 0), ([(0, 2), (1, 3)], 3), ([(5, 6), (0, 1)], 2), ([(0, 9), (2, 3), (8, 10)], 10)],
)
def test_time_in_which_two_kernels_run_counts_once(spans, expected):
    assert gpu.covered(spans) == expected


def test_it_refuses_in_one_line_where_there_is_no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no accelerator that torch can use here"):
        gpu.main(["busy"])
    with pytest.raises(SystemExit, match=r"expected parts among end_to_end, .*, found 'speed'"):
        gpu.main(["--pretend", "speed"])
