"""No name is more than shown: not on the page, not in a terminal, not in an error."""

import io
import re

import pytest
from rich.console import Console

from excise.cli import main, show
from excise.cli.printable import printable
from excise.report import render
from tests.hostile.names import TEXTS
from tests.report import samples
from tests.report.test_page import Tree, with_text

ACTIVE = {"script", "iframe", "object", "embed", "base", "form", "img", "link", "animate"}


def test_there_are_enough_of_them():
    assert len(set(TEXTS)) == len(TEXTS) >= 40


def elements(page):
    """Give tags and names of attributes in order; the parser itself refuses comments and what is not closed."""
    return [(tag, sorted(attributes)) for tag, attributes in Tree(render(page)).tags]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_no_text_adds_an_element_or_an_attribute_to_the_page(text):
    page = samples.small_page()
    found = elements(with_text(page, lambda word: f"{text} {word}"))
    assert found == elements(with_text(page, lambda word: f"x {word}"))
    assert [tag for tag, _ in found if tag in ACTIVE] == ["script"]  # the page's own numbers, which are no program
    assert not [name for _, names in found for name in names if name.startswith("on")]


def shown(width=200, **options):
    return Console(file=io.StringIO(), width=width, highlight=False, **options)


def seen(console):
    return console.file.getvalue().encode("utf-8", "replace").decode()


CONTROL = re.compile(r"[^\n\t -~\u00a0-\u200a\u2010-\u2027\u2030-\u2064\u2070-\ud7ff\ue000-\ufefe\uff00-\U0010ffff]")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_nothing_that_is_said_can_steer_a_terminal(text, terminal):
    to = shown(force_terminal=terminal, color_system=None, legacy_windows=False)
    show.say(to, f"a {text} b")
    to.print(show.modules_table({text: 0.5}))
    to.print(show.accuracy_table({text: dict.fromkeys(show.PARTS, 0.5)}))
    measure = dict.fromkeys(("value", "low", "high", "null_low", "null_high", "p"), 0.5)
    to.print(show.measures_table("decides", [{"name": text, **measure}]))
    with_markup = seen(to)
    assert not CONTROL.search(with_markup)
    for word in re.findall(r"[!-~]+", printable(text)):
        assert word in with_markup


def test_no_error_can_steer_a_terminal(tmp_path, capsys):
    for text in TEXTS:
        assert main.call(["report", f"{tmp_path}/{text}"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and not CONTROL.search(err) and re.match("excise: .*(neither audit.json|Invalid)", err), text


@pytest.mark.parametrize(
    "words", [["recipes", "--\x1b[2Jx"], ["\x1b[2Jx"], ["report", "x", "--config", "\x1b]0;t\x07"]]
)
def test_no_word_that_is_refused_can_steer_a_terminal(capsys, words):
    assert main.call(words) == 2
    assert not CONTROL.search(capsys.readouterr().err)


def test_a_progress_bar_shows_a_stage_as_it_is_called(monkeypatch):
    to = shown(force_terminal=True, color_system=None, legacy_windows=False)
    monkeypatch.setattr(show, "Console", lambda **_: to)
    with show.progress(quiet=False) as hooks:
        for text in ("[b]\x1b[31m", "[/]", "\x1b]0;t\x07"):
            hooks.on_part(text)
            hooks.on_stage("x", 1)
            hooks.on_step()
    assert "\x1b[31m" not in seen(to) and "\x1b]" not in seen(to)


def test_a_terminal_s_own_letters_are_left_alone():
    text = "Größe – 猫 ✓ 👩\u200d🔬 ±3 % ‘x’ …\n\tnext"
    assert printable(text) == text
