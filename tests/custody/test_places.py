import os
import socket
from pathlib import Path

import pytest

from excise import errors
from excise.custody.places import files_in, lies_in


@pytest.fixture
def place(tmp_path):
    """Two files, one of them deeper; links to a file and to a folder outside; a pipe and a socket."""
    here, outside = tmp_path / "here", tmp_path / "outside"
    (here / "deep").mkdir(parents=True)
    outside.mkdir()
    for path in (here / "b", here / "deep" / "a", outside / "secret"):
        path.write_text("x")
    (here / "link").symlink_to(outside / "secret")
    (here / "folder").symlink_to(outside)
    (here / "round").symlink_to(here)
    os.mkfifo(here / "pipe")
    return here


def names(place, found):
    return sorted(str(path.relative_to(place)) for path in found)


def test_files_and_links_are_given_and_links_pipes_and_sockets_not_entered(place):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(place / "socket"))
        assert names(place, files_in([place])) == ["b", "deep/a", "folder", "link", "round"]
    assert list(files_in([place / "pipe"])) == []


def test_pipes_and_sockets_are_given_where_they_are_asked_for(place):
    assert names(place, files_in([place], unopened=True)) == ["b", "deep/a", "folder", "link", "pipe", "round"]
    assert list(files_in([place / "pipe"], unopened=True)) == [place / "pipe"]


def test_each_file_is_given_once_and_what_is_apart_is_not(place):
    every = names(place, files_in([place]))
    assert names(place, files_in([place, place / "deep", place / "b", place / ".." / "here"])) == every
    assert names(place, files_in([place], apart=[place / "deep"])) == ["b", "folder", "link", "round"]
    assert names(place, files_in([place], apart=[place / "b"])) == ["deep/a", "folder", "link", "round"]
    assert list(files_in([place], apart=[place])) == []
    assert list(files_in([place / "b"])) == [place / "b"]


def test_more_files_than_the_bound_are_refused_and_as_many_are_not(place):
    assert len(list(files_in([place], most_files=5))) == 5
    with pytest.raises(
        errors.BadRequest, match=r"--in: more than 4 files, the last one looked at in .*narrower folders"
    ):
        list(files_in([place], most_files=4))


def test_a_place_that_is_not_there_is_refused(place):
    with pytest.raises(errors.BadRequest, match=r"--in: expected a folder or a file, found nothing at .*gone"):
        list(files_in([place / "gone"]))


def test_a_folder_that_may_not_be_looked_into_is_an_error_and_not_empty(place, monkeypatch):
    scan = os.scandir

    def fail(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(errors.DiskError, match=r"could not look into .*deep: Permission denied"):
        list(files_in([place]))


def test_a_path_lies_where_it_leads_to(place):
    assert lies_in(place / "deep" / "a", [place]) and lies_in(place, [place])
    assert not lies_in(place / "link", [place]) and lies_in(place / "link", [place.parent / "outside"])
    assert not lies_in(place.parent / "here-not", [place])
