import re

import pytest

from excise import errors
from excise.ledger.book import Book
from excise.lifecycle import papers as desk
from excise.lifecycle.papers import BOOK, MANIFEST, RECEIPTS, now, opened
from excise.recipes import Finetune


def answered(ledger, *rows):
    for row in rows:
        ledger.request([row])
        ledger.run(Finetune(epochs=1), tier="T0")


def test_a_directory_without_a_book_is_no_ledger(tmp_path):
    with pytest.raises(errors.BadData, match="expected a ledger's book"), opened(tmp_path):
        pass


def test_the_newest_network_is_that_of_the_last_adopted_run(ledger):
    with opened(ledger.directory) as papers:
        assert papers.newest() is None
    answered(ledger, 3, 11)
    with opened(ledger.directory) as papers:
        assert papers.newest().number == 2
        assert papers.run_directory(2) == ledger.directory / "runs" / "0002"


def test_a_log_whose_end_was_cut_off_is_found_by_the_book(ledger):
    answered(ledger, 3, 11)
    log = ledger.directory / RECEIPTS
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(
        errors.Corrupt, match=r"book.sqlite knows entry 2 of receipts.jsonl, which ends at 1: its end was cut off"
    ):
        ledger.status()


def test_a_changed_entry_is_found_at_every_start(ledger):
    answered(ledger, 3)
    log = ledger.directory / RECEIPTS
    log.write_bytes(log.read_bytes().replace(b"INCONCLUSIVE", b"PASS"))
    for look in (ledger.status, ledger.head, ledger.replay, lambda: ledger.request([11])):
        with pytest.raises(errors.Corrupt, match="entry 1: "):
            look()


def test_a_book_from_an_earlier_time_than_the_log_is_refused(ledger):
    book = ledger.directory / BOOK
    earlier = book.read_bytes()
    answered(ledger, 3)
    book.write_bytes(earlier)
    with pytest.raises(errors.Corrupt, match=r"entry 1 of receipts.jsonl is of a run that book.sqlite does not know"):
        ledger.status()


def test_a_log_of_another_ledger_is_refused(opened):
    first, second = opened("a"), opened("b")
    answered(first, 3)
    answered(second, 3)
    (first.directory / RECEIPTS).write_bytes((second.directory / RECEIPTS).read_bytes())
    with pytest.raises(errors.Corrupt, match="they come from different times or ledgers"):
        first.status()


def test_a_run_that_another_process_began_meanwhile_is_looked_up_again(ledger, monkeypatch):
    answered(ledger, 3)
    real, late = Book.runs, [[]]
    monkeypatch.setattr(Book, "runs", lambda self: late.pop() if late else real(self))
    with opened(ledger.directory) as papers:
        assert len(papers.book.runs()) == 1 and not late


def test_opening_twice_changes_nothing(ledger, monkeypatch):
    answered(ledger, 3)
    before = ledger.status()
    calls = []
    monkeypatch.setattr(desk, "enter", lambda *given: calls.append(given))
    assert ledger.status() == before and calls == []


def test_the_time_is_in_utc_to_the_second():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", now())


def test_a_receipt_is_of_the_run_that_it_names(ledger):
    answered(ledger, 3)
    receipt = ledger.receipt(1)
    with opened(ledger.directory) as papers:
        (run,) = papers.book.runs()
    assert receipt["run"] == run.id and desk._is_of(receipt, run)
    for changed in ({"run": "0" * 32}, {"requests": []}, {"hash": f"sha256:{'0' * 64}"}):
        assert not desk._is_of({**receipt, **changed}, run)


@pytest.mark.parametrize("name", [BOOK, MANIFEST, "runs/0001/model.safetensors"])
def test_a_file_of_the_ledger_that_is_gone_is_found_at_once(ledger, name):
    answered(ledger, 3)
    ledger.request([11])
    path = ledger.directory / name
    content = path.read_bytes()
    path.unlink()
    for look in (ledger.status, lambda: ledger.run(Finetune(epochs=1), tier="T0")):
        with pytest.raises(errors.Corrupt, match=f"{path.name}.* is gone"):
            look()
    path.write_bytes(content)
    assert ledger.status()["waiting"] == 1
