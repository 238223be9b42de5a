"""Keys that hide rows and row ids in records, kept apart from every record: in `$XDG_STATE_HOME/excise`.

One key of the machine hides row ids (`commitment`). Besides, each request for deletion may have a key of its own (`Key`),
which can be destroyed: what was hidden with it then tells nobody anything any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from excise import errors, params
from excise.store.files import remove, sweep, write_bytes

KEY_BYTES = 32
_ID = re.compile(r"k-[0-9a-f]{32}")


@dataclass(frozen=True)
class Key:
    """A secret of 32 random bytes, and the random id under which it is kept.

    Attributes:
        id: `k-` and 32 hexadecimal digits; says nothing about the secret.
        secret: never shown.
    """

    id: str
    secret: bytes = field(repr=False)


def new_key() -> Key:
    """Make a key and keep it, readable by its owner only, in `$XDG_STATE_HOME/excise/keys` under its id.

    Raises:
        errors.DiskError: it could not be written.
    """
    key = Key(f"k-{secrets.token_hex(16)}", secrets.token_bytes(KEY_BYTES))
    sweep([keys_home(), _path_of(key.id).parent])  # a write that was killed has left a secret
    write_bytes(_path_of(key.id), key.secret + hashlib.sha256(key.secret).digest())
    return key


def load_key(id: str) -> Key:
    """Give the key of an id.

    Raises:
        errors.BadRequest: no such id, or its key was destroyed.
        errors.Corrupt: the file was changed.
        errors.DiskError: it could not be read.
    """
    path = _path_of(id)
    content = _content(path, id)
    secret = content[:KEY_BYTES]
    if content and not any(content):
        raise errors.BadRequest(
            f"the key {id} was destroyed: what was hidden with it can neither be found again nor shown to anyone"
        )
    if content[KEY_BYTES:] != hashlib.sha256(secret).digest():
        raise errors.Corrupt(
            f"{path} is not the key it was: it ends in another SHA-256 than that of its content; restore it"
        )
    return Key(id, secret)


def destroy_key(id: str) -> None:
    """Overwrite a key with zeros, for good; its empty place stays, so that it can be said later that it was destroyed.

    What the disk or a backup still holds of the old content is their affair. Destroying twice is no error.

    Raises:
        errors.BadRequest: no such id.
        errors.DiskError: it could not be overwritten.
    """
    path = _path_of(id)
    content = _content(path, id)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # in place, not truncated: over the very bytes
        try:
            os.write(descriptor, bytes(len(content)))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise errors.DiskError(
            f"could not destroy the key {path}: {error.strerror or error}; see who may write there"
        ) from error


def _path_of(id: str) -> Path:
    if not _ID.fullmatch(id):
        raise errors.BadRequest(f"expected the id of a key, as k- and 32 hexadecimal digits; found {id!r}")
    return keys_home() / "keys" / id


def _content(path: Path, id: str) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise OSError(None, "it is a directory, a pipe or a device")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise errors.BadRequest(
            f"expected the key {id} in {path.parent}, found none; set XDG_STATE_HOME to where it was made, or restore it"
        ) from error
    except OSError as error:
        raise errors.DiskError(
            f"the key {path} cannot be read: {error.strerror or error}; see who may read there"
        ) from error


def keys_home() -> Path:
    """Give the directory of all keys: `$XDG_STATE_HOME/excise`."""
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "excise"
    except RuntimeError as error:  # no home directory
        raise errors.DiskError(
            f"there is no place for keys: {error}; set XDG_STATE_HOME to a directory that may be written"
        ) from error


def commitment(ids: Tensor) -> str:
    """Give a keyed digest of row ids: the same ids give the same digest here, and nobody without the key can guess them.

    A plain hash of a few row numbers is undone by trying them all. The key is 32 random bytes in a file readable by its
    owner only, outside any run directory (`$XDG_STATE_HOME/excise/key`, usually `~/.local/state/excise/key`).

    Raises:
        errors.Corrupt: what lies there is no key.
        errors.DiskError: the key can neither be read nor written.
    """
    return hmac.new(_commitment_key(), params.raw_bytes(ids), hashlib.sha256).hexdigest()


def _commitment_key() -> bytes:
    try:
        path = keys_home() / "key"
        sweep([path.parent])
        _make_once(path)
        if not path.is_file():
            raise OSError(None, f"{path} is a directory, a pipe or a device")
        with path.open("rb") as file:
            found = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise errors.DiskError(
            f"the key that hides row ids in records cannot be kept: {error}; set XDG_STATE_HOME to a directory that may be "
            "written"
        ) from error
    if len(found) != KEY_BYTES:
        raise errors.Corrupt(
            f"{path}: expected a key of {KEY_BYTES} bytes, found {'more' if found[KEY_BYTES:] else len(found)}; restore it, or "
            "remove it to begin with another, under which nothing that was recorded is found again"
        )
    return found


def _make_once(path: Path) -> None:
    """Make the key if there is none; of two first runs, both take the first's.

    A link is made whole or not at all. What a kill leaves is swept by whoever needs a key next, and such a sweep may come
    between our write and our link: then there is a key, or we try again.
    """
    while not os.path.lexists(path):
        own = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        write_bytes(own, secrets.token_bytes(KEY_BYTES))
        try:
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                path.hardlink_to(own)
        finally:
            remove(own)  # and have the disk keep the link
