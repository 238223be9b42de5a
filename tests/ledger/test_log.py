import multiprocessing
import os
import stat

import pytest

from excise import errors, verify
from excise.ledger.log import Log
from tests.ledger import samples


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "ledger" / "receipts.jsonl")


def test_a_log_without_entries_has_a_head_of_number_zero(log):
    assert log.receipts() == []
    assert log.head() == {"seq": 0, "hash": verify.GENESIS}


def test_each_receipt_follows_the_one_before(log):
    told, given = [], []
    for number in range(1, 6):
        told.append(log.append(lambda seq, prev: given.append((seq, prev)) or samples.build(seq, prev)))
        assert log.head() == {"seq": number, "hash": told[-1]["hash"]}
    assert given == [
        (number, before) for number, before in enumerate([verify.GENESIS, *(one["hash"] for one in told[:-1])], 1)
    ]
    assert log.receipts() == Log(str(log.path)).receipts() == told
    assert log.path.read_bytes() == samples.content_of(told)
    assert verify.log_faults(log.path.read_bytes(), log.head()) == []
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_a_fail_stays_beside_a_later_pass(log):
    log.append(lambda seq, prev: samples.build(seq, prev, verdict="FAIL"))
    log.append(samples.build)
    assert [one["audit"]["verdict"] for one in log.receipts()] == ["FAIL", "PASS"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"claim": "gone"}, "it claims 'gone'"),
        ({"seq": 7}, "it should be entry 2 after sha256:"),
        ({"prev": verify.GENESIS}, "it should be entry 2 after sha256:"),
        ({"drift": {"hash": "x"}}, "one seq, one prev and one hash"),
        ({"extra": 1}, "'extra' is not known"),
    ],
)
def test_a_receipt_that_would_not_stand_up_is_not_written(log, changes, said):
    log.append(samples.build)
    before = log.path.read_bytes()
    with pytest.raises(errors.Refused, match=rf"would not stand up cannot enter .*: .*{said}.*; nothing was written"):
        log.append(lambda seq, prev: {**samples.build(seq, prev), **changes})
    with pytest.raises(errors.Refused, match=r"cannot enter .*: expected plain values for a record"):
        log.append(lambda seq, prev: {**samples.build(seq, prev), "drift": {"x": object()}})
    assert log.path.read_bytes() == before


def test_a_torn_entry_is_cut_off_and_its_number_given_again(log):
    first = log.append(samples.build)
    second = log.append(samples.build)
    content = log.path.read_bytes()
    line = verify.canonical(second)
    for torn in (line[:1], line[:100], line[:-1]):
        log.path.write_bytes(samples.content_of([first]) + torn)
        assert log.receipts() == [first]
        assert log.head()["seq"] == 1
        assert log.append(samples.build) == second
        assert log.path.read_bytes() == content


def test_an_entry_whose_end_of_line_alone_was_lost_stays(log):
    told = [log.append(samples.build), log.append(samples.build)]
    log.path.write_bytes(samples.content_of(told)[:-1])
    assert log.append(samples.build)["seq"] == 3
    assert log.receipts()[:2] == told


def test_nothing_is_added_to_a_log_whose_last_entry_was_changed(log):
    told = [log.append(samples.build), log.append(samples.build)]
    whole = samples.content_of(told)
    spoiled = whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:]
    for content, said in (
        (spoiled, "its last entry is not what it was"),
        (whole[:-1] + b"\x0b", "the last line is whole"),
    ):
        log.path.write_bytes(content)
        with pytest.raises(errors.Corrupt, match=said):
            log.append(samples.build)
        assert log.path.read_bytes() == content
    log.path.write_bytes(spoiled)
    with pytest.raises(errors.Corrupt, match="its last entry is not what it was"):
        log.head()
    with pytest.raises(errors.Corrupt, match="entry 2: it was changed"):
        log.receipts()


def test_an_entry_that_says_what_it_may_not_is_found_on_reading(log):
    told = verify.sealed({**samples.build(1, verify.GENESIS), "claim": "gone"})
    log.path.parent.mkdir()
    log.path.write_bytes(samples.content_of([told]))
    with pytest.raises(errors.Corrupt, match="entry 1: it claims 'gone'"):
        log.receipts()


def test_a_write_that_fails_leaves_the_log_as_it_was(log, monkeypatch):
    log.append(samples.build)
    before = log.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    for call in ("write", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            with pytest.raises(errors.DiskError, match="No space left on device"):
                log.append(samples.build)
        assert log.path.read_bytes() == before
    assert log.append(samples.build)["seq"] == 2


def _append(path, count):
    for _ in range(count):
        Log(path).append(samples.build)


def test_processes_append_one_after_the_other(log):
    context = multiprocessing.get_context("fork")
    several = [context.Process(target=_append, args=(log.path, 10)) for _ in range(3)]
    for one in several:
        one.start()
    for one in several:
        one.join(60)
    assert [one["seq"] for one in log.receipts()] == list(range(1, 31))
