import re
import stat
from datetime import date

import numpy as np
import pytest
import torch

from excise import errors, store
from excise.data import Rows
from excise.ledger.book import Book
from excise.ledger.commitments import commit, included, inclusion, load_key, record_digests
from excise.lifecycle import requesting
from excise.lifecycle.papers import BOOK, MANIFEST
from excise.recipes import Finetune, NegGrad
from tests.planted import TEST, TRAIN


@pytest.fixture(autouse=True)
def january(monkeypatch):
    monkeypatch.setattr(requesting, "now", lambda: "2026-01-15T10:00:00Z")


def answered(ledger):
    ledger.run(Finetune(epochs=1), tier="T0")


def test_a_request_is_given_a_random_name_a_due_date_and_a_commitment_to_its_rows(ledger):
    made = ledger.request([11, 3])
    assert re.fullmatch("[0-9a-f]{32}", made.id) and made.state == "open" and made.num_rows == 2
    assert (made.received, made.due, made.reason) == ("2026-01-15T10:00:00Z", "2026-02-14", "erasure")
    rows, key = Rows(ledger.subject.trained.rows.source, torch.tensor([3, 11])), load_key(made.key_id)
    assert made.root == commit(rows, key).root
    path = inclusion(rows, key, 1)
    assert included(made.root, record_digests(rows, key)[1], path)
    assert not included(made.root, record_digests(Rows(rows.source, torch.tensor([4])), key)[0], path)
    assert ledger.status(today=date(2026, 1, 15))["requests"][0]["days_left"] == 30


def test_the_same_rows_asked_of_two_ledgers_cannot_be_connected(opened):
    first, second = opened("a"), opened("b")
    one, other = first.request([3]), second.request([3])
    assert len({one.id, other.id, one.root, other.root, one.key_id, other.key_id}) == 6
    digests = []
    for ledger in (first, second):
        with Book(ledger.directory / BOOK) as book:
            digests.append(set(book.rows()))
    assert not digests[0] & digests[1]


def test_no_id_and_no_key_lies_in_the_ledger(ledger, home):
    ids = list(range(40, 72))
    made = ledger.request(ids)
    held = b"".join(path.read_bytes() for path in ledger.directory.rglob("*") if path.is_file())
    for kind in (np.int64, np.int32, np.uint16, np.uint8):
        assert np.array(ids[:8], dtype=kind).tobytes() not in held
    assert b"40, 41" not in held and b"40,41" not in held
    keys = [made.key_id, Book(ledger.directory / BOOK).life().key_id]
    for key_id in keys:
        assert load_key(key_id).secret not in held
        (path,) = home.rglob(key_id)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not home.is_relative_to(ledger.directory)


def test_records_given_by_content_are_the_same_request(opened):
    by_id, by_content = opened("a"), opened("b")
    made = by_id.request([3, 11])
    records = TRAIN[0][[11, 3]], TRAIN[1][[11, 3]]
    again = by_content.request(records=records)
    assert again.num_rows == made.num_rows == 2
    with pytest.raises(errors.BadSplit, match="1 of 1 rows were named in earlier requests"):
        by_content.request([3])


def test_a_record_that_is_in_no_training_row_is_an_error_and_no_request(ledger):
    near = TRAIN[0][[3]].clone()
    near[0, 0] += 1e-6
    for records in ((near, TRAIN[1][[3]]), (TRAIN[0][[3]], TRAIN[1][[3]] + 1), (TEST[0][:1], TEST[1][:1])):
        with pytest.raises(errors.BadSplit, match=r"1 of 1 records are in no training row \(at position 0\)"):
            ledger.request(records=records)
    with pytest.raises(errors.BadSplit, match="1 of 2 records are in no training row"):
        ledger.request(records=(torch.cat([TRAIN[0][[3]], near]), TRAIN[1][[3, 3]]))
    assert ledger.status()["requests"] == []


def test_exact_copies_go_with_the_row_that_was_named(opened):
    inputs, labels = TRAIN[0].clone(), TRAIN[1].clone()
    inputs[50], labels[50] = inputs[3], labels[3]
    ledger = opened(train=(inputs, labels))
    assert ledger.request([3]).num_rows == 2
    with pytest.raises(errors.BadSplit, match="were named in earlier requests"):
        ledger.request([50])


@pytest.mark.parametrize(
    ("forget", "words"),
    [
        ([], "expected at least one row, found none"),
        (torch.zeros(160, dtype=torch.bool), "expected at least one row, found none"),
        ([3, 3], "ids that were given before"),
        ([-1], "ids that are negative"),
        ([160], "out of range"),
        ([0.5], "expected row ids"),
        (range(160), "these 160 rows are all that no request has named yet"),
    ],
)
def test_rows_that_cannot_be_forgotten_are_refused_before_anything_is_kept(ledger, home, forget, words):
    before = sorted(home.rglob("k-*"))
    with pytest.raises(errors.BadSplit, match=words):
        ledger.request(forget)
    assert ledger.status()["requests"] == [] and sorted(home.rglob("k-*")) == before


def test_a_signal_just_after_the_commit_leaves_a_request_with_its_key(ledger, home, monkeypatch):
    real = Book.add

    def interrupted(*given):
        real(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Book, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ledger.request([3, 11])
    (made,) = ledger.status()["requests"]
    rows = Rows(ledger.subject.trained.rows.source, torch.tensor([3, 11]))
    with Book(ledger.directory / BOOK) as book:
        assert book.requests()[0].root == commit(rows, load_key(made["key"])).root
    before = set(home.rglob("k-*"))
    with monkeypatch.context() as patch:
        patch.setattr(Book, "add", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ledger.request([19])
    (lost,) = set(home.rglob("k-*")) - before  # of a request that was never taken
    assert not any(lost.read_bytes())


def test_all_that_is_left_cannot_be_named_either(ledger):
    ledger.request(range(100))
    with pytest.raises(errors.BadSplit, match="these 60 rows are all that no request has named yet"):
        ledger.request(range(100, 160))
    assert ledger.request(range(100, 159)).num_rows == 59


def test_rows_that_were_not_trained_on_are_refused(opened):
    ledger = opened(test=[0, 1, 2, 5])
    with pytest.raises(errors.BadSplit, match="2 of its rows are test or holdout rows"):
        ledger.request([1, 2, 3])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"forget": [3], "reason": "spite"}, "reason: expected one of erasure, mislabel, poison; found 'spite'"),
        ({}, "expected either row ids to forget or records, found both or neither"),
        ({"forget": [3], "records": TRAIN}, "found both or neither"),
        (
            {"forget": [3], "due": date(2026, 1, 14)},
            r"due: expected a date from today \(2026-01-15\) on, found 2026-01-14",
        ),
        ({"records": (TRAIN[0][:0], TRAIN[1][:0])}, "records: expected at least one record, found none"),
    ],
)
def test_a_request_that_says_nothing_usable_is_refused(ledger, given, words):
    with pytest.raises(errors.BadRequest, match=words):
        ledger.request(given.pop("forget", None), **given)


def test_reason_and_due_date_are_the_callers(ledger):
    made = ledger.request([3], reason="poison", due=date(2026, 1, 15))
    assert (made.reason, made.due) == ("poison", "2026-01-15")


def test_a_row_that_was_forgotten_is_not_forgotten_again(ledger):
    ledger.request([3, 11])
    answered(ledger)
    with pytest.raises(
        errors.BadSplit, match="1 of 2 rows were named in earlier requests and are forgotten or waiting"
    ):
        ledger.request([11, 19])


def test_rows_that_were_forgotten_may_leave_the_training_data_and_the_life_goes_on(ledger, original):
    ledger.request([3, 11])
    answered(ledger)
    kept = [row for row in range(160) if row not in (3, 11)]
    later = type(ledger)(ledger.directory, original, (TRAIN[0][kept], TRAIN[1][kept]), test=TEST)
    made = later.request([kept.index(19)])
    with pytest.raises(errors.BadSplit, match="were named in earlier requests"):
        ledger.request([19])
    with pytest.raises(errors.BadSplit, match="were named in earlier requests"):
        later.request(records=(TRAIN[0][[3]], TRAIN[1][[3]]))
    again = later.run(Finetune(epochs=1), tier="T0")
    assert again["requests"] == [made.id]
    assert later.receipt(2)["retain_rows"] == 157


def test_other_training_data_are_refused(ledger, original):
    changed = TRAIN[0].clone()
    changed[7, 0] += 1
    other = type(ledger)(ledger.directory, original, (changed, TRAIN[1]), test=TEST)
    with pytest.raises(errors.Corrupt, match="the training data are not those of the ledger's manifest"):
        other.request([3])


def test_a_manifest_of_another_ledger_is_refused(opened):
    first, second = opened("a"), opened("b")
    store.write_bytes(first.directory / MANIFEST, (second.directory / MANIFEST).read_bytes())
    with pytest.raises(errors.Corrupt, match="is not the one that the book was begun with"):
        first.request([3])


def test_rows_that_were_forgotten_are_not_let_into_the_next_life(ledger, opened):
    ledger.request([3, 11])
    ledger.request([19])
    answered(ledger)
    ledger.request([40])
    with pytest.raises(
        errors.BadSplit, match=r"3 training rows are among those that .*life has forgotten; take them out"
    ):
        opened("next", after=ledger.directory)
    for row in (3, 11, 19):
        kept = [one for one in range(160) if one not in {3, 11, 19} - {row}]
        with pytest.raises(errors.BadSplit, match="1 training rows are among those"):
            opened("next", train=(TRAIN[0][kept], TRAIN[1][kept]), after=ledger.directory)
    ledger.forget_key(ledger.status()["requests"][0]["id"])
    with pytest.raises(errors.BadSplit, match="3 training rows"):
        opened("next", after=ledger.directory)
    kept = [one for one in range(160) if one not in (3, 11, 19)]
    assert opened("next", train=(TRAIN[0][kept], TRAIN[1][kept]), after=ledger.directory).status()["num_rows"] == 157


def test_a_destroyed_key_is_gone_and_what_is_lost_is_said(ledger):
    made = ledger.request([3])
    with pytest.raises(errors.BadRequest, match="found one that is open"):
        ledger.forget_key(made.id)
    load_key(made.key_id)
    answered(ledger)
    lost = ledger.forget_key(made.id)
    assert lost["request"] == made.id and len(lost["lost"]) == 2
    with pytest.raises(errors.BadRequest, match="was destroyed"):
        load_key(made.key_id)
    assert ledger.status()["requests"][0]["key"] == "destroyed"
    assert ledger.forget_key(made.id)["request"] == made.id  # a second time is no error
    with pytest.raises(errors.BadSplit, match="were named in earlier requests"):
        ledger.request([3])
    ledger.request([19])
    answered(ledger)
    assert ledger.receipt(2)["retain_rows"] == 158  # the row stays forgotten


def test_a_key_whose_destruction_was_broken_off_before_the_book_knew_is_destroyed_by_the_next_call(ledger, monkeypatch):
    made = ledger.request([3])
    answered(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(Book, "forget_key", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ledger.forget_key(made.id)
    ledger.forget_key(made.id)
    assert ledger.status()["requests"][0]["key"] == "destroyed"


def test_an_open_request_is_taken_back_with_its_key_and_no_other(ledger, home):
    made, other = ledger.request([3, 11]), ledger.request([19])
    ledger.withdraw(made.id)
    assert [one["state"] for one in ledger.status()["requests"]] == ["withdrawn", "open"]
    assert ledger.status()["waiting"] == 1 and not ledger.status()["requests"][0]["overdue"]
    with pytest.raises(errors.BadRequest, match="was destroyed"):
        load_key(made.key_id)
    again = ledger.request([3])
    done = ledger.run(Finetune(epochs=1), tier="T0")
    assert done["requests"] == [other.id, again.id] and ledger.receipt(1)["retain_rows"] == 158
    for request, words in ((made.id, "withdrawn"), (again.id, "answered"), ("abc", "none")):
        with pytest.raises(
            errors.BadRequest, match=f"expected an open request under the id {request}, found .*{words}"
        ):
            ledger.withdraw(request)


def test_a_request_that_a_run_has_taken_up_is_not_taken_back(ledger):
    made = ledger.request([3])
    with pytest.raises(errors.Diverged):
        ledger.run(NegGrad(lr=1e38, epochs=3), tier="T0")
    with pytest.raises(errors.BadRequest, match="or that a run has taken up"):
        ledger.withdraw(made.id)
    assert load_key(made.key_id).id == made.key_id


def test_two_requests_at_once_cannot_name_all_rows_between_them(ledger, home, monkeypatch):
    real, first = requesting.commit, []

    def meanwhile(*given):  # after the look at what is left, before the book takes the request
        if not first:
            first.append(None)
            ledger.request(range(80))
        return real(*given)

    monkeypatch.setattr(requesting, "commit", meanwhile)
    with pytest.raises(errors.BadSplit, match="these 80 rows are all that no request has named yet"):
        ledger.request(range(80, 160))
    assert [one["num_rows"] for one in ledger.status()["requests"]] == [80]
    assert ledger.request(range(80, 159)).num_rows == 79


def test_other_test_or_holdout_rows_are_refused(opened, original):
    held = TEST[0][:10] + 5, TEST[1][:10]
    ledger = opened(holdout=held)
    ledger.request([3])
    changed = TEST[0].clone()
    changed[7, 0] += 1
    for name, given in (
        ("test", {"test": (changed, TEST[1]), "holdout": held}),
        ("holdout", {"test": TEST, "holdout": (held[0] + 1, held[1])}),
        ("holdout", {"test": TEST}),
    ):
        other = type(ledger)(ledger.directory, original, TRAIN, plan=ledger.subject.plan, **given)
        for use in (lambda one=other: one.request([11]), lambda one=other: one.run(Finetune(epochs=1), tier="T0")):
            with pytest.raises(errors.Corrupt, match=f"{name}: expected the rows that the ledger was opened with"):
                use()
    turned = TEST[0].flip(0), TEST[1].flip(0)  # the same rows in another order
    same = type(ledger)(ledger.directory, original, TRAIN, test=turned, holdout=held, plan=ledger.subject.plan)
    assert same.request([11]).state == "open"
