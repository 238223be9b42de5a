"""`excise fsck`: each file in a line, and an exit code that says whether any is damaged."""

from collections import Counter

import pytest

from excise.cli.fsck import _summed_up
from tests.cli.project import tree


@pytest.fixture
def finished(project, unlearn):
    assert unlearn("--recipe", "Nothing", "--quiet").code == 0
    return project


def test_a_sound_run_is_0_and_nothing_is_changed(finished, excise):
    before = tree(finished)
    done = excise("fsck", "run")
    assert done.code == 0, done.err
    assert "sound: run/model.safetensors\n" in done.out
    assert done.out.endswith("4 files are what the record says, none damaged.\n")
    assert tree(finished) == before
    assert excise("fsck", "run", "--quiet") == (0, "", "")


def test_a_changed_file_is_6_with_what_to_do(finished, excise):
    path = finished / "run" / "mask.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = excise("fsck", "run")
    assert done.code == 6
    assert (
        "damaged: run/mask.safetensors (run/mask.safetensors is not what its record says: expected SHA-256 " in done.out
    )
    assert "; take it from a backup, or remove the directory and give the same command again)" in done.out
    assert done.out.endswith("3 files are what the record says, 1 damaged.\n")


def test_of_a_run_that_is_unfinished_no_number_of_sound_files_is_told(finished, excise):
    (finished / "run" / "run.json").unlink()
    done = excise("fsck", "run")
    assert done.code == 0 and "0 files" not in done.out
    assert done.out.endswith("Unfinished: no record says yet what the files are to be, none damaged.\n")


def test_what_could_not_be_checked_and_what_is_unfinished_is_counted():
    assert _summed_up(Counter(sound=1, unfinished=2, unchecked=3, damaged=4)) == (
        "1 file is what the record says, 2 unfinished, 3 not to be checked, 4 damaged."
    )


def test_json_lists_every_file_and_says_whether_all_are_sound(finished, excise):
    done = excise("fsck", "run", "--json")
    assert done.json["sound"] is True
    assert [one["state"] for one in done.json["files"]] == ["sound"] * 4
    (finished / "run" / "patch.safetensors").unlink()
    done = excise("fsck", "run", "--json")
    assert done.code == 6 and done.json["sound"] is False
    assert [one["path"] for one in done.json["files"] if one["state"] == "damaged"] == ["run/patch.safetensors"]


def test_a_directory_of_somebody_elses_is_2(finished, excise):
    (finished / "photos").mkdir()
    assert excise("fsck", "photos").code == 2
