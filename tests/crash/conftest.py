"""The project at each of its stages, made by whichever test asks first."""

import pytest

from tests.crash.project import Stages


@pytest.fixture(scope="session")
def stages(tmp_path_factory):
    return Stages(tmp_path_factory.mktemp("stages"))
