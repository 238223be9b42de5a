"""Every damaged file is found, with what to do about it, and nothing that is as it should be is called damaged."""

import hashlib
import json
import os
import sqlite3

import msgspec
import pytest
import torch

from excise import errors, store, verify
from excise.custody.checking import check
from excise.data.rows import Rows
from excise.ledger.book import Book
from excise.ledger.commitments import new_key
from excise.ledger.log import Log
from excise.ledger.manifest import Manifest
from excise.oracles import Bank, Trained
from excise.store.generations import Generations
from tests.ledger.samples import build
from tests.ledger.test_book import LIFE, added

STATE = {"w": torch.arange(6.0)}


def states(found):
    """Give the state of everything that is not sound, by its name."""
    return {one.path.rpartition("/")[2]: one.state for one in found if one.state != "sound"}


def the(found, state):
    """Give the one thing in a state."""
    (one,) = [one for one in found if one.state == state]
    return one


def flip(path, place=-1):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture
def run(tmp_path):
    """A run that was audited."""
    place = tmp_path / "run"
    store.write_tensors(place / "model.safetensors", STATE)
    store.write_bytes(place / "report.html", b"<html>")
    store.RunDirectory(place, {"command": "unlearn"}).complete(["model.safetensors", "report.html"], {})
    store.amend_record(place, {"audit.json": b"{}\n"})
    return place


def test_a_sound_run_is_sound_and_is_not_touched(run):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}
    found = check(run)
    assert [(one.path, one.state, one.what) for one in found] == [
        (str(run / name), "sound", "") for name in ("run.json", "audit.json", "model.safetensors", "report.html")
    ]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("model.safetensors", "take it from a backup, or remove the directory and give the same command again"),
        ("audit.json", "remove it, and `excise audit` with the same words makes it again"),
        ("run.json", "take it from a backup, or remove the directory and run again"),
    ],
)
def test_a_changed_or_missing_file_is_told_with_both_hashes_and_what_to_do(run, name, remedy):
    expected = store.file_digest(run / name)
    flip(run / name)
    one = the(check(run), "damaged")
    assert one.path == str(run / name) and one.what.endswith(remedy)
    if name != "run.json":
        assert expected in one.what and store.file_digest(run / name) in one.what
        (run / name).unlink()
        assert f"should hold {name}" in the(check(run), "damaged").what


def test_what_an_amendment_was_broken_off_at_is_unfinished_whichever_of_two_it_is(run):
    def pending(content):
        held = store.read_sealed(run / "run.json")
        digest = hashlib.sha256(content).hexdigest()
        store.write_sealed(run / "run.json", {**held, "pending": {"audit.json": digest, "report.html": "0" * 64}})

    pending(b"new\n")
    assert states(check(run)) == {"audit.json": "unfinished", "report.html": "unfinished"}
    (run / "audit.json").write_bytes(b"new\n")
    assert states(check(run)) == {"audit.json": "unfinished", "report.html": "unfinished"}
    (run / "audit.json").write_bytes(b"neither\n")
    assert states(check(run)) == {"audit.json": "damaged", "report.html": "unfinished"}


def test_what_lies_beside_a_run_is_named_for_what_it_is(run):
    (run / ".report.html.0123456789ab.tmp").write_bytes(b"")
    (run / "notes.txt").write_bytes(b"mine")
    (run / store.LOCK).write_bytes(b"")
    Generations(run / store.CHECKPOINTS).keep(STATE, {})
    assert states(check(run)) == {
        ".report.html.0123456789ab.tmp": "left over",
        "notes.txt": "not ours",
        store.LOCK: "left over",
        store.CHECKPOINTS: "left over",
    }
    (run / store.LOCK).unlink()
    with store.lock(run):
        found = {one.path: one for one in check(run)}[str(run / store.LOCK)]
    assert found.state == "unfinished" and f"process {os.getpid()} on" in found.what


def test_a_record_of_another_form_or_that_leads_elsewhere_is_damaged(run):
    held = store.read_sealed(run / "run.json")
    store.write_sealed(run / "run.json", {**held, "format": 99})
    assert "expected a record of form 1, found another; update excise" in the(check(run), "damaged").what
    store.write_sealed(run / "run.json", {**held, "files": {"../w": "0" * 64}})
    assert "expected names of files in it" in the(check(run), "damaged").what


def test_a_completed_run_without_its_record_is_damaged_and_a_begun_one_is_unfinished(run, tmp_path):
    (run / "run.json").unlink()
    assert "the record of a run that was completed, and audited, is gone; take it" in the(check(run), "damaged").what
    begun = tmp_path / "begun"
    store.write_tensors(begun / "model.safetensors", STATE)
    assert states(check(begun)) == {"begun": "unfinished"}
    Generations(begun / store.CHECKPOINTS).keep(STATE, {})
    assert states(check(begun)) == {"begun": "unfinished", store.CHECKPOINTS: "unfinished"}


def test_a_damaged_checkpoint_is_told_of(tmp_path):
    kept = Generations(tmp_path / "run" / store.CHECKPOINTS).keep(STATE, {})
    flip(kept)
    one = the(check(tmp_path / "run"), "damaged")
    assert kept.name in one.what and "goes on from an older one, or anew" in one.what


@pytest.fixture
def search(tmp_path):
    place = tmp_path / "search"
    for number in range(2):
        store.write_tensors(place / f"margins-{number:04}.safetensors", STATE)
    digest = store.file_digest(place / "margins-0000.safetensors")
    trials = [{"number": number, "file_digest": digest} for number in range(2)]
    store.write_sealed(place / "tuning.json", {"format": 1, "trials": [*trials, {"number": 2, "file_digest": None}]})
    store.write_bytes(place / "settings.toml", b"seed = 0\n")
    store.write_sealed(place / "result.json", {"files": {"settings.toml": store.file_digest(place / "settings.toml")}})
    return place


def test_a_sound_search_is_sound_and_a_trial_that_was_not_entered_is_unfinished(search):
    assert states(check(search)) == {} and len(check(search)) == 5
    (search / "margins-0002.safetensors").write_bytes(b"x")
    (search / "notes.txt").write_bytes(b"x")
    assert states(check(search)) == {"margins-0002.safetensors": "unfinished", "notes.txt": "not ours"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tuning.json", "remove the directory and search again"),
        ("margins-0001.safetensors", "is not what its record says: expected"),
        ("result.json", "the same `excise tune` makes it again"),
        ("settings.toml", "the same `excise tune` makes it again"),
    ],
)
def test_a_changed_file_of_a_search_is_found(search, name, words):
    flip(search / name, -2 if name != "margins-0001.safetensors" else -1)
    one = the(check(search), "damaged")
    assert one.path == str(search / name) and words in one.what


def test_margins_that_are_gone_are_missed(search):
    (search / "margins-0001.safetensors").unlink()
    one = the(check(search), "damaged")
    assert "should hold margins-0001.safetensors" in one.what and one.what.endswith("search again")


def test_a_bank_is_looked_through_with_the_trainings_that_are_under_way_in_it(tmp_path):
    bank = Bank(tmp_path / "bank")
    told = {"kind": "oracle", "architecture": "Linear", "num_parameters": 6, "num_rows": 3}
    for letter in "abc":
        bank.keep(letter * 64, Trained(0, STATE, 1.0, 3), **told)
    training = bank.directory / f".training-{'d' * 64}"
    kept = Generations(training).keep(STATE, {})
    (bank.directory / "notes.txt").write_bytes(b"x")
    (bank.directory / f".{'e' * 64}.safetensors.0123456789ab.tmp").write_bytes(b"x")
    found = check(bank.directory)
    assert sorted(states(found).values()) == ["left over", "not ours", "unfinished"]
    assert sum(one.state == "sound" for one in found) == 3
    (bank.directory / f"{'a' * 64}.safetensors").rename(bank.directory / f"{'f' * 64}.safetensors")
    flip(bank.directory / f"{'b' * 64}.safetensors", 0)
    flip(kept)
    damaged = {one.path.rpartition("/")[2]: one.what for one in check(bank.directory) if one.state == "damaged"}
    assert set(damaged) == {f"{'f' * 64}.safetensors", f"{'b' * 64}.safetensors", training.name}
    assert "remove it to have the network trained again" in damaged[f"{'b' * 64}.safetensors"]
    for path in bank.directory.glob("*.safetensors"):
        path.unlink()
    assert any(training.name in one.path for one in check(bank.directory))  # a bank, too


@pytest.fixture
def ledger(tmp_path):
    """A ledger with one receipt, whose run is there."""
    place = tmp_path / "life"
    rows = Rows.all_of((torch.rand(9, 2), torch.arange(9)))
    manifest = Manifest.of(rows, new_key())
    manifest.save(place / "manifest.bin")
    run = place / "runs" / "0001"
    store.write_tensors(run / "model.safetensors", STATE)
    store.write_bytes(run / "audit.json", b"{}\n")
    store.RunDirectory(run, {"command": "ledger"}).complete(["audit.json", "model.safetensors"], {})
    names = {"model_file": "model.safetensors", "audit_file": "audit.json"}
    files = {key: store.file_digest(run / name) for key, name in names.items()}
    log = Log(place / "receipts.jsonl")
    entry = log.append(lambda seq, prev: build(seq, prev, sequence=1, **files))
    with Book.create(place / "book.sqlite", msgspec.structs.replace(LIFE, manifest_root=manifest.root)) as book:
        added(book, 0)
        number = book.begin("r1", "2026-01-05T00:00:00Z", {}).number
        book.finish(number, seq=1, receipt=entry["hash"], found={"verdict": "PASS"}, answered=True)
    return place


def test_a_sound_ledger_is_sound_with_its_runs(ledger):
    found = check(ledger)
    assert states(found) == {} and len(found) == 6
    (ledger / "runs" / "0002").mkdir()
    (ledger / "runs" / "0003").mkdir()
    (ledger / "runs" / "0003" / "notes.txt").write_bytes(b"")
    assert states(check(ledger)) == {"0003": "not ours"}


@pytest.mark.parametrize("name", ["book.sqlite", "manifest.bin", "receipts.jsonl", "runs/0001/model.safetensors"])
def test_a_changed_file_of_a_ledger_is_found(ledger, name):
    flip(ledger / name, 5)
    damaged = [one for one in check(ledger) if one.state == "damaged"]
    assert str(ledger / name) in {one.path for one in damaged}
    assert all("backup" in one.what or "copy" in one.what for one in damaged)


def test_what_a_ledger_has_lost_is_missed(ledger, tmp_path):
    for name, words in (
        ("book.sqlite", "it is gone; put back a copy of the whole ledger directory"),
        ("manifest.bin", "expected a manifest at"),
        ("receipts.jsonl", "it lacks 1 receipts that book.sqlite knows"),
        ("runs/0001", "a receipt speaks of this run, and it is gone"),
    ):
        (ledger / name).rename(tmp_path / "aside")
        found = [one for one in check(ledger) if one.state == "damaged"]
        assert any(words in one.what for one in found), (name, found)
        (tmp_path / "aside").rename(ledger / name)
    assert states(check(ledger)) == {}


def test_a_run_that_is_not_the_one_of_its_receipt_is_found_though_its_own_record_fits(ledger):
    run = ledger / "runs" / "0001"
    store.write_tensors(run / "model.safetensors", {"w": torch.zeros(6)})
    store.RunDirectory(run, {"command": "ledger"}).complete(["audit.json", "model.safetensors"], {})
    assert "is not the one of receipt 1: expected sha256:" in the(check(ledger), "damaged").what


def test_another_ledgers_manifest_is_found(ledger):
    Manifest.of(Rows.all_of((torch.rand(9, 2), torch.arange(9))), new_key()).save(ledger / "manifest.bin")
    assert "is of another ledger: expected root sha256:" in the(check(ledger), "damaged").what


def test_an_end_that_was_broken_off_is_unfinished_and_one_that_was_cut_is_damaged(ledger):
    log = ledger / "receipts.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"seq":2,')
    assert states(check(ledger)) == {"receipts.jsonl": "unfinished"}
    for end in (whole[:-1], whole[:-1] + b"\x0b"):  # the book knows this receipt
        log.write_bytes(end)
        assert "damaged" in {one.state for one in check(ledger) if one.path == str(log)}


def test_a_ledger_that_was_being_opened_is_unfinished(tmp_path, ledger):
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "manifest.bin").write_bytes((ledger / "manifest.bin").read_bytes())
    for content in (None, b""):
        if content is not None:
            (begun / "book.sqlite").write_bytes(content)
        assert states(check(begun)) == {"begun": "unfinished"}
    with sqlite3.connect(begun / "book.sqlite") as database:
        database.execute("PRAGMA user_version = 3")  # a page, and nothing in it
    database.close()
    assert (begun / "book.sqlite").stat().st_size and states(check(begun)) == {"begun": "unfinished"}
    (begun / "book.sqlite").write_bytes(b"no database at all, and long enough")
    assert states(check(begun)) == {"book.sqlite": "damaged", "manifest.bin": "unchecked"}


def rewritten(log, **changes):
    """Give the last receipt other fields, under a hash that fits them, as whoever changes it would."""
    told = json.loads(log.read_bytes().splitlines()[-1])
    told = {name: value for name, value in {**told, **changes}.items() if name != "hash" and value is not None}
    log.write_bytes(verify.canonical({**told, "hash": verify.digest_of(verify.canonical(told))}) + b"\n")


@pytest.mark.parametrize("field", ["sequence", "model_file", "audit", "requests"])
def test_a_line_that_bears_its_own_hash_and_is_no_receipt_is_damaged(ledger, field):
    rewritten(ledger / "receipts.jsonl")
    assert states(check(ledger)) == {}
    rewritten(ledger / "receipts.jsonl", **{field: None})
    one = the(check(ledger), "damaged")
    assert one.path == str(ledger / "receipts.jsonl") and f"entry 1: field '{field}' is missing" in one.what


def test_a_line_that_is_no_json_and_bears_its_own_hash_is_damaged(ledger):
    body = b'{"prev":"' + verify.GENESIS.encode() + b'","seq":1,no json}'
    told = b'{"hash":"' + verify.digest_of(body).encode() + b'",'
    (ledger / "receipts.jsonl").write_bytes(told + body[1:] + b"\n")
    assert verify.log_faults((ledger / "receipts.jsonl").read_bytes()) == []  # its bytes fit its hash
    assert "entry 1: " in the(check(ledger), "damaged").what


def test_each_file_is_told_of_once_by_the_worst_that_can_be_said(ledger):
    run = ledger / "runs" / "0001"
    store.write_tensors(run / "model.safetensors", {"w": torch.zeros(6)})
    store.RunDirectory(run, {"command": "ledger"}).complete(["audit.json", "model.safetensors"], {})
    (ledger / "receipts.jsonl").write_bytes(b"")
    Generations(run / store.CHECKPOINTS).keep(STATE, {})
    flip(Generations(run / store.CHECKPOINTS).keep(STATE, {}))
    paths = [one.path for one in check(ledger)]
    assert len(paths) == len(set(paths)) and states(check(ledger)) == {
        "receipts.jsonl": "damaged",
        store.CHECKPOINTS: "damaged",
    }


def test_without_the_book_the_log_and_the_manifest_are_not_said_to_be_sound(ledger, tmp_path):
    (ledger / "book.sqlite").rename(tmp_path / "aside")
    told = {"book.sqlite": "damaged", "receipts.jsonl": "unchecked", "manifest.bin": "unchecked"}
    assert states(check(ledger)) == told
    assert all("could not be held against book.sqlite" in one.what for one in check(ledger) if one.state == "unchecked")
    flip(ledger / "manifest.bin")
    assert states(check(ledger)) == {**told, "manifest.bin": "damaged"}


def test_of_a_ledgers_run_no_command_is_named_that_would_not_make_it_again(ledger):
    for name in ("model.safetensors", "audit.json", "run.json"):
        content = (ledger / "runs" / "0001" / name).read_bytes()
        flip(ledger / "runs" / "0001" / name)
        for directory in (ledger, ledger / "runs" / "0001"):
            one = the(check(directory), "damaged")
            assert one.what.endswith("; take it from a copy of the ledger: no command makes it again")
            assert "backup" not in one.what and "remove" not in one.what
        (ledger / "runs" / "0001" / name).write_bytes(content)
    flip(ledger / "manifest.bin", 200)
    assert the(check(ledger), "damaged").what.count("copy") == 1


@pytest.mark.parametrize("name", ["book.sqlite", "receipts.jsonl", "manifest.bin", ".lock", "runs/0001/run.json"])
def test_a_pipe_in_the_place_of_a_file_is_damaged_and_never_opened(ledger, name):
    (ledger / name).unlink(missing_ok=True)
    os.mkfifo(ledger / name)
    assert the(check(ledger), "damaged").path == str(ledger / name)


def test_what_is_no_directory_of_ours_is_refused(tmp_path):
    with pytest.raises(errors.BadRequest, match=r"expected a directory of excise's, found none at .*; give one"):
        check(tmp_path / "nothing")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    with pytest.raises(
        errors.BadRequest, match="expected a run, a search, a bank or a ledger of excise's, found none in"
    ):
        check(tmp_path / "photos")
