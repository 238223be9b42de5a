from datetime import UTC, datetime, timedelta

import pytest
import torch

from excise.cli import bank as command
from excise.oracles import Bank, Trained
from tests.cli.project import tree

NOW = datetime.now(UTC)
KINDS = ("oracle", "original", "half")


def filled(directory):
    """One network of each kind, the oldest first, 30, 20 and 10 days old, and a file that is not the bank's."""
    bank = Bank(directory)
    for place, kind in enumerate(KINDS):
        told = {"architecture": "Sequential", "num_parameters": 400, "num_rows": 1234 + place}
        trained = Trained(place, {"weight": torch.zeros(100 * (1 + place))}, 1.5, 60)
        bank.keep(str(place) * 64, trained, kind=kind, created=NOW - timedelta(days=30 - 10 * place), **told)
    (directory / "notes.txt").write_text("mine")
    return bank


@pytest.fixture
def bank(project):
    return filled(project / "nets")


def test_the_networks_are_listed_and_nothing_is_touched(project, excise, bank):
    before = tree(project)
    done = excise("bank", "nets", "--json")
    assert done.code == 0
    assert done.json.keys() == {"directory", "entries", "num_bytes", "pruned", "foreign"}
    assert done.json["directory"] == "nets" and done.json["pruned"] == []
    assert [entry["kind"] for entry in done.json["entries"]] == list(KINDS)
    first = done.json["entries"][0]
    assert (first["key"], first["architecture"], first["num_rows"]) == ("0" * 64, "Sequential", 1234)
    assert (first["num_parameters"], first["seconds"], first["seed"]) == (400, 1.5, 0)
    assert datetime.fromisoformat(first["created"]) == NOW - timedelta(days=30)
    assert done.json["num_bytes"] == sum(entry["num_bytes"] for entry in done.json["entries"]) == bank.num_bytes
    assert done.json["foreign"] == ["nets/notes.txt"]
    assert tree(project) == before


def test_people_read_a_table_its_totals_and_a_warning(excise, bank, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = excise("bank", "nets")
    head, *rows = done.out.splitlines()[:4]
    assert head.split() == ["kind", "architecture", "rows", "size", "age", "seconds"]
    size = command.size(bank.entries()[0].num_bytes)
    assert rows[0].split() == ["oracle", "Sequential", "1,234", *size.split(), "30", "d", "1.5"]
    assert [row.split()[0] for row in rows] == list(KINDS)
    assert f"3 files in nets: {command.size(bank.num_bytes)}; 4 s of training." in done.out
    assert "2 files of kind original or half may have seen rows to forget" in done.out
    assert "--prune --kind original --kind half" in done.out
    assert "Not the bank's, and left alone: notes.txt." in done.out
    assert max(map(len, done.out.splitlines()[:4])) <= 80 and done.err == ""
    assert excise("bank", "nets", "--quiet") == (0, "", "")


def test_oracles_alone_are_no_reason_to_warn(excise, bank):
    bank.prune(kinds=["original", "half"])
    assert "may have seen" not in excise("bank", "nets").out


@pytest.mark.parametrize(
    ("words", "removed"),
    [
        (["--kind", "half"], [2]),
        (["--kind", "half", "--kind", "original"], [1, 2]),
        (["--older-than", "15"], [0, 1]),
        (["--older-than", "15", "--kind", "original"], [1]),
        (["--keep-bytes", "0"], [0, 1, 2]),
        (["--keep-bytes", "1GB"], []),
        (["--everything"], [0, 1, 2]),
    ],
)
def test_what_is_named_is_removed_and_said(project, excise, bank, words, removed):
    done = excise("bank", "nets", "--prune", *words, "--json")
    assert done.code == 0
    assert [entry["key"][0] for entry in done.json["pruned"]] == [str(place) for place in removed]
    left = [str(place) * 64 for place in range(3) if place not in removed]
    assert [entry["key"] for entry in done.json["entries"]] == [entry.key for entry in bank.entries()] == left
    assert done.json["num_bytes"] == bank.num_bytes
    assert (project / "nets" / "notes.txt").read_text() == "mine"
    if removed:
        assert f"Removed {len(removed)} file{'s' if len(removed) > 1 else ''}, " in done.err


def test_a_size_keeps_the_youngest(excise, bank):
    youngest = bank.entries()[2].num_bytes
    done = excise("bank", "nets", "--prune", "--keep-bytes", youngest, "--json")
    assert [entry["kind"] for entry in done.json["entries"]] == ["half"] and done.json["num_bytes"] == youngest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--prune"],
            "--prune: expected what may go: --keep-bytes SIZE, --older-than DAYS, --kind KIND, or --everything",
        ),
        (["--kind", "half"], "--kind: says what may go, and nothing goes without --prune; add it"),
        (["--keep-bytes", "0"], "--keep-bytes: says what may go, and nothing goes without --prune; add it"),
        (["--older-than", "0"], "--older-than: says what may go, and nothing goes without --prune; add it"),
        (["--everything"], "--everything: says what may go, and nothing goes without --prune; add it"),
        (["--prune", "--everything", "--kind", "half"], "--everything: leaves nothing for --kind to spare"),
        (
            ["--prune", "--kind", "halves"],
            "kinds: expected some of oracle, original, half, unreadable, unfinished, found",
        ),
        (
            ["--prune", "--keep-bytes", "2 potatoes"],
            "--keep-bytes: expected a size such as 500MB, 2GB or 1.5GiB, found",
        ),
        (["--prune", "--older-than", "-1"], "--older-than"),
    ],
)
def test_half_a_wish_removes_nothing(project, excise, bank, words, message):
    before = tree(project)
    done = excise("bank", "nets", *words)
    assert done.code == 2 and message in done.err
    assert tree(project) == before


def test_a_damaged_file_is_named_and_stays(project, excise, bank):
    path = project / "nets" / f"{'0' * 64}.safetensors"
    path.write_bytes(b"damaged")
    done = excise("bank", "nets")
    assert f"Unreadable, and never used: {path.name}." in done.out
    assert "unreadable" in done.out and done.code == 0
    excise("bank", "nets", "--prune", "--keep-bytes", "0")
    assert path.exists()
    assert excise("bank", "nets", "--prune", "--kind", "unreadable").code == 0
    assert not path.exists()


def test_a_write_under_way_is_named_and_stays(project, excise, bank):
    path = project / "nets" / f".{'9' * 64}.safetensors.0123456789ab.tmp"
    path.write_bytes(b"half of a file")
    done = excise("bank", "nets", "--prune", "--everything")
    assert f"Being written, or broken off; to go by --prune --everything when an hour old: {'9' * 64}." in done.out
    assert path.exists() and bank.find("0" * 64) is None


def test_the_users_own_bank_is_the_default_and_may_be_empty(excise, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    where = tmp_path / "cache" / "excise" / "bank"
    done = excise("bank")
    assert done.code == 0 and f"No networks in {where}." in done.out and not where.exists()
    where.mkdir(parents=True)
    filled(where)
    assert len(excise("bank", "--json").json["entries"]) == 3


def test_a_file_is_no_bank(project, excise):
    done = excise("bank", "plan.toml")
    assert done.code == 2 and "bank: expected a directory, found a file at plan.toml" in done.err


@pytest.mark.parametrize(
    ("words", "num_bytes"),
    [
        ("0", 0),
        ("300000", 300_000),
        ("12b", 12),
        ("1.5kB", 1500),
        ("500MB", 500 * 10**6),
        (" 2 GB ", 2 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("1tib", 2**40),
    ],
)
def test_sizes_are_read(words, num_bytes):
    assert command.read_bytes(words) == num_bytes


@pytest.mark.parametrize("words", ["", "GB", "-1", "-1GB", "1e9", "1,5GB", "2 G B", "nan", "2QB"])
def test_what_is_no_size_is_told_with_the_units(words):
    with pytest.raises(command.errors.BadRequest, match=r"found .*; units: B, KB, MB, GB, TB, KiB, MiB, GiB, TiB$"):
        command.read_bytes(words)


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (123_456, "123 kB"),
        (2_500_000, "2.5 MB"),
        (7.1e9, "7.1 GB"),
        (3e12, "3.0 TB"),
    ],
)
def test_sizes_are_written(num_bytes, words):
    assert command.size(num_bytes) == words


def test_a_bank_at_a_url_is_listed_and_not_pruned(project, excise):
    url = f"file://{project}/far"
    keep = {"kind": "oracle", "architecture": "Sequential", "num_parameters": 4, "num_rows": 9}
    Bank(url).keep("a" * 64, Trained(0, {"weight": torch.zeros(4)}, 1.5, 60), **keep)
    done = excise("bank", url, "--json")
    assert done.code == 0 and done.json["directory"] == url and done.json["entries"][0]["key"] == "a" * 64
    assert f"1 file in {url}" in excise("bank", url).out
    done = excise("bank", url, "--prune", "--everything")
    assert done.code == 2 and "expected a bank in a directory" in done.err
    assert len(list((project / "far").iterdir())) == 1
