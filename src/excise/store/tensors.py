"""Tensors on disk, never with code in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from excise import errors
from excise.store.files import write_bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors; tensors that share memory are written once under each of their names."""
    owned = {name: value.detach().to("cpu").contiguous().clone() for name, value in tensors.items()}
    write_bytes(path, safetensors.torch.save(owned, dict(metadata) if metadata else None))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its metadata.

    Raises:
        errors.BadData: no such file, or not a safetensors file.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file and none of its tensors.

    Raises:
        errors.BadData: no such file, or not a safetensors file.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise errors.BadData(f"expected weights at {path}, found no such file") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise errors.BadData(f"{path} is not a readable safetensors file: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, or from `.pt`/`.pth` with `weights_only=True`; anything else is refused.

    Raises:
        errors.BadData: another suffix, no such file, a file that needs code to be read, or not a dict of tensors.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if path.suffix not in (".pt", ".pth"):
        raise errors.BadData(
            f"expected weights as .safetensors, or .pt/.pth holding only tensors; found {path.name!r}; "
            "convert with safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        )
    if not path.is_file():
        raise errors.BadData(f"expected weights at {path}, found no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own words tell how to run the code after all
        raise errors.BadData(
            f"{path} cannot be read without running code from it, or is damaged ({type(error).__name__}); "
            "save the state dict alone: torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise errors.BadData(
            f"{path} holds a {type(state).__name__}, expected a state dict of tensors; save model.state_dict() alone"
        )
    return state
