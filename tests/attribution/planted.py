"""Outputs that are linear in which rows a network was trained on, with known coefficients, and noise of known size."""

import torch

from excise.attribution import Answers, Observed
from excise.oracles import half_splits


def linear(num_models, beta, noise, seed=0, labels=True):
    """Give networks whose logits on row x are the sum of beta[i, x, c] over the rows i they have, plus noise.

    The part `train` has as many rows as `beta` has; the margins are the differences of the first two classes.
    """
    num_train, _, num_classes = beta.shape
    draws = torch.Generator().manual_seed(seed)
    keep = torch.from_numpy(half_splits(num_train, num_models, seed))
    clean = torch.einsum("mi,ixc->xmc", keep.double(), beta.double())
    logits = (clean + noise * torch.randn(clean.shape, generator=draws, dtype=torch.float64)).float()
    margins = logits[..., 0] - logits[..., 1] if labels and num_classes > 1 else None
    return Observed(keep, {"train": Answers(torch.arange(num_train) * 2, logits, margins)})
