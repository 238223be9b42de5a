"""The files in the places that somebody named: each once, links given as links and never followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from excise import errors

MOST_FILES = 100_000


def files_in(
    places: Collection[Path], *, apart: Collection[Path] = (), most_files: int = MOST_FILES, unopened: bool = False
) -> Iterator[Path]:
    """Give every file and link in some places, by name; folders that are links are given, not entered.

    Args:
        places: folders or files.
        apart: files and folders, links in them resolved, that are left out with all that is in them.
        most_files: a bound, so that a search of a whole disk is refused and not half done.
        unopened: give pipes, devices and sockets too, none of which may be opened.

    Raises:
        errors.BadRequest: there is no such place, or more files than the bound.
        errors.DiskError: a folder may not be looked into.
    """
    out, seen = {path.resolve() for path in apart}, set()
    for place in places:
        if not place.exists():
            raise errors.BadRequest(
                f"--in: expected a folder or a file, found nothing at {place}; name one that is there"
            )
        for path in _below(place, unopened=unopened):
            where = path.parent.resolve() / path.name
            if where in seen or where in out or not out.isdisjoint(where.parents):
                continue
            seen.add(where)
            if len(seen) > most_files:
                raise errors.BadRequest(
                    f"--in: more than {most_files:,} files, the last one looked at in {path.parent}; name narrower folders, "
                    "one after another"
                )
            yield path


def _below(place: Path, *, unopened: bool) -> Iterator[Path]:
    if not place.is_dir():
        yield from (place,) if unopened or _is_file_or_link(place) else ()
        return
    for folder, inner, names in os.walk(place, followlinks=False, onerror=_refuse):
        here = Path(folder)
        inner.sort()
        yield from (here / name for name in sorted(inner) if (here / name).is_symlink())
        yield from (here / name for name in sorted(names) if unopened or _is_file_or_link(here / name))


def _refuse(error: OSError) -> None:
    raise errors.DiskError(
        f"could not look into {error.filename}: {error.strerror or error}; see who may read there, or name other places"
    ) from error


def _is_file_or_link(path: Path) -> bool:
    """Say whether a name is a regular file or a link: a pipe or a device is never opened."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # removed since the folder was read
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def lies_in(path: Path, places: Collection[Path]) -> bool:
    """Say whether what a path leads to is one of some places, or in one."""
    where = path.resolve()
    return any(where == one or one in where.parents for one in (place.resolve() for place in places))
