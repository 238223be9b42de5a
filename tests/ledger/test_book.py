import multiprocessing
import os
import sqlite3
import stat

import pytest

from excise import errors
from excise.ledger import book as books
from excise.ledger.book import Book
from excise.ledger.entries import REASONS, Life, Request

LIFE = Life(
    opened="2026-01-01T00:00:00Z",
    original="a" * 64,
    manifest_root="b" * 64,
    num_rows=100,
    key_id="k0",
    max_drop=0.02,
    due_days=30,
    test_accuracy=0.9,
    words={"model": "mine:make", "test": None},
)


def digest(number):
    return number.to_bytes(32, "big")


def request(number, **changes):
    facts = {
        "id": f"{number:032x}",
        "received": f"2026-01-{number + 1:02d}T10:00:00Z",
        "due": f"2026-02-{number + 1:02d}",
        "reason": "erasure",
        "state": "open",
        "num_rows": 2,
        "root": f"root{number}",
        "key_id": f"key{number}",
    }
    return Request(**{**facts, **changes})


def added(book, *numbers):
    for number in numbers:
        book.add(request(number), [digest(2 * number), digest(2 * number + 1)])


def finished(book, run, *, answered, seq=None):
    seq = run.number if seq is None else seq
    book.finish(run.number, seq=seq, receipt=f"hash{seq}", found={"verdict": "PASS"}, answered=answered)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "life" / "book.sqlite"


@pytest.fixture
def book(path):
    with Book.create(path, LIFE) as made:
        yield made


def told(book):
    return book.life(), book.requests(), book.rows(), book.runs()


def test_what_was_written_is_read_back_by_another_connection(book, path):
    added(book, 0, 1)
    book.begin("r1", "2026-01-05T00:00:00Z", {"recipe": "DEL", "seed": 3})
    with Book(path) as other:
        assert told(other) == told(book)
        assert other.life() == LIFE
        assert [one.id for one in other.requests()] == [request(0).id, request(1).id]
        assert other.requests()[1] == request(1, runs=(1,))
        assert other.rows() == {digest(number): request(number // 2).id for number in range(4)}
        (run,) = other.runs()
        assert (run.number, run.id, run.state, run.asked) == (1, "r1", "begun", {"recipe": "DEL", "seed": 3})
        assert run.requests == (request(0).id, request(1).id)


def test_the_book_is_its_owners_alone(book, path):
    added(book, 0)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    assert modes.keys() >= {"book.sqlite", "book.sqlite-wal"} and set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_second_life_does_not_begin_in_the_same_file(book, path):
    with pytest.raises(errors.BadRequest, match="holds a model's life already; choose another directory"):
        Book.create(path, LIFE)


def _dies_beginning(path, statement):
    real = sqlite3.connect

    class Dies:
        def __init__(self, database):
            self.database = database

        def __getattr__(self, name):
            return getattr(self.database, name)

        def execute(self, words, *values):
            if words.startswith(statement):
                os._exit(9)
            return self.database.execute(words, *values)

    sqlite3.connect = lambda *given, **options: Dies(real(*given, **options))
    Book.create(path, LIFE)
    os._exit(0)


@pytest.mark.parametrize(
    "statement", ["PRAGMA synchronous", "BEGIN", "CREATE TABLE seal", "INSERT INTO life", "COMMIT"]
)
def test_a_beginning_that_was_killed_can_be_made_again(path, statement):
    process = multiprocessing.get_context("fork").Process(target=_dies_beginning, args=(path, statement))
    process.start()
    process.join(30)
    assert process.exitcode == 9 and not books.has_begun(path)
    with pytest.raises(
        errors.BadData, match="the beginning of this ledger was broken off; give `excise ledger open` again"
    ):
        Book(path)
    with Book.create(path, LIFE) as made:
        assert made.life() == LIFE
    assert books.has_begun(path)


def test_what_is_no_database_has_not_begun_and_is_not_written_over(path):
    path.parent.mkdir()
    path.write_bytes(b"a letter, and longer than the header of a database is" * 3)
    with pytest.raises(errors.Corrupt, match="file is not a database"):
        Book.create(path, LIFE)
    assert path.read_bytes().startswith(b"a letter")


def test_where_there_is_no_book_it_says_how_to_begin_one(tmp_path):
    with pytest.raises(errors.BadData, match=r"found none; begin one with `excise ledger open`"):
        Book(tmp_path / "book.sqlite")


def test_a_request_without_rows_is_no_request(book):
    with pytest.raises(errors.BadSplit, match="expected at least one row to forget, found none"):
        book.add(request(0), [])
    assert book.requests() == []


def test_a_row_is_named_by_one_request_only(book):
    added(book, 0)
    with pytest.raises(errors.BadSplit, match="1 of 3 rows were named in earlier requests"):
        book.add(request(1), [digest(1), digest(2), digest(3)])
    assert [one.id for one in book.requests()] == [request(0).id]
    assert digest(2) not in book.rows()  # nothing of a refused request stays


def test_a_batch_is_all_that_waits_and_what_comes_later_waits_for_the_next(book):
    added(book, 0, 1)
    first = book.begin("r1", "2026-01-05T00:00:00Z", {})
    added(book, 2)
    assert first.requests == book.runs()[0].requests == (request(0).id, request(1).id)
    finished(book, first, answered=True)
    assert [one.state for one in book.requests()] == ["answered", "answered", "open"]
    second = book.begin("r2", "2026-01-06T00:00:00Z", {})
    assert (second.number, second.requests) == (2, (request(2).id,))


def test_a_request_that_failed_is_in_the_next_batch_too_and_remembers_both_runs(book):
    added(book, 0)
    finished(book, book.begin("r1", "2026-01-05T00:00:00Z", {}), answered=False)
    assert book.requests()[0].state == "failed"
    added(book, 1)
    second = book.begin("r2", "2026-01-06T00:00:00Z", {})
    assert second.requests == (request(0).id, request(1).id)
    finished(book, second, answered=True)
    assert [(one.state, one.runs) for one in book.requests()] == [("answered", (1, 2)), ("answered", (2,))]


def test_finishing_twice_counts_once(book):
    added(book, 0)
    run = book.begin("r1", "2026-01-05T00:00:00Z", {})
    finished(book, run, answered=True)
    before = told(book)
    finished(book, run, answered=False, seq=7)
    assert told(book) == before


def test_a_run_that_was_dropped_leaves_its_requests_waiting(book):
    added(book, 0)
    book.drop(book.begin("r1", "2026-01-05T00:00:00Z", {}).number)
    assert [(one.state, one.runs) for one in book.requests()] == [("open", ())]
    again = book.begin("r2", "2026-01-06T00:00:00Z", {})
    assert (again.number, again.requests) == (2, (request(0).id,))
    finished(book, again, answered=True)
    book.drop(again.number)
    assert [run.state for run in book.runs()] == ["dropped", "done"]


def test_without_anything_open_no_run_begins(book):
    with pytest.raises(errors.BadRequest, match="expected open requests to answer, found none"):
        book.begin("r1", "2026-01-05T00:00:00Z", {})


def test_two_runs_are_never_under_way_at_once(book):
    added(book, 0)
    book.begin("r1", "2026-01-05T00:00:00Z", {})
    with pytest.raises(errors.Corrupt, match=r"UNIQUE constraint failed: runs\.state"):
        book.begin("r2", "2026-01-05T00:00:00Z", {})
    assert [run.id for run in book.runs()] == ["r1"]


def test_a_destroyed_key_takes_the_requests_name_off_its_rows_which_stay_forgotten(book, path):
    added(book, 0, 1)
    with pytest.raises(
        errors.BadRequest, match=r"expected an answered request under the id 0+, found one that is open"
    ):
        book.forget_key(request(0).id)
    with pytest.raises(errors.BadRequest, match="expected an answered request under the id nothing, found none"):
        book.forget_key("nothing")
    finished(book, book.begin("r1", "2026-01-05T00:00:00Z", {}), answered=True)
    book.forget_key(request(0).id)
    assert [one.key_id for one in book.requests()] == [None, "key1"]
    first, second = None, request(1).id
    assert book.rows() == {digest(0): first, digest(1): first, digest(2): second, digest(3): second}
    everything = b"".join(one.read_bytes() for one in path.parent.iterdir())
    assert b"key0" not in everything and b"key1" in everything
    with pytest.raises(errors.BadSplit, match="1 of 1 rows were named"):
        book.add(request(2), [digest(0)])


def test_a_name_that_the_journal_still_holds_because_somebody_reads_is_told_and_goes_with_the_next_call(
    book, path, monkeypatch
):
    monkeypatch.setattr(books, "_PATIENCE_SECONDS", 0.05)
    added(book, 0, 1)
    finished(book, book.begin("r1", "2026-01-05T00:00:00Z", {}), answered=True)

    def held():
        return b"".join(one.read_bytes() for one in path.parent.iterdir())

    with Book(path) as reader, Book(path) as impatient:
        with reader._reading():
            assert len(reader.rows()) == 4
            with pytest.raises(
                errors.InUse, match="still connects the request with its rows, because another process is"
            ):
                impatient.forget_key(request(0).id)
            assert b"key0" in held()
        impatient.forget_key(request(0).id)
        assert b"key0" not in held()


# ---- breaks


STEPS = {
    "add": lambda book: added(book, 5),
    "begin": lambda book: book.begin("r9", "2026-01-09T00:00:00Z", {}),
    "finish": lambda book: finished(book, book.runs()[-1], answered=True),
    "drop": lambda book: book.drop(book.runs()[-1].number),
    "forget_key": lambda book: book.forget_key(request(0).id),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_change_is_made_whole_or_not_at_all(step, path, monkeypatch):
    class Broken(Exception):
        pass

    with Book.create(path, LIFE) as book:
        added(book, 0)
        if step in ("finish", "drop"):
            book.begin("r1", "2026-01-05T00:00:00Z", {})
        if step == "forget_key":
            finished(book, book.begin("r1", "2026-01-05T00:00:00Z", {}), answered=True)
        before = told(book)

        def broken(_):
            raise Broken

        with monkeypatch.context() as patch:
            patch.setattr(Book, "_digest", broken)  # after every statement, before the commit
            with pytest.raises(Broken):
                STEPS[step](book)
        assert told(book) == before
        STEPS[step](book)
        assert told(book) != before


def test_a_changed_value_is_found_at_the_next_start(path):
    with Book.create(path, LIFE) as book:
        added(book, 0, 1)
        finished(book, book.begin("r1", "2026-01-05T00:00:00Z", {}), answered=False)
    changes = [
        "UPDATE requests SET state = 'answered'",
        "UPDATE requests SET due = '2027-01-01' WHERE id LIKE '%1'",
        "UPDATE runs SET found = '{}'",
        "DELETE FROM rows WHERE request LIKE '%1'",
        "DELETE FROM batches WHERE request LIKE '%1'",
        "UPDATE life SET facts = replace(facts, '0.02', '0.92')",
        "DROP INDEX one_begun",
        "UPDATE seal SET digest = ''",
        "DELETE FROM seal",
    ]
    whole = path.read_bytes()
    for change in changes:
        path.write_bytes(whole)
        with sqlite3.connect(path) as database:
            database.execute(change)
        database.close()
        with pytest.raises(errors.Corrupt, match=r"does not fit its seal.*put back a copy"):
            Book(path)
    path.write_bytes(whole)
    Book(path).close()


def test_a_flipped_bit_is_found_or_changes_nothing_that_the_book_says(path):
    with Book.create(path, LIFE) as book:
        added(book, *range(8))
        finished(book, book.begin("r1", "2026-01-05T00:00:00Z", {"recipe": "DEL"}), answered=False)
        before = told(book)
    whole = path.read_bytes()
    used = [place for place, value in enumerate(whole) if value]
    found = 0
    for number in range(120):
        place = used[number * 7919 % len(used)]
        changed = bytearray(whole)
        changed[place] ^= 1 << number % 8
        path.write_bytes(changed)
        try:
            with Book(path) as book:
                assert told(book) == before
        except errors.ExciseError:
            found += 1
    assert found > 90


@pytest.mark.parametrize(
    "content", [b"not a database, and longer than a header" * 40, b"SQLite format 3\0" + b"\0" * 84]
)
def test_a_file_that_is_no_book_is_named(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(errors.Corrupt, match=r"book\.sqlite"):
        Book(path)


def test_another_programs_database_is_no_book(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE life (one)")
    database.close()
    with pytest.raises(errors.Corrupt, match="is not a book that excise wrote"):
        Book(path)


def test_a_newer_book_is_refused_with_the_remedy(book, path):
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {books.VERSION + 1}")
    database.close()
    with pytest.raises(
        errors.BadRequest, match=r"newer version of excise \(book version 2, this one knows 1\); upgrade"
    ):
        Book(path)


def test_who_waits_too_long_is_told_that_the_book_is_in_use(book, path, monkeypatch):
    monkeypatch.setattr(books, "_PATIENCE_SECONDS", 0.05)
    with Book(path) as other, book._writing(), pytest.raises(errors.InUse, match="another process has been writing to"):
        added(other, 0)
    added(book, 0)


def test_a_full_disk_is_said_and_nothing_is_half_written(book, path):
    added(book, 0)
    pages = book._one("PRAGMA page_count")[0]
    book._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(errors.DiskError, match="cannot be read or written: database or disk is full; free some space"):
        book.add(request(1), [digest(number) for number in range(100, 2000)])
    book._database.execute("PRAGMA max_page_count = 100000")
    assert len(book.rows()) == 2
    added(book, 1)


def _adds(path, first, ready, go):
    with Book(path) as book:
        ready.release()
        go.wait()
        for number in range(first, first + 5):
            added(book, number)


def test_two_processes_add_at_once_and_nothing_is_lost(book, path):
    fork = multiprocessing.get_context("fork")
    ready, go = fork.Semaphore(0), fork.Event()
    both = [fork.Process(target=_adds, args=(path, first, ready, go)) for first in (0, 10)]
    book.close()  # a connection does not cross a fork
    for one in both:
        one.start()
    for _ in both:
        assert ready.acquire(timeout=30)
    go.set()
    for one in both:
        one.join(60)
        assert one.exitcode == 0
    with Book(path) as after:
        assert {one.id for one in after.requests()} == {request(n).id for n in (*range(5), *range(10, 15))}
        assert len(after.rows()) == 20


def test_every_reason_fits(book):
    for number, reason in enumerate(REASONS):
        book.add(request(number, reason=reason), [digest(number)])
    assert [one.reason for one in book.requests()] == ["erasure", "mislabel", "poison"]


def test_the_rows_of_a_withdrawn_request_count_no_more_towards_all(book):
    book.add(request(1, num_rows=60), [b"a" * 32])
    with pytest.raises(errors.BadSplit, match="these 40 rows are all that no request has named yet"):
        book.add(request(2, num_rows=40), [b"b" * 32])
    book.add(request(2, num_rows=39), [b"b" * 32])
    book.withdraw(request(1).id)
    assert book.rows() == {b"b" * 32: request(2).id} and book.requests()[0].key_id is None
    book.add(request(3, num_rows=60), [b"a" * 32])
    assert book.begin("r", "now", {}).requests == (request(2).id, request(3).id)
    with pytest.raises(
        errors.BadRequest, match=r"expected an open request under the id 0*3, found one that is open, or"
    ):
        book.withdraw(request(3).id)
