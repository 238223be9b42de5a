"""Pages to draw: one small, one of a whole audit."""

import pytest

from tests.report import samples


@pytest.fixture
def section():
    """One section with every part in it."""
    return samples.small_section("iid")


@pytest.fixture
def measures():
    """A measure inside its null band, one outside, one far outside that decides nothing."""
    return samples.small_measures()


@pytest.fixture
def page():
    """A page of two sections, with every part of a comparison of recipes on it."""
    return samples.small_page()


@pytest.fixture
def full():
    """The page of a whole audit: every part filled."""
    return samples.full_page()
