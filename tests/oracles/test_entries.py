"""Metadata of a bank's file are read or refused whole; names of files say what they are."""

import pytest

from excise import errors
from excise.oracles.entries import KINDS, entry_of, key_of, read_entry, read_told, require_kind, size_of

KEY = "a1" * 32
TOLD = {
    "kind": "oracle",
    "seconds": "1.5",
    "trained_rows": "90",
    "seed": "3",
    "architecture": "Sequential",
    "num_parameters": "114",
    "num_rows": "30",
    "created": "2026-01-02T03:04:05+00:00",
}


def test_metadata_are_read_whole_or_not_at_all():
    known = entry_of(TOLD, KEY, 1000)
    assert (known.key, known.num_bytes, known.kind, known.seed, known.seconds) == (KEY, 1000, "oracle", 3, 1.5)
    for name in TOLD:
        assert read_told({key: value for key, value in TOLD.items() if key != name}) is None, name
    for name, wrong in [("kind", "retain"), ("seed", "x"), ("created", "2026-01-02T03:04:05")]:
        assert read_told({**TOLD, name: wrong}) is None, name


def test_a_file_without_metadata_is_unreadable_or_unfinished_by_its_name(tmp_path):
    for name, kind in [(f"{KEY}.safetensors", "unreadable"), (f".{KEY}.safetensors.0123456789ab.tmp", "unfinished")]:
        entry = read_entry(tmp_path / name, KEY, 7, 0.0, {})
        assert (entry.kind, entry.key, entry.num_bytes, entry.created.year) == (kind, KEY, 7, 1970)


def test_a_file_is_the_banks_by_its_name_and_kind(tmp_path):
    own = [f"{KEY}.safetensors", f".{KEY}.safetensors.0123456789ab.tmp"]
    for name in (*own, f"{KEY}.pt", f"{KEY[1:]}.safetensors"):
        (tmp_path / name).write_bytes(b"12")
        assert key_of(tmp_path / name) == (KEY if name in own else None), name
    folder = tmp_path / f".training-{KEY}"
    folder.mkdir()
    assert key_of(folder) == KEY and key_of(tmp_path / f".training-{KEY[1:]}") is None
    (folder / "one").write_bytes(b"123")
    (folder / "two").write_bytes(b"45")
    assert size_of(folder) == 5


def test_an_unknown_kind_is_refused():
    for kind in KINDS:
        require_kind(kind)
    with pytest.raises(errors.BadRequest, match="kind: expected one of oracle, original, half, found 'retain'"):
        require_kind("retain")
