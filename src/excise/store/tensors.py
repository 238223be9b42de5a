"""Tensors on disk, never with code in them."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from excise import errors
from excise.store.archives import NoStateDictError, UnreadableError, read_archive
from excise.store.files import write_bytes
from excise.store.values import require_regular

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 100_000
OLDEST_TORCH = (2, 10)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors; tensors that share memory are written once under each of their names."""
    owned = {name: value.detach().to("cpu").contiguous().clone() for name, value in tensors.items()}
    write_bytes(path, in_order(safetensors.torch.save(owned, dict(metadata) if metadata else None)))


def in_order(content: bytes) -> bytes:
    """Give the bytes of a safetensors file with its metadata in order of name: the library writes it in any, by chance."""
    size = int.from_bytes(content[:8], "little")
    head = msgspec.json.decode(content[8 : 8 + size])
    told = head.get("__metadata__", {})
    if len(told) < 2:
        return content
    ordered = msgspec.json.encode({"__metadata__": dict(sorted(told.items())), **_without_metadata(head)})
    padded = ordered + b" " * (-len(ordered) % 8)
    return len(padded).to_bytes(8, "little") + padded + content[8 + size :]


def _without_metadata(head: Mapping[str, Any]) -> dict[str, Any]:
    return {name: told for name, told in head.items() if name != "__metadata__"}


def read_tensors(path: Path, what: str = "weights", remedy: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata.

    Args:
        path: of the file.
        what: is expected there, for people.
        remedy: what to do where there is no such file.

    Raises:
        errors.BadData: no such file, or not a safetensors file.
    """
    with _opened(path, what, remedy) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file and none of its tensors.

    Raises:
        errors.BadData: no such file, or not a safetensors file.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def metadata_of(read: Callable[[int, int], bytes], name: str) -> dict[str, str]:
    """Give the metadata of a safetensors file that lies elsewhere, by reading its head and no more.

    Args:
        read: gives the bytes from one place to before another.
        name: for people.

    Raises:
        errors.BadData: not a safetensors file.
    """
    length = int.from_bytes(read(0, 8), "little")
    try:
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes, at most {MAX_HEADER_BYTES}")
        told = _header(read(8, 8 + length)).get("__metadata__", {})
        return msgspec.convert(told, dict[str, str])
    except ValueError as error:
        raise errors.BadData(f"{name} is not a readable safetensors file: {error}") from error


def require_form(path: Path, metadata: Mapping[str, str], kind: str, remedy: str) -> None:
    """Refuse a safetensors file whose metadata says another kind of content, or a form of a later version of this library.

    Raises:
        errors.BadData: another kind, such as `excise-mask-2` where `excise-mask-1` is what is read here.
    """
    found, (what, _, number) = metadata.get("kind", ""), kind.rpartition("-")
    later = found.rpartition("-")
    if later[0] == what and later[2].isdecimal() and int(later[2]) > int(number):
        raise errors.BadData(
            f"{path} was written by a newer excise ({found}, this one reads {kind}); update excise to read it"
        )
    if found != kind:
        raise errors.BadData(f"{path} is not a {what.rpartition('-')[2]} written by excise; {remedy}")


@contextlib.contextmanager
def _opened(path: Path, what: str = "weights", remedy: str = "") -> Iterator[Any]:
    require_regular(path)
    try:
        _require_small_header(path)
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        said = f"expected {what} at {path}, found no such file"
        raise errors.BadData(f"{said}; {remedy}" if remedy else said) from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise errors.BadData(f"{path} is not a readable safetensors file: {error}") from error


def _require_small_header(path: Path) -> None:
    """Refuse a header that is valid and costs seconds or gigabytes, one with a name given twice, or with absurd shapes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes, at most {MAX_HEADER_BYTES}")
        header = file.read(length)
    _header(header)


def _header(header: bytes) -> dict[str, Any]:
    """Read a header; refuse one that is costly or no header."""
    if header.count(b"{") > MAX_TENSORS or header.count(b":") > 6 * MAX_TENSORS:
        raise ValueError(f"more than {MAX_TENSORS} tensors")
    try:
        told = json.loads(header, object_pairs_hook=_each_once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError("no header") from error
    if not isinstance(told, dict):
        raise ValueError("no header")
    for shape in [one.get("shape") for one in told.values() if isinstance(one, dict)]:
        if isinstance(shape, list) and (
            len(shape) > 64 or not all(type(size) is int and 0 <= size < 2**48 for size in shape)
        ):
            raise ValueError("a tensor of more than 64 axes, or of an impossible size")
    return told


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that is given twice in its header")
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, or from `.pt`/`.pth` without running anything of it; all else is refused.

    Raises:
        errors.BadData: another suffix, no such file, a file that needs code to be read, or not a dict of tensors; or a
            `.pt`/`.pth` file with a torch before 2.10.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if path.suffix not in (".pt", ".pth"):
        raise errors.BadData(
            f"expected weights as .safetensors, or .pt/.pth holding only tensors; found {path.name!r}; "
            "convert with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        )
    _require_torch(path)
    require_regular(path)
    try:
        return read_archive(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise errors.BadData(f"expected weights at {path}, found no such file") from error
    except NoStateDictError as error:
        raise errors.BadData(
            f"{path} holds a {error}, expected a state dict of tensors; save model.state_dict() alone"
        ) from error
    except UnreadableError as error:
        raise errors.BadData(
            f"{path} cannot be read without running code from it, or is damaged ({error}); "
            "save the state dict alone: torch.save(model.state_dict(), path)"
        ) from error
    except OSError as error:
        raise errors.BadData(f"{path} is not a readable file: {error.strerror or error}") from error


def _require_torch(path: Path) -> None:
    """Refuse pickled weights beside a torch whose own loader could be made to write past its memory (CVE-2026-24747)."""
    found = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if found < OLDEST_TORCH:
        raise errors.BadData(
            f"{path}: .pt and .pth files are taken with torch {'.'.join(map(str, OLDEST_TORCH))} or later, found "
            f"{torch.__version__}; update torch, or convert with safetensors.torch.save_file(model.state_dict(), "
            "'weights.safetensors')"
        )
