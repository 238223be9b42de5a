"""Values of the page: frozen, built by keyword, and absent where nothing is said."""

import msgspec
import pytest

from excise.report import Band, Section, Timing, values


def test_values_are_frozen_built_by_keyword_and_know_their_fields():
    with pytest.raises(AttributeError):
        Timing(what="a", seconds=1.0).seconds = 2.0
    with pytest.raises(TypeError):
        Band(0.0, 0.5, 1.0)
    with pytest.raises(msgspec.ValidationError, match="unknown field `extra`"):
        msgspec.json.decode(b'{"what": "a", "seconds": 1, "extra": 1}', type=Timing)


def test_a_section_has_only_what_it_was_given():
    section = Section(name="a", title="a", num_forget=1, num_retain=1, num_test=1, num_oracles=0)
    assert not (section.bands or section.rows or section.histograms or section.layers or section.attack_band)


def test_splits_have_one_order():
    assert values.SPLITS == ("forget", "retain", "test")
