"""`excise verify`: what it says and with which code it ends."""

import json

import pytest

from excise import errors, store, verify
from excise.cli import verify as command
from tests.ledger import samples


@pytest.fixture
def asked(tmp_path):
    receipts = samples.chain(2)
    (tmp_path / "receipt.json").write_bytes(verify.canonical(receipts[1]) + b"\n")
    (tmp_path / "log").write_bytes(samples.content_of(receipts))
    options = {
        "receipt": tmp_path / "receipt.json",
        "weights": None,
        "log": tmp_path / "log",
        "head": None,
        "audit": None,
        "seed": 0,
        "device": "cpu",
    }
    return {**options, "quiet": False}


def test_a_valid_receipt_is_said_to_be_valid_and_what_was_not_looked_at_is_said(asked, capsys):
    notes = [f"no --{name}: {verify.UNSEEN[name]}" for name in ("weights", "audit", "head")]
    found, code = command.run(**asked)
    assert (found["valid"], found["notes"], code) == (True, notes, 0)
    said = capsys.readouterr().out
    assert said.index("PASS; requests: 1; rows: 3; network: sha256:") == 0 < said.index("receipt.json is valid")
    assert found["says"] in said and all(one in said for one in notes)
    head = f"2:{json.loads(asked['receipt'].read_bytes())['hash']}"
    assert command.run(**{**asked, "head": head})[0]["notes"] == notes[:2]


def test_quiet_says_nothing(asked, capsys):
    command.run(**{**asked, "quiet": True})
    assert capsys.readouterr().out == ""


def test_a_file_that_is_not_what_its_record_says_ends_with_six(asked, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"x")
    found, code = command.run(**{**asked, "weights": tmp_path / "w.safetensors"})
    assert (found["valid"], code, len(found["reasons"])) == (False, 6, 1)
    asked["log"].write_bytes(asked["log"].read_bytes()[:-9])
    found, code = command.run(**asked)
    assert code == 6
    assert found["reasons"][0].startswith("log: entry 2: it has no end of line")


def test_a_receipt_that_says_what_it_may_not_ends_with_three(asked):
    receipt = verify.sealed({**samples.build(1, verify.GENESIS), "claim": "gone"})
    asked["receipt"].write_bytes(verify.canonical(receipt) + b"\n")
    found, code = command.run(**{**asked, "log": None})
    assert (found["valid"], code) == (False, 3)


def test_a_record_may_be_checked_beside_it(asked, tmp_path):
    store.write_json(tmp_path / "record.json", {"leaf": "00", "path": []})
    found, code = command.run(**asked, record=tmp_path / "record.json")
    assert code == 6
    assert "which is no root of the receipt" in found["reasons"][0]


def test_what_cannot_be_read_is_a_mistake_in_the_request(asked, tmp_path):
    with pytest.raises(errors.BadData, match=r"nowhere.json cannot be read: No such file"):
        command.run(**{**asked, "receipt": tmp_path / "nowhere.json"})
    with pytest.raises(errors.BadData, match=r"head.json cannot be read"):
        command.run(**{**asked, "head": str(tmp_path / "head.json")})
    store.write_json(tmp_path / "record.json", {"leaf": "00", "path": []})
    with pytest.raises(errors.BadRequest, match="expected a head as SEQ:HASH"):
        command.run(**{**asked, "head": str(tmp_path / "record.json")})
