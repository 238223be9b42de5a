"""Room on disk for one process: a tensor in a file that has no name, and that is gone when the process is, however it ends."""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor

from excise import errors


def scratch_tensor(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Give a tensor of zeros that lies in a file instead of memory, in the directory for temporary files.

    The file can be read by its owner alone (mode 0600) and has no name once it is open, so that no other program can open it
    and a kill leaves nothing behind. Its room is claimed at once: a full disk is an error here, and no signal later. The
    tensor may be written to; the file lives as long as it does.

    Args:
        shape: of the tensor; no axis may be 0.
        dtype: of the tensor.

    Raises:
        errors.DiskError: there is no room, or no file could be made.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    try:
        with tempfile.TemporaryFile(prefix="excise-") as file:
            _claim(file.fileno(), num_bytes)
            memory = mmap.mmap(file.fileno(), num_bytes)  # holds the file open by itself
    except OSError as error:
        raise errors.DiskError(
            f"could not claim {num_bytes} bytes in {tempfile.gettempdir()}: {error.strerror or error}; "
            "free some space, or set TMPDIR to another directory"
        ) from error
    return torch.frombuffer(memory, dtype=dtype).reshape(tuple(shape))


def _claim(descriptor: int, num_bytes: int) -> None:
    """Have the file system set blocks aside, where it can; elsewhere the file is written full of zeros."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
        return
    zeros, left = bytes(2**20), num_bytes
    while left:
        left -= os.write(descriptor, memoryview(zeros)[:left])


def free_bytes() -> int:
    """Give the free room in the directory for temporary files, as far as this user may use it."""
    return shutil.disk_usage(tempfile.gettempdir()).free
