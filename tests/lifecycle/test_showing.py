import pytest

from excise import errors, verify
from excise.lifecycle import export_receipt, show_record
from excise.recipes import Finetune
from tests.planted import TEST, TRAIN


def test_every_row_of_a_request_and_no_other_is_shown_to_stand_behind_its_receipt(ledger, tmp_path):
    first, second = ledger.request([3, 11, 19]), ledger.request([40])
    ledger.run(Finetune(epochs=1), tier="T0")
    out, path = tmp_path / "receipt.json", tmp_path / "path.json"
    export_receipt(ledger.directory, first.id, out)
    for row in (3, 11, 19):
        show_record(ledger.directory, ledger.subject.trained, first.id, path, row=row)
        assert verify.faults(out, record=path) == []
        by_id = path.read_bytes()
        given = TRAIN[0][[row]], TRAIN[1][[row]]
        show_record(ledger.directory, ledger.subject.trained, first.id, path, record=given)
        assert path.read_bytes() == by_id
    show_record(ledger.directory, ledger.subject.trained, second.id, path, row=40)
    assert verify.faults(out, record=path) == []
    told = path.read_text().replace('"leaf":"', '"leaf":"00')
    path.write_text(told if told != path.read_text() else told.replace('"leaf": "', '"leaf": "00'))
    assert "is no root of the receipt" in verify.faults(out, record=path)[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"row": 4}, "expected one record that is among the rows of request"),
        ({"record": (TEST[0][:1], TEST[1][:1])}, "expected one record that is among the rows"),
        ({"record": (TRAIN[0][[3, 11]], TRAIN[1][[3, 11]])}, "found none or several"),
        ({"row": 160}, "out of range"),
        ({}, "expected either the id of a row or a record, found both or neither"),
        ({"row": 3, "record": TRAIN}, "found both or neither"),
    ],
)
def test_what_is_not_among_the_rows_is_not_shown(ledger, tmp_path, given, words):
    made = ledger.request([3, 11])
    with pytest.raises(errors.BadRequest, match=words):
        show_record(ledger.directory, ledger.subject.trained, made.id, tmp_path / "path.json", **given)
    assert not (tmp_path / "path.json").exists()


def test_without_key_or_rows_there_is_no_path(ledger, original, tmp_path):
    made = ledger.request([3, 11])
    ledger.run(Finetune(epochs=1), tier="T0")
    kept = [row for row in range(160) if row != 11]
    later = type(ledger)(ledger.directory, original, (TRAIN[0][kept], TRAIN[1][kept]), test=TEST)
    out = tmp_path / "path.json"
    with pytest.raises(errors.BadRequest, match="over all 2 rows of the request, and 1 of them are no longer"):
        show_record(ledger.directory, later.subject.trained, made.id, out, row=3)
    with pytest.raises(errors.BadRequest, match="under the id abc, found none"):
        show_record(ledger.directory, ledger.subject.trained, "abc", out, row=3)
    ledger.forget_key(made.id)
    with pytest.raises(errors.BadRequest, match="found one that is answered and whose key was destroyed"):
        show_record(ledger.directory, ledger.subject.trained, made.id, out, row=3)
