import logging
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from excise import errors
from excise.store import logs


def whole(line):
    return line.startswith(b"<") and line.endswith(b">")


def add(path, *lines):
    with logs.appending(path, whole) as appender:
        for line in lines:
            appender.append(line)


def test_lines_are_added_at_the_end_and_the_last_is_known(tmp_path):
    path = tmp_path / "deep" / "log"
    with logs.appending(path, whole) as appender:
        assert appender.last is None
        appender.append(b"<a>")
        assert appender.last == b"<a>"
    add(path, b"<b>", b"<" + b"c" * 5000 + b">")
    with logs.appending(path, whole) as appender:
        assert appender.last == b"<" + b"c" * 5000 + b">"
    assert logs.read_lines(path) == path.read_bytes() == b"<a>\n<b>\n<" + b"c" * 5000 + b">\n"


def test_the_file_is_for_its_owner_only_and_nothing_lies_beside_it(tmp_path):
    before = os.umask(0)
    try:
        add(tmp_path / "log", b"<a>")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_new_files_name_is_on_the_disk_before_its_first_line_is_acknowledged(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "life").mkdir()
    add(tmp_path / "life" / "log", b"<a>")
    assert synced == ["life", "log"]
    add(tmp_path / "life" / "log", b"<b>")
    assert synced == ["life", "log", "log"]
    (tmp_path / "life" / "log").write_bytes(b"")  # made by another, who has not come to that yet
    add(tmp_path / "life" / "log", b"<c>")
    assert synced[3:] == ["life", "log"]


@pytest.mark.parametrize("torn", [b"<", b"<bbb", b"{}", b"<b>xx"])
def test_a_torn_last_line_is_cut_off_and_said_so(tmp_path, torn, caplog):
    path = tmp_path / "log"
    path.write_bytes(b"<a>\n" + torn)
    assert logs.read_lines(path) == b"<a>\n"
    with caplog.at_level(logging.WARNING), logs.appending(path, whole) as appender:
        assert appender.last == b"<a>"
        appender.append(b"<c>")
    assert f"cut off {len(torn)} bytes of a last line" in caplog.text
    assert path.read_bytes() == b"<a>\n<c>\n"


def test_a_line_whose_end_alone_is_missing_is_completed(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"<a>\n<b>")
    with logs.appending(path, whole) as appender:
        assert appender.last == b"<b>"
        appender.append(b"<c>")
    assert path.read_bytes() == b"<a>\n<b>\n<c>\n"


def test_a_whole_line_with_a_damaged_end_is_not_cut_off(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"<a>\n<b>\x0b")
    with pytest.raises(errors.Corrupt, match="the last line is whole, and a byte that is no end of line follows it"):
        add(path, b"<c>")
    assert path.read_bytes() == b"<a>\n<b>\x0b"


def test_what_no_writer_can_have_left_is_not_cut_off(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"<a>\n" + b"x" * 3 * logs.MAX_LINE_BYTES)
    with pytest.raises(errors.Corrupt, match="expected a last line of at most"):
        add(path, b"<b>")
    assert path.stat().st_size == 4 + 3 * logs.MAX_LINE_BYTES


@pytest.mark.parametrize("line", [b"", b"<a\nb>", b"<" * logs.MAX_LINE_BYTES])
def test_only_single_lines_are_taken(tmp_path, line):
    with pytest.raises(ValueError, match="expected one line of less than"):
        add(tmp_path / "log", line)
    assert (tmp_path / "log").read_bytes() == b""


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch, call):
    path = tmp_path / "log"
    add(path, b"<a>")

    def full(*_):
        raise OSError(28, "No space left on device")

    with logs.appending(path, whole) as appender:
        real = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(errors.DiskError, match=r"could not add 4 bytes to .*log: No space left on device"):
                appender.append(b"<b>")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:2]))
            with pytest.raises(errors.DiskError, match="only 2 of 4 bytes were taken"):
                appender.append(b"<b>")
        assert path.read_bytes() == b"<a>\n"
        appender.append(b"<c>")
    assert path.read_bytes() == b"<a>\n<c>\n"


def test_a_torn_line_that_cannot_be_cut_off_is_an_error_of_the_disk(tmp_path, monkeypatch):
    path = tmp_path / "log"
    path.write_bytes(b"<a>\n<b")

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(errors.DiskError, match=r"could not open .*log to add to it: Input/output error"):
        add(path, b"<c>")
    assert path.read_bytes() == b"<a>\n<b"


def test_a_place_that_cannot_be_opened_is_an_error(tmp_path):
    (tmp_path / "log").mkdir()
    with pytest.raises(errors.DiskError, match=r"could not open .*log to add to it"):
        add(tmp_path / "log", b"<a>")
    with pytest.raises(errors.BadData, match=r"log cannot be read"):
        logs.read_lines(tmp_path / "log")


def _count(path, number):
    for _ in range(number):
        with logs.appending(path, whole) as appender:
            last = int(appender.last[1:-1]) if appender.last else 0
            appender.append(b"<%d>" % (last + 1))


def test_processes_take_turns(tmp_path):
    path = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    several = [context.Process(target=_count, args=(path, 25)) for _ in range(4)]
    for one in several:
        one.start()
    for one in several:
        one.join(60)
    assert path.read_bytes() == b"".join(b"<%d>\n" % number for number in range(1, 101))


def test_a_pipe_is_neither_read_nor_added_to(tmp_path):
    os.mkfifo(tmp_path / "log")
    with pytest.raises(errors.BadData, match="cannot be read: it is a directory, a pipe or a device"):
        logs.read_lines(tmp_path / "log")
    with (
        pytest.raises(errors.DiskError, match="it is a directory, a pipe or a device"),
        logs.appending(tmp_path / "log", bool),
    ):
        pass
