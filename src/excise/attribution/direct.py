"""`DirectPredictor`: the outputs that a datamodel predicts of a network without some rows; predictions, and no network."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, final

import torch
from torch import Tensor, nn

from excise import checks, errors, params
from excise.attribution.datamodel import Datamodel
from excise.attribution.parts import TRAIN
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.train.task import Forward, device_of, forward_pair, in_precision


@final
class DirectPredictor:
    """What a network would say had it never seen the forget rows: f(x) - multiplier * (sum of their effects on x).

    DM-Direct of Georgiev et al. (2024). No weight changes, so nothing is forgotten: it answers for rows that the datamodel
    knows by id, and for no other. For weights, match a network to these predictions (`DatamodelTargets`).

    The network is copied. Cost: a forward pass and the datamodel's own, see `Datamodel.effects`.

    References:
        Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", 2024,
        https://arxiv.org/abs/2410.23232.

    Args:
        model: the trained network; left alone.
        datamodel: of networks of its architecture.
        forget: ids of the rows to predict without; checked at once.
        multiplier: of the effects, at least 0; 1 as they are, 0 gives the network's own outputs.

    Raises:
        errors.BadRequest: another architecture, ids that the datamodel does not know, or a multiplier out of range.
    """

    prediction_only: ClassVar[bool] = True

    def __init__(self, model: nn.Module, datamodel: Datamodel, forget: Tensor, *, multiplier: float = 1.0) -> None:
        datamodel.require_network(model)
        self.multiplier = checks.require_finite("multiplier", multiplier)
        datamodel.effects(forget, datamodel.train[:0])
        self.forget = torch.as_tensor(forget).clone()
        self.datamodel = datamodel
        self._model = params.clone_model(params.unwrapped(model)).eval()

    @torch.no_grad()
    def forward_indexed(self, inputs: Tensor, ids: Tensor, *, part: str = TRAIN) -> Tensor:
        """Give the predicted logits of some inputs, in eval mode.

        Args:
            inputs: `[batch, ...]`, of the rows.
            ids: int64 `[batch]`, their ids in the part.
            part: of the datamodel.

        Returns:
            `[batch, classes]` in the network's precision, on its device.

        Raises:
            errors.BadRequest: ids that the datamodel does not know, or not one an input.
        """
        if len(inputs) != len(ids):
            raise errors.BadRequest(
                f"forward_indexed: expected one id for each of {len(inputs)} inputs, found {len(ids)}"
            )
        logits = self._model(in_precision(self._model, inputs.to(device_of(self._model))))
        found: Tensor = logits - self._away(ids, part, logits)
        return found

    @torch.no_grad()
    def logits(
        self, rows: Rows, *, part: str = TRAIN, forward: Forward = forward_pair, batch_size: int = 512
    ) -> Tensor:
        """Give the predicted logits of rows, float64 `[rows, classes]`, in order of id, on the CPU.

        Raises:
            errors.BadRequest: rows that the datamodel does not know, or that have another content there.
        """
        self.datamodel.require_rows(rows, part)
        found = []
        for batch, ids in zip(
            batches(rows, batch_size, device_of(self._model)), torch.split(rows.ids, batch_size), strict=True
        ):
            logits = forward(self._model, batch.content)[0].cpu().double()
            found.append(logits - self._away(ids, part, logits))
        return torch.cat(found)

    def _away(self, ids: Tensor, part: str, like: Tensor) -> Tensor:
        return (self.multiplier * self.datamodel.effects(self.forget, ids, part=part)).to(like)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to be run as a network."""
        raise errors.BadRequest(
            "DirectPredictor: these are predictions for rows known by id, and no network; call forward_indexed(inputs, ids), "
            "or have a network changed by methods.Match with DatamodelTargets"
        )

    def state_dict(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to be saved: the weights beneath are those of the network that still knows the rows."""
        raise errors.BadRequest(
            "DirectPredictor: there are no weights to save that have forgotten anything; its network is the one that was "
            "given, unchanged; have one changed by methods.Match with DatamodelTargets"
        )
