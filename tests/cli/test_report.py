import pytest

from excise import store
from tests.cli.project import tree


@pytest.fixture
def audited(project, unlearn, excise):
    assert unlearn("--set", "epochs=1", plan="plan.toml").code == 0
    assert excise("audit", "run", "--oracles", 2, "--test", "mine:test").code == 0
    return project / "run"


def test_the_page_is_drawn_again_from_the_numbers(audited, excise):
    page = audited / "report.html"
    content = page.read_bytes()
    page.unlink()
    others = tree(audited)
    done = excise("report", "run", "--json")
    assert done.code == 0 and done.json == {"report": "run/report.html"}
    assert page.read_bytes() == content
    assert {name: held for name, held in tree(audited).items() if name != "report.html"} == others
    assert excise("report", "run").out == "Wrote run/report.html\n"


@pytest.mark.parametrize("place", ["nowhere", ".", "plan.toml"])
def test_a_place_without_numbers_is_refused(project, excise, place):
    before = tree(project)
    done = excise("report", place)
    assert done.code == 2
    assert f"{place} holds neither audit.json nor demo.json; run `excise audit {place}` first" in done.err
    assert tree(project) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: {key: value for key, value in held.items() if key != "page"},
        lambda held: {**held, "page": {**held["page"], "sections": 3}},
        lambda held: {**held, "page": {**held["page"], "unheard_of": 3}},
        lambda held: [],
    ],
)
def test_numbers_that_are_no_page_are_corrupt(audited, excise, damage):
    held = damage(store.read_json(audited / "audit.json"))
    store.amend_record(audited, {"audit.json": store.json_bytes(held)})
    before = tree(audited)
    done = excise("report", "run")
    assert done.code == 6 and "run/audit.json holds no page that this version of excise can draw" in done.err
    assert tree(audited) == before


def test_numbers_that_are_no_json_are_corrupt(audited, excise):
    store.amend_record(audited, {"audit.json": b"{"})
    done = excise("report", "run", "--json")
    assert done.code == done.json["exit_code"] == 6 and "run/audit.json is not JSON" in done.err


def test_numbers_that_are_not_those_of_the_record_are_not_drawn(audited, excise):
    before = (audited / "report.html").read_bytes()
    (audited / "audit.json").write_bytes((audited / "audit.json").read_bytes().replace(b"0", b"1", 1))
    done = excise("report", "run")
    assert done.code == 6 and "run/audit.json is not what its record says" in done.err
    assert (audited / "report.html").read_bytes() == before


def test_numbers_without_a_run_are_drawn_where_they_lie(audited, excise, project):
    (project / "apart").mkdir()
    (project / "apart" / "audit.json").write_bytes((audited / "audit.json").read_bytes())
    assert excise("report", "apart").code == 0
    assert (project / "apart" / "report.html").read_bytes() == (audited / "report.html").read_bytes()
