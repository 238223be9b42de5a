"""Sparse regression: what each output owes to each row, as a LASSO of outputs on which rows a network was trained on."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LassoCV

from excise import errors
from excise.attribution.datamodel import Datamodel
from excise.attribution.observed import Answers, Observed
from excise.attribution.origin import Made
from excise.attribution.parts import Part

LARGEST = 2**24
"""Coefficients that are kept whole: training rows times rows times classes."""
FOLDS = 4


def sparse_regression(observed: Observed, made: Made) -> Datamodel:
    """Give the datamodel whose effects are, for each row and class apart, the LASSO of its logit on the inclusion of rows.

    The penalty is chosen for each by cross-validation over the networks, in `FOLDS` folds. With fewer networks than rows that
    matter it keeps few of them, and each too small. The coefficients are kept whole (weights are the identity).

    Cost: a path of fits of `[models, train]` for every row, class and margin. For toy sizes: 200 rows take minutes.

    References:
        Ilyas et al., "Datamodels", ICML 2022, section 3.2 and appendix on regression.

    Args:
        observed: networks on halves, and what they say.
        made: how they came to be.

    Raises:
        errors.BadRequest: too few networks for the folds, or more coefficients than can be kept whole.
    """
    num_models, num_train = observed.keep.shape
    require_folds(num_models)
    most = max(one.logits.shape[0] * one.logits.shape[2] for one in observed.answers.values()) * num_train
    if most > LARGEST:
        raise errors.BadRequest(
            f"sparse: expected at most {LARGEST:,} coefficients, found {most:,}; estimate by='means'"
        )
    inside = observed.keep.double().numpy() - 0.5
    parts = {name: _part(one, inside) for name, one in observed.answers.items()}
    return Datamodel(weights=torch.eye(num_train), parts=parts, made=made)


def require_folds(num_models: int) -> None:
    """Refuse too few networks for the folds.

    Raises:
        errors.BadRequest: they are.
    """
    if num_models < 2 * FOLDS:
        raise errors.BadRequest(
            f"sparse: expected at least {2 * FOLDS} networks, two a fold, found {num_models}; train more, or estimate "
            "by='means'"
        )


def _part(answers: Answers, inside: np.ndarray) -> Part:
    num_rows, _, num_classes = answers.logits.shape
    fits = [
        [_fit(inside, answers.logits[row, :, c].double().numpy()) for c in range(num_classes)]
        for row in range(num_rows)
    ]
    base = torch.tensor([[one[0] for one in row] for row in fits], dtype=torch.float32)
    factors = torch.from_numpy(np.array([[one[1] for one in row] for row in fits])).transpose(1, 2)
    sure = answers.margins
    margins = None if sure is None else np.stack([_fit(inside, row.double().numpy())[1] for row in sure])
    return Part(
        answers.ids,
        base.reshape(num_rows, num_classes),
        factors.float().contiguous(),
        None if margins is None else torch.from_numpy(margins).float(),
        answers.content,
    )


def _fit(inside: np.ndarray, outputs: np.ndarray) -> tuple[float, np.ndarray]:
    """Give intercept and coefficients; an output that never changes has none."""
    if not np.ptp(outputs):
        return float(outputs[0]), np.zeros(inside.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # of the smallest penalties, which overfit and are not chosen
        model = LassoCV(cv=FOLDS).fit(inside, outputs)
    return float(model.intercept_), np.asarray(model.coef_)
