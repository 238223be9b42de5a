"""The command stands among the others, and what it does is tested where it is done."""

from excise.cli import commands, main


def test_it_reads_its_words_and_names_what_does_the_work():
    words = ["moments", "--model", "a:b", "--weights", "w", "--data", "a:d", "--out", "m.safetensors"]
    room, options = main.app(words, standalone_mode=False)
    assert room == "moments" and room not in commands.UNSEEDED
    assert str(options["out"]) == "m.safetensors" and options["carry"] is None
