"""Rows along a principal component of the datamodel matrix: sets of rows that lean on the same training rows."""

from __future__ import annotations

import torch
from torch import Tensor

from excise import checks, errors
from excise.attribution.datamodel import Datamodel


def principal_rows(datamodel: Datamodel, *, count: int, component: int = 1, both_ends: bool = False) -> Tensor:
    """Give the training rows that lie farthest along a principal component of the train x train matrix of margins.

    Row x of the matrix has the effects of all training rows on the margin of x, as they were estimated, not shrunk: its
    embedding. Components are those of the embeddings less their mean. The sign is such that the farthest row of all lies on the
    positive side. Such coherent sets are harder to forget than random ones. The matrix itself is never formed. Cost:
    train * factors^2.

    References:
        Ilyas et al., "Datamodels", ICML 2022, section 4.3 (embeddings); Georgiev et al., "Attribute-to-Delete", 2024 (forget
        sets).

    Args:
        datamodel: with margins.
        count: rows wanted; even with `both_ends`.
        component: 1 for the first.
        both_ends: take the top half and the bottom half, as the published sets of 500 rows; else the top alone.

    Returns:
        int64 `[count]`, ids ascending.

    Raises:
        errors.BadRequest: more rows or components than there are, an odd count of both ends, or no margins.
    """
    scores = component_scores(datamodel, component)
    checks.require_positive_int("count", count)
    if count > len(scores) or (both_ends and count % 2):
        raise errors.BadRequest(
            f"count: expected at most {len(scores)} rows{', an even number' if both_ends else ''}, found {count}"
        )
    order = scores.sort(descending=True, stable=True).indices
    half = count // 2
    chosen = torch.cat([order[:half], order[len(order) - half :]]) if both_ends else order[:count]
    return datamodel.train[chosen].sort().values


def component_scores(datamodel: Datamodel, component: int = 1) -> Tensor:
    """Give where each training row lies along a principal component, float64 `[train]`; see `principal_rows`."""
    embedded = datamodel.margin_factors().double()
    most = min(embedded.shape[1], len(embedded))
    if checks.require_positive_int("component", component) > most:
        raise errors.BadRequest(f"component: expected at most {most}, found {component}")
    rows, inner = torch.linalg.qr(embedded - embedded.mean(0))
    _, columns = torch.linalg.qr(datamodel.weights.double())
    left, sizes, _ = torch.linalg.svd(inner @ columns.T)
    scores: Tensor = (rows @ left[:, component - 1]) * sizes[component - 1]
    return scores if scores[scores.abs().argmax()] > 0 else -scores
