import pytest

from excise.pipeline import demo
from excise.train.hooks import Hooks
from excise.train.plan import TrainPlan
from tests.cli.project import tree

RECIPES = {"Nothing", "DEL", "Finetune", "NegGrad", "SameCostRetrain"}
ROW = {"recipe", "forget_accuracy", "retain_accuracy", "test_accuracy", "gap", "band", "seconds", "retraining_share"}


@pytest.fixture
def short(monkeypatch):
    """The story, told in a second."""
    monkeypatch.setattr(demo, "PLAN", TrainPlan(epochs=2, lr=0.1, batch_size=128))
    monkeypatch.setattr(demo, "SHORT_EPOCHS", 1)
    monkeypatch.setattr(demo, "WIDTH", 2)


def test_the_story_is_told_written_and_not_told_twice(project, short, excise):
    done = excise("demo", "--oracles", 2, "--json")
    assert done.code == 0
    assert (
        done.json.keys() == {"seconds", "report", "splits", "timings"}
        and done.json["report"] == "excise-demo/report.html"
    )
    assert list(done.json["splits"]) == ["mislabelled", "iid", "non-iid"]
    for split in done.json["splits"].values():
        assert split["num_oracles"] == 2 and {row["recipe"] for row in split["rows"]} >= RECIPES
        for row in split["rows"]:
            assert row.keys() >= ROW
            assert row["gap"].keys() == row["band"].keys() == {"forget", "retain", "test"}
            assert all(0 <= row[f"{part}_accuracy"] <= 1 and len(row["band"][part]) == 2 for part in row["gap"])
    written = {path.name for path in (project / "excise-demo").iterdir()}
    artifacts = {"model.safetensors", "mask.safetensors", "patch.safetensors"}
    assert written == artifacts | {"run.json", "demo.json", "report.html"}
    assert "Wrong labels, oracle 1/2" in done.err and "Two classes: DEL, Finetune" in done.err

    before = tree(project)
    again = excise("demo", "--oracles", 2)
    assert again.code == 0 and tree(project) == before
    assert again.out.startswith("excise-demo already holds this run, complete and unchanged; nothing was done.\n")
    assert again.out.count("2 oracles") == 3 and again.out.endswith("Open excise-demo/report.html\n")
    assert "Wrong labels: 128 rows to forget" in again.out and again.err == ""

    other = excise("demo", "--oracles", 3)
    assert other.code == 2 and "holds the run of another request (oracles: 2 there, 3 here)" in other.err
    assert tree(project) == before

    page = project / "excise-demo" / "report.html"
    content = page.read_bytes()
    page.write_text("changed")
    assert excise("demo", "--oracles", 2).code == 6
    assert excise("report", "excise-demo").code == 0 and page.read_bytes() == content
    assert excise("demo", "--oracles", 2, "--quiet") == (0, "", "")


def test_the_bar_over_everything_ends_with_the_last_step(short):
    taken = 0

    class Counting(Hooks):
        def on_step(self):
            nonlocal taken
            taken += 1

    demo.run_demo(num_oracles=3, hooks=Counting())
    assert taken == demo.num_steps(3)


@pytest.mark.parametrize("out", ["plan.toml", "."])
def test_a_directory_that_is_not_ours_is_refused_before_any_work(project, short, excise, out):
    before = tree(project)
    done = excise("demo", "--out", out)
    assert done.code == 2 and "for --out" in done.err and "oracle" not in done.err
    assert tree(project) == before
