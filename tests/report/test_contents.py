"""A page as one value."""

import inspect

import msgspec
import pytest

import excise.report
from excise.report import Page, contents


def test_a_page_survives_json(page, full):
    for each in (page, full):
        assert msgspec.json.decode(msgspec.json.encode(each), type=Page) == each


def test_every_part_but_the_title_may_be_absent():
    page = Page(title="a")
    assert not any(getattr(page, field) for field in page.__struct_fields__ if field != "title")


def test_an_unknown_part_is_refused():
    with pytest.raises(msgspec.ValidationError, match="unknown field `extra`"):
        msgspec.json.decode(b'{"title": "a", "extra": 1}', type=Page)


def structs():
    """Every type of value that a page is made of."""
    return [kind for _, kind in inspect.getmembers(excise.report, inspect.isclass) if issubclass(kind, msgspec.Struct)]


@pytest.mark.parametrize("kind", structs(), ids=lambda kind: kind.__name__)
def test_every_field_of_every_value_is_explained_and_every_value_is_frozen_and_strict(kind):
    explained = {line.partition(":")[0].strip() for line in inspect.getdoc(kind).splitlines() if ":" in line}
    assert set(kind.__struct_fields__) <= explained
    settings = kind.__struct_config__
    assert settings.frozen
    assert settings.forbid_unknown_fields


def test_all_that_a_page_may_hold_can_be_imported_from_the_room():
    named = {kind.__name__ for kind in structs()}
    found = set()

    def walk(kind):
        for each in getattr(kind, "__args__", ()):
            walk(each)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in found:
            found.add(kind)
            for field in msgspec.structs.fields(kind):
                walk(field.type)

    walk(contents.Page)
    assert {kind.__name__ for kind in found} == named
