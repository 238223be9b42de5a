import logging

import pytest

from excise import errors
from excise.data.sets import find

WANTED = find.Wanted(name="thing", files=("a.bin", "b.bin"), folders=("thing", "Thing/raw"), how="ask for it")
SHARED = find.Wanted(
    name="fashion", files=("a.bin",), folders=("fashion",), how="-", distinctive=False, rivals=frozenset({"mnist"})
)


def put(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_searches_in_the_documented_order(tmp_path, monkeypatch):
    monkeypatch.setenv("EXCISE_DATA", str(tmp_path / "variable"))
    monkeypatch.chdir(tmp_path)
    roots = [
        tmp_path / "given",
        tmp_path / "variable",
        tmp_path / "data",
        tmp_path / "home" / "data",
        tmp_path / "system",
    ]
    places = [put(root / folder, "a.bin", "b.bin") for root in roots for folder in ("thing", "Thing/raw", "")]
    while places:
        paths = find.find(WANTED, tmp_path / "given")
        assert [path.resolve() for path in paths] == [places[0] / "a.bin", places[0] / "b.bin"]
        for path in paths:
            path.unlink()
        places.pop(0)
    with pytest.raises(errors.BadData):
        find.find(WANTED, tmp_path / "given")


def test_a_missing_set_is_told_in_full(tmp_path, monkeypatch):
    monkeypatch.setenv("EXCISE_DATA", "/from/variable")
    put(tmp_path / "given")
    with pytest.raises(errors.BadData) as caught:
        find.find(WANTED, tmp_path / "given")
    roots = [f"{tmp_path}/given", "/from/variable", "data", f"{tmp_path}/home/data", f"{tmp_path}/system"]
    searched = "\n  ".join(f"{root}{folder}" for root in roots for folder in ("/thing", "/Thing/raw", ""))
    assert str(caught.value) == (
        f"thing: found none of its files. Expected:\n  a.bin\n  b.bin\nSearched:\n  {searched}\n"
        "To get them: ask for it\n"
        "Then put them into one of these folders, or name another: "
        "--data-root (data_root=) or the environment variable EXCISE_DATA."
    )


def test_compressed_files_serve_where_they_may(tmp_path):
    wanted = find.Wanted(name="thing", files=("a", "b"), folders=(), how="-", compressed=True)
    put(tmp_path, "a", "a.gz", "b.gz")
    assert [path.name for path in find.find(wanted, tmp_path)] == ["a", "b.gz"]
    put(tmp_path / "other", "a.bin.gz", "b.bin.gz")
    with pytest.raises(errors.BadData, match="found none of its files"):
        find.find(WANTED, tmp_path / "other")
    with pytest.raises(errors.BadData, match=r"Expected, each as it is or as \.gz:"):
        find.find(wanted, put(tmp_path / "empty"))


def test_half_a_set_is_refused_even_if_another_is_whole(tmp_path):
    put(tmp_path / "data" / "thing", "a.bin", "b.bin")
    put(tmp_path / "given" / "thing", "b.bin")
    with pytest.raises(
        errors.BadData, match=r"given/thing, found b\.bin without a\.bin; put these there(.|\n)*ask for it"
    ):
        find.find(WANTED, tmp_path / "given")


def test_data_root_must_be_a_folder(tmp_path):
    for root in (tmp_path / "nothing", "x" * 5000, "~nobody-of-this-name/data"):
        with pytest.raises(errors.BadData, match="data_root: expected a folder, found nothing of that kind at"):
            find.find(WANTED, root)


def test_a_folder_is_no_file(tmp_path):
    put(tmp_path / "a.bin")
    with pytest.raises(errors.BadData, match="found none"):
        find.find(WANTED, tmp_path)


def test_home_is_expanded(tmp_path):
    put(tmp_path / "home" / "mine", "a.bin", "b.bin")
    assert find.find(WANTED, "~/mine")[0] == tmp_path / "home" / "mine" / "a.bin"


def test_files_found_elsewhere_than_asked_are_told_of(tmp_path, caplog):
    put(tmp_path / "data" / "thing", "a.bin", "b.bin")
    with caplog.at_level(logging.WARNING):
        find.find(WANTED)
        assert not caplog.records
        find.find(WANTED, put(tmp_path / "given"))
    assert [record.getMessage() for record in caplog.records] == [
        f"thing: found none of its files in {tmp_path}/given, read from data/thing instead"
    ]


def test_shared_names_are_only_trusted_where_the_caller_points(tmp_path, caplog):
    put(tmp_path / "data", "a.bin")
    with pytest.raises(errors.BadData, match="found none"):
        find.find(SHARED)
    assert find.find(SHARED, tmp_path / "data")[0] == tmp_path / "data" / "a.bin"
    for folder in ("MNIST", "MNIST/raw"):
        with pytest.raises(errors.BadData, match="found none"), caplog.at_level(logging.WARNING):
            find.find(SHARED, put(tmp_path / folder, "a.bin"))
        assert caplog.records.pop().getMessage() == (
            f"fashion: not looked for in {tmp_path}/{folder} itself, which is called after another set"
        )
