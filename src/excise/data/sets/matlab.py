"""MATLAB's file format of version 5, as far as arrays of numbers go.

A header of 128 bytes, then elements: a type, a number of bytes, the bytes, padded to eight. A variable is an element
made of elements (flags, dimensions, name, values), possibly within one that is compressed.

SciPy's `loadmat` reads more, but a few damaged bytes make it crash the interpreter, which no error message survives;
the tests hold this reader against it.

References:
    The MathWorks (2019), MAT-File Format, https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from excise import errors

_HEADER_BYTES = 128
# Bytes 124 to 127: version 1.0 and the mark of the byte order. Version 7.3, which is HDF5, has 2 in place of 1.
_BYTE_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX_FLAG = 0x0800


def read(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Read arrays of real numbers from a MATLAB file of version 5 to 7.

    Args:
        path: the file.
        names: the variables that are wanted; others, and those that are no arrays of numbers, are passed over.

    Returns:
        Those that are there, each of the type it is stored in, which may be smaller than the one MATLAB shows.

    Raises:
        errors.BadData: not readable, of another version, damaged.

    Example:
        >>> import tempfile
        >>> from scipy.io import savemat
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.mat")
        ...     savemat(path, {"y": np.array([[10], [7]], np.uint8)})
        ...     read(path, ["y"])["y"].tolist()
        [[10], [7]]
    """
    try:
        data = path.read_bytes()
    except OSError as cause:
        raise errors.BadData(f"{path}: expected a readable file, found: {cause}") from cause
    mark = data[_HEADER_BYTES - 4 : _HEADER_BYTES]
    if mark not in _BYTE_ORDERS:
        raise errors.BadData(
            f"{path}: expected a MATLAB file of version 5, found {mark.hex(' ') or 'nothing'} where it states its "
            "version; one saved with -v7.3 can be saved again with -v7"
        )
    try:
        return dict(_variables(memoryview(data)[_HEADER_BYTES:], _BYTE_ORDERS[mark], names))
    except (ValueError, struct.error, zlib.error) as cause:
        raise errors.BadData(
            f"{path}: expected an undamaged MATLAB file, found: {cause}; copy or download it again"
        ) from cause


def _variables(view: memoryview, order: str, names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and array of each wanted variable."""
    start = 0
    while start < len(view):
        kind, content, start = _element(view, start, order)
        if kind == _COMPRESSED:
            kind, content, _ = _element(memoryview(zlib.decompress(content)), 0, order)
        if kind != _MATRIX:
            continue
        _, flags, at = _element(content, 0, order)
        _, shape, at = _element(content, at, order)
        _, name, at = _element(content, at, order)
        (flag_bits,) = struct.unpack_from(f"{order}I", flags)
        if (flag_bits & 0xFF) in _NUMERIC_CLASSES and (text := bytes(name).decode("latin-1")) in names:
            if flag_bits & _COMPLEX_FLAG:
                raise ValueError(f"complex numbers in {text!r}")
            kind, values, _ = _element(content, at, order)
            yield text, _array(kind, values, struct.unpack(f"{order}{len(shape) // 4}i", shape), order)


def _element(view: memoryview, start: int, order: str) -> tuple[int, memoryview, int]:
    """Give the type and content of the element at `start`, and where the next begins."""
    kind, size = struct.unpack_from(f"{order}II", view, start)
    begin, end = start + 8, start + 8 + size + (-size % 8 if kind != _COMPRESSED else 0)
    if kind >> 16:  # the short form: four bytes of tag, up to four of content
        kind, size, begin, end = kind & 0xFFFF, kind >> 16, start + 4, start + 8
    if size > min(end, len(view)) - begin:
        raise ValueError(f"an element of {size:,} bytes where {min(end, len(view)) - begin:,} are left")
    return kind, view[begin : begin + size], end


def _array(kind: int, values: memoryview, shape: tuple[int, ...], order: str) -> np.ndarray:
    if kind not in _TYPES:
        raise ValueError(f"values of the unknown type {kind}")
    dtype = np.dtype(order + _TYPES[kind])
    if min(shape, default=-1) < 0 or math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"{len(values):,} bytes of {dtype} for an array of shape {shape}")
    return np.frombuffer(values, dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape, order="F")
