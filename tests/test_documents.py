"""The pages: every relative link leads to a file of the project, and measured tables are those that were measured."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import __main__ as performance
from benchmarks import (
    audits,
    batchnorm,
    method_memory,
    moments,
    recipes,
    scale,
    zero_shot,
)
from benchmarks.published import page as published_page
from benchmarks.published import plots as published_plots
from benchmarks.published import running as published
from excise import errors
from excise.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_project(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_no_file_that_a_page_leads_to_is_left_out_of_the_repository():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    tracked = set(
        subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    )
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                path = (page.parent / target).resolve().relative_to(ROOT)
                assert str(path) in tracked or (ROOT / path).is_dir(), f"{page.name}: {target}"


def test_the_page_of_all_recipes_is_what_was_measured():
    assert recipes.PAGE.read_text(encoding="utf-8") == recipes.render(json.loads(recipes.FOUND.read_text()))


def test_the_page_of_what_can_be_had_from_forget_rows_alone_is_what_was_measured():
    assert zero_shot.PAGE.read_text(encoding="utf-8") == zero_shot.render(json.loads(zero_shot.FOUND.read_text()))


def test_page_and_figures_of_the_published_systems_are_what_was_measured():
    found, chosen = (json.loads(path.read_text()) for path in (published.FOUND, published.CHOSEN))
    assert published.PAGE.read_text(encoding="utf-8") == published_page.render(found, chosen)
    for name, picture in published_plots.pictures(found, published.MASKED).items():
        assert (published.IMAGES / name).read_text(encoding="utf-8") == picture + "\n"


def test_what_the_readme_says_of_the_published_systems_is_what_was_measured():
    said, page = (" ".join(path.read_text(encoding="utf-8").split()) for path in (ROOT / "README.md", published.PAGE))
    assert (
        "Nearer than both retraining and nothing most often: DMM, in 5 of the cases." in page
        and "in 5 of 10 cases" in said
    )
    assert "Of 9 claims 1 appear here" in page and "1 of the papers' 9 claims appears there in full" in said
    lost = (
        page.partition("Losing to a retraining of DEL's cost in more cases than not: ")[2].partition(".")[0].split(", ")
    )
    assert {"PGU", "DEL"} <= set(lost) and "PGU and DEL lose to that retraining more often than not" in said
    assert (
        "localization hurts more often than it helps" in page and "helps these methods less often than it hurts" in said
    )


def test_the_settings_of_the_published_systems_are_those_that_are_tried():
    found = json.loads(published.CHOSEN.read_text())
    for name, kinds in found["chosen"].items():
        problem = published.Problem(name=name, size="usual", seed=found["seed"], out="")
        for recipe, own in ((recipe, own) for recipes_of in kinds.values() for recipe, own in recipes_of.items()):
            assert [row["settings"] for row in own["trials"]] == published.candidates(recipe, problem), recipe
            least = min(row["distance"] for row in own["trials"])
            assert own["trials"][own["place"]]["distance"] == least


def test_the_page_of_projected_gradients_is_what_was_measured():
    assert moments.PAGE.read_text(encoding="utf-8") == moments.render(json.loads(moments.FOUND.read_text()))


def test_what_is_said_of_projected_gradients_is_what_was_measured():
    said = " ".join((ROOT / "docs" / "published.md").read_text(encoding="utf-8").split())
    rows = json.loads(moments.FOUND.read_text())["rows"]

    def forget(task, arm):
        found = [100 * row["accuracy"]["forget"] for row in rows if (row["task"], row["arm"]) == (task, arm)]
        return min(found), max(found)

    stopped = next(iter(moments.ARMS))
    low, high = forget("random rows", stopped)
    of_retrained = "{:.1f} to {:.1f}%".format(*forget("random rows", "retrained"))
    assert f"to between {low:.1f} and {high:.0f}%, where retrained networks are at {of_retrained}" in said
    assert "30 wrong labels went from {:.0f}–{:.0f}%".format(*forget("wrong labels", "original")) in said
    assert forget("wrong labels", stopped) == (0, 0) and forget("random rows", "original") == (100, 100)
    page = moments.render(json.loads(moments.FOUND.read_text()))
    away = [float(one) for line in re.findall(r"\| (0, [\d., ]+) \|", page) for one in line.split(", ")[1:]]
    assert f"by {min(away):g}% to {max(away):g}%" in said


def test_the_page_of_memory_is_what_was_measured():
    assert method_memory.PAGE.read_text(encoding="utf-8") == method_memory.render(
        json.loads(method_memory.FOUND.read_text())
    )


def test_the_page_of_performance_is_what_was_measured():
    assert performance.PAGE.read_text(encoding="utf-8") == performance.render(
        json.loads(performance.TARGET.read_text())
    )


def test_the_tables_of_scale_are_worked_out_from_what_was_measured():
    page = scale.PAGE.read_text(encoding="utf-8")
    assert page == scale.rendered(page, scale.constants())


def test_a_part_without_figures_says_so_and_all_parts_fit_into_ten_minutes():
    assert performance.render({}).count("Not measured: `python -m benchmarks ") == len(performance.parts())
    assert set(performance.parts()) <= set(performance.BUDGETS)
    assert sum(performance.BUDGETS.values()) <= 600


def test_the_page_of_the_audited_audit_is_what_was_measured():
    assert audits.PAGE.read_text(encoding="utf-8") == audits.render(json.loads(audits.FOUND.read_text()))


def test_the_table_of_batch_normalisation_is_what_was_measured():
    text = (ROOT / "docs" / "batchnorm.md").read_text(encoding="utf-8")
    assert batchnorm.table(json.loads(batchnorm.KEPT.read_text())).strip() in text


def typed():
    """Give every command in a block of a page, as it is typed: remarks, `…` and what lies in `<>` left out."""
    for page in PAGES:
        for block in page.read_text(encoding="utf-8").split("```")[1::2]:
            for line in block.replace("\\\n", " ").splitlines():
                words = line.partition("#")[0].replace("…", "").split()
                if words[:1] == ["excise"] and len(words) > 1 and re.fullmatch(r"(\S+ )*\S+", " ".join(words)):
                    yield page.name, words[1:]


COMMANDS = [(page, words) for page, words in typed() if any(word[:2] == "--" or "/" in word for word in words)]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS])
def test_a_command_on_a_page_is_one_that_can_be_typed(page, words):
    try:
        room, options = main.app(words, standalone_mode=False)
    except errors.BadRequest as error:
        assert "cannot be read as TOML" in str(error)  # a file of options that a command before it writes
    else:
        assert room and options


def test_there_are_commands_on_the_pages():
    assert len(COMMANDS) > 20
