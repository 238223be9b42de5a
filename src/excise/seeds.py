"""Randomness as a value: every stream of random numbers is a pure function of one seed and a purpose.

Nothing in the package seeds a global generator for good. Where torch itself insists on the global one (dropout,
a module's `reset_parameters`, a user's augmentation), `isolated` lends a seeded one and puts the old state back.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
