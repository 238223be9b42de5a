import sys

import pytest

from excise import errors, plugins
from tests.packages import install


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_without_packages_there_are_no_names(site):
    for group in plugins.GROUPS:
        assert plugins.names(group) == []


def test_names_load_no_code_and_a_name_loads_only_its_own(site):
    install(site, "one-a", {plugins.METHODS: {"B": "one_a:B", "A": "other_a:A"}}, code="B = 7\n")
    (site / "other_a.py").write_text("raise RuntimeError('loaded')\n")
    assert plugins.names(plugins.METHODS) == ["A", "B"]
    assert plugins.names(plugins.LOCALIZERS) == plugins.names(plugins.RECIPES) == []
    assert plugins.origins(plugins.METHODS, "B") == ["one-a 1.0"] and plugins.origins(plugins.METHODS, "C") == []
    assert "one_a" not in sys.modules
    assert plugins.load(plugins.METHODS, "B") == 7
    assert "other_a" not in sys.modules


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [
        ("two_a:A", "import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("two_a:A", "B = 1", "AttributeError: module 'two_a' has no attribute 'A'"),
        ("two_a:A", "raise SystemExit(3)", "SystemExit: 3"),
        ("two_a:A", "1 / 0", "ZeroDivisionError: division by zero"),
        ("nowhere_a:A", "", "ModuleNotFoundError: No module named 'nowhere_a'"),
    ],
)
def test_a_broken_package_is_named(site, value, code, said):
    install(site, "two-a", {plugins.RECIPES: {"A": value}}, version="3.1", code=code)
    with pytest.raises(
        errors.BadRequest, match=rf"^excise.recipes: 'A' of two-a 3.1 cannot be loaded from {value}: {said}; correct,"
    ):
        plugins.load(plugins.RECIPES, "A")


def test_a_name_of_two_packages_is_refused_and_both_are_named(site):
    for name in ("three-a", "three-b"):
        install(site, name, {plugins.METHODS: {"A": f"{name.replace('-', '_')}:A"}}, code="A = 1\n")
    assert plugins.names(plugins.METHODS) == ["A"]
    with pytest.raises(errors.BadRequest, match=r"'A' is offered by three-a 1.0 and by three-b 1.0; uninstall one"):
        plugins.load(plugins.METHODS, "A")


def test_a_name_that_nobody_offers_is_refused(site):
    with pytest.raises(errors.BadRequest, match=r"which offer none; found 'A'; install the package"):
        plugins.load(plugins.METHODS, "A")
    install(site, "four-a", {plugins.METHODS: {"B": "four_a:B"}})
    with pytest.raises(errors.BadRequest, match=r"^excise.methods: expected one of B; found 'A'"):
        plugins.load(plugins.METHODS, "A")


@pytest.mark.parametrize("call", [plugins.names, lambda group: plugins.load(group, "A")])
def test_a_group_that_is_not_ours_is_refused(call):
    with pytest.raises(errors.BadRequest, match=r"group: expected one of excise.methods, .*, found 'pytest11'"):
        call("pytest11")


def test_a_clash_with_a_name_of_ours_is_told(site):
    install(site, "five-a", {plugins.RECIPES: {"DEL": "five_a:DEL"}})
    assert plugins.clash(plugins.RECIPES, "DEL", ["DEL"]) == "'DEL' of five-a 1.0 is hidden by excise's own 'DEL'"
    assert plugins.clash(plugins.RECIPES, "DEL", ["SSD"]) is None
    assert plugins.clash(plugins.RECIPES, "SSD", ["SSD"]) is None
