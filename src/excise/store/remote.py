"""Files at a URL: a bucket, a share, another machine's folder. The only file that uses fsspec, which speaks to them.

Who may read and write there, and with what credentials, is between fsspec and the place: nothing here asks for them, keeps
them, or puts them into a message.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from excise import errors

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[A-Za-z][A-Za-z0-9+.-]*)*://")
_BROKEN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")


def is_url(given: str | Path) -> bool:
    """Say whether this names a place at a URL, such as `s3://bucket/folder`.

    Raises:
        errors.BadRequest: a URL that was made a path, which loses one of its slashes.
    """
    if isinstance(given, Path) and _BROKEN.match(str(given)):
        raise errors.BadRequest(
            f"expected a directory, found the path {given}, a URL that lost a slash; give a URL as text, if one is taken here"
        )
    return isinstance(given, str) and _URL.match(given) is not None


class Remote:
    """A folder at a URL, of whole files under plain names.

    Args:
        url: any that fsspec knows: `s3://bucket/folder`, `gs://…`, `file:///…`, `memory://…`.

    Raises:
        errors.BadRequest: no URL, of no protocol that fsspec knows, or with a password in it.
        errors.MissingExtra: fsspec, or the package it needs for this protocol, is not installed.
        errors.DiskError: the place cannot be reached.
    """

    def __init__(self, url: str) -> None:
        if _PASSWORD.search(url):
            raise errors.BadRequest(
                "expected a URL without a password, which would end up in records and messages; give credentials to fsspec, "
                "in its configuration or the environment"
            )
        self.url = url.rstrip("/") if not url.endswith("://") else url
        self._files, self._root = _opened(url)
        self._here = url.startswith(("file://", "local://"))

    def exists(self, name: str) -> bool:
        """Say whether there is a file of this name."""
        with self._speaking(f"look for {name}"):
            self._files.invalidate_cache()
            try:
                self._files.info(self._path(name))
            except FileNotFoundError:
                return False
        return True

    def sizes(self) -> dict[str, int]:
        """Give the names of the files there, and their bytes; nothing where there is no such folder."""
        with self._speaking("list it"):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._root, detail=True)
            except FileNotFoundError:
                return {}
        return {one["name"].rpartition("/")[2]: int(one["size"] or 0) for one in found if one["type"] == "file"}

    def get(self, name: str) -> bytes | None:
        """Give the content of a file; None if there is none."""
        with self._speaking(f"read {name}"):
            try:
                return bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def part(self, name: str, start: int, end: int) -> bytes:
        """Give the bytes of a file from `start` to before `end`."""
        with self._speaking(f"read {name}"):
            return bytes(self._files.cat_file(self._path(name), start=start, end=end))

    def put(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all, under a temporary name first. One that is there already is left as it is."""
        if self.exists(name):
            return
        temporary = f".{name}.{secrets.token_hex(6)}.tmp"
        with self._speaking(f"write {name}"):
            try:
                if self._here:  # for its owner alone, like a bank in a directory
                    Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)
                self._files.pipe_file(self._path(temporary), content)
                if self._here:
                    Path(self._path(temporary)).chmod(0o600)
                self._files.mv(self._path(temporary), self._path(name))
            except BaseException:
                with contextlib.suppress(Exception):  # what went wrong is told; this was to clean up after it
                    self._files.rm_file(self._path(temporary))
                raise

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        with self._speaking(f"remove {name}"), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def require_writable(self) -> None:
        """Refuse a place that cannot be written, by writing there and removing it."""
        name = f".writable.{secrets.token_hex(6)}.tmp"
        with self._speaking("write there"):
            self._files.pipe_file(self._path(name), b"")
            self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _speaking(self, what: str) -> Iterator[None]:
        """Turn whatever goes wrong into one error. Each protocol raises classes of its own, some of them no `OSError`."""
        try:
            yield
        except Exception as error:
            told = str(error).strip().splitlines()
            raise errors.DiskError(
                f"{self.url}: could not {what}: {type(error).__name__}{f': {told[0]}' if told else ''}; see that the place "
                "exists and that this user may read and write there"
            ) from error


def _opened(url: str) -> tuple[Any, str]:
    """Give fsspec's file system of a URL, and the folder in it."""
    try:
        import fsspec
    except ImportError as cause:
        raise errors.MissingExtra(
            f"{url} needs fsspec, and it is not installed: pip install 'excise[cluster]'"
        ) from cause
    local = {"auto_mkdir": True} if url.startswith(("file://", "local://")) else {}
    try:
        files, root = fsspec.core.url_to_fs(url, **local)
    except ImportError as cause:
        raise errors.MissingExtra(f"{url}: {cause}") from cause
    except ValueError as cause:
        raise errors.BadRequest(f"{url}: {cause}; give a URL that fsspec knows, or a directory") from cause
    except Exception as cause:  # each protocol has its own classes
        raise errors.DiskError(f"{url} cannot be reached: {type(cause).__name__}: {cause}") from cause
    return files, root.rstrip("/")
