"""Randomness as a value: every stream of random numbers is a pure function of one seed and a purpose.

Nothing in the package seeds a global generator for good. Where torch itself insists on the global one (dropout,
a module's `reset_parameters`, a user's augmentation), `isolated` lends a seeded one and puts the old state back.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def derive(seed: int, *purpose: str | int) -> int:
    """Give a 63-bit seed that depends on `seed` and on every word of `purpose`.

    >>> derive(0, "oracle", 1) == derive(0, "oracle", 1) != derive(0, "oracle", 2)
    True
    """
    words = "\x1f".join([str(seed), *(str(word) for word in purpose)])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Give a CPU generator seeded for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


@contextmanager
def isolated(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's, numpy's and Python's global generators for the block and restore them afterwards, also on failure."""
    value = derive(seed, *purpose)
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the caller's global state is what is being protected
    with torch.random.fork_rng():
        _seed(value)
        random.seed(value)
        np.random.seed(value % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _seed(value: int) -> None:
    """Seed every generator of torch's. Without an accelerator there is one: torch.manual_seed would queue a call for each
    kind of device that might yet be initialised, with a stack trace, at twenty times the cost."""
    if torch.accelerator.is_available():
        torch.manual_seed(value)
    else:
        torch.default_generator.manual_seed(value)


def seed_own_process_(value: int) -> None:
    """Seed the global generators of a process that does nothing but this package's work; nothing is put back.

    For a worker that reads rows. Accelerators are left alone: a forked process may not touch them.
    """
    torch.default_generator.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002


def states() -> dict[str, Tensor]:
    """Give the states of the global generators as tensors on the CPU: torch's (each accelerator's too), numpy's, Python's."""
    kind, words, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    assert kind == "MT19937"
    version, inner, next_gauss = random.getstate()
    pending = float("nan") if next_gauss is None else next_gauss
    found = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(words.astype(np.int64)),  # type: ignore[union-attr]
        "numpy position": torch.tensor([position, has_gauss], dtype=torch.int64),
        "numpy gauss": torch.tensor([gauss], dtype=torch.float64),
        "python": torch.tensor([version, *inner], dtype=torch.int64),
        "python gauss": torch.tensor([pending], dtype=torch.float64),
    }
    found |= {f"device {number}": torch.get_device_module().get_rng_state(*where) for number, where in _devices()}
    return found


def restore_(found: Mapping[str, Tensor]) -> None:
    """Put back what `states` gave."""
    torch.default_generator.set_state(found["torch"])
    position, has_gauss = found["numpy position"].tolist()
    words = found["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, position, has_gauss, float(found["numpy gauss"])))  # noqa: NPY002
    version, *inner = found["python"].tolist()
    pending = float(found["python gauss"])
    random.setstate((version, tuple(inner), None if pending != pending else pending))
    for number, where in _devices():
        torch.get_device_module().set_rng_state(found[f"device {number}"], *where)


def _devices() -> list[tuple[int, tuple[int, ...]]]:
    """Number the accelerators, each with what names it to torch: nothing if it is the only one (some kinds take no name)."""
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    return [(number, (number,) if count > 1 else ()) for number in range(count)]
