"""`excise fsck`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from excise import errors
from excise.cli import show
from excise.custody.checking import check


def run(*, directory: Path, quiet: bool) -> tuple[dict[str, Any], int]:
    """Say of each file whether it is sound; the exit code is 0 only if none is damaged."""
    to = show.console(quiet=quiet)
    found = check(directory)
    damaged = [one for one in found if one.state == "damaged"]
    for one in found:
        show.say(to, f"{one.state}: {one.path}{f' ({one.what})' if one.what else ''}")
    count = sum(one.state == "sound" for one in found)
    rest = f"{len(damaged)} damaged" if damaged else "none damaged"
    show.say(to, f"{count} {'file is' if count == 1 else 'files are'} what the record says, {rest}.")
    told = {"sound": not damaged, "files": msgspec.to_builtins(found)}
    return told, errors.Corrupt.exit_code if damaged else 0
