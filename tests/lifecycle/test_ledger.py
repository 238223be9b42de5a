import stat

import pytest
import torch
from torch import nn

from excise import errors, store
from excise.ledger.book import Book
from excise.ledger.manifest import Manifest
from excise.lifecycle import Ledger
from excise.lifecycle import ledger as lifecycle
from excise.recipes import Finetune
from tests.planted import TEST, TRAIN, make


def test_a_life_begins_with_the_digest_of_network_and_rows(ledger, original):
    found = ledger.status()
    assert found["num_rows"] == 160 and found["requests"] == found["runs"] == []
    assert found["original"] == found["model_digest"]
    assert found["test_accuracy"] == ledger.subject.test_accuracy(original)
    with Book(ledger.directory / "book.sqlite") as book:
        assert book.life().manifest_root == Manifest.load(ledger.directory / "manifest.bin").root
        assert (book.life().max_drop, book.life().due_days) == (0.5, 30)


def test_everything_in_a_ledger_is_its_owners_alone(ledger):
    ledger.request([3])
    ledger.run(Finetune(epochs=1), tier="T0")
    for path in (ledger.directory, *ledger.directory.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    names = {path.name for path in ledger.directory.iterdir()}
    assert names - {"book.sqlite-wal", "book.sqlite-shm"} == {"book.sqlite", "manifest.bin", "receipts.jsonl", "runs"}


def test_the_network_given_is_never_changed(ledger, original):
    before = {name: value.clone() for name, value in original.state_dict().items()}
    ledger.request([3])
    ledger.run(Finetune(epochs=1), tier="T0")
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())


def test_a_second_life_needs_a_directory_of_its_own(ledger, opened, tmp_path):
    with pytest.raises(errors.BadRequest, match="expected an empty or new directory for a ledger"):
        opened()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("")
    with pytest.raises(errors.BadRequest, match=r"found .*full with 'notes.txt' in it; choose another directory"):
        opened("full")
    assert ledger.status()["num_rows"] == 160


def test_a_beginning_that_was_broken_off_can_be_made_again(opened, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def dies(*_):
        raise Killed

    for name in ("create",):
        with monkeypatch.context() as patch:
            patch.setattr(Book, name, dies)
            with pytest.raises(Killed):
                opened()
    assert (tmp_path / "life" / "manifest.bin").is_file()
    with pytest.raises(errors.BadData, match="expected a ledger's book"):
        Ledger(tmp_path / "life", make(), TRAIN, test=TEST)
    assert opened().request([3]).state == "open"


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"max_drop": 1.5}, errors.BadRequest, "max_drop: expected a fraction"),
        ({"due_days": 0}, errors.BadRequest, "due_days: expected an integer of at least 1"),
        ({"due_days": 3651}, errors.BadRequest, "due_days: expected at most 3650 days, found 3651"),
        (
            {"test": tuple(one.clone() for one in TRAIN)},
            errors.BadSplit,
            "test: 160 of its 160 rows are exact copies of training rows",
        ),
        ({"test": None}, errors.BadSplit, "give test rows"),
        ({"model": nn.Flatten()}, errors.ExciseError, "parameter"),
    ],
)
def test_what_no_life_can_begin_with_is_refused_and_nothing_is_left(opened, tmp_path, changes, kind, words):
    with pytest.raises(kind, match=words):
        opened(**changes)
    assert not (tmp_path / "life").exists()


def test_two_beginnings_at_once_are_refused(opened, tmp_path):
    with store.lock(tmp_path / "life"), pytest.raises(errors.InUse):
        opened()


def test_a_life_that_another_call_has_begun_in_between_is_not_written_over(opened, tmp_path, monkeypatch):
    first = []

    class Slow(lifecycle.Trained):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            if not first:
                first.append(None)
                first[0] = opened()  # after our look at the directory, and before our lock

    monkeypatch.setattr(lifecycle, "Trained", Slow)
    with pytest.raises(errors.BadRequest, match="expected an empty or new directory for a ledger, found"):
        opened()
    assert first[0].request([3]).state == "open"  # manifest and book still belong to one another


def test_a_directory_that_anybody_may_write_to_holds_no_ledger(opened, tmp_path):
    (tmp_path / "life").mkdir()
    (tmp_path / "life").chmod(0o777)
    with pytest.raises(errors.BadRequest, match=r"directory: every user of this machine may write to .*life"):
        opened()
    assert list((tmp_path / "life").iterdir()) == []
    (tmp_path / "life").chmod(0o700)
    ledger = opened()
    (tmp_path / "life").chmod(0o702)
    for use in (ledger.status, lambda: ledger.request([3]), lambda: ledger.run(Finetune(epochs=1), tier="T0")):
        with pytest.raises(errors.BadRequest, match="every user of this machine may write to"):
            use()


@pytest.mark.parametrize("name", ["state", "state/excise", "state/excise/keys"])
def test_a_directory_that_would_hold_the_keys_holds_no_ledger(opened, home, tmp_path, name):
    with pytest.raises(errors.BadRequest, match=f"directory: .*{name} would hold .*the key that hides"):
        opened(name)
    assert not home.exists()
    assert opened("state/excise-ledger").status()["num_rows"] == 160


def test_recipes_that_need_settings_are_not_made_without(ledger):
    assert lifecycle._without_settings(Finetune) is not None
    assert lifecycle._without_settings(lambda *, plan: plan) is None
