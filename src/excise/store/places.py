"""Where files may lie: names that came as data stay inside their directory, and nobody else writes there."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from excise import errors

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_LONGEST_PART = 200  # file systems take 255 bytes, and a write adds 18 for its temporary name


def inside(root: Path, name: str) -> Path:
    """Give the path of `name` below `root`, for a name that was read from a file; call it before a write and before a read.

    A name is one or more parts of ASCII letters, digits, `_`, `-` and `.`, with `/` between them; every name that this
    library writes is. What it comes to, links followed, must lie in the directory itself.

    Raises:
        errors.Corrupt: not such a name, or it leads out of the directory.
    """
    parts = name.split("/")
    for part in parts:
        if not _PART.fullmatch(part) or _DEVICE.fullmatch(part) or len(part) > _LONGEST_PART:
            raise errors.Corrupt(
                f"{root}: expected names of files in it (letters, digits, '_', '-', '.'), found {name[:80]!r}; "
                "take the directory from where it was made"
            )
    path = root.joinpath(*parts)
    try:
        home, found = root.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:  # links that go round
        raise errors.Corrupt(f"{path} leads nowhere: {error}; take the directory from where it was made") from error
    if home not in found.parents:
        raise errors.Corrupt(f"{path} leads to {found}, out of its directory; remove that link")
    return path


def require_private(directory: Path, option: str) -> None:
    """Refuse a directory that every user of the machine may write to; one that is not there yet is made for its owner alone.

    Raises:
        errors.BadRequest: anybody could put a file there, or take one's place.
    """
    if os.name == "posix" and directory.is_dir() and directory.stat().st_mode & stat.S_IWOTH:
        raise errors.BadRequest(
            f"{option}: every user of this machine may write to {directory}, and so put a network of theirs in place of "
            f"yours; choose a new directory, or `chmod o-w {directory}`"
        )


def require_apart(key: Path, directory: Path, option: str) -> None:
    """Refuse a directory whose files are shown to others and that would hold the key that hides row ids from them.

    Raises:
        errors.BadRequest: the key lies in the directory.
    """
    if directory.resolve() in key.resolve().parents:
        raise errors.BadRequest(
            f"{option}: {directory} would hold {key}, the key that hides row ids in records; choose another directory, or "
            "set XDG_STATE_HOME to one elsewhere"
        )
