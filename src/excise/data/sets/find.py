"""Where the files of a data set lie on this machine.

The places, in order: the folder the caller names, the one the environment variable `EXCISE_DATA` names, `./data`,
`~/data`, and Debian's `/usr/share/datasets`. This library never downloads anything: a set that is nowhere is an error
that says what its files are called, where they were looked for, and where to get them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from excise import errors

log = logging.getLogger(__name__)

VARIABLE = "EXCISE_DATA"
SYSTEM_ROOT = Path("/usr/share/datasets")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The files of one data set.

    Attributes:
        name: what the set is called.
        files: the exact file names.
        folders: what their folder is called under a root, in the order of the search.
        how: where to get them.
        compressed: whether each file may also lie there as `NAME.gz`.
        distinctive: whether the file names belong to this set only, so that they may be taken from a root itself. If
            not, only the folder the caller names is trusted to hold them directly.
        rivals: names of folders of other sets whose files have the same names, in lower case; a folder so called is
            passed over.
    """

    name: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    how: str
    compressed: bool = False
    distinctive: bool = True
    rivals: frozenset[str] = frozenset()


def find(wanted: Wanted, data_root: str | Path | None = None) -> tuple[Path, ...]:
    """Give the paths of a data set's files, from the first place that holds any of them.

    Args:
        wanted: what to look for.
        data_root: the folder to look in first: either the set's own or the one above it.

    Returns:
        One path for each of `wanted.files`, in that order, all in one folder. The plain file is preferred to its `.gz`.
        Files found elsewhere than below `data_root` are taken with a warning in the log.

    Raises:
        errors.BadData: `data_root` is not a folder; no place holds any of the files; the first that does lacks others.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     _ = Path(root, "train_32x32.mat").write_bytes(b"")
        ...     find(Wanted(name="svhn", files=("train_32x32.mat",), folders=(), how="..."), root)[0].name
        'train_32x32.mat'
    """
    root = None if data_root is None else expanded(data_root)
    places: dict[Path, None] = {}  # in order, each once
    for place in _places(wanted, root):
        places[place] = None
        found = [_existing(place / file, compressed=wanted.compressed) for file in wanted.files]
        complete = tuple(path for path in found if path is not None)
        if len(complete) == len(found):
            if root is not None and not place.is_relative_to(root):
                log.warning("%s: found none of its files in %s, read from %s instead", wanted.name, root, place)
            return complete
        if complete:
            missing = [file for file, path in zip(wanted.files, found, strict=True) if path is None]
            raise errors.BadData(
                f"{wanted.name}: expected all its files in {place}, found {', '.join(path.name for path in complete)} "
                f"without {', '.join(missing)}; put these there, or take the others away.\nTo get them: {wanted.how}"
            )
    raise errors.BadData(_not_found(wanted, places))


def exists(path: Path, *, folder: bool = False) -> bool:
    """Tell whether a file is there, or a folder.

    Args:
        path: where.
        folder: whether it must be a folder; else it must be a file.

    Returns:
        False, too, for a path that may not be looked at or is too long to be one.

    Example:
        >>> exists(Path("x" * 10_000)), exists(Path("/"), folder=True)
        (False, True)
    """
    try:
        return path.is_dir() if folder else path.is_file()
    except OSError:
        return False


def expanded(path: str | Path) -> Path:
    """Give a path with a leading `~` replaced, where it can be.

    Args:
        path: as the user wrote it.

    Returns:
        The path as it is if the machine knows no such home, as in a container run under a bare user id.

    Example:
        >>> expanded("~nobody-of-this-name/data").as_posix()
        '~nobody-of-this-name/data'
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _places(wanted: Wanted, root: Path | None) -> Iterator[Path]:
    """Yield every folder to look in, that of the caller first."""
    if root is not None:
        if not exists(root, folder=True):
            raise errors.BadData(
                f"data_root: expected a folder, found nothing of that kind at {root}; give the right path"
            )
        yield from (root / folder for folder in wanted.folders)
        if _is_rivals(root, wanted.rivals):
            log.warning("%s: not looked for in %s itself, which is called after another set", wanted.name, root)
        else:
            yield root
    for usual in _usual_roots():
        yield from (usual / folder for folder in wanted.folders)
        if wanted.distinctive:
            yield usual


def _usual_roots() -> Iterator[Path]:
    if os.environ.get(VARIABLE):
        yield expanded(os.environ[VARIABLE])
    yield from (Path("data"), expanded("~/data"), SYSTEM_ROOT)


def _is_rivals(root: Path, rivals: frozenset[str]) -> bool:
    """Tell whether a folder, or the one above its `raw`, is called after another set."""
    folder = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links, and the name is the point
    return (folder.parent if folder.name == "raw" else folder).name.lower() in rivals


def _existing(path: Path, *, compressed: bool) -> Path | None:
    candidates = [path, path.with_name(path.name + ".gz")] if compressed else [path]
    return next((candidate for candidate in candidates if exists(candidate)), None)


def _not_found(wanted: Wanted, places: Iterable[Path]) -> str:
    files = "\n  ".join(wanted.files)
    searched = "\n  ".join(str(place) for place in places)
    gz = ", each as it is or as .gz" if wanted.compressed else ""
    return (
        f"{wanted.name}: found none of its files. Expected{gz}:\n  {files}\nSearched:\n  {searched}\n"
        f"To get them: {wanted.how}\nThen put them into one of these folders, or name another: "
        f"--data-root (data_root=) or the environment variable {VARIABLE}."
    )
