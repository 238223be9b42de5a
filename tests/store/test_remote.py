"""Files at a URL, on fsspec's own two places that need no other machine: memory, and this disk."""

import sys
from pathlib import Path

import fsspec
import pytest

from excise import errors
from excise.store import Remote, is_url


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    yield f"memory://{tmp_path.name}/bank" if request.param == "memory" else f"file://{tmp_path}/some/bank"
    fsspec.filesystem("memory").store.clear()


def test_what_is_put_is_got_and_nothing_else_is(url):
    there = Remote(url)
    assert there.get("a") is None and not there.exists("a") and there.sizes() == {}
    there.put("a", b"content")
    there.put("b", b"")
    again = Remote(url + "/")
    assert again.url == there.url
    assert again.get("a") == b"content" and again.exists("a") and again.part("a", 2, 5) == b"nte"
    assert again.sizes() == {"a": 7, "b": 0}  # and nothing under a temporary name


def test_what_is_there_already_is_left(url):
    there = Remote(url)
    there.put("a", b"first")
    there.put("a", b"second")
    assert there.get("a") == b"first"


def test_what_is_removed_is_gone_and_once_more_is_no_error(url):
    there = Remote(url)
    there.put("a", b"content")
    there.remove("a")
    there.remove("a")
    assert not there.exists("a") and there.sizes() == {}


def test_a_place_that_can_be_written_is_left_as_it_was(url):
    there = Remote(url)
    there.require_writable()
    assert there.sizes() == {}


def test_a_write_that_fails_leaves_nothing_and_says_where(url, monkeypatch):
    there = Remote(url)
    there.put("a", b"content")

    def broken(*_, **__):
        raise ConnectionError("the line is dead\nand more")

    monkeypatch.setattr(there._files, "mv", broken)
    with pytest.raises(
        errors.DiskError, match=r"could not write b: ConnectionError: the line is dead; see that"
    ) as told:
        there.put("b", b"content")
    assert url in str(told.value) and "and more" not in str(told.value)
    assert there.sizes() == {"a": 7}


@pytest.mark.parametrize(
    ("call", "name", "message"),
    [
        (lambda there: there.exists("a"), "info", "could not look for a: PermissionError: forbidden"),
        (lambda there: there.get("a"), "cat_file", "could not read a: PermissionError: forbidden"),
        (lambda there: there.part("a", 0, 8), "cat_file", "could not read a: PermissionError: forbidden"),
        (lambda there: there.sizes(), "ls", "could not list it: PermissionError: forbidden"),
        (lambda there: there.remove("a"), "rm_file", "could not remove a: PermissionError: forbidden"),
        (lambda there: there.require_writable(), "pipe_file", "could not write there: PermissionError: forbidden"),
    ],
)
def test_who_may_not_is_told_what_and_where(url, monkeypatch, call, name, message):
    there = Remote(url)

    def forbidden(*_, **__):
        raise PermissionError("forbidden")

    monkeypatch.setattr(there._files, name, forbidden)
    with pytest.raises(errors.DiskError, match=message) as told:
        call(there)
    assert str(told.value).startswith(url)


def test_a_place_that_is_not_there_cannot_be_read_in_part(url):
    with pytest.raises(errors.DiskError, match="FileNotFoundError"):
        Remote(url).part("a", 0, 8)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("s3://bucket/x", True),
        ("simplecache::s3://bucket", True),
        ("memory://", True),
        ("some/where", False),
        ("/tmp/a:b", False),
        (Path("some/where"), False),
    ],
)
def test_a_url_is_told_from_a_directory(given, wanted):
    assert is_url(given) is wanted


def test_a_url_made_a_path_is_refused():
    with pytest.raises(errors.BadRequest, match="the path s3:/bucket/x, a URL that lost a slash; give a URL as text"):
        is_url(Path("s3://bucket/x"))


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(errors.BadRequest, match="without a password") as told:
        Remote("ftp://me:secret@host/bank")
    assert "secret" not in str(told.value)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(errors.BadRequest, match=r"nowhere://bank: .*; give a URL that fsspec knows, or a directory"):
        Remote("nowhere://bank")


def test_a_protocol_without_its_package_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(errors.MissingExtra, match=r"s3://bucket/bank: .*s3fs"):
        Remote("s3://bucket/bank")


def test_a_place_that_cannot_be_reached_is_a_disk_error(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no such host")

    monkeypatch.setattr(fsspec.core, "url_to_fs", unreachable)
    with pytest.raises(errors.DiskError, match="cannot be reached: ConnectionError: no such host"):
        Remote("memory://bank")


def test_without_fsspec_the_message_is_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(errors.MissingExtra, match=r"memory://bank needs fsspec.*pip install 'excise\[cluster\]'"):
        Remote("memory://bank")


def test_a_folder_on_this_machine_is_its_owners_alone(tmp_path):
    Remote(f"file://{tmp_path}/far/away").put("a", b"1")
    assert (tmp_path / "far/away").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "far/away/a").stat().st_mode & 0o777 == 0o600
