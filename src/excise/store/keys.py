"""Keys that hide row ids in records, kept apart from every record."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from torch import Tensor

from excise import errors, params
from excise.store.files import write_bytes


def commitment(ids: Tensor) -> str:
    """Give a keyed digest of row ids: the same ids give the same digest here, and nobody without the key can guess them.

    A plain hash of a few row numbers is undone by trying them all. The key is 32 random bytes in a file readable by its
    owner only, outside any run directory (`$XDG_STATE_HOME/excise/key`, usually `~/.local/state/excise/key`).

    Raises:
        errors.DiskError: the key can neither be read nor written.
    """
    return hmac.new(_commitment_key(), params.raw_bytes(ids), hashlib.sha256).hexdigest()


def _commitment_key() -> bytes:
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        path = home / "excise" / "key"
        if not path.exists():  # a link is made whole or not at all: of two first runs, both take the first's key
            own = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
            write_bytes(own, secrets.token_bytes(32))
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(own)
            own.unlink()
        return path.read_bytes()
    except (OSError, RuntimeError) as error:  # no home directory is a RuntimeError
        raise errors.DiskError(
            f"the key that hides row ids in records cannot be kept: {error}; set XDG_STATE_HOME to a directory that may be "
            "written"
        ) from error
