import io
import re

import pytest
from rich.console import Console
from rich.progress import Progress

from excise.cli import show


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80, color_system="standard", highlight=False)


@pytest.fixture
def pipe():
    return Console(file=io.StringIO(), width=80, highlight=False)


def lines(console):
    return console.file.getvalue().splitlines()


def drawn(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return lines(console)


LONG = f"Wrote /a/{'b' * 90}/c. " + "word " * 30


def test_sentences_are_broken_between_words_on_a_terminal_only(terminal, pipe):
    show.say(terminal, LONG)
    show.say(pipe, LONG)
    assert f"/a/{'b' * 90}/c." in lines(terminal) and len(lines(terminal)) > 3
    assert [line.rstrip() for line in lines(pipe)] == [LONG.rstrip()]


def test_brackets_are_no_markup(pipe):
    show.say(pipe, "runs/[bold]a[/bold] [/]")
    assert lines(pipe) == ["runs/[bold]a[/bold] [/]"]


def test_quiet_says_nothing(capsys):
    show.say(show.console(quiet=True), "word")
    with show.progress(quiet=True, total=3, label="all") as hooks:
        hooks.on_stage("one", 3)
        hooks.on_step()
    assert capsys.readouterr() == ("", "")


def test_elsewhere_than_on_a_terminal_a_stage_is_a_line(capsys):
    with show.progress(quiet=False) as hooks:
        hooks.on_stage("Finetune", 36)
        hooks.on_step()
        hooks.on_part("Wrong labels: DEL")
        hooks.on_stage("localize", 1)
        hooks.on_stage_end("localize")
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.endswith(" s] Finetune (36 steps)") and second.endswith(" s] Wrong labels: DEL, localize (1 steps)")


def test_bars_count_the_stage_and_the_whole(terminal):
    with Progress(console=terminal) as progress:
        bars = show.Bars(progress, 5, "all")
        whole, stage = progress.tasks
        bars.on_part("Two classes")
        for name, steps in (("oracle 1/2", 3), ("oracle 2/2", 2)):
            bars.on_stage(name, steps)
            assert stage.visible and stage.description == f"  Two classes, {name}" and stage.completed == 0
            for _ in range(steps):
                bars.on_step()
            assert stage.percentage == 100
            bars.on_stage_end(name)
            assert not stage.visible
        assert whole.description == "all" and whole.percentage == 100 and whole.finished


def test_without_a_total_there_is_the_stage_alone(terminal):
    with Progress(console=terminal) as progress:
        bars = show.Bars(progress, None, "")
        bars.on_stage("Finetune", 4)
        bars.on_step()
        (stage,) = progress.tasks
        assert stage.description == "Finetune" and stage.percentage == 25


@pytest.mark.parametrize("total", [None, 200])
def test_bars_fit_80_columns_and_vanish(monkeypatch, terminal, total):
    monkeypatch.setattr(show, "Console", lambda **_: terminal)
    with show.progress(quiet=False, total=total, label="excise demo") as hooks:
        hooks.on_part("A random tenth: SameCostRetrain, which is long enough to be cut")
        hooks.on_stage("Retrain", 100)
        hooks.on_step()
    text = terminal.file.getvalue()
    assert "━" in text and "left" in text and ("excise demo" in text) == (total is not None)
    plain = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", text).replace("\r", "\n").splitlines()
    assert max(map(len, plain)) <= 80
    assert text.endswith("\x1b[2K") and "\x1b[?25h" in text  # the lines are taken away, the cursor is back


def row(recipe, accuracy=1.0, gap=0.0, share=0.2):
    return {
        "recipe": recipe,
        **{f"{part}_accuracy": accuracy for part in show.PARTS},
        "gap": dict.fromkeys(show.PARTS, gap),
        "band": {part: [0.4, 0.6] for part in show.PARTS},
        "oracle_mean": dict.fromkeys(show.PARTS, 0.5),
        "attack": 0.5,
        "attack_oracles": 0.25,
        "seconds": 123.456,
        "retraining_share": share,
    }


def test_the_story_fits_80_columns_with_oracles_first():
    found = {
        "num_oracles": 16,
        "oracle_seconds": 99.5,
        "rows": [row("SameCostRetrain", 1.0, 0.5), row("DEL", 0.5, -0.5)],
    }
    found["rows"].append(row("Nothing", share=None))
    title, header, oracles, other, delete, nothing = drawn(show.story_table("Wrong labels: 128 rows to forget", found))
    assert title.strip() == "Wrong labels: 128 rows to forget"
    assert header.split() == ["accuracy", "%", "(gap)", "forget", "retain", "test", "attack", "seconds", "cost"]
    assert oracles.split() == ["16", "oracles", *["50.0", "±10.0"] * 3, "25.0", "99.50", "100", "%"]
    assert other.split()[:3] == ["SameCostRetrain", "100.0", "+50.0"]
    assert delete.split() == ["DEL", *["50.0", "-50.0"] * 3, "50.0", "123.46", "20", "%"]
    assert nothing.split()[-1] == "–"
    assert "…" not in "".join((header, oracles, other, delete))


def test_what_lies_in_the_band_is_green():
    assert show._marked(row("DEL", 0.6), "test") == "[green]60.0  +0.0[/green]"
    assert show._marked(row("DEL", 0.601), "test") == "60.1  +0.0"


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1234.5])
def test_measures_fit_80_columns(scale):
    one = {
        "name": "forget_margin_distance",
        "value": -0.12345 * scale,
        "low": -0.23456 * scale,
        "high": 0.34567 * scale,
    }
    one |= {
        "null_low": -0.45678 * scale,
        "null_high": 0.45678 * scale,
        "p": 0.00001234,
        "least_detectable": 0.56789 * scale,
    }
    _, line = drawn(show.measures_table("decides", [one]))
    assert "…" not in line.replace(" … ", "") and len(line) <= 80
    assert line.startswith("forget_margin_distance")


def test_modules_are_drawn_to_scale_and_those_without_are_left_out():
    long = "backbone.stages.3.blocks.11." + "attention." * 5 + "project"
    header, *found = drawn(show.modules_table({"first": 1.0, "none": 0.0, long: 0.5}))
    assert header.split() == ["module", "chosen", "%"]
    assert found[0].split() == ["first", "100.0", "█" * 30]
    assert "".join(line.split()[0] for line in found[1:]) == long and "█" * 15 in found[1]


@pytest.mark.parametrize(("value", "expected"), [(0.0, "0.0"), (1.0, "100.0"), (0.12345, "12.3"), (None, "–")])
def test_percentages(value, expected):
    assert show.percent(value) == expected


def test_names_in_tables_are_no_markup_and_no_orders_to_the_terminal():
    name = "[red]a[/red]\x1b[2J[/]"
    for table in (show.modules_table({name: 1.0}), show.accuracy_table({name: dict.fromkeys(show.PARTS, 0.5)})):
        assert drawn(table)[1].startswith("[red]a[/red][/] ")
    found = {"num_oracles": 2, "oracle_seconds": 1.0, "rows": [row(name)]}
    title, *_, line = drawn(show.story_table(name, found), 120)
    assert title.strip() == "[red]a[/red][/]" and line.startswith("[red]a[/red][/] ")
