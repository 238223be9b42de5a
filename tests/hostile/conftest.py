"""The command line's project in an empty directory."""

from tests.cli.conftest import excise, project, trained

__all__ = ["excise", "project", "trained"]
