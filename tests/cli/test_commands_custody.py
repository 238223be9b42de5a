"""Commands about what lies on disk: they stand among the others, and what they do is tested where it is done."""

import pytest

from excise.cli import commands, main


@pytest.mark.parametrize("name", ["fsck", "copies", "purge", "verify"])
def test_a_command_about_files_reads_its_words_and_names_what_does_the_work(name):
    room, options = main.app([name, "there"], standalone_mode=False)
    assert room == name and (room in commands.UNSEEDED) == (name != "verify")  # a replay is computed
    assert str(next(iter(options.values()))) == "there"
