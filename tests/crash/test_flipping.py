"""A changed file of any kind is found before anything is made of it, and none that is as it was is called damaged."""

import random

import pytest

from excise.custody.checking import check
from tests.crash import flipping
from tests.crash.flipping import (
    KINDS,
    changed,
    cut,
    everything,
    files_of,
    flipped,
    is_found,
    is_passed_over,
    is_refused,
)

FLIPS, CUTS = 9, 2
READ = [name for name, kind in KINDS.items() if kind.used_by]


@pytest.fixture(scope="session")
def place(stages, tmp_path_factory):
    return everything(stages, tmp_path_factory.mktemp("everything") / "place")


def test_no_sound_file_is_called_damaged(place):
    found = [one for directory in {kind.directory for kind in KINDS.values()} for one in check(place.root / directory)]
    assert {one.state for one in found} <= {"sound", "unfinished", "left over"}
    sound = {one.path for one in found if one.state == "sound"}
    for name, kind in KINDS.items():
        if name != "checkpoint":
            assert {str(path) for path in files_of(place, kind)} <= sound, name


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_and_a_cut_end_are_found(place, name):
    draws, kind = random.Random(f"flip {name}"), KINDS[name]
    for number in range(FLIPS + CUTS):
        path = draws.choice(files_of(place, kind))
        content = (flipped if number < FLIPS else cut)(path.read_bytes(), draws)
        assert is_found(place, kind, path, content), (path, number)


@pytest.mark.parametrize("name", READ)
def test_the_command_that_reads_a_file_stops_at_a_changed_one(place, name):
    path = files_of(place, KINDS[name])[0]
    assert is_refused(place, KINDS[name], path, flipped(path.read_bytes(), random.Random(f"read {name}")))


def test_an_unlearning_goes_on_past_a_checkpoint_that_was_changed(stages, place):
    own = place.copied_to(place.root.parent / "own")
    assert is_passed_over(stages, own, random.Random(1))


def test_files_of_another_run_are_found(place):
    own = place.copied_to(place.root.parent / "own")
    found = flipping.swapped(own)
    assert len(found) >= 4 and set(found.values()) == {True}, found
    assert [one for one in check(own.work / "life") if one.state == "damaged"] == []


def test_changing_a_file_for_a_block_leaves_it_as_it_was(place):
    path = files_of(place, KINDS["mask"])[0]
    before = path.read_bytes()
    with changed(path, b"x"):
        assert path.read_bytes() == b"x"
    assert path.read_bytes() == before
    one = flipped(before, random.Random(0))
    assert sum((a ^ b).bit_count() for a, b in zip(one, before, strict=True)) == 1
    assert before.startswith(cut(before, random.Random(0))) and len(cut(before, random.Random(0))) < len(before)
