"""`excise fsck`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from excise import errors
from excise.cli import show
from excise.custody.checking import State, check


def run(*, directory: Path, quiet: bool) -> tuple[dict[str, Any], int]:
    """Say of each file whether it is sound; the exit code is 0 only if none is damaged."""
    to = show.console(quiet=quiet)
    found = check(directory)
    for one in found:
        show.say(to, f"{one.state}: {one.path}{f' ({one.what})' if one.what else ''}")
    counts = Counter(one.state for one in found)
    show.say(to, _summed_up(counts))
    told = {"sound": not counts["damaged"], "files": msgspec.to_builtins(found)}
    return told, errors.Corrupt.exit_code if counts["damaged"] else 0


def _summed_up(counts: Counter[State]) -> str:
    sound, damaged, unfinished = counts["sound"], counts["damaged"], counts["unfinished"]
    parts = [f"{sound} {'file is' if sound == 1 else 'files are'} what the record says"]
    if unfinished and not sound:
        parts = ["Unfinished: no record says yet what the files are to be"]
    elif unfinished:
        parts.append(f"{unfinished} unfinished")
    if counts["unchecked"]:
        parts.append(f"{counts['unchecked']} not to be checked")
    return f"{', '.join(parts)}, {f'{damaged} damaged' if damaged else 'none damaged'}."
