"""The command's words are read; what it does is tested where it is done."""

from pathlib import Path

from excise.cli import main


def test_the_words_are_read_and_name_what_does_the_work():
    words = ["--model", "m:make", "--data", "digits", "--plan", "p.toml", "--out", "d.safetensors", "--networks", "6"]
    room, options = main.app(["datamodel", *words], standalone_mode=False)
    assert room == "datamodel"
    assert (options["networks"], options["out"], options["by"], options["score"]) == (
        6,
        Path("d.safetensors"),
        "means",
        0,
    )
