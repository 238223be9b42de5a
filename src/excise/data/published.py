"""Forget sets that the literature has published, by number, and the hash by which they are known."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from excise import checks, errors

CIFAR10_ROWS = 50_000
CIFAR10_SETS = {
    1: (10, "ad3ba977967dbafa"),
    2: (100, "b1d088d2bfab91ae"),
    3: (1000, "3b666da43172f1e5"),
    4: (10, "804455852e64b12f"),
    5: (100, "438cc2ddeb5e4f09"),
    6: (500, "f3cb1d15142cc06d"),
    7: (10, "8a6fbd4eae99922b"),
    8: (100, "9c5ff3397238d1ab"),
    9: (500, "a76781a4ff4f9bf2"),
    10: (100, "4ca70e5be987dbb4"),
}
"""Rows, and the first 16 digits of `published_digest`, of each published set of CIFAR-10: 1 to 3 at random; 4 to 6 along the
first principal component of the authors' datamodel, 7 to 9 along the second; 10 the nearest to row 6 in CLIP's features."""
RANDOM_SETS = (1, 2, 3)
"""Those that can be drawn again from a seed, which is the number less 1."""


def cifar10_forget_set(number: int) -> Tensor:
    """Give a published random forget set of CIFAR-10's 50,000 training rows, int64, ascending.

    Set 3 has 1,000 rows, as the published file; its description says 500. Sets 4 to 10 come of the authors' own files, which
    are not part of this library: read them, and compare `published_digest` with `CIFAR10_SETS`.

    References:
        Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", 2024,
        https://arxiv.org/abs/2410.23232.

    Raises:
        errors.BadRequest: another number than 1, 2 or 3.

    >>> cifar10_forget_set(1).tolist()[:3]
    [11841, 12363, 19602]
    """
    if number not in RANDOM_SETS:
        raise errors.BadRequest(
            f"number: expected one of {', '.join(map(str, RANDOM_SETS))}, the sets drawn at random, found {number!r}; others "
            "are read from the authors' files"
        )
    draws = np.random.RandomState(number - 1)  # the published draw is of this older generator
    return torch.from_numpy(
        np.sort(draws.choice(CIFAR10_ROWS, CIFAR10_SETS[number][0], replace=False)).astype(np.int64)
    )


def published_digest(ids: Any) -> str:
    """Give the SHA-256 by which published sets are known: over the ids, ascending, as 64-bit little-endian integers.

    Raises:
        errors.BadSplit: no row ids.
    """
    return hashlib.sha256(checks.as_ids("ids", ids, 2**62).numpy().astype("<i8").tobytes()).hexdigest()
