"""IDX, the file format of MNIST and its successors, plain or gzip-compressed.

Two zero bytes, one byte for the type, one for the number of dimensions, each dimension as a big-endian uint32, then the
values, big-endian, last dimension fastest.

References:
    LeCun, Cortes and Burges (1998), The MNIST database of handwritten digits, http://yann.lecun.com/exdb/mnist/,
    section "File formats".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from excise import errors

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}
_MAX_DIMENSIONS = 8
_CHUNK_BYTES = 1 << 20
# Deflate gives at most 258 bytes for 2 bits: no gzip file holds more than this multiple of its own size.
# https://zlib.net/zlib_tech.html
_MAX_GZIP_RATIO = 1032


def read(path: Path) -> Tensor:
    """Read one IDX file whole.

    What the header announces is compared with what a file of this size can hold before any value is read, and reading
    stops one byte past it, so that a hostile header or archive costs no more memory than the file can justify.

    Args:
        path: the file; compressed if its name ends in `.gz`.

    Returns:
        A tensor of the type and shape the file states, in the machine's byte order.

    Raises:
        errors.BadData: not readable, not gzip, not IDX, a dimension of zero, more or fewer values than announced.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels-idx1-ubyte")
        ...     _ = path.write_bytes(bytes([0, 0, 0x08, 1]) + struct.pack(">I", 3) + bytes([7, 2, 1]))
        ...     read(path)
        tensor([7, 2, 1], dtype=torch.uint8)
    """
    compressed = path.suffix == ".gz"
    try:
        most = path.stat().st_size * (_MAX_GZIP_RATIO if compressed else 1)
        with gzip.open(path, "rb") if compressed else path.open("rb") as stream:
            return _parse(stream, path, most)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as cause:
        kind = "an undamaged gzip file" if compressed else "a readable file"
        raise errors.BadData(f"{path}: expected {kind}, found: {cause}; copy or download it again") from cause


def read_images(path: Path) -> Tensor:
    """Read an IDX file of grey images.

    Args:
        path: the file.

    Returns:
        uint8 `[examples, height, width]`.

    Raises:
        errors.BadData: as `read`, and for values that are not bytes in three dimensions.
    """
    return _read_bytes(path, 3, "images: bytes in 3 dimensions (examples, height, width)")


def read_labels(path: Path) -> Tensor:
    """Read an IDX file of labels.

    Args:
        path: the file.

    Returns:
        uint8 `[examples]`.

    Raises:
        errors.BadData: as `read`, and for values that are not bytes in one dimension.
    """
    return _read_bytes(path, 1, "labels: bytes in 1 dimension (examples)")


def _read_bytes(path: Path, ndim: int, expected: str) -> Tensor:
    values = read(path)
    if values.dtype != torch.uint8 or values.ndim != ndim:
        raise errors.BadData(
            f"{path}: expected {expected}, found {values.dtype} of shape {tuple(values.shape)}; are two files swapped?"
        )
    return values


def _parse(stream: BinaryIO, path: Path, most: int) -> Tensor:
    """Read header and values; `most` bounds the bytes the stream can give."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= _MAX_DIMENSIONS:
        types = " ".join(f"{code:02x}" for code in _TYPES)
        raise errors.BadData(
            f"{path}: expected an IDX file, whose first bytes are 00 00, a type (one of {types}) and the number of "
            f"dimensions (01 to {_MAX_DIMENSIONS:02x}); found {magic.hex(' ') or 'no bytes'}"
            + ("; it is a gzip file and needs a name that ends in .gz" if magic[:2] == b"\x1f\x8b" else "")
        )
    kind = np.dtype(_TYPES[magic[2]])
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise errors.BadData(
            f"{path}: expected {magic[3]} dimensions of 4 bytes, found {len(sizes)} bytes; it is truncated"
        )
    shape = struct.unpack(f">{magic[3]}I", sizes)
    num_bytes = math.prod(shape) * kind.itemsize
    if num_bytes == 0:
        raise errors.BadData(f"{path}: expected at least one value, found a header of shape {shape}")
    if num_bytes > most:
        raise errors.BadData(
            f"{path}: expected {num_bytes:,} bytes of values (shape {shape}), found a file that cannot hold more than "
            f"{most:,}; it is truncated, or its header is damaged"
        )
    data = _take(stream, num_bytes + 1)
    if len(data) != num_bytes:
        found = "more" if len(data) > num_bytes else f"{len(data):,}"
        raise errors.BadData(f"{path}: expected {num_bytes:,} bytes of values (shape {shape}), found {found}")
    values = np.frombuffer(data, dtype=kind.newbyteorder(">")).astype(kind, copy=False)
    return torch.from_numpy(values.reshape(shape))


def _take(stream: BinaryIO, num_bytes: int) -> bytearray:
    """Read up to `num_bytes` in chunks, so that memory grows with what is there and not with what is announced."""
    data = bytearray()
    while chunk := stream.read(min(_CHUNK_BYTES, num_bytes - len(data))):
        data += chunk
    return data
