"""PyTorch's `.pt` archives, read as data: no unpickler runs, so there is nothing in a file that could.

`torch.save` writes a zip file whose entries are stored as they are: a pickle that says which tensors there are, and the bytes
of each storage. `torch.load(weights_only=True)` runs that pickle on a small machine of allowed calls, and that machine had
holes: CVE-2025-32434 ran code in spite of the flag, CVE-2026-24747 wrote past a storage that was smaller than declared.
What a state dict needs are about twenty opcodes and three functions. Here they are followed symbolically: the result of a
call is a description of a tensor, which is checked against the bytes that are there before any memory is taken.

References:
    Python's `pickletools` for the opcodes; `torch/serialization.py` and `torch/_utils.py` for what `torch.save` writes.
"""

from __future__ import annotations

import contextlib
import math
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from excise.store.nests import leaves

MAX_PICKLE_BYTES = 8 << 20
MAX_OPCODES = 1_000_000
"""About 25 for each tensor."""
MAX_ENTRIES_BYTES = 8 << 20
"""Of the list of entries at the end of the archive, about 80 for each tensor."""
FREE_BYTES = 64 << 20
"""Tensors may overlap in memory; together they may be 4 times as large as the file, and this much more."""

_ENTRY = re.compile(r"([^/]+)/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/\w+|data/\d+)")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_CHUNK_BYTES = 1 << 22

_STORAGES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
    "torch ComplexFloatStorage": torch.complex64,
    "torch ComplexDoubleStorage": torch.complex128,
    "torch.storage UntypedStorage": torch.uint8,
}
_TYPES = {
    f"torch {name}": getattr(torch, name)
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}
_DICT = "collections OrderedDict"
_TENSOR, _TYPED_TENSOR = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"
_PARAMETER = "torch._utils _rebuild_parameter"
_KNOWN = {*_STORAGES, *_TYPES, _DICT, _TENSOR, _TYPED_TENSOR, _PARAMETER}


class UnreadableError(ValueError):
    """An archive that a state dict of tensors does not need, in a few words."""


class _Named(NamedTuple):
    """What a pickle asks for by name."""

    name: str


class _Storage(NamedTuple):
    """Bytes in the archive."""

    key: str
    dtype: torch.dtype
    num_bytes: int


class _Described(NamedTuple):
    """A tensor that is not there yet."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.size) * self.dtype.itemsize


class _Mark:
    """A place on the stack."""


def read_archive(path: Path) -> dict[str, Tensor]:
    """Read the state dict that `torch.save` wrote; tensors that shared memory share it again.

    Raises:
        UnreadableError: anything else than a dict of tensors, more than there is in the file, or a damaged file; its text says
            which in a few words, without path and remedy.
        OSError: the file cannot be read.
    """
    return _read(path, _state)


def read_parts(path: Path, most_bytes: int) -> dict[str, Tensor]:
    """Read whatever nest of dicts, lists and tuples `torch.save` wrote; nothing is unpickled.

    Args:
        path: of the file.
        most_bytes: what all tensors together may take.

    Returns:
        Its tensors, and its lists of numbers as tensors, by the names and numbers on the way to them with dots between;
        what is neither (texts, single numbers) is left out.

    Raises:
        UnreadableError: it holds other things than these, is damaged, or has too many parts.
        OSError: the file cannot be read.
    """
    return _read(path, _parts, most_bytes)


def _read(
    path: Path, chosen: Callable[[object], Mapping[str, _Described | Tensor]], most: int | None = None
) -> dict[str, Tensor]:
    """Follow the pickle, choose from what it describes, and read the storages of that."""
    with path.open("rb") as file:
        _require_small_list(file)
        try:
            with zipfile.ZipFile(file) as archive:
                size = path.stat().st_size
                entries = _entries(archive, size)
                found = chosen(_described(archive.read(entries["data.pkl"]), entries))
                described = {name: one for name, one in found.items() if isinstance(one, _Described)}
                total = sum(one.num_bytes for one in described.values())
                if total > (4 * size + FREE_BYTES if most is None else most):
                    limit = "many times the file" if most is None else f"at most {most}"
                    raise UnreadableError(f"its tensors would take {total} bytes, {limit}")
                raw = {one.storage.key: one.storage for one in described.values()}
                stored = {key: _bytes_of(archive, entries[f"data/{key}"]) for key in raw}
        except (
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            EOFError,
            struct.error,
            UnicodeDecodeError,
        ) as error:
            raise UnreadableError(f"no whole archive: {error}") from error
    return {
        name: _tensor(one, stored[one.storage.key]) if isinstance(one, _Described) else one
        for name, one in found.items()
    }


def _require_small_list(file: IO[bytes]) -> None:
    """Refuse what is no zip file from its first byte to its last, or lists more entries than a network has tensors."""
    size = file.seek(0, 2)
    start = max(size - _LOCATOR_64.size - _END.size, 0)
    file.seek(start)
    tail = file.read()
    file.seek(0)
    if file.read(4) != b"PK\3\4" or len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise UnreadableError("no archive of torch 1.6 or later")
    listed = _END.unpack(tail[-_END.size :])[5]
    if tail[:4] == b"PK\6\7":
        place = size - _END.size - _LOCATOR_64.size - _END_64.size  # where zipfile reads it, whatever the locator says
        if _LOCATOR_64.unpack(tail[: _LOCATOR_64.size])[2] != place or place < 0:
            raise UnreadableError("a locator that leads elsewhere")
        file.seek(place)
        listed = _END_64.unpack(file.read(_END_64.size))[8]
    if listed > MAX_ENTRIES_BYTES:
        raise UnreadableError(f"a list of entries of {listed} bytes, at most {MAX_ENTRIES_BYTES}")
    file.seek(0)


def _entries(archive: zipfile.ZipFile, file_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Give the entries by name without the folder that all of them lie in."""
    found: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for entry in archive.infolist():
        match = _ENTRY.fullmatch(entry.filename)
        if match is None:
            raise UnreadableError(f"an entry {entry.filename[:60]!r}, which no state dict has")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise UnreadableError(f"an entry {entry.filename[:60]!r} that is packed")
        if match[2] in found:
            raise UnreadableError(f"two entries {entry.filename[:60]!r}")
        folders.add(match[1])
        found[match[2]] = entry
    if len(folders) != 1 or "data.pkl" not in found or min(entry.header_offset for entry in found.values()) != 0:
        raise UnreadableError("no archive of torch 1.6 or later")
    if sum(entry.file_size for entry in found.values()) > file_bytes:
        raise UnreadableError("entries that together are larger than the file")
    if found["data.pkl"].file_size > MAX_PICKLE_BYTES:
        raise UnreadableError(f"a list of tensors of {found['data.pkl'].file_size} bytes, at most {MAX_PICKLE_BYTES}")
    if "byteorder" in found and archive.read(found["byteorder"]) != b"little":
        raise UnreadableError("numbers that are not in little-endian order")
    return found


def _described(content: bytes, entries: dict[str, zipfile.ZipInfo]) -> object:
    """Follow the opcodes; give what the pickle describes."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    with _told():
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count > MAX_OPCODES:
                raise UnreadableError(f"more than {MAX_OPCODES} steps to list its tensors")
            if opcode.name == "STOP":
                break
            _step(opcode.name, argument, stack, memo, entries)
        (result,) = stack
        return result


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What a pickle that `torch.save` did not write makes Python raise is one error."""
    try:
        yield
    except UnreadableError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UnreadableError("a list of tensors that torch.save does not write") from error


def _step(
    name: str, argument: Any, stack: list[Any], memo: dict[int, Any], entries: dict[str, zipfile.ZipInfo]
) -> None:
    match name:
        case "PROTO" if argument == 2:
            pass
        case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
            stack.append(argument)
        case "BINPUT" | "LONG_BINPUT":
            memo[argument] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[argument])
        case "MARK":
            stack.append(_Mark)
        case "NONE" | "NEWTRUE" | "NEWFALSE":
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        case "EMPTY_TUPLE" | "EMPTY_DICT" | "EMPTY_LIST":
            stack.append({"EMPTY_TUPLE": (), "EMPTY_DICT": {}, "EMPTY_LIST": []}[name])
        case "TUPLE":
            stack.append(tuple(_since_mark(stack)))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            parts = [stack.pop() for _ in range(int(name[-1]))]
            stack.append(tuple(reversed(parts)))
        case "APPEND" | "APPENDS":
            values = [stack.pop()] if name == "APPEND" else _since_mark(stack)
            _exactly(list, stack[-1]).extend(values)
        case "SETITEM" | "SETITEMS":
            pairs = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else _since_mark(stack)
            _fill(_exactly(dict, stack[-1]), pairs)
        case "GLOBAL":
            if argument not in _KNOWN:
                raise UnreadableError(f"it asks for {argument.replace(' ', '.')[:80]!r}, which no state dict needs")
            stack.append(_Named(argument))
        case "BINPERSID":
            stack.append(_storage(stack.pop(), entries))
        case "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_called(_exactly(_Named, function).name, _exactly(tuple, arguments)))
        case "BUILD":  # the versions of modules that a state dict carries besides its tensors
            _exactly(dict, stack.pop())
            _exactly(dict, stack[-1])
        case _:
            raise UnreadableError(f"it asks for {name}, which no state dict needs")


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


def _since_mark(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1
    while stack[at] is not _Mark:
        at -= 1
        if at < 0:
            raise IndexError
    values = stack[at + 1 :]
    del stack[at:]
    return values


def _fill(target: dict[Any, Any], pairs: list[Any]) -> None:
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if type(key) not in (str, int):
            raise TypeError
        if key in target:
            raise UnreadableError(f"two values for {str(key)[:60]!r}")
        target[key] = value


def _storage(told: object, entries: dict[str, zipfile.ZipInfo]) -> _Storage:
    word, kind, key, place, count = _exactly(tuple, told)
    dtype = _STORAGES[_exactly(_Named, kind).name]
    if word != "storage" or not isinstance(place, str) or _exactly(int, count) < 0:
        raise ValueError
    there = entries[f"data/{key}"].file_size
    if count * dtype.itemsize > there:
        raise UnreadableError(f"a tensor of {count * dtype.itemsize} bytes, of which {there} are there")
    return _Storage(key, dtype, there)


def _called(function: str, arguments: tuple[Any, ...]) -> object:
    if function == _DICT and arguments == ():
        return {}
    if function == _PARAMETER:
        return _exactly(_Described, arguments[0])
    if function not in (_TENSOR, _TYPED_TENSOR):
        raise TypeError
    storage, offset, size, stride, _, hooks, *more = arguments
    dtype = (
        _TYPES[_exactly(_Named, more.pop(0)).name] if function == _TYPED_TENSOR else _exactly(_Storage, storage).dtype
    )
    if hooks or any(more):
        raise UnreadableError("a tensor with hooks, or conjugated")
    return _fitting(
        _Described(_exactly(_Storage, storage), dtype, offset, _exactly(tuple, size), _exactly(tuple, stride))
    )


def _fitting(one: _Described) -> _Described:
    """Refuse a tensor that reaches out of its storage."""
    numbers = (one.offset, *one.size, *one.stride)
    if any(type(number) is not int or not 0 <= number < 2**48 for number in numbers) or len(one.size) > 64:
        raise ValueError
    steps = [(size - 1) * stride for size, stride in zip(one.size, one.stride, strict=True)]
    needed = (one.offset + sum(steps) + 1) * one.dtype.itemsize if 0 not in one.size else 0
    if needed > one.storage.num_bytes:
        raise UnreadableError(f"a tensor that reaches to byte {needed}, of which {one.storage.num_bytes} are there")
    return one


def _state(value: object) -> dict[str, _Described]:
    if not isinstance(value, dict) or not all(
        isinstance(k, str) and isinstance(v, _Described) for k, v in value.items()
    ):
        kind = "Tensor" if isinstance(value, _Described) else type(value).__name__
        raise NoStateDictError(kind)
    return value


def _parts(value: object) -> dict[str, _Described | Tensor]:
    try:
        return leaves(value, _Described)
    except ValueError as error:
        raise UnreadableError(str(error)) from error


class NoStateDictError(UnreadableError):
    """Tensors, but not a dict of them; its text is the kind of thing found."""


def _bytes_of(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    """Read an entry, checked against its CRC."""
    raw = torch.empty(entry.file_size, dtype=torch.uint8)
    into, at = raw.numpy().data, 0
    with archive.open(entry) as file:
        while chunk := file.read(_CHUNK_BYTES):
            into[at : at + len(chunk)] = chunk
            at += len(chunk)
    if at != entry.file_size:
        raise UnreadableError("no whole archive")
    return raw


def _tensor(one: _Described, raw: Tensor) -> Tensor:
    if 0 in one.size:
        return torch.empty(one.size, dtype=one.dtype)
    whole = raw[: raw.numel() // one.dtype.itemsize * one.dtype.itemsize]
    return whole.view(one.dtype).as_strided(one.size, one.stride, one.offset)
